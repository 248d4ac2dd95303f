"""What was made for answers and may be asked again, as much of it as memory is given for."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from service.board import Board
    from service.outcome import Outcome, Prospects

MOST_BYTES = 192 << 20  # of all boards of all families
MOST_ACROSS = 1_024  # outcomes of several families without a filter
MOST_FILTERED = 2_048  # outcomes under one, some 10 kB each
MOST_PROSPECTS = 2_048  # some 3 kB each

V = TypeVar("V")


def once(kept: dict[Any, V], key: Hashable, make: Callable[[], V], most: int) -> V:
    """What is kept under the key, made if it is not there; `most` things are kept, then none, and so on."""
    found = kept.get(key)
    if found is None:
        if len(kept) >= most:
            kept.clear()
        found = kept[key] = make()
    return found


class Recent(Generic[V]):
    """The last used of what was made. Shared with the thread that makes boards beside the traffic."""

    def __init__(self, most: float = math.inf) -> None:
        """Of `most` at most."""
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, V] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """What is kept under the key, made if it is not there."""
        found = self._kept.get(key)
        if found is not None:
            try:
                self._kept.move_to_end(key)
            except KeyError:
                return found  # it went in between
            return found
        made = make()
        with self._lock:
            made = self._kept.setdefault(key, made)  # the first that was made, if it was made twice at once
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made

    def items(self) -> list[tuple[Any, V]]:
        """All that is kept, the last used last."""
        with self._lock:
            return list(self._kept.items())

    def forget(self, gone: Callable[[Any, V], bool]) -> None:
        """Drop what is `gone`, by its key and itself."""
        with self._lock:
            for key in [key for key, one in self._kept.items() if gone(key, one)]:
                del self._kept[key]


class Shelf:
    """The boards of a set of posteriors, and what came of comparing their candidates.

    Boards weigh what their arrays take, the others are counted. With a board goes all that stands on it.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        """Of boards of so many bytes together."""
        self._most_bytes = most_bytes
        self._boards: Recent[Board] = Recent()
        self.across: Recent[Outcome] = Recent(MOST_ACROSS)
        self.filtered: Recent[Outcome] = Recent(MOST_FILTERED)
        self.prospects: Recent[Prospects] = Recent(MOST_PROSPECTS)

    @property
    def bytes(self) -> int:
        """Of all boards."""
        return sum(board.bytes for _, board in self._boards.items())

    def has_room(self, more: int) -> bool:
        """Whether so many bytes more would put no board away."""
        return self.bytes + more <= self._most_bytes

    def board(self, key: Hashable, make: Callable[[], Board]) -> Board:
        """The board of this key, made if it is not there."""
        return self._boards.get(key, lambda: self._put(make()))

    def _put(self, board: Board) -> Board:
        """Make room for it: those longest not asked for go."""
        kept = self._boards.items()
        weight, gone = board.bytes + sum(one.bytes for _, one in kept), set()
        for _, one in kept:
            if weight <= self._most_bytes:
                break
            weight -= one.bytes
            gone.add(one)
        if gone:
            self._boards.forget(lambda _, one: one in gone)
            for recent in (self.across, self.filtered, self.prospects):
                recent.forget(lambda key, _: not gone.isdisjoint(key[0]))
        return board
