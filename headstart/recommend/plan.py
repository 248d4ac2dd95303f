"""What to measure next: the job that most improves the choice a second, and what stopping now is worth.

The value of a job is its knowledge gradient (Frazier, Powell & Dayanik 2009, doi 10.1287/ijoc.1080.0314): by
how many points the expected gain of the best choice is expected to rise once its result is known,

    value = E[max(0, max_j a_j + b_j Z)] - max(0, max_j a_j),     b_j = Cov(g_j, y) / sd(y),   Z ~ N(0, 1)

a the expected gains, y what the job would measure, 0 the vanilla. It is what the job takes off the expected
regret, and only the knowledge is counted: a start has to be finetuned before it can be used, so a finetune of
what is chosen in the end was due anyway, and the values of finetunes are in that sense too low.

Gains are linear here: each component's transform by its best line over the row's spread, all of it Gaussian.
The doubt about the vanilla's level is in no covariance: a run of a candidate tells nothing about it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend.choice import regret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Float32, Int

    from headstart.recommend.choice import Joint
    from headstart.recommend.views import View

FINETUNE = "finetune"
BEFORE_VALUES = 3  # candidates finetuned here before values decide: before, improvement only buys variance
OPTIMISM = 0.5  # standard deviations above its expected gain that a checkpoint is hoped to reach
OUTER = math.sqrt(3.0)  # the outer node of the three-point Gauss-Hermite rule, in standard deviations
LEAST = 1e-4  # points of value that make a job worth naming


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


class JobValues(NamedTuple):
    """What one more job on each of n checkpoints is worth, by J methods, the finetune first."""

    methods: tuple[str, ...]
    value: Float[np.ndarray, "n J"]  # points, 0 or more; 0 where the job is not on offer
    seconds: Float[np.ndarray, "n J"]
    gain: Float[np.ndarray, "n"]  # expected, points
    finetuned: Bool[np.ndarray, "n"]  # on the asked target


class NextJob(NamedTuple):
    """One measurement worth making."""

    row: int  # position among the n checkpoints
    method: str
    value: float  # points
    seconds: float
    value_per_second: float


class Stopping(NamedTuple):
    """What the choice is worth if nothing more is measured, in points."""

    pick: int | None  # position of the choice, None: the vanilla
    expected_gain: float
    expected_regret: float


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
    columns = [one.gain(column) for one, column in zip(view.transforms, z.T, strict=True)]
    return np.asarray(np.clip(np.array(columns).T, *view.bounds))


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


def lessons(
    view: View,
    joint: Joint,
    gain: Float[np.ndarray, "n"],
    runs_here: Int[np.ndarray, "n"],
    seconds: Float[np.ndarray, "n"],
    probes: Sequence[Probe] = (),
) -> Lessons:
    """Of one more finetune run of each row, and one probe by each method of a weight above 0.

    `gain`, `runs_here`: the Prediction's; `seconds`: of a finetune. A checkpoint finetuned here may be run
    again with another seed; a probe of it is not offered.
    """
    finetuned = runs_here > 0
    gains = lines(view, joint)
    told = covariance(view, joint, gains)
    noise = (gains.slope**2 * (1 - view.repeatable) * view.residual) @ view.weights
    spread = np.sqrt(np.maximum(np.diag(told) + noise, 1e-12))
    offered = [one for one in probes if one.weight > 0]
    slope = gains.slope @ view.weights
    own = np.sqrt((gains.slope**2 * joint.own) @ view.weights)
    alone = np.zeros((len(gain), len(offered)))
    for k, one in enumerate(offered):
        shift = np.minimum(one.weight * slope, own)  # a surprise is about what the pair shares with no other
        alone[:, k] = np.where(one.done | finetuned, 0.0, shift)
    return Lessons(
        methods=(FINETUNE, *(one.method for one in offered)),
        gain=gain,
        finetuned=finetuned,
        shift=told / spread[:, None],
        alone=alone,
        seconds=np.column_stack([seconds, *(one.seconds for one in offered)]),
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
    )


def job_values(
    view: View,
    joint: Joint,
    gain: Float[np.ndarray, "n"],
    runs_here: Int[np.ndarray, "n"],
    seconds: Float[np.ndarray, "n"],
    probes: Sequence[Probe] = (),
) -> JobValues:
    """What the jobs of `lessons` are worth to the choice among all rows and the vanilla."""
    return values_among(lessons(view, joint, gain, runs_here, seconds, probes))


def knowledge_gradient(
    gain: Float[np.ndarray, "n"], shift: Float[np.ndarray, "m n"]
) -> Float[np.ndarray, "m"]:
    """E[max(0, max_j gain_j + shift_ij Z)] - max(0, max_j gain_j) for each of m jobs, in points.

    Frazier, Powell & Dayanik (2009, equation 14): every kink of the maximum, where it turns up by `rise` at
    Z = c, adds rise E[(Z - |c|)^+]. The lines that meet there are those that are highest at the NODES of Z; a
    line that is highest only between two of them is missed, so that this is a lower bound, 0 or more: too
    low by 2e-5 points at most in 336 choices among 20 (synthetic family), by 2 % where every job moves all
    gains at random.
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
    of less value than LEAST is left out. `allowed`: which may be named. `finetuned_here`: how many were
    finetuned on the target, where that is more than `values` knows of.
    """
    rate = values.value / values.seconds
    method, each = rate.argmax(axis=1), np.arange(len(rate))
    best, worth = rate[each, method], values.value[each, method]
    left = ~values.finetuned if allowed is None else ~values.finetuned & allowed
    finetuned = max(int(np.count_nonzero(values.finetuned)), finetuned_here)
    cold = finetuned < BEFORE_VALUES and bool(left.any())
    useful = worth >= LEAST if allowed is None else (worth >= LEAST) & allowed
    rows = np.flatnonzero(left if cold else useful)
    first = values.gain[rows] if cold else best[rows]
    return [_job(values, m, int(method[m])) for m in rows[np.argsort(-first, kind="stable")][:count].tolist()]


def _job(values: JobValues, row: int, method: int) -> NextJob:
    value, seconds = float(values.value[row, method]), float(values.seconds[row, method])
    return NextJob(row, values.methods[method], value, seconds, value / seconds)


def stopping(
    draws: Float32[np.ndarray, "n S"], gain: Float[np.ndarray, "n"], rows: Int[np.ndarray, "r"] | None = None
) -> Stopping:
    """What taking the best of `rows` (default: all) is worth: the vanilla where none is expected to gain."""
    among = np.arange(len(gain)) if rows is None else rows
    pick = int(among[gain[among].argmax()]) if len(among) else None
    if pick is not None and gain[pick] <= 0:
        pick = None
    expected = 0.0 if pick is None else float(gain[pick])
    return Stopping(pick, expected, regret(draws, pick, rows))


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
