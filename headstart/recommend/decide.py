"""From a posterior to a decision: expected gain, interval, probability, order and verdict. Pure functions.

All gains are of the *true* gain (what many seeds would show), in percentage points over the vanilla. A
checkpoint measured on the asked target keeps only the repeatable share of its residual, which removes the
winner's curse: the number reported for a pick is its posterior mean, never its measured maximum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.t_noise import T_QUANTILE_90, t_cdf

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from headstart.recommend.posterior import Posterior

CERTAIN = 0.8  # P(beats the vanilla) from which a start is advised
UNLIKELY = 0.2  # P(gain > worth) below which the vanilla is advised
WORTH = 0.5  # points of gain that justify a change, unless the request says otherwise
FEWEST = 3  # checkpoints finetuned on a target before it stands for unseen ones
TRAIN_BANDWIDTH = 1.5  # natural log units: a factor of 4.5 in training rows
CLASSES_BANDWIDTH = 0.7  # a factor of 2 in classes
MOST_EXPLAINED = 0.8  # share of a repeatable variance that probes may take away
UNLIKE = 0.05  # least weight of a known target, however different


class Verdict(StrEnum):
    """What to do."""

    START_FROM = "start_from"
    STAY_WITH_VANILLA = "stay_with_vanilla"
    MEASURE_FIRST = "measure_first"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """The asked target as a mixture of K targets: one for a known target, many for an unseen one."""

    target: int | None  # position in the posterior, when the vanilla was run on it
    probed: int | None  # position of the target whose probes are about it; None: never seen
    weights: Float[np.ndarray, "K"]  # sum to one
    level: float  # expected score of the vanilla, points; NaN: cannot be told
    noise: float  # seed noise of one run, points; NaN: cannot be told
    scale: Float[np.ndarray, "K"]
    mean: Float[np.ndarray, "K"]
    sensitivity: Float[np.ndarray, "K"]
    uncertainty: Float[np.ndarray, "K 3"]
    repeatable_var: Float[np.ndarray, "K"]  # of a pair, in z
    level_var: Float[np.ndarray, "K"]  # of the vanilla's median, in z
    explained: Float[np.ndarray, "K"]  # of the repeatable variance, by the probes of a pair that has some


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """What is known of the true gain of each of n checkpoints on the viewed target."""

    gain: Float[np.ndarray, "n"]  # expected, points
    low: Float[np.ndarray, "n"]  # 80 % interval
    high: Float[np.ndarray, "n"]
    p_beats: Float[np.ndarray, "n"]  # P(gain > 0)
    p_worth: Float[np.ndarray, "n"]  # P(gain > WORTH)
    runs_here: Int[np.ndarray, "n"]  # finetune runs on this very target
    probes_here: Int[np.ndarray, "n"]  # methods that probed it on this very target
    mean: Float[np.ndarray, "n K"]  # of the gain in z, under each of the view's K targets
    spread: Float[np.ndarray, "n K"]


def known_view(posterior: Posterior, target: int) -> View:
    """The view of a target the vanilla was run on."""
    return _view(posterior, np.array([target]), np.ones(1), target, target)


def unseen_view(posterior: Posterior, weights: Float[np.ndarray, "T"], probed: int | None = None) -> View:
    """The view of a target the vanilla was never run on: one drawn from the known ones by weight.

    With no known target fit to stand for it, the family's typical target stands in, without a level.
    `probed` is its position, where the posterior knows it: the probes made there count.
    """
    usable = np.flatnonzero(np.isfinite(posterior.level) & (posterior.measured >= FEWEST) & (weights > 0))
    if not len(usable):
        return _typical_view(posterior, probed)
    share = weights[usable] / weights[usable].sum()
    return _view(posterior, usable, share, None, probed)


def _view(
    posterior: Posterior,
    at: Int[np.ndarray, "K"],
    weights: Float[np.ndarray, "K"],
    target: int | None,
    probed: int | None,
) -> View:
    scale = posterior.scale[at]
    # the median of n runs has a variance of about pi/2 * sigma^2 / n
    level_var = 1.57 * (posterior.noise[at] / scale) ** 2 / np.maximum(posterior.level_runs[at], 1)
    repeatable_var = posterior.repeatable[at] * posterior.residual[at]
    return View(
        target=target,
        probed=probed,
        weights=weights,
        level=float(weights @ posterior.level[at]),
        noise=float(weights @ posterior.noise[at]),
        scale=scale,
        mean=posterior.mean[at],
        sensitivity=posterior.sensitivity[at],
        uncertainty=posterior.uncertainty[at],
        repeatable_var=repeatable_var,
        level_var=level_var,
        explained=_explained(posterior, probed, repeatable_var),
    )


def _typical_view(posterior: Posterior, probed: int | None) -> View:
    scale, mean, sensitivity, mean_var, sensitivity_var, residual = posterior.typical
    repeatable_var = np.array([0.5 * residual])
    return View(
        target=None,
        probed=probed,
        weights=np.ones(1),
        level=float("nan"),
        noise=float("nan"),
        scale=np.array([scale]),
        mean=np.array([mean]),
        sensitivity=np.array([sensitivity]),
        uncertainty=np.array([[mean_var, 0.0, sensitivity_var]]),
        repeatable_var=repeatable_var,
        level_var=np.zeros(1),
        explained=_explained(posterior, probed, repeatable_var),
    )


def _explained(
    posterior: Posterior, probed: int | None, repeatable_var: Float[np.ndarray, "K"]
) -> Float[np.ndarray, "K"]:
    found = 0.0 if probed is None else posterior.explained[probed]
    return np.asarray(np.minimum(found, MOST_EXPLAINED * repeatable_var))


def likeness(
    train_sizes: Float[np.ndarray, "T"],
    classes: Float[np.ndarray, "T"],
    train_size: float | None,
    class_count: float | None,
) -> Float[np.ndarray, "T"]:
    """Weight of each known target as a guide to one described by its training rows and classes.

    Gaussian kernels on the logarithms; a fact that is not known (NaN or None) weighs alike for all.
    """
    weights = np.ones(len(train_sizes))
    for known, asked, bandwidth in (
        (train_sizes, train_size, TRAIN_BANDWIDTH),
        (classes, class_count, CLASSES_BANDWIDTH),
    ):
        if asked is not None:
            with np.errstate(invalid="ignore"):
                distance = (np.log(known) - np.log(asked)) / bandwidth
            weights *= np.where(np.isnan(distance), 1.0, UNLIKE + np.exp(-0.5 * distance**2))
    return weights


def predict(posterior: Posterior, view: View, rows: Int[np.ndarray, "n"]) -> Prediction:
    """Posterior of the true gain of the checkpoints at `rows`."""
    mean, variance, runs = _moments(posterior, view, rows)
    spread = np.sqrt(variance)
    gain = _within(view, _expected(view, mean, variance))
    p_beats = t_cdf(mean / spread) @ view.weights
    p_worth = t_cdf((mean - np.arcsinh(WORTH / view.scale)) / spread) @ view.weights
    if len(view.weights) == 1:
        low = (view.scale * np.sinh(mean - T_QUANTILE_90 * spread))[:, 0]
        high = (view.scale * np.sinh(mean + T_QUANTILE_90 * spread))[:, 0]
    else:
        low, high = _mixture_interval(view, mean, spread)
    return Prediction(
        gain=gain,
        low=np.minimum(low, gain),  # which a gain cut short may have left
        high=np.maximum(high, gain),
        p_beats=p_beats,
        p_worth=p_worth,
        runs_here=runs,
        probes_here=_probes_here(posterior, view, rows),
        mean=mean,
        spread=spread,
    )


def p_exceeds(
    view: View, mean: Float[np.ndarray, "K"], spread: Float[np.ndarray, "K"], worth: float
) -> float:
    """P(true gain > worth points) of one checkpoint, from its row of `Prediction.mean` and `.spread`."""
    if len(mean) == 1:  # plain floats: on the path of every answer, and ten times faster than arrays of one
        z = (mean.item() - math.asinh(worth / view.scale.item())) / spread.item()
        return float(t_cdf(z))
    return float(t_cdf((mean - np.arcsinh(worth / view.scale)) / spread) @ view.weights)


def _moments(
    posterior: Posterior, view: View, rows: Int[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "n K"], Float[np.ndarray, "n K"], Int[np.ndarray, "n"]]:
    """Mean and variance of the true gain in z under each of the K targets, and the runs made here."""
    f, v = posterior.quality[rows, None], posterior.quality_var[rows, None]
    u = view.uncertainty
    mean = view.mean + view.sensitivity * f
    shared = view.sensitivity**2 * v + u[:, 0] + 2 * f * u[:, 1] + f * f * u[:, 2]
    repeatable = view.repeatable_var
    pairs, probed = _pairs_here(posterior, view, rows)
    if len(probed):
        mean[probed] += posterior.pair_shift[pairs, None]
        shared[probed] += posterior.pair_doubt[pairs, None]
        repeatable = np.tile(repeatable, (len(rows), 1))
        repeatable[probed] -= np.where(posterior.pair_shift[pairs, None] != 0, view.explained, 0.0)
    variance = shared + repeatable + view.level_var
    runs = np.zeros(len(rows), dtype=np.int64)
    if view.target is not None:
        here, at = _cells_here(posterior, view.target, rows)
        noise, lasting = posterior.cell_noise[at], np.broadcast_to(repeatable, mean.shape)[here, 0]
        kept = lasting / (lasting + noise)
        mean[here, 0] += kept * (posterior.cell_z[at] - mean[here, 0])
        variance[here, 0] = (1 - kept) ** 2 * shared[here, 0] + kept * noise + view.level_var[0]
        runs[here] = posterior.cell_runs[at]
    return mean, variance, runs


def _probes_here(posterior: Posterior, view: View, rows: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Number of methods that probed each row on the viewed target, the reference probe included."""
    pairs, probed = _pairs_here(posterior, view, rows)
    count = np.zeros(len(rows), dtype=np.int64)
    count[probed] = posterior.pair_methods[pairs]
    if view.probed is not None and view.probed == posterior.reference:
        count += posterior.probed[rows]
    return count


