"""Webhook deliveries: they wait exactly as long as their job, are listed, and are sent again."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pytest
from delivery_acts import BROKEN, HERE, LEASE, THERE, claim, end_well, fail, hooked, only, record, run, submit

from headstart.entities import Delivery, DeliveryState, JobDraft, JobState
from headstart.errors import Conflict, InvalidInput, NotFound
from headstart.store import Store, deliveries

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import FrozenClock


@pytest.fixture
def draft(fill: Callable[..., Any]) -> JobDraft:
    return hooked(fill)


# -- with the job


def test_a_delivery_waits_for_its_job(store: Store, clock: FrozenClock, draft: JobDraft) -> None:
    job = submit(store, draft)
    expected = Delivery(
        id=1,
        job_id=job.id,
        url=HERE,
        state=DeliveryState.WAITING,
        tries=0,
        next_at=None,
        log=(),
        created_at=clock.now,
    )
    assert only(store) == store.delivery(1) == expected
    run(store)
    clock.move(5)
    assert store.claim_delivery(LEASE) is None
    assert only(store) == expected


def end_cancelled(store: Store, _: FrozenClock) -> None:
    job = run(store)
    store.cancel_job(job.id)
    assert store.end_cancelled(job.id, job.attempt)


def lose_the_worker(store: Store, clock: FrozenClock) -> None:
    for _ in range(3):
        run(store)
        clock.move(LEASE + 1)
        assert store.requeue_stale() == (1,)


def release_when_cancelled(store: Store, _: FrozenClock) -> None:
    job = run(store)
    store.cancel_job(job.id)
    assert store.release_job(job.id, job.attempt)


ENDS: dict[str, Callable[[Store, FrozenClock], object]] = {
    "succeeded": lambda store, _: end_well(store),
    "failed": lambda store, _: fail(store),
    "cancelled while it waits": lambda store, _: store.cancel_job(1),
    "cancelled while it runs": end_cancelled,
    "cancelled and given back": release_when_cancelled,
    "its worker lost": lose_the_worker,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_every_end_of_a_job_makes_it_due(
    store: Store, clock: FrozenClock, draft: JobDraft, end: Callable[[Store, FrozenClock], object]
) -> None:
    submit(store, draft)
    end(store, clock)
    assert store.job(1).finished_at is not None
    found = only(store)
    assert (found.state, found.tries, found.next_at) == (DeliveryState.PENDING, 0, clock.now)
    assert claim(store).id == found.id


def test_an_attempt_that_is_tried_again_is_no_end(store: Store, draft: JobDraft) -> None:
    submit(store, draft)
    job = run(store)
    store.fail_job(job.id, job.attempt, BROKEN, retry_in=0.0)
    assert only(store).state is DeliveryState.WAITING
    job = run(store)
    store.release_job(job.id, job.attempt)
    assert only(store).state is DeliveryState.WAITING


def test_each_address_is_told_once(store: Store, draft: JobDraft) -> None:
    other = dataclasses.replace(draft, webhook=THERE)
    submit(store, draft, draft, other, dataclasses.replace(draft, webhook=None))
    submit(store, other)
    assert [one.url for one in store.deliveries().items] == [HERE, THERE]
    fail(store)
    assert {claim(store).url, claim(store).url} == {HERE, THERE}
    assert store.claim_delivery(LEASE) is None


@pytest.mark.parametrize("first", [None, HERE])
def test_a_running_job_takes_another_address(store: Store, draft: JobDraft, first: str | None) -> None:
    submit(store, dataclasses.replace(draft, webhook=first))
    job = run(store)
    submit(store, dataclasses.replace(draft, webhook=THERE))
    store.fail_job(job.id, job.attempt, BROKEN)
    told = {one.url: one.state for one in store.deliveries().items}
    assert told == dict.fromkeys({first, THERE} - {None}, DeliveryState.PENDING)


def test_what_is_answered_at_once_has_no_webhook(store: Store, draft: JobDraft) -> None:
    submit(store, dataclasses.replace(draft, webhook=None))
    end_well(store)
    assert store.submit_jobs([draft])[0].score is not None
    assert store.deliveries().items == ()


def test_a_job_cannot_end_while_it_is_subscribed_to(
    store_url: str, store: Store, clock: FrozenClock, draft: JobDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end without the address that is being added, which would wait for ever."""
    if store_url == "sqlite://":
        return  # it has one connection, so nothing happens meanwhile
    submit(store, dataclasses.replace(draft, webhook=None))
    job = run(store)
    ended = Event()
    with closing(Store(store_url, clock)) as other:

        def end() -> None:
            other.fail_job(job.id, job.attempt, BROKEN)
            ended.set()

        worker, subscribe = Thread(target=end), deliveries.subscribe

        def slowly(*arguments: Any) -> None:
            worker.start()
            assert not ended.wait(0.3)
            subscribe(*arguments)

        monkeypatch.setattr(deliveries, "subscribe", slowly)
        assert submit(store, draft).id == job.id
        worker.join()
    assert only(store).state is DeliveryState.PENDING


