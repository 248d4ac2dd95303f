"""Tries of webhook deliveries: claimed by one, logged, and never broken by a late record."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from delivery_acts import HERE, LEASE, THERE, claim, fail, hooked, only, record, submit
from store_acts import at_once

from headstart.entities import Delivery, DeliveryState, JobDraft
from headstart.store import Store
from headstart.store.deliveries import MOST_LOGGED

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import FrozenClock


@pytest.fixture
def draft(fill: Callable[..., Any]) -> JobDraft:
    return hooked(fill)


# -- claiming


def test_a_claim_is_a_lease(store: Store, clock: FrozenClock, draft: JobDraft) -> None:
    submit(store, draft)
    fail(store)
    first = claim(store)
    assert (first.state, first.tries) == (DeliveryState.PENDING, 0)
    assert store.claim_delivery(LEASE) is None
    clock.move(LEASE - 0.001)
    assert store.claim_delivery(LEASE) is None
    clock.move(0.001)
    assert claim(store).id == first.id


def test_the_longest_due_comes_first(store: Store, clock: FrozenClock, draft: JobDraft) -> None:
    for seed in range(3):
        submit(store, dataclasses.replace(draft, seed=seed, webhook=f"{HERE}/{seed}"))
        clock.move(1)
    for job_id in (2, 3, 1):
        store.cancel_job(job_id)
        clock.move(1)
    assert [claim(store).job_id for _ in range(3)] == [2, 3, 1]


def test_claimers_at_once_take_one_each(
    store_url: str, store: Store, clock: FrozenClock, draft: JobDraft
) -> None:
    """Two processes, as far as the database can tell: two stores."""
    count = 4
    submit(store, *(dataclasses.replace(draft, seed=k, webhook=f"{HERE}/{k}") for k in range(count)))
    for job_id in range(1, count + 1):
        store.cancel_job(job_id)
    other = store if store_url == "sqlite://" else Store(store_url, clock)
    claims: list[Callable[[], object]] = [
        lambda by=by: by.claim_delivery(LEASE) for by in (store, other) for _ in range(count)
    ]
    found = [one.id for one in at_once(*claims) if isinstance(one, Delivery)]
    if other is not store:
        other.close()
    # On Postgres a claimer may pass over what another is about to take; it looks again in a second.
    assert len(found) == len(set(found)) >= 1
    while (rest := store.claim_delivery(LEASE)) is not None:
        found.append(rest.id)
    assert sorted(found) == [1, 2, 3, 4]


def test_a_slow_receiver_is_told_one_thing_at_a_time(
    store: Store, clock: FrozenClock, draft: JobDraft
) -> None:
    submit(store, *(dataclasses.replace(draft, seed=seed) for seed in range(3)))
    submit(store, dataclasses.replace(draft, seed=3, webhook=THERE))
    for job_id in (1, 2, 3, 4):
        store.cancel_job(job_id)
        clock.move(1)
    slow = claim(store)
    assert (slow.job_id, claim(store).url) == (1, THERE)
    assert store.claim_delivery(LEASE) is None
    assert record(store, slow, next_in=30.0)
    second = claim(store)
    assert second.job_id == 2, "one that waits for its next try holds nobody up"
    clock.move(LEASE)
    third = claim(store)
    assert third.job_id == 3, "nor does one whose sender is gone"
    assert record(store, second, delivered=True), "late, and yet nobody else has claimed it"
    assert store.claim_delivery(LEASE).url == THERE  # type: ignore[union-attr]
    assert store.claim_delivery(LEASE) is None, "a late record does not take the turn of the newer claim"


def test_claimers_at_once_do_not_share_a_receiver(
    store_url: str, store: Store, clock: FrozenClock, draft: JobDraft
) -> None:
    submit(store, *(dataclasses.replace(draft, seed=seed) for seed in range(8)))
    for job_id in range(1, 9):
        store.cancel_job(job_id)
    other = store if store_url == "sqlite://" else Store(store_url, clock)
    claims: list[Callable[[], object]] = [
        lambda by=by: by.claim_delivery(LEASE) for by in (store, other) for _ in range(4)
    ]
    found = [one for one in at_once(*claims) if isinstance(one, Delivery)]
    if other is not store:
        other.close()
    assert len(found) == 1


def test_without_a_given_clock_leases_are_of_the_databases_time(
    store_url: str, draft: JobDraft, store: Store
) -> None:
    if store_url == "sqlite://":
        return  # it cannot be opened a second time
    with closing(Store(store_url)) as real:
        submit(real, draft)
        fail(real)
        claimed = claim(real)
        assert claimed.next_at is not None
        assert real.claim_delivery(LEASE) is None
        assert record(real, claimed, next_in=-1.0)
        again = claim(real)
        assert (again.tries, again.next_at > claimed.next_at) == (1, True)
        assert record(real, again, delivered=True)
        assert only(real).state is DeliveryState.DELIVERED
        assert store.redeliver(again.id).state is DeliveryState.PENDING


# -- recording


def test_a_try_is_logged_and_the_next_one_planned(store: Store, clock: FrozenClock, draft: JobDraft) -> None:
    submit(store, draft)
    fail(store)
    clock.move(1)
    assert record(store, claim(store), next_in=30.0)
    entry = {
        "at": clock.now.isoformat(),
        "status": 500,
        "error": "It answered 500.",
        "seconds": 0.25,
    }
    found = only(store)
    assert found.log == (entry,)
    assert (found.state, found.tries) == (DeliveryState.PENDING, 1)
    assert found.next_at is not None
    assert (found.next_at - clock.now).total_seconds() == 30.0
    assert store.claim_delivery(LEASE) is None
    clock.move(30)
    assert record(store, claim(store), delivered=True)
    found = only(store)
    assert (found.state, found.tries, found.next_at) == (DeliveryState.DELIVERED, 2, None)
    assert [one["status"] for one in found.log] == [500, 204]
    clock.move(1e6)
    assert store.claim_delivery(LEASE) is None


def test_without_a_next_time_it_has_failed(store: Store, clock: FrozenClock, draft: JobDraft) -> None:
    submit(store, draft)
    fail(store)
    assert record(store, claim(store))
    assert (only(store).state, only(store).next_at) == (DeliveryState.FAILED, None)
    clock.move(1e6)
    assert store.claim_delivery(LEASE) is None


@pytest.mark.parametrize("delivered", [True, False])
def test_a_late_record_of_a_rearmed_delivery_is_logged_alone(
    store: Store, clock: FrozenClock, draft: JobDraft, delivered: bool
) -> None:
    """The receiver was told of the first end; that says nothing of the second."""
    submit(store, draft)
    fail(store)
    late = claim(store)
    store.retry_job(1)
    assert only(store).state is DeliveryState.WAITING
    assert not record(store, late, delivered=delivered)
    found = only(store)
    assert (found.state, found.tries, found.next_at, len(found.log)) == (DeliveryState.WAITING, 0, None, 1)
    clock.move(1)
    fail(store)
    assert not record(store, late, delivered=delivered)
    assert (only(store).state, only(store).next_at) == (DeliveryState.PENDING, clock.now)
    clock.move(1)
    newest = claim(store)
    assert not record(store, late, delivered=delivered)
    assert record(store, newest, delivered=True)
    assert not record(store, late)
    assert only(store).state is DeliveryState.DELIVERED


def test_a_record_after_the_lease_is_logged_alone(store: Store, clock: FrozenClock, draft: JobDraft) -> None:
    submit(store, draft)
    fail(store)
    late = claim(store)
    clock.move(LEASE)
    newer = claim(store)
    assert not record(store, late)
    assert only(store).state is DeliveryState.PENDING
    assert record(store, newer, delivered=True)


def test_records_at_once_lose_no_line_of_the_log(store: Store, draft: JobDraft) -> None:
    submit(store, draft)
    fail(store)
    claimed = claim(store)
    won = at_once(*[lambda: record(store, claimed, next_in=5.0)] * 6)
    assert sum(map(bool, won)) == 1
    assert (len(only(store).log), only(store).tries) == (6, 1)


def test_the_log_is_bounded(store: Store, draft: JobDraft) -> None:
    submit(store, draft)
    fail(store)
    claimed = claim(store)
    for count in range(MOST_LOGGED + 3):
        store.record_try(claimed, status=count, error=None, seconds=0.0, delivered=True, next_in=None)
    assert [one["status"] for one in only(store).log] == list(range(3, MOST_LOGGED + 3))
