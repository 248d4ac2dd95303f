"""The store's contract on whom to wake, and whose turn it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from job_acts import CPU, KILLED, claimed, queued, running, seeded, stock
from store_acts import at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from headstart.store import Store
    from tests.conftest import FrozenClock

    Fill = Callable[..., Import]


@pytest.fixture(autouse=True)
def _subjects(fill: Fill) -> None:
    stock(fill)


def unrung(store: Store, queue: str = "cpu", most: int = 100) -> tuple[int, ...]:
    return store.take_unrung(queue, 5.0, most)


def test_a_waiting_job_is_rung_for_once_per_silence(store: Store, clock: FrozenClock) -> None:
    job = queued(store)
    assert unrung(store) == ()  # whoever submitted it rang
    clock.move(4.9)
    assert unrung(store) == ()
    clock.move(0.1)
    assert unrung(store) == (job.id,)
    assert unrung(store) == ()
    clock.move(5)
    assert unrung(store) == (job.id,)
    assert store.job(job.id) == job  # nothing a user sees


def test_only_jobs_in_line_are_rung_for(store: Store, clock: FrozenClock) -> None:
    running(store, seeded(1))
    store.cancel_job(queued(store, seeded(2)).id)
    on_gpu = queued(store, seeded(3, queue="gpu"))
    clock.move(10)
    assert unrung(store) == ()
    assert unrung(store, "gpu") == (on_gpu.id,)


def test_a_job_that_waits_to_be_tried_again_is_rung_for_as_soon_as_it_is_due(
    store: Store, clock: FrozenClock
) -> None:
    job = running(store)
    store.fail_job(job.id, 1, KILLED, retry_in=30.0)
    clock.move(29.9)
    assert unrung(store) == ()
    clock.move(0.1)
    assert unrung(store) == (job.id,)


def test_jobs_sent_back_are_rung_for_at_once(store: Store, clock: FrozenClock) -> None:
    lost = running(store, seeded(1))
    clock.move(60)
    given_back = running(store, seeded(2))
    assert store.requeue_stale() == (lost.id,)
    assert store.release_job(given_back.id, 1)
    assert unrung(store) == (lost.id, given_back.id)


def test_jobs_that_could_be_claimed_are_counted(store: Store, clock: FrozenClock) -> None:
    assert store.count_due("cpu") == 0
    for seed in range(3):
        queued(store, seeded(seed))
    queued(store, seeded(9, queue="gpu"))
    assert (store.count_due("cpu"), store.count_due("gpu")) == (3, 1)
    job = claimed(store)
    assert store.count_due("cpu") == 2
    store.fail_job(job.id, 1, KILLED, retry_in=30.0)
    assert store.count_due("cpu") == 2
    clock.move(30)
    assert store.count_due("cpu") == 3


def test_the_first_in_line_are_rung_for_first(store: Store, clock: FrozenClock) -> None:
    ids = [queued(store, seeded(seed, priority=priority)).id for seed, priority in enumerate((0, 2, 1, 2))]
    clock.move(5)
    assert unrung(store, most=3) == (ids[1], ids[3], ids[2])
    assert unrung(store, most=3) == (ids[0],)
    assert [claimed(store).id for _ in ids] == [ids[1], ids[3], ids[2], ids[0]]


def test_of_two_that_ring_one_takes_each(store: Store, clock: FrozenClock) -> None:
    ids = [queued(store, seeded(seed)).id for seed in range(20)]
    clock.move(5)
    found = at_once(*[lambda: unrung(store)] * 4)
    assert sorted(job_id for some in found for job_id in some) == ids  # type: ignore[attr-defined]


def test_a_retried_job_is_taken_as_rung_for(store: Store, clock: FrozenClock) -> None:
    job = queued(store)
    store.cancel_job(job.id)
    clock.move(100)
    store.retry_job(job.id)
    assert unrung(store) == ()
    assert store.claim_job(CPU, 60) is not None


# Turns


def test_a_turn_is_taken_once_and_is_free_again(store: Store, clock: FrozenClock) -> None:
    assert store.take_turn("refit", 2.0) is True
    assert store.take_turn("refit", 2.0) is False
    assert store.take_turn("sweep", 2.0) is True
    clock.move(1.9)
    assert store.take_turn("refit", 60.0) is False  # and the refused one did not prolong it
    clock.move(0.1)
    assert store.take_turn("refit", 2.0) is True
    assert store.take_turn("refit", 2.0) is False


def test_of_many_at_once_one_takes_the_turn(store: Store, clock: FrozenClock) -> None:
    for _ in range(5):
        assert sorted(at_once(*[lambda: store.take_turn("refit", 2.0)] * 6)) == [False] * 5 + [True]  # type: ignore[type-var]
        clock.move(2)
