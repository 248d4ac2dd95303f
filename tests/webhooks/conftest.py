from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from receivers import Receiver

from headstart.entities import CheckpointDraft, JobDraft, TargetDraft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headstart.entities import Job
    from headstart.store import Store


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    thread = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield one
    one.server.shutdown()
    thread.join()
    one.server.server_close()


@pytest.fixture
def store_url() -> str:
    """The dialects are the contract's; here one will do."""
    return "sqlite://"


@pytest.fixture
def ended(store: Store, fill: Callable[..., object]) -> Callable[[str], Job]:
    """A job that was cancelled, and is to tell the address."""
    fill(checkpoints=[CheckpointDraft(family="roberta", name="org/a")], targets=[TargetDraft(name="rte")])

    def end(url: str) -> Job:
        draft = JobDraft(
            method="logme", method_version="1", checkpoint_id=1, target_id=1, params={}, webhook=url
        )
        job = store.submit_jobs([draft])[0].job
        assert job is not None
        return store.cancel_job(job.id)

    return end
