"""What the tests of the store's contract on deliveries do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from store_acts import SCORE

from headstart.entities import Failure, JobDraft
from headstart.method import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Delivery, Job
    from headstart.store import Store

HERE, THERE = "https://here.example/hook", "https://there.example/hook?key=1"
BROKEN = Failure(name="Interrupted", sentence="The network broke off.", remedy="Try again.")
LEASE = 60.0


def hooked(fill: Callable[..., Any]) -> JobDraft:
    """A job on checkpoint and target 1, that tells HERE."""
    fill(SCORE)
    return JobDraft(method="logme", method_version="1", checkpoint_id=1, target_id=1, params={}, webhook=HERE)


def submit(store: Store, *drafts: JobDraft) -> Job:
    """Submit the drafts; return the job of the last one."""
    job = store.submit_jobs(drafts)[-1].job
    assert job is not None
    return job


def run(store: Store) -> Job:
    job = store.claim_job(["cpu"], LEASE)
    assert job is not None
    return job


def fail(store: Store) -> Job:
    """Run the job in line, and let it fail."""
    job = run(store)
    assert store.fail_job(job.id, job.attempt, BROKEN)
    return store.job(job.id)


def claim(store: Store) -> Delivery:
    found = store.claim_delivery(LEASE)
    assert found is not None
    return found


def only(store: Store) -> Delivery:
    (found,) = store.deliveries().items
    return found


def record(store: Store, claimed: Delivery, *, delivered: bool = False, next_in: float | None = None) -> bool:
    status, error = (204, None) if delivered else (500, "It answered 500.")
    return store.record_try(
        claimed, status=status, error=error, seconds=0.25, delivered=delivered, next_in=next_in
    )


def end_well(store: Store) -> None:
    """Run the job in line, and let it succeed."""
    job = run(store)
    assert store.finish_job(job.id, job.attempt, Measurement(value=0.5), seconds=1.0)
