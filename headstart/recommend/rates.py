"""How fast jobs run, learnt from those that ran: a start, and seconds per operation, by kind and device.

    seconds = start + operations * pace

Both are found on logarithmic scales at the mode of a posterior: Student's t errors in log seconds, so that
one odd job moves little, and priors that say what `cost` assumes, vaguely. Its curvature at the mode
(Laplace) and the scatter of the jobs make the interval: wide where few jobs, or none of this size, are on
record. Newer jobs weigh more; those of other kinds on the same device weigh a little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend import cost
from headstart.recommend.timings import CACHED, Kind, Length, Stop, Work, length_of, stop_of, works_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Float

    from headstart.recommend.cost import Basis
    from headstart.recommend.timings import Timing

HALF_LIFE = 32  # jobs of a kind after which one weighs half
SHARED = 0.3  # weight of a job of another tuning, or in other numbers
FAINT = 0.05  # of a job of another method, or with cached features beside one without
MOST_WORKS = 512  # newest that one line is fitted on
DEVIATION = np.array([1.2, 1.5])  # of log start and log pace before any job
CPU = "CPU"  # how the names of devices begin that are none of a GPU
SCATTER, SCATTER_WEIGHT = 0.35, 4.0  # of log seconds among jobs alike, and for how many jobs this stands
OTHER_KIND = 0.5  # deviation of log seconds where no job of the kind itself is on record
TAILS, QUANTILE = 4.0, 1.533  # degrees of freedom of the errors, and the 90 % quantile of that t
BEGINNINGS = (0.3, 3.0, 30.0)  # seconds of start that the search begins from
ROUNDS, STEPS, CLOSE = 8, 20, 1e-5  # of the search, and a step that is none
TINY = 1e-12  # seconds that no job is without
STOP_WEIGHT, STOP_DEVIATION = 3.0, 0.4  # jobs that EPOCHS stand for; of log epochs until validation stops
OTHER_TARGET = 0.25  # weight of a finetune on another target, in when one stops


class Line(NamedTuple):
    """The posterior of a start and a pace."""

    log: Float[np.ndarray, "2"]  # of the start in s, of the pace in s per operation
    covariance: Float[np.ndarray, "2 2"]
    scatter: float  # of log seconds about the line: the scale of Student's t
    device: str
    basis: Basis

    def seconds(self, operations: float, deviation: float = 0.0) -> tuple[float, float, float]:
        """The median, and an 80 % interval. `deviation`: of log operations, where they are a guess."""
        start, work = self.log[0], self.log[1] + math.log(max(operations, 1e-9))
        middle = float(np.logaddexp(start, work))
        share = np.exp(np.array([start, work]) - middle)
        variance = float(share @ self.covariance @ share) + self.scatter**2 + (share[1] * deviation) ** 2
        reach = QUANTILE * math.sqrt(variance)
        return math.exp(middle), math.exp(middle - reach), math.exp(middle + reach)

    @property
    def rate(self) -> cost.Rate:
        """The line as `cost` takes it."""
        return cost.Rate(math.exp(-self.log[1]), self.basis, math.exp(self.log[0]))


@dataclass(frozen=True)
class Rates:
    """What is known of the time that jobs take. Fills up with lines as it is asked."""

    works: tuple[Work, ...] = ()  # newest first
    lengths: dict[int, tuple[Length, ...]] = field(default_factory=dict)  # by target, newest first
    stops: tuple[Stop, ...] = ()  # newest first
    newest: int = 0  # id of the newest score that it knows: equal ids, equal rates
    _lines: dict[tuple[Kind, str | None], Line] = field(default_factory=dict, compare=False, repr=False)

    def line(self, kind: Kind, dtype: str | None = None) -> Line:
        """Of jobs of a kind, on the device that most of the recent ones ran on.

        `dtype`: the numbers they compute in; None: those of the newest on that device.
        """
        if (kind, dtype) not in self._lines:
            self._lines[kind, dtype] = self._fitted(kind, dtype)
        return self._lines[kind, dtype]

    def _fitted(self, kind: Kind, dtype: str | None) -> Line:
        alike = [one for one in self.works if one.kind.method == kind.method]
        device = _usual_device(alike or self.works)
        works = [one for one in self.works if one.device == device][:MOST_WORKS]
        own = [one for one in works if one.kind == kind]
        numbers = dtype or next((one.dtype for one in (own or works)), "")
        return fit_line(works, _weights(works, kind, numbers), device, "measured" if own else "assumed")

    def has_work(self, method: str) -> bool | None:
        """Whether the time of a method depends on rows; None: no job of it is on record."""
        found = [one.operations > 0 for one in self.works if one.kind.method == method]
        return any(found) if found else None

    def tokens(self, target_id: int, most: int) -> float | None:
        """Tokens of a row of the target, cut at `most`, as jobs found them; None where they do not tell."""
        known = self.lengths.get(target_id, ())
        exact = [one.tokens for one in known if one.most == most]
        whole = [one.tokens for one in known if one.cut < 0.01 and one.tokens < most]
        found = exact or whole
        return float(np.median(found[:HALF_LIFE])) if found else None

    def epochs(self, target_id: int | None, least: float, planned: float) -> float:
        """Epochs that a finetune is expected to make of those planned; `least` is what it makes anyway."""
        if least >= planned:
            return planned
        # one that made all of its epochs would have gone on: it tells of those that plan no more
        told = [one for one in self.stops if one.early or one.epochs >= planned]
        weights = np.array([1.0 if one.target_id == target_id else OTHER_TARGET for one in told])
        weights *= _fading(len(told))
        known = weights.sum()
        middle = _weighted_median(np.log([one.epochs for one in told]), weights) if known else 0.0
        found = (known * middle + STOP_WEIGHT * math.log(cost.EPOCHS)) / (known + STOP_WEIGHT)
        return min(planned, max(least, math.exp(found)))


def learn(timings: Iterable[Timing]) -> Rates:
    """What scores tell, newest first."""
    works: list[Work] = []
    stops: list[Stop] = []
    newest = 0
    lengths: dict[int, list[Length]] = {}
    for one in timings:
        newest = max(newest, one.id)
        length, stop = length_of(one), stop_of(one)
        works += works_of(one)
        if length is not None:
            lengths.setdefault(one.target_id, []).append(length)
        if stop is not None:
            stops.append(stop)
    told = {target: tuple(found) for target, found in lengths.items()}
    return Rates(tuple(works), told, tuple(stops), newest)


UNKNOWN = Rates()


def fit_line(works: Sequence[Work], weights: Float[np.ndarray, "n"], device: str, basis: Basis) -> Line:
    """The line through jobs of these weights; the priors where there are none."""
    jobs = _Jobs(
        np.array([[float(one.started), one.operations] for one in works]).reshape(-1, 2),
        np.log([one.seconds for one in works]),
        weights,
    )
    assumed = cost.ASSUMED_CPU_RATE if device.startswith(CPU) else cost.ASSUMED_RATE
    prior = np.log([cost.START, 1.0 / assumed])
    if not works:
        return Line(prior, np.diag(DEVIATION**2), SCATTER, device, basis)
    modes = [_mode(jobs, prior, np.array([math.log(start), prior[1]])) for start in BEGINNINGS]
    best = min(modes, key=lambda mode: mode.lost)
    extra = 0.0 if basis == "measured" else OTHER_KIND
    return Line(best.log, np.linalg.inv(best.precision), math.hypot(best.scatter, extra), device, basis)


class _Jobs(NamedTuple):
    parts: Float[np.ndarray, "n 2"]  # starts, operations
    told: Float[np.ndarray, "n"]  # log seconds
    weights: Float[np.ndarray, "n"]

    def missing(self, log: Float[np.ndarray, "2"]) -> Float[np.ndarray, "n"]:
        """Log seconds beyond those of a line."""
        return np.asarray(self.told - np.log(self.parts @ np.exp(log) + TINY))


class _Mode(NamedTuple):
    lost: float  # twice minus the log posterior, but for a constant
    log: Float[np.ndarray, "2"]
    precision: Float[np.ndarray, "2 2"]
    scatter: float


def _mode(jobs: _Jobs, prior: Float[np.ndarray, "2"], log: Float[np.ndarray, "2"]) -> _Mode:
    """A mode of the posterior near a line: least squares, then again with what lies far off heard less."""
    scatter, heard, known = SCATTER, jobs.weights, float(jobs.weights.sum()) + SCATTER_WEIGHT
    for _ in range(ROUNDS):
        log, precision = _least_squares(jobs, heard / scatter**2, prior, log)
        squares = jobs.missing(log) ** 2
        heard = jobs.weights * (TAILS + 1) / (TAILS + squares / scatter**2)
        scatter = math.sqrt((float(heard @ squares) + SCATTER_WEIGHT * SCATTER**2) / known)
    surprise = (TAILS + 1) * float(jobs.weights @ np.log1p(squares / (TAILS * scatter**2)))
    surprise += SCATTER_WEIGHT * (SCATTER / scatter) ** 2 + 2 * known * math.log(scatter)
    return _Mode(surprise + float(np.sum(((log - prior) / DEVIATION) ** 2)), log, precision, scatter)


def _least_squares(
    jobs: _Jobs, heard: Float[np.ndarray, "n"], prior: Float[np.ndarray, "2"], log: Float[np.ndarray, "2"]
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2 2"]]:
    """The line of least weighted squares (Levenberg-Marquardt), and the precision there."""

    def lost(log: Float[np.ndarray, "2"]) -> float:
        return float(heard @ jobs.missing(log) ** 2 + np.sum(((log - prior) / DEVIATION) ** 2))

    damping, before = 1e-3, lost(log)
    for _ in range(STEPS):
        parts = jobs.parts * np.exp(log)
        share = parts / (parts.sum(axis=1, keepdims=True) + TINY)
        precision = (share.T * heard) @ share + np.diag(DEVIATION**-2)
        slope = share.T @ (heard * jobs.missing(log)) - (log - prior) / DEVIATION**2
        step = np.linalg.solve(precision + damping * np.diag(np.diag(precision)), slope)
        if np.abs(step).max() < CLOSE:
            break
        after = lost(log + step)
        if after <= before:
            log, before, damping = log + step, after, damping / 5
        else:
            damping = max(damping, 1e-2) * 5
    return log, precision


def _weights(works: Sequence[Work], kind: Kind, dtype: str) -> Float[np.ndarray, "n"]:
    """Of each job, newest first: by how near its kind is, and how many newer ones of its kind there are."""
    newer: dict[Work, int] = {}
    weights = np.empty(len(works))
    for at, one in enumerate(works):
        alike = one._replace(operations=0.0, seconds=0.0)
        rank = newer[alike] = newer.get(alike, -1) + 1
        numbers = 1.0 if one.dtype == dtype else SHARED
        weights[at] = _likeness(one.kind, kind) * numbers * 0.5 ** (rank / HALF_LIFE)
    return weights


def _likeness(a: Kind, b: Kind) -> float:
    if a == b:
        return 1.0
    return SHARED if a.method == b.method and CACHED not in (a.way, b.way) else FAINT


def _usual_device(works: Sequence[Work]) -> str:
    """The device that most of the recent jobs ran on."""
    counted: dict[str, float] = {}
    for one, weight in zip(works, _fading(len(works)).tolist(), strict=True):
        counted[one.device] = counted.get(one.device, 0.0) + weight
    return max(counted, key=lambda name: counted[name]) if counted else ""


def _fading(count: int) -> Float[np.ndarray, "n"]:
    """Weights of so many, newest first."""
    return np.asarray(0.5 ** (np.arange(count) / HALF_LIFE))


def _weighted_median(values: Float[np.ndarray, "n"], weights: Float[np.ndarray, "n"]) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