# -- again


def test_a_retried_job_tells_again_whoever_was_told(
    store: Store, clock: FrozenClock, draft: JobDraft
) -> None:
    drafts = [dataclasses.replace(draft, webhook=url) for url in (HERE, THERE, "https://third.example/")]
    submit(store, *drafts)
    fail(store)
    record(store, claim(store), delivered=True)
    record(store, claim(store))  # failed
    store.retry_job(1)
    found = store.deliveries().items
    assert [(one.state, one.tries, one.next_at) for one in found] == [(DeliveryState.WAITING, 0, None)] * 3
    assert [len(one.log) for one in found] == [1, 1, 0]
    clock.move(1)
    end_well(store)
    assert [one.state for one in store.deliveries().items] == [DeliveryState.PENDING] * 3


def test_other_jobs_are_left_alone(store: Store, draft: JobDraft) -> None:
    submit(store, draft, dataclasses.replace(draft, seed=1), dataclasses.replace(draft, seed=2))
    store.cancel_job(1)
    store.cancel_job(2)
    store.retry_job(2)
    states = [one.state for one in store.deliveries().items]
    assert states == [DeliveryState.PENDING, DeliveryState.WAITING, DeliveryState.WAITING]


@pytest.mark.parametrize("delivered", [True, False])
def test_redelivery_starts_over_and_keeps_the_log(
    store: Store, clock: FrozenClock, draft: JobDraft, delivered: bool
) -> None:
    submit(store, draft)
    fail(store)
    record(store, claim(store), delivered=delivered)
    clock.move(1000)
    found = store.redeliver(1)
    assert (found.state, found.tries, found.next_at) == (DeliveryState.PENDING, 0, clock.now)
    assert len(found.log) == 1
    assert record(store, claim(store), delivered=True)
    assert len(only(store).log) == 2


def test_redelivery_of_one_under_way_is_not_undone(store: Store, draft: JobDraft) -> None:
    submit(store, draft)
    fail(store)
    under_way = claim(store)
    store.redeliver(1)
    assert not record(store, under_way)
    assert claim(store).id == 1


def test_what_waits_for_its_job_is_not_sent(store: Store, draft: JobDraft) -> None:
    submit(store, draft)
    refused = r"Delivery 1 waits for job 1 to end.*GET /jobs/1"
    with pytest.raises(Conflict, match=refused):
        store.redeliver(1)
    run(store)
    with pytest.raises(Conflict, match=refused):
        store.redeliver(1)
    assert only(store).state is DeliveryState.WAITING


# -- looking


def test_deliveries_are_listed_by_job_and_state(store: Store, draft: JobDraft) -> None:
    submit(store, *(dataclasses.replace(draft, seed=seed) for seed in range(3)))
    submit(store, dataclasses.replace(draft, webhook=THERE))
    store.cancel_job(1)

    def ids(**filters: Any) -> list[int]:
        return [one.id for one in store.deliveries(**filters).items]

    assert ids() == [1, 2, 3, 4]
    assert ids(job_id=1) == [1, 4]
    assert ids(state="pending") == [1, 4]
    assert ids(state="waiting") == [2, 3]
    assert ids(job_id=2, state="pending") == []
    first = store.deliveries(page_size=3)
    assert [one.id for one in store.deliveries(page_size=3, page_token=first.next_token).items] == [4]
    with pytest.raises(InvalidInput, match="page token"):
        store.deliveries(job_id=1, page_token=first.next_token)


def test_they_are_counted_by_state(store: Store, draft: JobDraft) -> None:
    assert store.delivery_counts() == {"waiting": 0, "pending": 0, "delivered": 0, "failed": 0}
    submit(store, *(dataclasses.replace(draft, seed=seed) for seed in range(4)))
    for job_id in (1, 2, 3):
        store.cancel_job(job_id)
    record(store, claim(store), delivered=True)
    record(store, claim(store))
    assert store.delivery_counts() == {"waiting": 1, "pending": 1, "delivered": 1, "failed": 1}


@pytest.mark.parametrize("unknown", [0, -1, 7, 2**63])
def test_an_unknown_one_is_not_found(store: Store, draft: JobDraft, unknown: int) -> None:
    submit(store, draft)
    for look in (
        lambda: store.delivery(unknown),
        lambda: store.redeliver(unknown),
        lambda: store.deliveries(job_id=unknown),
    ):
        with pytest.raises(NotFound):
            look()


def test_many_addresses_at_once(store: Store, draft: JobDraft) -> None:
    """More than one statement takes parameters."""
    drafts = [dataclasses.replace(draft, webhook=f"https://here.example/{n}") for n in range(12_000)]
    job = submit(store, *drafts)
    assert store.cancel_job(job.id).state is JobState.CANCELLED
    assert store.delivery_counts()["pending"] == 12_000
