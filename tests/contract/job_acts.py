"""What the tests of the store's contract on jobs do."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from headstart.entities import CheckpointDraft, Failure, JobDraft, Progress, TargetDraft
from headstart.failures import Killed, NotApplicable, Unexpected
from headstart.method import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headstart.entities import Job
    from headstart.store import Store

DRAFT = JobDraft(
    method="probe", method_version="1", checkpoint_id=1, target_id=1, params={"rows": 100, "folds": 5}
)
FOUND = Measurement(value=0.75, stderr=0.01, rows_tested=400, details={"rounds": 3})
KILLED = Killed("The process that ran the job was ended by SIGKILL.").failure()
BROKEN = Unexpected("The method broke off with KeyError: 'label'.").failure()
NOT_FOR_IT = NotApplicable("The target has one class only.").failure()
CPU = ("cpu",)
HALF = Progress(fraction=0.5, stage="measuring", message="fold 3 of 5", seconds_left=12.5)
STOCKED = 1  # the evidence version once there are checkpoints


def stock(fill: Callable[..., Any]) -> None:
    """Checkpoints 1 to 3 of the family roberta, and targets 1 (mnli) and 2 (sst2)."""
    fill(
        checkpoints=[CheckpointDraft(family="roberta", name=f"org/{name}") for name in "abc"],
        targets=[TargetDraft(name="mnli"), TargetDraft(name="sst2")],
    )


def seeded(seed: int, **changes: Any) -> JobDraft:
    return dataclasses.replace(DRAFT, seed=seed, **changes)


def queued(store: Store, draft: JobDraft = DRAFT, *, attempts: int = 3) -> Job:
    """A new job."""
    (answer,) = store.submit_jobs([draft], attempts=attempts)
    assert answer.status == "queued"
    assert answer.job is not None
    return answer.job


def claimed(store: Store, lease_seconds: float = 60.0) -> Job:
    """The job first in line, claimed."""
    job = store.claim_job(CPU, lease_seconds)
    assert job is not None
    return job


def running(store: Store, draft: JobDraft = DRAFT, *, attempts: int = 3) -> Job:
    """A new job, claimed, where no other is in line."""
    queued(store, draft, attempts=attempts)
    return claimed(store)


def succeeded(store: Store, draft: JobDraft = DRAFT, value: float = 0.75, seconds: float = 2.0) -> Job:
    job = running(store, draft)
    found = dataclasses.replace(FOUND, value=value)
    assert store.finish_job(job.id, job.attempt, found, seconds=seconds)
    return store.job(job.id)


def failed(store: Store, draft: JobDraft = DRAFT, failure: Failure = BROKEN) -> Job:
    job = running(store, draft)
    assert store.fail_job(job.id, job.attempt, failure)
    return store.job(job.id)


def cancelled(store: Store, draft: JobDraft = DRAFT) -> Job:
    return store.cancel_job(queued(store, draft).id)


def states(store: Store) -> dict[int, str]:
    return {job.id: str(job.state) for job in store.jobs(page_size=10_000).items}


def moves(store: Store, job_id: int) -> list[tuple[str, int]]:
    """State and attempt of every event of the job."""
    return [(str(found.state), found.attempt) for found in store.job_events(job_id)]


@contextmanager
def counted_statements(store: Store) -> Iterator[list[str]]:
    """The statements that the store sends meanwhile."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        seen.append(statement)

    event.listen(store._engine, "before_cursor_execute", note)
    yield seen
    event.remove(store._engine, "before_cursor_execute", note)
