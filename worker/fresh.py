"""What the store said a moment ago, so that it is not asked for every job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

FRESH_SECONDS = 60.0
MOST_KNOWN = 1000


class Fresh(Generic[T]):
    """What the store says under an id, asked for once a minute: one pair of ids serves many jobs in a row."""

    def __init__(self, read: Callable[[int], T]) -> None:
        self._read = read
        self._known: dict[int, T] = {}
        self._until = 0.0

    def forget(self, identity: int | None) -> None:
        """Ask the store anew."""
        if identity is not None:
            self._known.pop(identity, None)

    def get(self, identity: int | None) -> T | None:
        """What is there under the id; None for none."""
        if identity is None:
            return None
        if time.monotonic() > self._until or len(self._known) > MOST_KNOWN:
            self._known.clear()
            self._until = time.monotonic() + FRESH_SECONDS
        if identity not in self._known:
            self._known[identity] = self._read(identity)
        return self._known[identity]
