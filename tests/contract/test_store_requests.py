"""The store's contract on idempotency keys: a request runs once and is answered alike ever after."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from store_acts import at_once

from headstart.entities import RecordedResponse
from headstart.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from headstart.store import Store
    from tests.conftest import FrozenClock

    Fill = Callable[..., Import]

RESPONSE = RecordedResponse(status=202, headers={"Location": "/imports/1"}, body=b'{"id": 1}\0\xff')


def test_a_request_is_answered_once(store: Store) -> None:
    assert store.begin_request("k", "/imports", "d") is None
    with pytest.raises(Conflict, match="still running"):
        store.begin_request("k", "/imports", "d")
    store.record_response("k", "/imports", RESPONSE)
    assert store.begin_request("k", "/imports", "d") == RESPONSE
    store.record_response("k", "/imports", dataclasses.replace(RESPONSE, status=500))
    store.release_request("k", "/imports")
    assert store.begin_request("k", "/imports", "d") == RESPONSE
    with pytest.raises(InvalidInput, match="another body"):
        store.begin_request("k", "/imports", "other")
    assert store.begin_request("k", "/elsewhere", "other") is None


def test_a_running_request_with_another_body_is_invalid(store: Store) -> None:
    store.begin_request("k", "/imports", "d")
    with pytest.raises(InvalidInput, match="another body"):
        store.begin_request("k", "/imports", "other")


def test_a_released_request_may_run_again(store: Store) -> None:
    store.begin_request("k", "/imports", "d")
    store.release_request("k", "/imports")
    assert store.begin_request("k", "/imports", "d") is None


def test_a_claim_is_taken_over_after_ten_minutes(store: Store, clock: FrozenClock) -> None:
    store.begin_request("k", "/imports", "d")
    clock.move(600)
    with pytest.raises(Conflict):
        store.begin_request("k", "/imports", "d")
    clock.move(0.001)
    assert store.begin_request("k", "/imports", "d") is None


def test_a_response_is_kept_a_day(store: Store, clock: FrozenClock) -> None:
    store.begin_request("k", "/imports", "d")
    clock.move(60)
    store.record_response("k", "/imports", RESPONSE)
    clock.move(24 * 3600)
    assert store.begin_request("k", "/imports", "d") == RESPONSE
    clock.move(0.001)
    assert store.begin_request("k", "/imports", "d") is None


def test_of_many_requests_with_one_key_one_runs(store: Store) -> None:
    def begin() -> bool:
        try:
            return store.begin_request("k", "/imports", "d") is None
        except Conflict:
            return False

    assert sum(at_once(*[begin] * 4)) == 1  # type: ignore[arg-type]
