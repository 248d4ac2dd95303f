"""What came of comparing some candidates of some boards: P(best), regret, what to measure next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import orjson

from headstart.recommend import contest, cost
from headstart.recommend.plan import FINETUNE, next_jobs
from service.kept import once

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headstart.recommend.plan import NextJob
    from service.board import Board, Entrants

V = TypeVar("V")
MOST_KEPT = 8  # lists of next jobs, and of joined candidates, that are kept
MOST_JOINED = 1 << 15  # bytes of the latter
MOST_PARTS = 48  # parts of answers that are kept


class Job(NamedTuple):
    """A job worth making on the asked target."""

    checkpoint: str
    family: str
    method: str
    runs_here: int
    seconds: float
    json: bytes


class _Pick(NamedTuple):
    """A job worth making, but for what it takes on a target of a certain size."""

    job: NextJob
    checkpoint: str
    family: str
    runs_here: int
    seconds_a_row: float  # that a finetune takes
    json: bytes  # an object without its closing brace and what depends on the size


class Prospects:
    """The jobs on the first candidates of some sides. Fills up as it is asked. It holds no board."""

    def __init__(self, boards: Sequence[Board], sides: Sequence[contest.Side]) -> None:
        """Each board with its side."""
        self._jobs = contest.jobs(sides)
        self._measured = sum(board.finetuned_here for board in boards)
        on = [
            (board.family, row, runs_here)
            for board, side in zip(boards, sides, strict=True)
            for row, runs_here in _first_of(side)
        ]
        # in columns, which the garbage collector passes over: thousands of prospects are kept
        self._names = tuple([family.names[row] for family, row, _ in on])
        self._families = tuple([family.name for family, _, _ in on])
        self._runs_here = tuple([runs_here for _, _, runs_here in on])
        self._start = boards[0].family.finetune_rate.start if boards else cost.START  # the same for all
        self._seconds_a_row = np.array([family.seconds_a_row[row] for family, row, _ in on], dtype=float)
        self._picks: dict[tuple[int, int, str | None], list[_Pick]] = {}
        self._told: dict[tuple[int, int, str | None], tuple[Job, ...]] = {}  # the last that were asked for
        self._kept: dict[Any, Any] = {}  # what was made of them

    def next_jobs(self, count: int, train_size: int | None, target: str | None) -> tuple[Job, ...]:
        """The first `count` jobs on a target of this name, if it has one, with these rows to train on.

        Their order is that of a target of about this size: of the nearest power of 4.
        """
        rows = train_size or cost.TRAIN_ROWS
        asked = (count, rows, target)
        told = self._told.get(asked)
        if told is None:
            key = (count, round(math.log(rows, 4)), target)
            picks = once(self._picks, key, lambda: self._picked(count, 4 ** key[1], target), MOST_KEPT)
            told = tuple([_job(pick, rows, self._start) for pick in picks])
            self._told = {asked: told}
        return told

    def made(self, key: Any, make: Callable[[], V]) -> V:
        """Something that depends on the prospects and on `key`: made once, while it is kept."""
        found: V = once(self._kept, key, make, MOST_KEPT)
        return found

    def _picked(self, count: int, rows: int, target: str | None) -> list[_Pick]:
        timed = self._jobs.timed(self._start + rows * self._seconds_a_row)
        picks = []
        for job in next_jobs(timed, count, finetuned_here=self._measured):
            name, family, runs_here = self._names[job.row], self._families[job.row], self._runs_here[job.row]
            text = {
                "checkpoint": name,
                "family": family,
                "target": target,
                "method": job.method,
                "runs_here": runs_here,
                "value": round(job.value, 6),
            }
            seconds = float(self._seconds_a_row[job.row])
            picks.append(_Pick(job, name, family, runs_here, seconds, orjson.dumps(text)[:-1]))
        return picks


def _first_of(side: contest.Side) -> list[tuple[int, int]]:
    """The row of each of the first entrants, and its finetune runs on the asked target."""
    at = side.at[: contest.JOBS]
    return list(zip(side.outlook.rows[at].tolist(), side.outlook.runs_here[at].tolist(), strict=True))


def _job(pick: _Pick, rows: int, start: float) -> Job:
    """The job on a target with these rows to train on, the first of them after `start` seconds."""
    job = pick.job
    seconds = start + rows * pick.seconds_a_row if job.method == FINETUNE else job.seconds
    json = b'%s,"seconds":%.1f,"value_per_second":%.9f}' % (pick.json, seconds, job.value / seconds)
    return Job(pick.checkpoint, pick.family, job.method, pick.runs_here, round(seconds, 1), json)


def _without_draws(side: contest.Side) -> contest.Side:
    """What the jobs on its candidates are told from: draws may be many, and no board's."""
    none = side.outlook.draws[:0]
    return side._replace(outlook=side.outlook._replace(draws=none.copy()), leaders=None)


class Outcome:
    """The contest of some entrants. Fills up as it is asked. It holds no board: boards hold outcomes."""

    def __init__(self, boards: Sequence[Board], entrants: Sequence[Entrants]) -> None:
        """Each board with its entrants."""
        self.entrants = tuple(entrants)
        self.fewest = min([one.number for one in entrants], default=0)  # of any board
        sides = [board.side(one) for board, one in zip(boards, entrants, strict=True)]
        self._contest = contest.contest(sides)
        self.sides = [_without_draws(side) for side in sides]
        self.summary = orjson.dumps(self._summary(boards))[1:-1]
        self.prospects: Prospects | None = None  # once they were asked for
        self.joined: dict[Any, bytes] = {}  # candidates written one after the other
        self._parts: dict[Any, Any] = {}

    @property
    def first(self) -> tuple[Any, ...]:
        """What its prospects depend on."""
        return tuple(
            [
                (side.at[: contest.JOBS].tobytes(), side.enters) if isinstance(one.who, int) else one
                for one, side in zip(self.entrants, self.sides, strict=True)
            ]
        )

    def made(self, key: Any, make: Callable[[], V]) -> V:
        """A part of answers that depends on the contest and on `key`: made once, while it is kept."""
        found: V = once(self._parts, key, make, MOST_PARTS)
        return found

    @property
    def regret(self) -> float | None:
        """Expected of the first choice, in points as they are told; None: there is none."""
        found = self._contest.regret
        return None if found is None else round(found, 3)

    def _summary(self, boards: Sequence[Board]) -> dict[str, Any]:
        """What the first choice is worth, and stopping at once."""
        found = self._contest
        if found.pick is None:
            return {"p_vanilla_best": None, "expected_regret": None, "stopping": None}
        side, position, gain, regret = found.pick
        family = boards[side].family
        row = None if position is None else int(self.sides[side].outlook.rows[position])
        return {
            "p_vanilla_best": round(found.vanilla, 6),
            "expected_regret": self.regret,
            "stopping": {
                "pick": None if row is None else family.names[row],
                "family": family.name,
                "expected_gain": round(gain, 3),
                "expected_regret": round(regret, 3),
            },
        }

    def leading(self, board: int, limit: int) -> tuple[list[int], list[float]]:
        """The rows of the first entrants of a board, and P(best) of each."""
        side, chances = self.sides[board], self._contest.p_best[board]
        first = side.at[:limit]
        return side.outlook.rows[first].tolist(), chances[first].tolist()

    def chances(self) -> list[dict[int, float]]:
        """Of each board: row -> P(best) of those compared."""
        return [
            dict(zip(side.outlook.rows.tolist(), chances.tolist(), strict=True))
            for side, chances in zip(self.sides, self._contest.p_best, strict=True)
        ]
