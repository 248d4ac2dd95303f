"""The store's contract on jobs and their users: cancelled, tried again, followed, counted, listed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from job_acts import (
    BROKEN,
    CPU,
    DRAFT,
    FOUND,
    HALF,
    KILLED,
    NOT_FOR_IT,
    cancelled,
    claimed,
    failed,
    moves,
    queued,
    running,
    seeded,
    stock,
    succeeded,
)
from store_acts import at_once

from headstart.entities import JobCounts, JobState, Progress
from headstart.errors import Conflict, InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from headstart.store import Store
    from tests.conftest import FrozenClock

    Fill = Callable[..., Import]


@pytest.fixture(autouse=True)
def _subjects(fill: Fill) -> None:
    stock(fill)


@pytest.mark.parametrize("verb", ["job", "cancel_job", "retry_job", "job_events"])
@pytest.mark.parametrize("unknown", [999, 0, -1, 2**63])
def test_an_unknown_job_is_not_found(store: Store, verb: str, unknown: int) -> None:
    with pytest.raises(NotFound, match=f"no job '?{unknown}'?"):
        getattr(store, verb)(unknown)


def test_a_job_is_frozen(store: Store) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        queued(store).id = 7  # type: ignore[misc]


# Cancelling


def test_a_waiting_job_is_cancelled_at_once(store: Store, clock: FrozenClock) -> None:
    job = queued(store)
    clock.move(5)
    ended = store.cancel_job(job.id)
    assert (ended.state, ended.finished_at, ended.attempt) == (JobState.CANCELLED, clock.now, 0)
    assert ended.revision == job.revision + 1
    assert store.claim_job(CPU, 60) is None
    clock.move(5)
    assert store.cancel_job(job.id) == ended


def test_a_job_that_waits_to_be_tried_again_is_cancelled_at_once(store: Store) -> None:
    job = running(store)
    store.fail_job(job.id, 1, KILLED, retry_in=30.0)
    ended = store.cancel_job(job.id)
    assert (ended.state, ended.failure) == (JobState.CANCELLED, KILLED)


def test_a_running_job_is_asked_to_stop_once(store: Store) -> None:
    job = running(store)
    asked = store.cancel_job(job.id)
    assert (asked.state, asked.cancel_requested) == (JobState.RUNNING, True)
    assert (asked.revision, asked.finished_at) == (job.revision + 1, None)
    assert store.cancel_job(job.id) == asked
    assert store.end_cancelled(job.id, 1)
    assert store.job(job.id).state == JobState.CANCELLED
    assert moves(store, job.id) == [("queued", 0), ("running", 1), ("cancelled", 1)]


def test_a_job_that_ended_otherwise_is_not_cancelled(store: Store) -> None:
    for job in (succeeded(store), failed(store, seeded(1))):
        with pytest.raises(Conflict, match=rf"Job {job.id} has {job.state} and cannot be cancelled\."):
            store.cancel_job(job.id)
        assert store.job(job.id) == job


def test_a_claim_and_a_cancel_at_once_agree(store: Store) -> None:
    for seed in range(8):
        job = queued(store, seeded(seed))
        taken, asked = at_once(lambda: store.claim_job(CPU, 60), lambda job=job: store.cancel_job(job.id))  # type: ignore[misc]
        found = store.job(job.id)
        if taken is None:
            assert (found.state, asked) == (JobState.CANCELLED, found)
        else:
            assert (found.state, found.cancel_requested) == (JobState.RUNNING, True)
            assert store.end_cancelled(job.id, 1)


# Trying again


def test_a_failed_job_is_tried_again_with_all_its_attempts(store: Store, clock: FrozenClock) -> None:
    job = running(store, attempts=2)
    store.heartbeat_job(job.id, 1, 60, HALF)
    store.fail_job(job.id, 1, BROKEN, seconds=1.0)
    clock.move(5)
    again = store.retry_job(job.id, attempts=2, request_id="req-2")
    assert (again.state, again.attempt, again.last_attempt) == (JobState.QUEUED, 1, 3)
    assert (again.failure, again.request_id, again.finished_at) == (BROKEN, "req-2", None)
    assert (again.progress, again.cancel_requested) == (Progress(), False)
    assert claimed(store).attempt == 2
    store.fail_job(job.id, 2, KILLED, retry_in=0.0)
    assert claimed(store).attempt == 3
    store.fail_job(job.id, 3, KILLED, retry_in=0.0)
    assert store.job(job.id).state == JobState.FAILED


def test_a_job_stopped_while_it_ran_is_tried_again(store: Store) -> None:
    job = running(store)
    store.cancel_job(job.id)
    store.end_cancelled(job.id, 1)
    assert store.retry_job(job.id).cancel_requested is False
    again = claimed(store)
    assert (again.id, again.attempt, again.last_attempt) == (job.id, 2, 4)
    assert store.finish_job(job.id, 1, FOUND, seconds=1.0) is False
    assert store.finish_job(job.id, 2, FOUND, seconds=1.0) is True


def test_a_job_under_way_or_done_is_not_tried_again(store: Store) -> None:
    done, waits = succeeded(store), queued(store, seeded(1, priority=-1))
    runs = running(store, seeded(2))
    for job, remedy in ((done, "GET its score"), (waits, "Cancel it first"), (runs, "Cancel it first")):
        with pytest.raises(Conflict, match=rf"Job {job.id} is {job.state}: .*{remedy}"):
            store.retry_job(job.id)
        assert store.job(job.id) == job


def test_a_job_is_not_tried_again_beside_an_equal_one(store: Store) -> None:
    old = failed(store)
    other = queued(store)
    with pytest.raises(Conflict, match=rf"Job {old.id} cannot be retried: job {other.id} is under way"):
        store.retry_job(old.id)
    assert store.job(old.id) == old
    store.cancel_job(other.id)
    assert store.retry_job(old.id).state == JobState.QUEUED
    (answer,) = store.submit_jobs([DRAFT])
    assert answer.job is not None
    assert answer.job.id == old.id


def test_of_equal_jobs_tried_again_at_once_one_is(store: Store) -> None:
    def retry(job_id: int) -> str:
        try:
            return str(store.retry_job(job_id).state)
        except Conflict:
            return "conflict"

    for seed in range(8):
        ids = [cancelled(store, seeded(seed)).id for _ in range(4)]
        told = at_once(*[lambda job_id=job_id: retry(job_id) for job_id in ids])  # type: ignore[misc]
        assert sorted(told) == ["conflict"] * 3 + ["queued"]  # type: ignore[type-var]


def test_a_retry_and_a_request_at_once_leave_one_job(store: Store) -> None:
    def retry(job_id: int) -> object:
        try:
            return store.retry_job(job_id).id
        except Conflict:
            return None

    for seed in range(8):
        old, draft = cancelled(store, seeded(seed)), seeded(seed)
        _, (answer,) = at_once(  # type: ignore[misc]
            lambda old=old: retry(old.id),  # type: ignore[misc]
            lambda draft=draft: store.submit_jobs([draft]),  # type: ignore[misc]
        )
        alive = [job for job in store.jobs(state="queued").items if job.seed == seed]
        assert [job.id for job in alive] == [answer.job.id]


# Following


def test_every_move_is_an_event(store: Store, clock: FrozenClock) -> None:
    start = clock.now
    job = queued(store)
    clock.move(1)
    claimed(store)
    clock.move(1)
    store.fail_job(job.id, 1, KILLED, retry_in=0.0)
    clock.move(1)
    claimed(store)
    clock.move(1)
    store.finish_job(job.id, 2, FOUND, seconds=1.0)
    events = store.job_events(job.id)
    assert [(str(event.state), event.attempt, event.failure) for event in events] == [
        ("queued", 0, None),
        ("running", 1, None),
        ("queued", 1, "Killed"),
        ("running", 2, None),
        ("succeeded", 2, None),
    ]
    assert [event.revision for event in events] == [1, 2, 3, 4, 5]
    assert [(event.at - start).total_seconds() for event in events] == [0, 1, 2, 3, 4]
    assert {event.job_id for event in events} == {job.id}
    assert events[-1].progress.fraction == 1.0


def test_of_progress_the_newest_alone_is_an_event(store: Store) -> None:
    job = running(store)
    for tenth in range(1, 6):
        store.heartbeat_job(job.id, 1, 60, Progress(fraction=tenth / 10, stage="measuring"))
    *_, move, newest = store.job_events(job.id)
    assert (move.state, move.revision) == (JobState.RUNNING, 2)
    assert (newest.state, newest.attempt, newest.revision) == (JobState.RUNNING, 1, 7)
    assert newest.progress == Progress(fraction=0.5, stage="measuring")
    store.fail_job(job.id, 1, BROKEN)
    assert moves(store, job.id) == [("queued", 0), ("running", 1), ("failed", 1)]


def test_events_go_on_after_a_revision(store: Store) -> None:
    job = running(store)
    assert [event.revision for event in store.job_events(job.id, after=1)] == [2]
    assert store.job_events(job.id, after=2) == ()
    store.heartbeat_job(job.id, 1, 60, HALF)
    (newest,) = store.job_events(job.id, after=2)
    assert (newest.revision, newest.progress) == (3, HALF)
    store.heartbeat_job(job.id, 1, 60, HALF)
    assert [event.revision for event in store.job_events(job.id, after=3)] == [4]
    store.finish_job(job.id, 1, FOUND, seconds=1.0)
    assert [(event.revision, str(event.state)) for event in store.job_events(job.id, after=3)] == [
        (5, "succeeded")
    ]
    assert store.job_events(job.id, after=10**9) == ()


def test_revisions_tell_what_changed(store: Store) -> None:
    first, second = queued(store, seeded(1)), queued(store, seeded(2))
    asked = [first.id, second.id, 999]
    assert store.job_revisions(asked) == {first.id: 1, second.id: 1}
    claimed(store)
    store.heartbeat_job(first.id, 1, 60, HALF)
    assert store.job_revisions(asked) == {first.id: 3, second.id: 1}
    store.heartbeat_job(first.id, 1, 60)
    assert store.job_revisions(iter(asked)) == {first.id: 3, second.id: 1}
    assert store.job_revisions([]) == {}


# Counting


def test_an_empty_store_counts_nothing(store: Store) -> None:
    nothing = JobCounts(
        by_state=dict.fromkeys(JobState, 0), by_failure={}, depth={}, oldest_seconds={}, succeeded={}
    )
    assert store.job_counts() == nothing


def test_jobs_are_counted(store: Store, clock: FrozenClock) -> None:
    succeeded(store, seeded(1), seconds=2.0)
    succeeded(store, seeded(2), seconds=3.5)
    succeeded(store, seeded(3, method="logme"), seconds=1.0)
    failed(store, seeded(4), BROKEN)
    failed(store, seeded(5), NOT_FOR_IT)
    failed(store, seeded(6), NOT_FOR_IT)
    cancelled(store, seeded(7))
    running(store, seeded(8))
    retried = running(store, seeded(9))
    store.fail_job(retried.id, 1, KILLED, retry_in=30.0)
    queued(store, seeded(10, queue="gpu"))
    clock.move(7)
    queued(store, seeded(11, queue="gpu"))
    counts = store.job_counts()
    assert counts.by_state == {"queued": 3, "running": 1, "succeeded": 3, "failed": 3, "cancelled": 1}
    assert counts.by_failure == {"Unexpected": 1, "NotApplicable": 2}
    assert counts.depth == {"cpu": 1, "gpu": 2}
    assert counts.oldest_seconds == {"cpu": 0.0, "gpu": 7.0}
    assert counts.succeeded == {"probe": (2, 5.5), "logme": (1, 1.0)}


# Listing


def test_jobs_are_listed_in_pages(store: Store) -> None:
    ids = [queued(store, seeded(seed)).id for seed in range(5)]
    first = store.jobs(page_size=2)
    assert [job.id for job in first.items] == ids[:2]
    assert first.items[0] == store.job(ids[0])
    later = queued(store, seeded(9)).id  # rows added meanwhile neither repeat nor hide one
    second = store.jobs(page_size=2, page_token=first.next_token)
    third = store.jobs(page_size=2, page_token=second.next_token)
    assert [job.id for job in second.items + third.items] == [*ids[2:], later]
    assert third.next_token is None


def test_jobs_are_filtered(store: Store) -> None:
    a = succeeded(store, seeded(1)).id
    b = queued(store, seeded(2, checkpoint_id=2, priority=-1)).id
    c = failed(store, seeded(3, target_id=2)).id
    d = queued(store, seeded(4, method="logme")).id

    def listed(**filters: object) -> list[int]:
        return [job.id for job in store.jobs(**filters).items]  # type: ignore[arg-type]

    assert listed() == [a, b, c, d]
    assert listed(state="queued") == [b, d]
    assert listed(method="probe") == [a, b, c]
    assert listed(checkpoint_id=2) == [b]
    assert listed(target_id=2) == [c]
    assert listed(state="queued", method="logme", checkpoint_id=1, target_id=1) == [d]
    assert listed(state="running") == []
    assert listed(method="unheard of") == []


def test_a_filter_that_names_what_is_not_there_is_not_found(store: Store) -> None:
    for unknown in (999, 0, 2**63):
        with pytest.raises(NotFound, match="no checkpoint"):
            store.jobs(checkpoint_id=unknown)
        with pytest.raises(NotFound, match="no target"):
            store.jobs(target_id=unknown)


def test_a_token_of_another_list_is_refused(store: Store) -> None:
    for seed in range(3):
        queued(store, seeded(seed))
    token = store.jobs(page_size=1).next_token
    for wrong in ({"state": "queued"}, {"method": "probe"}, {"checkpoint_id": 1}, {"target_id": 1}):
        with pytest.raises(InvalidInput, match="page token"):
            store.jobs(page_token=token, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="page cannot hold 0"):
        store.jobs(page_size=0)
