"""Requests per key and minute, to the nanosecond."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_service import serving, settings

from service.auth import digest_of
from service.rate_limit import Quota, RateLimit

if TYPE_CHECKING:
    from headstart.store import Store

SECOND = 10**9


class Clock:
    """Nanoseconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 123_456_789_012_345

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_all_requests_of_a_minute_may_come_at_once(clock: Clock) -> None:
    limit = RateLimit(6, clock)
    assert [limit.take(1) for _ in range(6)] == [Quota(left, 10, True) for left in (5, 4, 3, 2, 1, 0)]
    assert limit.take(1) == Quota(0, 10, False)


def test_one_comes_back_every_sixth_of_the_minute(clock: Clock) -> None:
    limit = RateLimit(6, clock)
    for _ in range(6):
        limit.take(1)
    clock.now += 10 * SECOND - 1
    assert limit.take(1) == Quota(0, 1, False)
    clock.now += 1
    assert limit.take(1) == Quota(0, 10, True)
    clock.now += 15 * SECOND
    assert limit.take(1) == Quota(0, 5, True)  # half of the next is back already
    clock.now += 60 * SECOND
    assert limit.take(1).left == 5
    clock.now += 10**6 * SECOND
    assert limit.take(1) == Quota(5, 10, True), "no more than a minute's requests are saved up"


def test_a_refused_request_costs_nothing(clock: Clock) -> None:
    limit = RateLimit(2, clock)
    while limit.take(1).allowed:
        pass
    for _ in range(100):
        assert not limit.take(1).allowed
    clock.now += 30 * SECOND
    assert limit.take(1) == Quota(0, 30, True)


def test_seconds_are_rounded_up(clock: Clock) -> None:
    assert RateLimit(6000, clock).take(1) == Quota(5999, 1, True)
    assert RateLimit(7, clock).take(1) == Quota(6, 9, True)  # 60 / 7 = 8.57
    assert RateLimit(1, clock).take(1) == Quota(0, 60, True)


def test_keys_do_not_share(clock: Clock) -> None:
    limit = RateLimit(1, clock)
    assert limit.take(1).allowed
    assert limit.take(2).allowed
    assert not limit.take(1).allowed


@given(
    per_minute=st.integers(1, 500),
    steps=st.lists(st.integers(0, 3 * SECOND), max_size=60),
)
def test_never_more_than_the_limit_and_what_has_come_back(per_minute: int, steps: list[int]) -> None:
    clock = Clock()
    begin, limit, allowed = clock.now, RateLimit(per_minute, clock), 0
    for step in steps:
        clock.now += step
        quota = limit.take(1)
        allowed += quota.allowed
        assert allowed <= per_minute + (clock.now - begin) * per_minute / (60 * SECOND)
        assert quota.allowed or quota.left == 0
        clock.now += quota.seconds * SECOND
        assert limit.take(1).allowed, "whoever waits as told is served"
        allowed += 1
        assert quota.seconds <= -(-60 // per_minute)


def test_the_headers_are_of_the_draft(clock: Clock) -> None:
    limit = RateLimit(6000, clock)
    assert limit.headers(limit.take(1)) == (
        (b"ratelimit-policy", b'"default";q=6000;w=60'),
        (b"ratelimit", b'"default";r=5999;t=1'),
    )


def test_over_http_answers_tell_what_is_left_and_then_when_to_come_back(store: Store) -> None:
    for name in ("busy", "quiet"):
        store.create_key(name, "read", digest_of(f"hs_{name}".encode()), "hs_")
    busy = {"authorization": "Bearer hs_busy"}
    with serving(store, settings(rate_limit=2)) as live:
        first = live.http.get("/methods", headers=busy)
        assert first.status_code == 200
        assert first.headers["ratelimit-policy"] == '"default";q=2;w=60'
        assert first.headers["ratelimit"] == '"default";r=1;t=30'
        refused = live.http.post("/imports", headers=busy)
        assert refused.status_code == 403, "this counts too"
        assert refused.headers["ratelimit"].startswith('"default";r=0;t=')
        problem = live.problem("GET", "/methods", 429, headers=busy)
        assert problem["code"] == "rate_limited"
        assert "'busy'" in problem["detail"]
        response = live.http.get("/healthz", headers=busy)
        assert response.status_code == 429
        assert 0 < int(response.headers["retry-after"]) <= 30
        assert response.headers["ratelimit"] == f'"default";r=0;t={response.headers["retry-after"]}'
        assert f"Wait {response.headers['retry-after']} s" in response.json()["detail"]
        assert live.http.get("/methods", headers={"authorization": "Bearer hs_quiet"}).status_code == 200
        for _ in range(5):
            keyless = live.http.get("/methods")
            assert keyless.status_code == 200
            assert "ratelimit" not in keyless.headers
        assert 'status="429"} 2.0' in live.http.get("/metrics").text


def test_no_limit_is_no_headers(store: Store) -> None:
    store.create_key("busy", "read", digest_of(b"hs_busy"), "hs_")
    with serving(store, settings(rate_limit=0)) as live:
        response = live.http.get("/methods", headers={"authorization": "Bearer hs_busy"})
        assert response.status_code == 200
        assert "ratelimit" not in response.headers
