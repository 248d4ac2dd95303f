"""The field of a race: who runs, what was known beforehand, every run so far. Decisions are made of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from headstart.race.curves import Curves
from headstart.race.runs import Run, put

if TYPE_CHECKING:
    from headstart.race.prior import Prior

COLLAPSES = 2  # runs of a candidate that end at the largest class, after which it is out
MOST_SEEDS = 5  # of one candidate


@dataclass(frozen=True, kw_only=True, eq=False)
class Field:
    """n + 1 candidates, the vanilla first."""

    ids: tuple[int, ...]  # of their checkpoints
    parameters: tuple[float, ...]  # how many each has, or 1 for all
    prior: Prior  # of these, in this order
    runs: tuple[Run, ...] = ()  # in the order in which they were begun, those known beforehand first
    failed: frozenset[int] = frozenset()  # checkpoints that could not be run
    seed: int = 0  # of the first runs
    worth: float = 0.5  # points
    least_chance: float = 0.1
    most_runs: int | None = None  # to begin in all
    patience: int = 3
    epsilon: float = 0.001
    validation_rows: int | None = None

    def place(self, checkpoint_id: int) -> int:
        """Position among the candidates."""
        return self.ids.index(checkpoint_id)

    def of(self, place: int) -> list[Run]:
        """The runs of a candidate."""
        return [run for run in self.runs if run.checkpoint_id == self.ids[place]]

    @property
    def told_to_the_end(self) -> list[Run]:
        """Runs that finished and did not collapse."""
        return [run for run in self.runs if run.finished and not run.collapsed]

    @property
    def telling(self) -> list[Run]:
        """Runs that anything can be read off. Nothing is foretold of paused ones before one has finished."""
        one_has = bool(self.told_to_the_end)
        return [
            run
            for run in self.runs
            if run.tells and (run.finished or (one_has and run.checkpoint_id not in self.failed))
        ]

    @cached_property
    def curves(self) -> Curves:
        """What the runs that tell something foretell."""
        return Curves(self.telling, self.patience, self.epsilon)

    @property
    def begun(self) -> int:
        """Finetunes that this race began."""
        return sum(not run.known for run in self.runs)

    def collapsed(self, place: int) -> int:
        """How many of a candidate's runs did."""
        return sum(run.collapsed for run in self.of(place))

    def is_out(self, place: int) -> bool:
        """Whether it could not be run, or collapsed too often."""
        return self.ids[place] in self.failed or self.collapsed(place) >= COLLAPSES

    @property
    def runners(self) -> list[int]:
        """Candidates still in the race, the vanilla left out."""
        return [place for place in range(1, len(self.ids)) if not self.is_out(place)]

    def has_finished(self, place: int) -> bool:
        """Whether a run of it has come to its end, and not collapsed."""
        return any(run.finished and not run.collapsed for run in self.of(place))

    def was_seen(self, place: int) -> bool:
        """Whether anything of its level was seen."""
        return any(run.checkpoint_id == self.ids[place] for run in self.telling)

    def next_seed(self, place: int) -> int:
        """The first seed that it was not run with."""
        taken = {run.seed for run in self.of(place)}
        return next(seed for seed in range(self.seed, self.seed + len(taken) + 1) if seed not in taken)

    def with_run(self, run: Run) -> Field:
        """The field, this run being so far."""
        return replace(self, runs=put(self.runs, run))

    def without(self, checkpoint_id: int) -> Field:
        """The field, this candidate having failed: what its unfinished runs cost stays told."""
        return replace(self, failed=self.failed | {checkpoint_id})


def sizes(parameters: list[int | None]) -> tuple[float, ...]:
    """Of each candidate; where one is unknown the median of the others, and 1 where all are."""
    known = [one for one in parameters if one]
    usual = float(np.median(known)) if known else 1.0
    return tuple(float(one) if one else usual for one in parameters)
