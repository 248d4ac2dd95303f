"""What to measure next: the job that most improves the choice a second.

The value of a job is its knowledge gradient (Frazier, Powell & Dayanik 2009, doi 10.1287/ijoc.1080.0314): by
how many points the expected gain of the best choice is expected to rise once its result is known,

    value = E[max(0, max_j a_j + b_j Z)] - max(0, max_j a_j),     b_j = Cov(g_j, y) / sd(y),   Z ~ N(0, 1)

a the expected gains, y what the job would measure, 0 the vanilla. It is what the job takes off the expected
regret: what going on is expected to give beyond stopping now (`contest.Pick`). Only the knowledge is counted:
a start has to be finetuned before it can be used, so a finetune of what is chosen in the end was due anyway,
and the values of finetunes are in that sense too low.

A probe tells by how it differs from others of its method on the target (`surprises`), so that the first and
the second tell nothing. They are valued as parts of a group of three, and named only with the others.

Gains are linear here: each component's transform by its best line over the row's spread, all of it Gaussian.
The doubt about the vanilla's level is in no covariance: a run of a candidate tells nothing about it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend import surprises

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Int

    from headstart.recommend.choice import Joint
    from headstart.recommend.views import View

FINETUNE = "finetune"
BEFORE_VALUES = 3  # candidates finetuned here before values decide: before, improvement only buys variance
OPTIMISM = 0.5  # standard deviations above its expected gain that a checkpoint is hoped to reach
OUTER = math.sqrt(3.0)  # the outer node of the three-point Gauss-Hermite rule, in standard deviations
GROUP = surprises.FEWEST  # probes by one method on one target, below which none tells anything
LEAST_VALUE = 1e-4  # points that make a job worth naming


class Lines(NamedTuple):
    """The gains as lines in z, in points: what a component expects, and how it rises with z."""

    expected: Float[np.ndarray, "n K"]
    slope: Float[np.ndarray, "n K"]  # points per unit of z


class Probe(NamedTuple):
    """A method that could still probe some of n checkpoints on the asked target."""

    method: str
    weight: float  # z per standard deviation of surprise
    done: Bool[np.ndarray, "n"]  # it has probed them here
    seconds: Float[np.ndarray, "n"]
    probed: int = 0  # checkpoints of the family that it has probed here, these and others

    @property
    def lacking(self) -> int:
        """Probes it takes until one tells anything, the last one included; 1 or more."""
        return max(GROUP - self.probed, 1)

    @property
    def share(self) -> float:
        """Of a surprise that counts once they are made: n / (n + HALF) in a group of n."""
        group = self.probed + self.lacking
        return group / (group + surprises.HALF)


class JobValues(NamedTuple):
    """What one more job on each of n checkpoints is worth, by J methods, the finetune first."""

    methods: tuple[str, ...]
    value: Float[np.ndarray, "n J"]  # points, 0 or more; 0 where the job is not on offer
    seconds: Float[np.ndarray, "n J"]
    gain: Float[np.ndarray, "n"]  # expected, points
    finetuned: Bool[np.ndarray, "n"]  # on the asked target
    lacking: Int[np.ndarray, "n J"]  # jobs by the method in the family that it takes for one to tell anything
    family: Int[np.ndarray, "n"]  # whose checkpoint it is, any numbers


class NextJob(NamedTuple):
    """One measurement worth making."""

    row: int  # position among the n checkpoints
    method: str
    value: float  # points
    seconds: float
    value_per_second: float


def lines(view: View, joint: Joint) -> Lines:
    """The gain of each row under each component as a line in z.

    Three-point Gauss-Hermite for a Gaussian z: its expectation, and its Cov(gain, z) / Var(z), which is the
    expected slope of the transform (Stein's lemma).
    """
    step = np.maximum(OUTER * joint.spread, 1e-6)
    at_once = np.concatenate([joint.mean - step, joint.mean, joint.mean + step])
    low, middle, high = _points(view, at_once).reshape(3, *step.shape)
    return Lines((low + 4 * middle + high) / 6, (high - low) / (2 * step))


def _points(view: View, z: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "n K"]:
    return np.asarray(np.clip(view.transforms.gain(z), *view.bounds))


def covariance(view: View, joint: Joint, gains: Lines) -> Float[np.ndarray, "n n"]:
    """Covariance of the true gains in points, the vanilla's level taken as known.

    Within the components by what they share of (mu, s) and by each row's own part; between them by what they
    expect: one run also tells which known target the asked one is like.
    """
    n, components, common = joint.shared.shape
    weight = np.sqrt(view.weights)
    within = (weight * gains.slope)[:, :, None] * joint.shared[:, :, : common - 1]
    between = weight * (gains.expected - (gains.expected @ view.weights)[:, None])
    factor = np.concatenate([within.reshape(n, components * (common - 1)), between], axis=1)
    found = np.asarray(factor @ factor.T)
    found[np.diag_indices(n)] += (gains.slope**2 * joint.own) @ view.weights
    return found


class Lessons(NamedTuple):
    """What one more job on each of n checkpoints would teach. Jobs among any of them are valued from it."""

    methods: tuple[str, ...]  # J, the finetune first
    gain: Float[np.ndarray, "n"]  # expected, points
    finetuned: Bool[np.ndarray, "n"]  # on the asked target
    shift: Float[np.ndarray, "n n"]  # by which a finetune of row i moves gain j, standard deviation in points
    alone: Float[np.ndarray, "n J-1"]  # by which a probe moves its own row; 0 where it is not on offer
    seconds: Float[np.ndarray, "n J"]
    lacking: Int[np.ndarray, "n J"]  # see JobValues


def lessons(
    view: View,
    joint: Joint,
    gain: Float[np.ndarray, "n"],
    runs_here: Int[np.ndarray, "n"],
    seconds: Float[np.ndarray, "n"],
    probes: Sequence[Probe] = (),
    widening: float = 1.0,
) -> Lessons:
    """Of one more finetune run of each row, and one probe by each method of a weight above 0.

    `gain`, `runs_here`: the Prediction's; `seconds`: of a finetune; `widening`: the factor in the spreads of
    `joint`, by which a run's noise is larger too (as in `decide.forecast`). A checkpoint finetuned here may
    be run again with another seed; a probe of it is not offered.

    A probe moves its own row by weight x share x a standard deviation of surprise, which is that of large
    groups: the new one of three is 1.11 (4,000 normal samples), of eight 1.03. What it moves the other
    probed by, as the group's centre and scale shift, is left out: 0.2 of their own surprises in a group of
    five, 0.1 in one of twelve.
    """
    finetuned = runs_here > 0
    gains = lines(view, joint)
    told = covariance(view, joint, gains)
    noise = widening**2 * (gains.slope**2 * (1 - view.repeatable) * view.residual) @ view.weights
    spread = np.sqrt(np.maximum(np.diag(told) + noise, 1e-12))
    offered = [one for one in probes if one.weight > 0]
    slope = gains.slope @ view.weights
    own = np.sqrt((gains.slope**2 * joint.own) @ view.weights)
    alone = np.zeros((len(gain), len(offered)))
    for k, one in enumerate(offered):
        shift = np.minimum(
            one.weight * one.share * slope, own
        )  # a surprise is about what the pair shares with no other
        alone[:, k] = np.where(one.done | finetuned, 0.0, shift)
    return Lessons(
        methods=(FINETUNE, *(one.method for one in offered)),
        gain=gain,
        finetuned=finetuned,
        shift=told / spread[:, None],
        alone=alone,
        seconds=np.column_stack([seconds, *(one.seconds for one in offered)]),
        lacking=np.tile(np.array([1, *(one.lacking for one in offered)], dtype=np.int64), (len(gain), 1)),
    )


def values_among(lessons: Lessons, rows: Int[np.ndarray, "r"] | None = None, floor: float = 0.0) -> JobValues:
    """What the jobs on these positions are worth to the choice among them and `floor`; all by default.

    `floor`: the points expected of the best thing that no job moves, which is the vanilla with its 0 unless
    something better stands beside.
    """
    among = slice(None) if rows is None else rows
    gain, alone = lessons.gain[among], lessons.alone[among]
    shift = lessons.shift if rows is None else lessons.shift[rows[:, None], rows]
    worth = [knowledge_gradient(gain - floor, shift)]
    worth += [_one_line(gain - floor, column) for column in alone.T]
    return JobValues(
        methods=lessons.methods,
        value=np.array(worth).T,
        seconds=lessons.seconds[among],
        gain=gain,
        finetuned=lessons.finetuned[among],
        lacking=lessons.lacking[among],
        family=np.zeros(len(gain), dtype=np.int64),
    )


def knowledge_gradient(
    gain: Float[np.ndarray, "n"], shift: Float[np.ndarray, "m n"]
) -> Float[np.ndarray, "m"]:
    """E[max(0, max_j gain_j + shift_ij Z)] - max(0, max_j gain_j) for each of m jobs, in points.

    Frazier, Powell & Dayanik (2009, equation 14): every kink of the maximum, where it turns up by `rise` at
    Z = c, adds rise E[(Z - |c|)^+]. The lines that meet there are those that are highest at the NODES of Z; a
    line that is highest only between two of them is missed, so that but for the 1e-5 points of a table this
    is a lower bound. Beside the exact upper envelope, in 324 choices among 20 of the published families
    (targets never seen, without and with finetunes): too low by 0.3 % in all (0.001 points of 0.36), by 4 %
    or 0.04 points at most, the best job the same in every one. Where every job moves all gains at random:
    0.2 % in all, 3 % at most of a value above 0.1.
    """
    jobs, lines = shift.shape
    level, slope = np.zeros(lines + 1), np.zeros((jobs, lines + 1))  # the vanilla last
    level[:lines], slope[:, :lines] = gain, shift
    top = (level + _NODES[:, None, None] * slope).argmax(axis=2)  # NODES x jobs
    height, along = level.take(top), slope.ravel().take(top + np.arange(0, slope.size, lines + 1))
    rise, fall = along[1:] - along[:-1], np.abs(height[1:] - height[:-1])
    beyond = np.interp(fall / np.maximum(rise, 1e-12), _FAR, _BEYOND)
    return np.asarray(np.maximum(rise * beyond, 0.0).sum(axis=0))


def _one_line(gain: Float[np.ndarray, "n"], shift: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The same where a job moves its own row only: the standard form of the expected improvement."""
    if not len(gain):
        return np.zeros(0)
    order = np.argsort(-gain, kind="stable")
    rival = np.full(len(gain), max(float(gain[order[0]]), 0.0))
    rival[order[0]] = max(float(gain[order[1]]), 0.0) if len(gain) > 1 else 0.0
    return expected_excess(-np.abs(gain - rival), shift)


def expected_excess(mean: Float[np.ndarray, "n"], sd: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """E[max(X, 0)] of X ~ N(mean, sd^2)."""
    u = mean / np.maximum(sd, 1e-12)
    below = np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in u.tolist()])
    density = np.exp(-0.5 * np.minimum(u * u, 1e3)) / math.sqrt(2 * math.pi)
    return np.asarray(np.maximum(mean * below + sd * density, 0.0))


