"""How many requests a key may send: a bucket for each key that fills up again evenly.

The arithmetic is in whole numbers and exact. What a key has spent is counted in shares of a nanosecond, of
which each request costs as many as a minute has nanoseconds, and of which `per_minute` come back in each.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

COST = 60 * 10**9  # of a request; nanoseconds in a minute


class Quota(NamedTuple):
    """What a key has left once a request of it is counted."""

    left: int  # requests
    seconds: int  # until there is one more, rounded up
    allowed: bool  # whether this request was within the limit; one that was not costs nothing


class RateLimit:
    """`per_minute` requests a minute for each key, all of which may come at once. For one thread."""

    def __init__(self, per_minute: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._per_minute = per_minute
        self._capacity = per_minute * COST
        self._clock = clock
        self._spent: dict[int, tuple[int, int]] = {}  # key id -> (spent, at this nanosecond)
        self._policy = (b"ratelimit-policy", b'"default";q=%d;w=60' % per_minute)

    def take(self, key_id: int) -> Quota:
        """Count a request of the key."""
        now = self._clock()
        spent, at = self._spent.get(key_id, (0, now))
        spent = max(0, spent - (now - at) * self._per_minute)
        allowed = spent + COST <= self._capacity
        if allowed:
            spent += COST
        self._spent[key_id] = (spent, now)
        left = (self._capacity - spent) // COST
        wait = spent + (left + 1) * COST - self._capacity  # what must come back for one more
        return Quota(left, -(-wait // (self._per_minute * 10**9)), allowed)

    def headers(self, quota: Quota) -> tuple[tuple[bytes, bytes], ...]:
        """As draft-ietf-httpapi-ratelimit-headers has them: `left` requests in the next `seconds`."""
        return self._policy, (b"ratelimit", b'"default";r=%d;t=%d' % (quota.left, quota.seconds))
