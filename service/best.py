"""Who is best of those a question allows, as an answer tells it: P(best), regret, what to measure next."""

from __future__ import annotations

import heapq
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from headstart.recommend import contest, cost
from headstart.recommend.plan import FINETUNE, next_jobs
from service.board import ANY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headstart.recommend.plan import NextJob
    from service.board import Board, Entry, Filter

MOST_KEPT = 8  # lists of next jobs, and limits whose joined candidates are kept, of each
MOST_TEXTS = 48  # parts of answers that are kept


class Found(NamedTuple):
    """A candidate and where it is from."""

    board: int
    entry: Entry


class Pick(NamedTuple):
    """A job worth making, but for what it takes on a target of a certain size."""

    job: NextJob
    board: int
    row: int
    runs_here: int


class Best:
    """The contest of the boards of one question among those that pass its filter. Fills up as it is asked."""

    def __init__(self, boards: Sequence[Board], wanted: Filter = ANY) -> None:
        self.boards = tuple(boards)
        self._wanted = wanted
        self._sides = [board.side(wanted) for board in boards]
        self._contest = contest.contest(self._sides)
        self._picks: dict[tuple[int, int], list[Pick]] = {}
        self._joined: dict[int, bytes] = {}  # by limit
        self._texts: dict[tuple[Any, ...], bytes] = {}

    def text(self, key: tuple[Any, ...], make: Callable[[], bytes]) -> bytes:
        """A part of answers that depends on the contest and on `key`: made once, while it is kept."""
        found = self._texts.get(key)
        if found is None:
            if len(self._texts) >= MOST_TEXTS:
                self._texts.clear()
            found = self._texts[key] = make()
        return found

    @property
    def regret(self) -> float | None:
        """Expected of the first choice, in points as they are told; None: there is none."""
        found = self._contest.regret
        return None if found is None else round(found, 3)

    @cached_property
    def summary(self) -> bytes:
        """The keys of an answer that tell what its first choice is worth: a JSON object sans braces."""
        return orjson.dumps(self._summary())[1:-1]

    def _summary(self) -> dict[str, Any]:
        found = self._contest
        if found.pick is None:
            return {"p_vanilla_best": None, "expected_regret": None, "stopping": None}
        side, position, gain, regret = found.pick
        family = self.boards[side].family
        row = None if position is None else int(self._sides[side].outlook.rows[position])
        return {
            "p_vanilla_best": round(found.vanilla, 4),
            "expected_regret": self.regret,
            "stopping": {
                "pick": None if row is None else family.names[row],
                "family": family.name,
                "expected_gain": round(gain, 3),
                "expected_regret": round(regret, 3),
            },
        }

    def top(self, limit: int) -> list[Found]:
        """The best candidates of all families by expected score."""
        found = [
            Found(k, one) for k, board in enumerate(self.boards) for one in board.top(limit, self._wanted)
        ]
        if len(self.boards) == 1:
            return found
        return heapq.nlargest(limit, found, key=lambda one: one.entry.score)

    def smaller_and_smaller(self) -> list[Found]:
        """Of each family those that may have no better in score and size together."""
        boards = enumerate(self.boards)
        return [Found(k, one) for k, board in boards for one in board.smaller_and_smaller(self._wanted)]

    def written(self, limit: int) -> bytes:
        """The first `limit` candidates as the items of a JSON array."""
        joined = self._joined.get(limit)
        if joined is None:
            if len(self._joined) >= MOST_KEPT:
                self._joined.clear()
            chances = self._chances
            items = [(one.json, chances[k].get(one.row, 0.0)) for k, one in self.top(limit)]
            joined = self._joined[limit] = b",".join([b'%s,"p_best":%.4f}' % item for item in items])
        return joined

    def candidate(self, one: Found, explanation: bytes | None = None) -> bytes:
        """The JSON of a candidate."""
        chance = self._chances[one.board].get(one.entry.row, 0.0)
        if explanation is None:
            return b'%s,"p_best":%.4f}' % (one.entry.json, chance)
        return b'%s,"p_best":%.4f,"explanation":%s}' % (one.entry.json, chance, explanation)

    @cached_property
    def _chances(self) -> list[dict[int, float]]:
        """Of each board: row -> P(best), where it is not 0."""
        found = []
        for side, chances in zip(self._sides, self._contest.p_best, strict=True):
            at = chances.nonzero()[0]
            found.append(dict(zip(side.outlook.rows[at].tolist(), chances[at].tolist(), strict=True)))
        return found

    def next_jobs(self, count: int, train_size: int | None, target: str | None) -> list[dict[str, Any]]:
        """The first `count` jobs on a target of this name, if it has one, with these rows to train on.

        Their order is that of a target of about this size: of the nearest power of 4.
        """
        if not count:
            return []
        rows = train_size or cost.TRAIN_ROWS
        key = (count, round(math.log(rows, 4)))
        picks = self._picks.get(key)
        if picks is None:
            if len(self._picks) >= MOST_KEPT:
                self._picks.clear()
            picks = self._picks[key] = self._picked(count, 4 ** key[1])
        return [self._job(pick, rows, target) for pick in picks]

    def _picked(self, count: int, rows: int) -> list[Pick]:
        measured = sum(board.finetuned_here for board in self.boards)
        found = next_jobs(
            self._jobs.timed(cost.START + rows * self._seconds_a_row), count, finetuned_here=measured
        )
        picks = []
        for job in found:
            side, position = int(self._jobs.side[job.row]), int(self._jobs.position[job.row])
            outlook = self._sides[side].outlook
            picks.append(Pick(job, side, int(outlook.rows[position]), int(outlook.runs_here[position])))
        return picks

    def _job(self, pick: Pick, rows: int, target: str | None) -> dict[str, Any]:
        job, family = pick.job, self.boards[pick.board].family
        seconds = job.seconds
        if job.method == FINETUNE:
            seconds = cost.START + rows * float(family.seconds_a_row[pick.row])
        return {
            "checkpoint": family.names[pick.row],
            "family": family.name,
            "target": target,
            "method": job.method,
            "runs_here": pick.runs_here,
            "value": round(job.value, 6),
            "seconds": round(seconds, 1),
            "value_per_second": round(job.value / seconds, 9),
        }

    @cached_property
    def _jobs(self) -> contest.Jobs:
        return contest.jobs(self._sides)

    @cached_property
    def _seconds_a_row(self) -> np.ndarray:
        """That a finetune of the checkpoints of the jobs takes."""
        seconds = [
            board.family.seconds_a_row[side.outlook.rows[side.at[: contest.JOBS]]]
            for board, side in zip(self.boards, self._sides, strict=True)
        ]
        return np.concatenate([np.zeros(0), *seconds])
