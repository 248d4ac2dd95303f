"""Webhooks to receivers that take them, sooner or later."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from receivers import OPTIONS, RNG, SECRET, only, status

from headstart.entities import Delivery, DeliveryState, Job
from headstart.method import Measurement
from headstart.webhooks import (
    DELAYS,
    MOST_TRIES,
    WebhookOptions,
    deliver_next,
    payload,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from receivers import Receiver

    from headstart.entities import Job
    from headstart.store import Store
    from tests.conftest import FrozenClock

PAGE = Path(__file__).parents[2] / "docs/webhooks.md"


def documented_verify() -> Callable[..., bool]:
    """The function that the documentation gives to receivers."""
    page = PAGE.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    verify: Callable[..., bool] = names["verify"]
    return verify


# -- delivering


def test_nothing_is_due(store: Store) -> None:
    assert not deliver_next(store, OPTIONS, RNG)


def test_a_delivery_that_arrives(store: Store, receiver: Receiver, ended: Callable[[str], Job]) -> None:
    job = ended(receiver.url)
    assert deliver_next(store, OPTIONS, RNG)
    assert not deliver_next(store, OPTIONS, RNG)
    ((path, headers, body),) = receiver.seen
    assert path == "/hook?key=1"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("headstart/")
    assert body == payload(store.job(job.id))
    verify = documented_verify()
    assert verify(SECRET, headers, body)
    assert not verify(SECRET, headers, body + b" ")
    assert not verify("another", headers, body)
    assert not verify(SECRET, headers | {"webhook-timestamp": "1614265330"}, body)
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    found = only(store)
    assert (found.state, found.tries) == (DeliveryState.DELIVERED, 1)
    assert (found.log[0]["status"], found.log[0]["error"]) == (204, None)
    assert 0 <= found.log[0]["seconds"] < 5


def test_a_receiver_that_takes_it_at_the_third_try(
    store: Store, clock: FrozenClock, receiver: Receiver, ended: Callable[[str], Job]
) -> None:
    ended(receiver.url)
    receiver.answers = [status(500), status(404)]
    begun = clock.now
    for delay in DELAYS[:2]:
        assert deliver_next(store, OPTIONS, RNG)
        next_at = only(store).next_at
        assert next_at is not None
        assert 0.8 * delay <= (next_at - clock.now).total_seconds() <= 1.2 * delay
        clock.now = next_at - timedelta(microseconds=1)
        assert not deliver_next(store, OPTIONS, RNG)
        clock.now = next_at
    assert deliver_next(store, OPTIONS, RNG)
    found = only(store)
    assert (found.state, found.tries) == (DeliveryState.DELIVERED, 3)
    assert [one["status"] for one in found.log] == [500, 404, 204]
    assert found.log[0]["error"] == "The receiver answered with status 500 instead of 2xx."
    assert [one["at"] for one in found.log] == sorted({one["at"] for one in found.log})
    assert found.log[0]["at"] == begun.isoformat()
    first, second, third = receiver.seen
    assert first[2] == second[2] == third[2]
    assert first[1]["webhook-id"] == second[1]["webhook-id"] == third[1]["webhook-id"]


def test_after_six_tries_it_has_failed(
    store: Store, clock: FrozenClock, receiver: Receiver, ended: Callable[[str], Job]
) -> None:
    ended(receiver.url)
    receiver.answers = [status(503)] * 10
    for tries in range(1, MOST_TRIES + 1):
        assert only(store).state is DeliveryState.PENDING
        assert deliver_next(store, OPTIONS, RNG)
        assert only(store).tries == tries
        clock.move(2 * 3600)
    assert (only(store).state, len(receiver.seen)) == (DeliveryState.FAILED, 6)
    assert not deliver_next(store, OPTIONS, RNG)


def test_redelivery_of_a_failed_one(
    store: Store, clock: FrozenClock, receiver: Receiver, ended: Callable[[str], Job]
) -> None:
    ended(receiver.url)
    receiver.answers = [status(410), status(500)]
    deliver_next(store, OPTIONS, RNG)
    assert only(store).state is DeliveryState.FAILED
    assert "410" in only(store).log[0]["error"]
    clock.move(1e6)
    assert not deliver_next(store, OPTIONS, RNG)
    store.redeliver(1)
    deliver_next(store, OPTIONS, RNG)
    assert (only(store).state, only(store).tries) == (DeliveryState.PENDING, 1)
    clock.move(10)
    deliver_next(store, OPTIONS, RNG)
    assert only(store).state is DeliveryState.DELIVERED
    assert [one["status"] for one in only(store).log] == [410, 500, 204]
    assert len({headers["webhook-id"] for _, headers, _ in receiver.seen}) == 1


@pytest.mark.parametrize(
    ("code", "asked", "waited"),
    [
        (429, "100", 100.0),
        (503, "999999", 3600.0),
        (503, "Sun, 06 Nov 1994 08:49:37 GMT", 5.0),
        (500, "-1", 5.0),
    ],
)
def test_a_receiver_can_ask_for_patience(
    store: Store,
    clock: FrozenClock,
    receiver: Receiver,
    ended: Callable[[str], Job],
    code: int,
    asked: str,
    waited: float,
) -> None:
    ended(receiver.url)
    receiver.answers = [status(code, Retry_After=asked)]
    deliver_next(store, OPTIONS, RNG)
    next_at = only(store).next_at
    assert next_at is not None
    assert (next_at - clock.now).total_seconds() == pytest.approx(waited, rel=0.2)


# -- beside the job


def test_a_job_retried_tells_again_under_another_name(
    store: Store, clock: FrozenClock, receiver: Receiver, ended: Callable[[str], Job]
) -> None:
    """It is cancelled twice without ever having run: the attempt is the same."""
    job = ended(receiver.url)
    deliver_next(store, OPTIONS, RNG)
    store.retry_job(job.id)
    assert not deliver_next(store, OPTIONS, RNG)
    clock.move(1)
    store.cancel_job(job.id)
    deliver_next(store, OPTIONS, RNG)
    store.retry_job(job.id)
    running = store.claim_job(["cpu"], 60)
    assert running is not None
    store.finish_job(job.id, running.attempt, Measurement(value=0.5), seconds=1.0)
    deliver_next(store, OPTIONS, RNG)
    types = [json.loads(body)["type"] for _, _, body in receiver.seen]
    assert types == ["job.cancelled", "job.cancelled", "job.succeeded"]
    assert len({headers["webhook-id"] for _, headers, _ in receiver.seen}) == 3
    assert len(only(store).log) == 3


def test_a_job_retried_while_its_receiver_answers(
    store: Store, receiver: Receiver, ended: Callable[[str], Job]
) -> None:
    job = ended(receiver.url)
    receiver.meanwhile = lambda: store.retry_job(job.id)
    assert deliver_next(store, OPTIONS, RNG)
    found = only(store)
    assert (found.state, found.tries, len(found.log)) == (DeliveryState.WAITING, 0, 1)
    receiver.meanwhile = lambda: None
    store.cancel_job(job.id)
    assert deliver_next(store, OPTIONS, RNG)
    assert only(store).state is DeliveryState.DELIVERED


def test_a_job_retried_just_before_it_is_told_of(
    store: Store, receiver: Receiver, ended: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ended(receiver.url)
    claim = store.claim_delivery

    def claim_and_retry(lease_seconds: float) -> Delivery | None:
        claimed = claim(lease_seconds)
        store.retry_job(job.id)
        return claimed

    monkeypatch.setattr(store, "claim_delivery", claim_and_retry)
    assert deliver_next(store, OPTIONS, RNG)
    assert receiver.seen == []
    assert (only(store).state, only(store).log) == (DeliveryState.WAITING, ())


def test_a_process_without_the_secret_leaves_it_to_others(
    store: Store, receiver: Receiver, ended: Callable[[str], Job]
) -> None:
    ended(receiver.url)
    assert not deliver_next(store, WebhookOptions(secret=""), RNG)
    assert only(store).tries == 0
    assert deliver_next(store, OPTIONS, RNG)
    assert len(receiver.seen) == 1