def probed_here(posterior: Posterior, view: View) -> int:
    """Number of checkpoints probed on the viewed target, the vanilla apart."""
    start, end = _pair_range(posterior, view)
    if view.probed is None or view.probed != posterior.reference:
        return end - start
    probed = posterior.probed.copy()
    probed[posterior.pair_checkpoint[start:end]] = True
    return int(probed.sum() - (posterior.vanilla >= 0 and probed[posterior.vanilla]))


def _pairs_here(
    posterior: Posterior, view: View, rows: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "h"], Int[np.ndarray, "h"]]:
    """Positions of the probed pairs on the viewed target, and of their checkpoints in `rows`."""
    start, end = _pair_range(posterior, view)
    found, here = _match(posterior.pair_checkpoint[start:end], rows)
    return start + found, here


def _pair_range(posterior: Posterior, view: View) -> tuple[int, int]:
    """Where the probed pairs of the viewed target begin and end: pairs are sorted by target."""
    if view.probed is None:
        return 0, 0
    start, end = np.searchsorted(posterior.pair_target, (view.probed, view.probed + 1))
    return int(start), int(end)


def _cells_here(
    posterior: Posterior, target: int, rows: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "h"], Int[np.ndarray, "h"]]:
    """Positions in `rows` of the checkpoints measured on the target, and of their cells."""
    at = np.flatnonzero(posterior.cell_target == target)
    found, here = _match(posterior.cell_checkpoint[at], rows)  # ascending: cells are sorted by checkpoint
    return here, at[found]