def next_jobs(
    values: JobValues, count: int, allowed: Bool[np.ndarray, "n"] | None = None, finetuned_here: int = 0
) -> list[NextJob]:
    """The next `count` measurements, best first, no two of one checkpoint.

    A checkpoint's job is the method with the most value a second. With fewer than BEFORE_VALUES finetuned
    here, the others stand in order of expected gain; from then on all in order of value a second, and a job
    of less value than LEAST_VALUE is left out. Probes that tell nothing by themselves are named together or
    not at all. `allowed`: which may be named. `finetuned_here`: how many were finetuned on the target, where
    that is more than `values` knows of.
    """
    finetuned = max(int(np.count_nonzero(values.finetuned)), finetuned_here)
    left = ~values.finetuned if allowed is None else ~values.finetuned & allowed
    cold = finetuned < BEFORE_VALUES and bool(left.any())
    offered = values.value
    while True:
        rate = offered / values.seconds
        method, each = rate.argmax(axis=1), np.arange(len(rate))
        useful = offered[each, method] >= LEAST_VALUE
        rows = np.flatnonzero(left if cold else useful if allowed is None else useful & allowed)
        first = values.gain[rows] if cold else rate[rows, method[rows]]
        rows = rows[np.argsort(-first, kind="stable")][:count]
        alone = _without_others(values, rows, method[rows])
        if alone is None:
            return [_job(values, m, int(method[m])) for m in rows.tolist()]
        family, k = alone
        offered = offered.copy()
        offered[values.family == family, k] = 0.0


