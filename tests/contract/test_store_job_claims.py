"""The store's contract on jobs and their workers: claimed once, kept alive, fenced off, given back."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import pytest
from job_acts import (
    BROKEN,
    CPU,
    FOUND,
    HALF,
    KILLED,
    claimed,
    moves,
    queued,
    running,
    seeded,
    stock,
    succeeded,
)
from store_acts import at_once

from headstart.entities import Heartbeat, JobState, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import, Job
    from headstart.store import Store
    from tests.conftest import FrozenClock

    Fill = Callable[..., Import]


@pytest.fixture(autouse=True)
def _subjects(fill: Fill) -> None:
    stock(fill)


# The line


def test_a_claim_starts_the_job(store: Store, clock: FrozenClock) -> None:
    waiting = queued(store)
    clock.move(5)
    job = claimed(store)
    assert store.job(job.id) == job
    assert (job.id, job.state, job.attempt, job.last_attempt) == (waiting.id, JobState.RUNNING, 1, 3)
    assert (job.started_at, job.created_at, job.finished_at) == (clock.now, waiting.created_at, None)
    assert job.revision == waiting.revision + 1
    assert store.claim_job(CPU, 60) is None


def test_the_highest_priority_is_first_then_the_longest_due(store: Store, clock: FrozenClock) -> None:
    for seed, priority in enumerate((0, 5, -1, 5, 0)):
        queued(store, seeded(seed, priority=priority))
        clock.move(1)
    assert [claimed(store).seed for _ in range(5)] == [1, 3, 0, 4, 2]


def test_a_job_sent_back_keeps_its_place(store: Store, clock: FrozenClock) -> None:
    for seed in range(4):
        queued(store, seeded(seed))
        clock.move(1)
    given_back, lost, failed = claimed(store), claimed(store), claimed(store)
    clock.move(60)
    assert store.release_job(given_back.id, 1)
    assert store.fail_job(failed.id, 1, KILLED, retry_in=0.0)
    assert store.requeue_stale() == (lost.id,)
    assert [claimed(store).seed for _ in range(4)] == [0, 1, 2, 3]


def test_a_job_that_had_to_wait_and_a_retried_one_are_last(store: Store, clock: FrozenClock) -> None:
    waits, retried = running(store, seeded(0)), running(store, seeded(1))
    queued(store, seeded(2))
    clock.move(1)
    store.fail_job(waits.id, 1, KILLED, retry_in=5.0)
    store.fail_job(retried.id, 1, BROKEN)
    store.retry_job(retried.id)
    clock.move(5)
    queued(store, seeded(3))
    assert [claimed(store).seed for _ in range(4)] == [2, 1, 0, 3]


def test_a_job_that_is_not_due_yet_lets_others_pass(store: Store, clock: FrozenClock) -> None:
    first = running(store, seeded(1, priority=9))
    second = queued(store, seeded(2))
    assert store.fail_job(first.id, 1, KILLED, retry_in=30.0)
    assert claimed(store).id == second.id
    clock.move(29.9)
    assert store.claim_job(CPU, 60) is None
    clock.move(0.1)
    assert claimed(store).id == first.id


def test_only_the_asked_queues_are_looked_at(store: Store) -> None:
    on_gpu, on_cpu = queued(store, seeded(1, queue="gpu")), queued(store, seeded(2))
    assert store.claim_job((), 60) is None
    assert claimed(store).id == on_cpu.id
    assert store.claim_job(CPU, 60) is None
    found = store.claim_job(("gpu", "cpu"), 60)
    assert found is not None
    assert found.id == on_gpu.id


def test_one_line_of_several_queues_is_by_priority_too(store: Store) -> None:
    queued(store, seeded(1, queue="cpu"))
    queued(store, seeded(2, queue="gpu", priority=1))
    assert [store.claim_job(("cpu", "gpu"), 60).seed for _ in range(2)] == [2, 1]  # type: ignore[union-attr]


def test_of_two_claimers_of_one_job_one_wins(store: Store) -> None:
    for seed in range(10):
        job = queued(store, seeded(seed))
        won = [found for found in at_once(*[lambda: store.claim_job(CPU, 60)] * 2) if found is not None]
        assert [found.id for found in won] == [job.id]  # type: ignore[attr-defined]


def test_two_claimers_of_two_jobs_get_one_each(store: Store) -> None:
    for seed in range(10):
        ids = {queued(store, seeded(seed)).id, queued(store, seeded(seed + 100)).id}
        first, second = at_once(*[lambda: store.claim_job(CPU, 60)] * 2)
        assert {first.id, second.id} == ids  # type: ignore[attr-defined]


def test_many_claimers_take_each_job_once(store: Store) -> None:
    store.submit_jobs([seeded(seed, priority=seed % 3) for seed in range(200)])
    taken: list[Job] = []
    taking = Lock()

    def work() -> None:
        while (job := store.claim_job(CPU, 60)) is not None:
            with taking:
                taken.append(job)

    at_once(*[work] * 8)
    assert sorted(job.seed for job in taken) == list(range(200))
    assert {job.attempt for job in taken} == {1}
    assert store.job_counts().by_state["running"] == 200


# Heartbeats


def test_a_heartbeat_prolongs_the_lease(store: Store, clock: FrozenClock) -> None:
    job = running(store)
    clock.move(50)
    assert store.heartbeat_job(job.id, 1, 60) is Heartbeat.GO_ON
    assert store.job(job.id) == job  # nothing a user sees has changed
    clock.move(59.9)
    assert store.requeue_stale() == ()
    clock.move(0.1)
    assert store.requeue_stale() == (job.id,)


def test_a_heartbeat_tells_the_progress_and_raises_the_revision(store: Store) -> None:
    job = running(store)
    assert store.heartbeat_job(job.id, 1, 60, HALF) is Heartbeat.GO_ON
    found = store.job(job.id)
    assert (found.progress, found.revision) == (HALF, job.revision + 1)
    further = Progress(fraction=0.75, stage="measuring")
    store.heartbeat_job(job.id, 1, 60, further)
    assert store.job(job.id).progress == further
    assert store.job(job.id).revision == job.revision + 2


def test_a_heartbeat_learns_of_a_cancel_and_still_holds_the_job(store: Store, clock: FrozenClock) -> None:
    job = running(store)
    asked = store.cancel_job(job.id)
    assert (asked.state, asked.cancel_requested) == (JobState.RUNNING, True)
    clock.move(50)
    assert store.heartbeat_job(job.id, 1, 60) is Heartbeat.CANCEL
    assert store.heartbeat_job(job.id, 1, 60, HALF) is Heartbeat.CANCEL
    clock.move(50)
    assert store.requeue_stale() == ()
    assert store.end_cancelled(job.id, 1)
    assert store.job(job.id).state == JobState.CANCELLED
    assert store.heartbeat_job(job.id, 1, 60) is Heartbeat.LOST


def test_a_late_attempt_that_nobody_took_over_still_counts(store: Store, clock: FrozenClock) -> None:
    job = running(store)
    clock.move(3600)
    assert store.heartbeat_job(job.id, 1, 60) is Heartbeat.GO_ON
    clock.move(3600)
    assert store.finish_job(job.id, 1, FOUND, seconds=7200.0)


# Fencing

ENDS = {
    "heartbeat": lambda store, job: store.heartbeat_job(job.id, job.attempt, 10**6, HALF) != Heartbeat.LOST,
    "finish": lambda store, job: store.finish_job(job.id, job.attempt, FOUND, seconds=1.0),
    "finish without a score": lambda store, job: store.finish_job(job.id, job.attempt, None, seconds=1.0),
    "fail": lambda store, job: store.fail_job(job.id, job.attempt, BROKEN, seconds=1.0),
    "fail to be retried": lambda store, job: store.fail_job(job.id, job.attempt, KILLED, retry_in=1.0),
    "end cancelled": lambda store, job: store.end_cancelled(job.id, job.attempt),
    "release": lambda store, job: store.release_job(job.id, job.attempt),
}
each_end = pytest.mark.parametrize("act", ENDS.values(), ids=ENDS.keys())


@each_end
def test_the_current_attempt_may(store: Store, act: Callable[[Store, Job], bool]) -> None:
    assert act(store, running(store)) is True


@each_end
def test_an_attempt_that_another_took_over_may_not(
    store: Store, clock: FrozenClock, act: Callable[[Store, Job], bool]
) -> None:
    stale = running(store)
    clock.move(60)
    assert store.requeue_stale() == (stale.id,)
    waiting = store.job(stale.id)
    assert act(store, stale) is False
    assert store.job(stale.id) == waiting
    current = claimed(store)
    assert act(store, stale) is False
    assert store.job(stale.id) == current
    assert store.scores().items == ()
    assert len(store.job_events(stale.id)) == 4
    clock.move(60)
    assert store.requeue_stale() == (stale.id,)  # the stale heartbeat did not prolong it


@each_end
@pytest.mark.parametrize("end", ["finish", "fail", "end cancelled"])
def test_an_attempt_that_has_ended_may_not(
    store: Store, clock: FrozenClock, end: str, act: Callable[[Store, Job], bool]
) -> None:
    job = running(store)
    assert ENDS[end](store, job)
    ended, version = store.job(job.id), store.evidence_version()
    clock.move(1)
    assert act(store, job) is False
    assert store.job(job.id) == ended
    assert store.evidence_version() == version
    assert store.requeue_stale() == ()


@each_end
def test_no_job_and_a_job_never_claimed_answer_the_same(
    store: Store, act: Callable[[Store, Job], bool]
) -> None:
    job = queued(store)
    assert act(store, job) is False
    assert store.job(job.id) == job
    store.cancel_job(job.id)
    assert act(store, job) is False
    gone = succeeded(store, seeded(1))
    assert store.heartbeat_job(gone.id + 1, 1, 60) is Heartbeat.LOST
    assert store.finish_job(gone.id + 1, 1, None, seconds=0.0) is False


# Lost workers


def test_a_lost_worker_s_job_goes_back_to_the_line(store: Store, clock: FrozenClock) -> None:
    job = running(store)
    store.heartbeat_job(job.id, 1, 60, HALF)
    clock.move(59.9)
    assert store.requeue_stale() == ()
    clock.move(0.1)
    assert store.requeue_stale() == (job.id,)
    assert store.requeue_stale() == ()
    waiting = store.job(job.id)
    assert (waiting.state, waiting.attempt, waiting.last_attempt) == (JobState.QUEUED, 1, 3)
    assert (waiting.progress, waiting.finished_at) == (Progress(), None)
    assert waiting.failure is not None
    assert waiting.failure.name == "WorkerLost"
    again = claimed(store)
    assert (again.id, again.attempt) == (job.id, 2)
    assert moves(store, job.id) == [("queued", 0), ("running", 1), ("queued", 1), ("running", 2)]


def test_a_job_whose_last_worker_was_lost_has_failed(store: Store, clock: FrozenClock) -> None:
    job = running(store, attempts=2)
    clock.move(60)
    store.requeue_stale()
    assert claimed(store).id == job.id
    clock.move(60)
    assert store.requeue_stale() == (job.id,)
    found = store.job(job.id)
    assert (found.state, found.attempt, found.finished_at) == (JobState.FAILED, 2, clock.now)
    assert found.failure is not None
    assert found.failure.name == "WorkerLost"
    assert found.failure.sentence.endswith(".")


def test_a_lost_worker_s_job_that_was_to_be_stopped_is_cancelled(store: Store, clock: FrozenClock) -> None:
    job = running(store)
    store.cancel_job(job.id)
    clock.move(60)
    assert store.requeue_stale() == (job.id,)
    found = store.job(job.id)
    assert (found.state, found.finished_at) == (JobState.CANCELLED, clock.now)


def test_of_two_that_look_for_lost_workers_one_finds_each(store: Store, clock: FrozenClock) -> None:
    store.submit_jobs([seeded(seed) for seed in range(20)])
    ids = {claimed(store).id for _ in range(20)}
    clock.move(60)
    found = at_once(*[store.requeue_stale] * 4)
    assert sorted(job_id for some in found for job_id in some) == sorted(ids)  # type: ignore[attr-defined]
    assert all(len(store.job_events(job_id)) == 3 for job_id in ids)


# Giving back


def test_a_released_job_has_all_its_attempts(store: Store, clock: FrozenClock) -> None:
    job = running(store, attempts=2)
    store.heartbeat_job(job.id, 1, 60, HALF)
    for attempt in (1, 2):
        assert store.release_job(job.id, attempt)
        waiting = store.job(job.id)
        assert (waiting.state, waiting.failure, waiting.progress) == (JobState.QUEUED, None, Progress())
        assert claimed(store).attempt == attempt + 1
    assert store.fail_job(job.id, 3, KILLED, retry_in=0.0)
    assert claimed(store).attempt == 4
    assert store.fail_job(job.id, 4, KILLED, retry_in=0.0)
    assert store.job(job.id).state == JobState.FAILED


def test_a_released_job_that_was_to_be_stopped_is_cancelled(store: Store) -> None:
    job = running(store)
    store.cancel_job(job.id)
    assert store.release_job(job.id, 1)
    assert store.job(job.id).state == JobState.CANCELLED
