"""What a paused run will come to, foretold from its learning curve and those of the runs that finished.

A run keeps the best of its evaluations, so after k of them its end is

    V = B_k + R,      B_k the best so far, R >= 0 the rise still to come.

R of the finished runs (those of this race, and known ones by the same recipe) is a line in B_k: who is ahead
early has less to rise, or more, as they show. Paused runs of at least FAR k evaluations are counted among
them, their own ends being foretold: little of the rise is left to them.

    R = m_k - l_k (B_k - mean B_k) + e,     l_k ~ N(0, SLOPE^2),  e ~ N(0, s_k^2)

by ridge regression at every k. s_k^2 leans on (SHARE m_k + LEAST)^2 as on WEIGHT runs: with one finished
curve the next may differ by a third of it, with many it is as they differ. A run that has gained nothing for
i of `patience` evaluations has 1 - i / patience of that rise before it: at `patience` it ends. What is left
is cut at R >= 0 (mean and variance of a normal so cut). All in points.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstart.race.runs import Run

SLOPE = 0.5  # points of rise for a point ahead, before any two finished runs have shown it
SHARE, LEAST = 0.3, 0.3  # of the mean rise, and points: what rises may differ by
FAR = 4  # times as many evaluations
WEIGHT = 2.0  # runs that this assumption counts like
NEGLIGIBLE = 1e-9


class Foretold(NamedTuple):
    """The validation metric of a run at its end, in points."""

    value: float
    own: float  # variance of the error that this run has for itself
    common: float  # standard deviation of the part that paused runs share: the mean rise may be another


class Rises(NamedTuple):
    """How much finished runs still rose after k evaluations."""

    runs: int  # that finished
    mean: float  # points
    centre: float  # mean B_k
    slope: float  # l_k
    weight: float  # sum of squares about the centre, and that of the assumption
    spread: float  # s_k

    def foretell(self, best: float, left: float = 1.0) -> Foretold:
        """Of a run whose best is this, with a share `left` of its patience."""
        apart = best - self.centre
        common = self.spread / math.sqrt(self.runs)
        own = self.spread * math.sqrt(1 + apart**2 / self.weight)
        mean, sd = cut_at_zero(left * (self.mean - self.slope * apart), left * math.hypot(own, common))
        part = common / max(math.hypot(own, common), NEGLIGIBLE)
        return Foretold(best + mean, sd**2 * (1 - part**2), sd * part)


class Guide(NamedTuple):
    """A run whose end is known, or as good as known."""

    run: Run
    end: float


class Curves:
    """The curves of a field, and what they foretell; `runs` are those that tell something."""

    def __init__(self, runs: Sequence[Run], patience: int, epsilon: float) -> None:
        self._patience, self._epsilon = patience, epsilon
        self._finished = [Guide(run, run.best) for run in runs if run.finished]
        self._paused = [run for run in runs if not run.finished]
        self._rises: dict[int, Rises] = {}

    def foretell(self, run: Run) -> Foretold:
        """The end of a run with at least one evaluation; one at least has finished, if it is paused."""
        if run.finished:
            return Foretold(run.best, 0.0, 0.0)
        left = max(0.0, 1 - run.idle(self._epsilon) / self._patience)
        return self.rises(run.evaluations).foretell(run.best, left)

    def rises(self, evaluations: int) -> Rises:
        """Of all that are far beyond so many evaluations."""
        if evaluations not in self._rises:
            far = [run for run in self._paused if run.evaluations >= FAR * evaluations]
            guides = self._finished + [Guide(run, self.foretell(run).value) for run in far]
            self._rises[evaluations] = rises(guides, evaluations)
        return self._rises[evaluations]

    @property
    def usual_end(self) -> float:
        """Evaluations that finished runs made, on average; NaN where none has."""
        made = [guide.run.evaluations for guide in self._finished]
        return float(np.mean(made)) if made else math.nan


def rises(guides: Sequence[Guide], evaluations: int) -> Rises:
    """Of these runs, one at least, after so many evaluations."""
    best = np.array([run.best_at(evaluations) for run, _ in guides])
    rise = np.array([end for _, end in guides]) - best
    count, mean, centre = len(guides), float(rise.mean()), float(best.mean())
    assumed = SHARE * mean + LEAST
    apart, beyond = best - centre, rise - mean
    weight = float(apart @ apart) + (assumed / SLOPE) ** 2
    slope = -float(apart @ beyond) / weight
    left = beyond + slope * apart
    spread = math.sqrt((WEIGHT * assumed**2 + float(left @ left)) / (WEIGHT + count - 1))
    return Rises(count, mean, centre, slope, weight, spread)


def cut_at_zero(mean: float, sd: float) -> tuple[float, float]:
    """Mean and standard deviation of a normal variable, given that it is not negative."""
    if sd <= NEGLIGIBLE:
        return max(mean, 0.0), 0.0
    a = mean / sd
    if a < -8:  # nothing but a tail: exponential, at the rate |a|
        return sd / -a, sd / -a
    density, above = math.exp(-0.5 * a * a) / math.sqrt(2 * math.pi), 0.5 * math.erfc(-a / math.sqrt(2))
    ratio = density / above
    return sd * (a + ratio), sd * math.sqrt(max(1 - ratio * (a + ratio), 0.0))