def _without_others(
    values: JobValues, rows: Int[np.ndarray, "r"], method: Int[np.ndarray, "r"]
) -> tuple[int, int] | None:
    """A family and method of jobs on the list that are too few for one of them to tell anything."""
    if (values.lacking[rows, method] <= 1).all():
        return None
    for m, k in zip(rows.tolist(), method.tolist(), strict=True):
        family = int(values.family[m])
        if np.count_nonzero((values.family[rows] == family) & (method == k)) < values.lacking[m, k]:
            return family, k
    return None


def _job(values: JobValues, row: int, method: int) -> NextJob:
    value, seconds = float(values.value[row, method]), float(values.seconds[row, method])
    return NextJob(row, values.methods[method], value, seconds, value / seconds)


def spread_in_points(view: View, joint: Joint) -> Float[np.ndarray, "n"]:
    """Standard deviation of each true gain in points, the vanilla's level taken as known."""
    gains = lines(view, joint)
    between = gains.expected - (gains.expected @ view.weights)[:, None]
    within = gains.slope**2 * (joint.spread**2 - joint.shared[:, :, -1] ** 2)
    return np.asarray(np.sqrt(np.maximum((within + between**2) @ view.weights, 0.0)))


def pick_next(
    gain: Float[np.ndarray, "n"],
    spread: Float[np.ndarray, "n"],
    finetuned: Bool[np.ndarray, "n"],
    allowed: Bool[np.ndarray, "n"] | None = None,
) -> int | None:
    """The checkpoint to finetune next when one is finetuned after the other; None: all have been.

    The first BEFORE_VALUES by their expected gain as it is by then; from there on by expected gain + OPTIMISM
    standard deviations (an upper confidence bound; Lai & Robbins 1985). To be hopeful from the first
    finetune on only buys variance. Costs, and what a run tells about others, do not count.
    """
    left = ~finetuned if allowed is None else ~finetuned & allowed
    rows = np.flatnonzero(left)
    if not len(rows):
        return None
    hope = OPTIMISM * spread[rows] if int(finetuned.sum()) >= BEFORE_VALUES else 0.0
    return int(rows[(gain[rows] + hope).argmax()])


def _beyond(far: Float[np.ndarray, "x"]) -> Float[np.ndarray, "x"]:
    """E[(Z - x)^+] of a standard normal."""
    return expected_excess(-far, np.ones(len(far)))


_NODES = np.linspace(-4.0, 4.0, 17)  # of Z, at which the highest line is looked for
_FAR = np.linspace(0.0, 9.0, 2305)
_BEYOND = _beyond(_FAR)  # off by 2e-6 between two of them