def _match(
    checkpoints: Int[np.ndarray, "c"], rows: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "h"], Int[np.ndarray, "h"]]:
    """Positions in ascending `checkpoints` of those rows that are there, and their positions in `rows`."""
    if not len(checkpoints):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    found = np.minimum(np.searchsorted(checkpoints, rows), len(checkpoints) - 1)
    here = np.flatnonzero(checkpoints[found] == rows)
    return found[here], here


def _mixture_interval(
    view: View, mean: Float[np.ndarray, "n K"], spread: Float[np.ndarray, "n K"]
) -> Float[np.ndarray, "2 n"]:
    """The 10 % and 90 % quantiles of the mixture, in points.

    Twelve bisections between the outermost quantiles of the components, then a chord: exact to about
    a millionth of their distance.
    """
    level = np.array([[0.1], [0.9]])
    each = view.scale * np.sinh(mean + np.sign(level - 0.5)[..., None] * T_QUANTILE_90 * spread)
    low, high = each.min(axis=2), each.max(axis=2)
    for _ in range(12):
        middle = (low + high) / 2
        below = _mixture_cdf(view, mean, spread, middle) < level
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    at_low, at_high = (_mixture_cdf(view, mean, spread, x) for x in (low, high))
    share = (level - at_low) / np.maximum(at_high - at_low, 1e-12)
    return np.asarray(low + np.clip(share, 0.0, 1.0) * (high - low))


