"""A service with a method that can be run, and what a worker does to its jobs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from live_service import fill, serving, settings

from headstart.entities import Progress
from headstart.failures import NotApplicable, Unexpected
from headstart.method import Measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from live_service import Live

    from headstart.entities import Failure, Job
    from headstart.store import Store

ASKED: dict[str, Any] = {"method": "gauge", "checkpoint": "roberta-base", "target": "rte"}
BROKEN = Unexpected("The method broke off with KeyError: 'label'.").failure()
NOT_FOR_IT = NotApplicable("The target has one class only.").failure()


@contextmanager
def measuring(store: Store, **given: Any) -> Iterator[Live]:
    """Serve a small known store, with the method `gauge` and no worker."""
    fill(store)
    with serving(
        store, settings(**{"methods": ("jobs_method", "surveyed_method"), "webhook_secret": "s"} | given)
    ) as live:
        yield live


def submitted(live: Live, **changes: Any) -> dict[str, Any]:
    """The job of a request that was accepted."""
    answer = live.http.post("/jobs", json=ASKED | changes)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()["job"]
    return job


def claimed(store: Store) -> Job:
    job = store.claim_job(("cpu", "gpu"), 60)
    assert job is not None
    return job


def advanced(store: Store, job: Job, fraction: float, stage: str = "measuring") -> None:
    progress = Progress(fraction=fraction, stage=stage, message="a line", seconds_left=3.0)
    assert store.heartbeat_job(job.id, job.attempt, 60, progress) == "go_on"


def finished(store: Store, value: float = 0.75, seconds: float = 2.0) -> Job:
    job = claimed(store)
    assert store.finish_job(job.id, job.attempt, Measurement(value=value, stderr=0.01), seconds=seconds)
    return store.job(job.id)


def failed(store: Store, failure: Failure = BROKEN) -> Job:
    job = claimed(store)
    assert store.fail_job(job.id, job.attempt, failure)
    return store.job(job.id)


def post(live: Live, path: str, body: dict[str, Any], status: int = 202) -> dict[str, Any]:
    answer = live.http.post(path, json=body)
    assert answer.status_code == status, answer.text
    done: dict[str, Any] = answer.json()
    return done
