"""The candidates that pass the filter of one question, best first, and what came of comparing them."""

from __future__ import annotations

import heapq
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from service.board import ANY
from service.outcome import MOST_JOINED, MOST_KEPT, Prospects

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.board import Board, Filter
    from service.candidates import Entry
    from service.kept import Shelf
    from service.outcome import Job, Outcome


V = TypeVar("V")


class Found(NamedTuple):
    """A candidate and where it is from."""

    board: int
    entry: Entry


class Best:
    """The outcome of the entrants of a question, and the candidates behind them."""

    def __init__(
        self, boards: Sequence[Board], outcome: Outcome, wanted: Filter = ANY, shelf: Shelf | None = None
    ) -> None:
        """`outcome`: of those on the boards that pass the filter `wanted`; `shelf`: where it is kept."""
        self.boards = boards
        self.wanted = wanted
        self.summary = outcome.summary  # keys of an answer: a JSON object sans braces
        self._outcome = outcome
        self._shelf = shelf

    def made(self, key: Any, make: Callable[[], V]) -> V:
        """A part of answers that depends on the contest and on `key`, whatever the filter."""
        return self._outcome.made(key, make)

    @property
    def regret(self) -> float | None:
        """Expected of the first choice, in points as they are told; None: there is none."""
        return self._outcome.regret

    def next_jobs(self, count: int, train_size: int | None, target: str | None) -> tuple[Job, ...]:
        """The first `count` jobs on a target of this name, if it has one, with these rows to train on."""
        return self._prospects().next_jobs(count, train_size, target) if count else ()

    def of_jobs(self, key: Any, make: Callable[[], V]) -> V:
        """Something that depends on the next jobs and on `key`, whoever else takes part."""
        return self._prospects().made(key, make)

    def _prospects(self) -> Prospects:
        """Those of the first entrants, whoever else takes part."""
        outcome = self._outcome
        if outcome.prospects is None:
            key = (tuple(self.boards), outcome.first)
            outcome.prospects = self._kept(key, lambda: Prospects(self.boards, outcome.sides))
        return outcome.prospects

    def _kept(self, key: Any, make: Callable[[], Prospects]) -> Prospects:
        return make() if self._shelf is None else self._shelf.prospects.get(key, make)

    def top(self, limit: int) -> list[Found]:
        """The best candidates of all families by expected score."""
        found = [Found(k, one) for k in range(len(self.boards)) for one in self._top_of(k, limit)]
        if len(self.boards) == 1:
            return found
        return heapq.nlargest(limit, found, key=lambda one: one.entry.score)

    def _top_of(self, board: int, limit: int) -> list[Entry]:
        if self._outcome.entrants[board].number >= limit:
            return self.boards[board].entries(self._outcome.leading(board, limit)[0])
        return self.boards[board].top(limit, self.wanted)

    def smaller_and_smaller(self) -> list[Found]:
        """Of each family those that may have no better in score and size together."""
        boards = enumerate(self.boards)
        return [Found(k, one) for k, board in boards for one in board.smaller_and_smaller(self.wanted)]

    def written(self, limit: int) -> bytes:
        """The first `limit` candidates as the items of a JSON array."""
        joined = self._outcome.joined
        # those behind the entrants depend on the filter itself
        key = limit if limit <= self._outcome.fewest else (limit, self.wanted)
        found = joined.get(key)
        if found is None:
            items = [b'%s,"p_best":%.6f}' % item for item in self._with_chances(limit)]
            found = b",".join(items)
            if len(found) <= MOST_JOINED:
                if len(joined) >= MOST_KEPT:
                    joined.clear()
                joined[key] = found
        return found

    def _with_chances(self, limit: int) -> list[tuple[bytes, float]]:
        """The JSON of each of the first candidates, and P(best)."""
        if len(self.boards) == 1 and limit <= self._outcome.fewest:
            rows, chances = self._outcome.leading(0, limit)
            entries = self.boards[0].entries(rows)
            return [(one.json, chance) for one, chance in zip(entries, chances, strict=True)]
        return [(one.json, self._chances[k].get(one.row, 0.0)) for k, one in self.top(limit)]

    def candidate(self, one: Found, explanation: bytes | None = None) -> bytes:
        """The JSON of a candidate."""
        chance = self._chances[one.board].get(one.entry.row, 0.0)
        if explanation is None:
            return b'%s,"p_best":%.6f}' % (one.entry.json, chance)
        return b'%s,"p_best":%.6f,"explanation":%s}' % (one.entry.json, chance, explanation)

    @cached_property
    def _chances(self) -> list[dict[int, float]]:
        return self._outcome.chances()
