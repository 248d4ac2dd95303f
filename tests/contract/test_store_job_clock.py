"""The store's contract on whose time it is: without a clock of its own, a store on Postgres asks Postgres."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from job_acts import BROKEN, CPU, DRAFT, FOUND, KILLED, claimed, queued, running, seeded, stock

from headstart.entities import Heartbeat, JobState, Progress
from headstart.store import Store, transactions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headstart.entities import Import

    Fill = Callable[..., Import]

on_postgres = pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
SOON = timedelta(seconds=30)  # within which a test is over


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """A store that was given no clock."""
    opened = Store(store_url)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _subjects(fill: Fill) -> None:
    stock(fill)


def shifted(seconds: float) -> Callable[[], datetime]:
    """The clock of a machine that is so far ahead."""
    return lambda: datetime.now(UTC) + timedelta(seconds=seconds)


@on_postgres
@pytest.mark.parametrize("ahead", [60.0, -60.0])
def test_machines_whose_clocks_differ_agree_on_leases(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    ours = running(store, seeded(1))
    assert store.heartbeat_job(ours.id, 1, 30) is Heartbeat.GO_ON
    other = Store(store_url)
    with monkeypatch.context() as patch:
        patch.setattr(transactions, "machine_clock", shifted(ahead))
        assert other.requeue_stale() == ()
        theirs = running(other, seeded(2))
        assert other.heartbeat_job(theirs.id, 1, 30) is Heartbeat.GO_ON
        assert other.requeue_stale() == ()
    assert store.requeue_stale() == ()
    assert store.job(theirs.id).state == JobState.RUNNING
    other.close()


@on_postgres
def test_a_store_that_goes_by_its_own_clock_would_not_agree(store: Store, store_url: str) -> None:
    job = running(store)
    other = Store(store_url, shifted(70.0))
    assert other.requeue_stale() == (job.id,)
    other.close()


@on_postgres
def test_stamps_line_and_turns_are_in_the_database_s_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "machine_clock", shifted(3600.0))
    before = datetime.now(UTC) - timedelta(seconds=1)
    job = queued(store)
    assert store.take_turn("refit", 60.0)
    assert store.take_unrung("cpu", 30.0, 10) == ()
    started = claimed(store)
    assert store.finish_job(job.id, 1, FOUND, seconds=1.0)
    ended = store.job(job.id)
    monkeypatch.undo()
    assert not store.take_turn("refit", 60.0)
    assert ended.score_id is not None
    stamps = [job.created_at, started.started_at, ended.finished_at, store.score(ended.score_id).created_at]
    stamps += [event.at for event in store.job_events(job.id)]
    assert all(stamp is not None and before < stamp < before + SOON for stamp in stamps)
    assert all(stamp is not None and stamp.tzinfo is UTC for stamp in stamps)


def test_every_verb_works_without_a_clock(store: Store) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    first, second, _ = store.submit_jobs([seeded(seed) for seed in range(3)])
    assert first.job is not None
    assert second.job is not None
    assert store.submit_jobs([dataclasses.replace(DRAFT, webhook="https://example.org/x")])[0].job is not None
    assert store.take_unrung("cpu", 60.0, 10) == ()
    assert store.take_unrung("cpu", 0.0, 10) == tuple(sorted(store.job_revisions(range(10))))

    job = claimed(store, lease_seconds=0.0)
    assert job.id == first.job.id
    assert store.requeue_stale() == (job.id,)
    assert store.requeue_stale() == ()
    assert store.take_unrung("cpu", 60.0, 10) == (job.id,)
    assert claimed(store).attempt == 2
    assert store.heartbeat_job(job.id, 2, 60, Progress(fraction=0.5)) is Heartbeat.GO_ON
    assert store.release_job(job.id, 2)
    assert claimed(store).attempt == 3
    assert store.fail_job(job.id, 3, KILLED, retry_in=0.0)
    assert claimed(store).attempt == 4
    assert store.requeue_stale() == ()
    assert store.finish_job(job.id, 4, FOUND, seconds=1.0)

    job = claimed(store)
    assert job.id == second.job.id
    assert store.fail_job(job.id, 1, KILLED, retry_in=3600.0)
    third = claimed(store)
    assert third.id != job.id
    assert store.cancel_job(third.id).cancel_requested
    assert store.end_cancelled(third.id, 1)
    assert store.cancel_job(job.id).state == JobState.CANCELLED
    assert store.retry_job(job.id).state == JobState.QUEUED
    counts = store.job_counts()
    assert store.count_due("cpu") == 1
    assert counts.by_state == {"queued": 1, "running": 0, "succeeded": 1, "failed": 0, "cancelled": 1}
    assert 0.0 <= counts.oldest_seconds["cpu"] < SOON.total_seconds()
    assert store.claim_job(CPU, 60) is not None
    assert store.fail_job(job.id, 2, BROKEN)
    assert [event.revision for event in store.job_events(job.id)] == list(range(1, 8))
    for event in store.job_events(job.id):
        assert before < event.at < before + SOON

    assert store.take_turn("refit", 60.0)
    assert not store.take_turn("refit", 60.0)
    assert store.take_turn("sweep", 0.0)
    assert store.take_turn("sweep", 0.0)