def _mixture_cdf(
    view: View,
    mean: Float[np.ndarray, "n K"],
    spread: Float[np.ndarray, "n K"],
    x: Float[np.ndarray, "2 n"],
) -> Float[np.ndarray, "2 n"]:
    z = np.arcsinh(x[..., None] / view.scale)
    return np.asarray(t_cdf((z - mean) / spread) @ view.weights)


def static_order(posterior: Posterior) -> Int[np.ndarray, "C"]:
    """All checkpoints but the vanilla, best quality first: the order made without looking at a target."""
    order = np.argsort(-posterior.quality, kind="stable")
    return np.asarray(order[order != posterior.vanilla])


def head(posterior: Posterior, view: View, order: Int[np.ndarray, "C"], size: int) -> Int[np.ndarray, "n"]:
    """The first `size` of the static order, all measured on this target and those that probes lift here.

    Quality and sensitivity separate, so what lies deeper in the static order and was neither measured nor
    lifted here cannot come first; this is why a cold target costs O(size) and not O(checkpoints). Of the
    lifted, the best `size` are looked at.
    """
    rows = order[:size]
    if view.target is not None:
        measured = posterior.cell_checkpoint[posterior.cell_target == view.target]
        rows = np.union1d(rows, measured)
    start, end = _pair_range(posterior, view)
    lifted = start + np.flatnonzero(posterior.pair_shift[start:end] > 0)
    if len(lifted):
        quality = posterior.quality[posterior.pair_checkpoint[lifted]]
        expected = posterior.pair_shift[lifted] + float(view.sensitivity @ view.weights) * quality
        best = np.argsort(-expected, kind="stable")[:size]
        rows = np.union1d(rows, posterior.pair_checkpoint[lifted[best]])
    mean, variance, _ = _moments(posterior, view, rows)
    return rows[np.lexsort((rows, -_expected(view, mean, variance)))]


def _expected(
    view: View, mean: Float[np.ndarray, "n K"], variance: Float[np.ndarray, "n K"]
) -> Float[np.ndarray, "n"]:
    """Mean of c sinh(z) for Gaussian z; the variance is capped at 1, where the formula would run away."""
    return np.asarray((view.scale * np.exp(np.minimum(variance, 1.0) / 2) * np.sinh(mean)) @ view.weights)


def _within(view: View, gain: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The gain, cut where the score would leave 0..100 points: sinh grows beyond what a score can."""
    if math.isnan(view.level):
        return gain
    return np.asarray(np.clip(gain, min(-view.level, 0.0), max(100.0 - view.level, 0.0)))


def judge(gain: float, p_beats: float, p_worth: float, worth: float) -> Verdict:
    """The verdict on the first choice.

    `start_from`: its expected gain is at least `worth` and P(it beats the vanilla) at least CERTAIN.
    `stay_with_vanilla`: P(its gain exceeds `worth`) is at most UNLIKELY.
    `measure_first`: neither; a finetune of the first choice and the vanilla would tell.
    """
    if gain >= worth and p_beats >= CERTAIN:
        return Verdict.START_FROM
    if p_worth <= UNLIKELY:
        return Verdict.STAY_WITH_VANILLA
    return Verdict.MEASURE_FIRST


def target_sensitivity(view: View) -> float:
    """Points gained per standard deviation of checkpoint quality, around the typical checkpoint.

    The noise part is out: it is a slope of the fit, not the largest gain seen (which is mostly a noise
    scale on small test splits).
    """
    return float((view.scale * view.sensitivity) @ view.weights)
