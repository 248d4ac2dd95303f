"""From a posterior to a decision: expected gain, interval, probability, order and verdict. Pure functions.

All gains are of the *true* gain (what many seeds would show), in percentage points over the vanilla. A
checkpoint measured on the asked target keeps only the repeatable share of its residual, which removes the
winner's curse: the number reported for a pick is its posterior mean, never its measured maximum.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend.leave_out import without
from headstart.recommend.mixture import exceeds, expected, p_exceeds, quantiles
from headstart.recommend.t_noise import FREEDOM, T_QUANTILE_90
from headstart.recommend.views import (
    FEWEST,
    NORMAL,
    SMALLEST,
    View,
    cells_here,
    fitted_noise,
    known_view,
    likeness,
    pair_range,
    pairs_here,
    positions,
    unseen_view,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from headstart.recommend.posterior import Posterior

__all__ = [
    "FEWEST", "Factors", "Forecast", "Prediction", "Verdict", "View", "expected", "factors_of", "forecast",
    "head", "judge", "known_view", "likeness", "moments", "p_exceeds",
    "predict", "probed_here", "probes_at",
    "static_order", "unseen_view",
]  # fmt: skip

CERTAIN = 0.8  # P(beats the vanilla) from which a start is advised
UNLIKELY = 0.2  # P(gain > worth) below which the vanilla is advised
WORTH = 0.5  # points of gain that justify a change, unless the request says otherwise
MOST_LEVERAGE = 0.9  # of a cell in the (mu, s) of its target
INTERVAL = np.array([0.1, 0.9])  # of 80 %
INTERVAL_T = np.array([-T_QUANTILE_90, T_QUANTILE_90])


class Verdict(StrEnum):
    """What to do."""

    START_FROM = "start_from"
    STAY_WITH_VANILLA = "stay_with_vanilla"
    MEASURE_FIRST = "measure_first"


class Factors(NamedTuple):
    """What is known of f of n checkpoints."""

    mean: Float[np.ndarray, "n F"]
    covariance: Float[np.ndarray, "n F F"]


class Moments(NamedTuple):
    """Of the true gain of n checkpoints in z, under each of K components.

    Each is of Student's t with 6 degrees of freedom, and its variances are squares of the t's scale. What is
    normal of the doubt (that of (mu, s), of f and of the level) counts in them as its variance / NORMAL:
    taken for a scale as it is, it would make an 80 % interval hold 0.85 where there is nothing else.
    """

    mean: Float[np.ndarray, "n K"]
    variance: Float[
        np.ndarray, "n K"
    ]  # of the true gain: what the rows share, what is their own, `level_var`
    shared: Float[np.ndarray, "n K"]  # the part of it that comes of (mu, s), which all rows have in common
    kept: Float[np.ndarray, "n K"]  # share of a run's surprise that moves the mean; 0: not measured here
    new: Float[np.ndarray, "n K"]  # of one new run's gain over the same level: no `level_var`, but seed noise
    factors: Factors  # the mean stands on, cells on the viewed target taken out
    runs: Int[np.ndarray, "n"]  # on the viewed target


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
    mean: Float[np.ndarray, "n K"]  # of the gain in z, under each of the view's K components
    spread: Float[np.ndarray, "n K"]  # its scale: the root of `Moments.variance`, widened
    shared: Float[np.ndarray, "n K"]  # see `Moments`; widened
    kept: Float[np.ndarray, "n K"]
    factors: Float[np.ndarray, "n F"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forecast:
    """Of the gain in points that ONE new run of each of n checkpoints will show over the measured level."""

    view: View
    mean: Float[np.ndarray, "n K"]  # in z
    spread: Float[np.ndarray, "n K"]

    def cdf(self, points: Float[np.ndarray, "n"] | float) -> Float[np.ndarray, "n"]:
        """P(gain <= points)."""
        return 1 - exceeds(self.view, self.mean, self.spread, np.atleast_1d(np.asarray(points, dtype=float)))

    def quantile(self, levels: Float[np.ndarray, "L"]) -> Float[np.ndarray, "n L"]:
        """The gain at each of these probabilities, between 0 and 1."""
        from scipy.special import stdtrit  # noqa: PLC0415 - off the start of the service

        return quantiles(self.view, self.mean, self.spread, levels, stdtrit(FREEDOM, levels))


def predict(posterior: Posterior, view: View, rows: Int[np.ndarray, "n"]) -> Prediction:
    """Posterior of the true gain of the checkpoints at `rows`."""
    found, widening = moments(posterior, view, rows), float(posterior.calibration[2])
    spread = widening * np.sqrt(found.variance)
    gain = expected(view, found.mean, spread**2)
    low, high = quantiles(view, found.mean, spread, INTERVAL, INTERVAL_T).T
    return Prediction(
        gain=gain,
        low=np.minimum(low, gain),  # skewed gains may lie beyond
        high=np.maximum(high, gain),
        p_beats=exceeds(view, found.mean, spread, np.zeros(1)),
        p_worth=exceeds(view, found.mean, spread, np.array([WORTH])),
        runs_here=found.runs,
        probes_here=probes_at(posterior, view, rows),
        mean=found.mean,
        spread=spread,
        shared=widening**2 * found.shared,
        kept=found.kept,
        factors=found.factors.mean,
    )


def forecast(posterior: Posterior, view: View, rows: Int[np.ndarray, "n"]) -> Forecast:
    """What one new run of each checkpoint at `rows` would show on the viewed target."""
    found = moments(posterior, view, rows)
    return Forecast(view=view, mean=found.mean, spread=float(posterior.calibration[2]) * np.sqrt(found.new))


def factors_of(posterior: Posterior, rows: Int[np.ndarray, "n"]) -> Factors:
    """f of the checkpoints at `rows`, all their cells counted."""
    covariance = np.eye(posterior.factors.shape[1]) * posterior.doubt[rows, None, None]
    found, here = positions(posterior.rows, rows)
    covariance[here] = posterior.covariance[found]
    return Factors(posterior.factors[rows].astype(float), covariance)


def _taken_out(
    posterior: Posterior, target: int, known: Factors, cells: Int[np.ndarray, "h"], here: Int[np.ndarray, "h"]
) -> Factors:
    """The factors without the cells of the rows `here`, which are all on the target."""
    mean, covariance = known.mean.copy(), known.covariance.copy()
    s = np.broadcast_to(posterior.loadings[target], mean[here].shape)
    error = posterior.cell_z[cells] - posterior.mean[target] - np.einsum("hk,hk->h", mean[here], s)
    precision = posterior.cell_precision[cells]
    mean[here], covariance[here] = without(mean[here], covariance[here], s, precision, error)
    return Factors(mean, covariance)


def moments(
    posterior: Posterior,
    view: View,
    rows: Int[np.ndarray, "n"],
    factors: Factors | None = None,
    *,
    probes: bool = True,
    here: bool = True,
) -> Moments:
    """Mean and variance of the true gain in z, before any widening.

    `factors` replace what the posterior knows of the rows' f; without `probes` or `here` the rows' probes and
    finetunes on the viewed target are not looked at. A finetune here is first taken out of the row's f, and
    of (mu, s) by its leverage, the weight being the one it was learnt with, so that it counts once.
    """
    cells, at = cells_here(posterior, view, rows)
    if factors is None:
        factors = factors_of(posterior, rows)
        if view.target is not None and len(at):
            factors = _taken_out(posterior, view.target, factors, cells, at)
    mean, by_line, by_f = _line(view, factors)
    shift, pair = _own(posterior, view, rows, probes=probes)
    shared, own = by_line / NORMAL, np.maximum(pair + by_f / NORMAL, SMALLEST)
    kept, runs = np.zeros_like(mean), np.zeros(len(rows), dtype=np.int64)
    one_run = (1 - view.repeatable) * view.residual
    if here and view.target is not None and len(at):
        z = view.z(posterior.cell_gain[cells])
        noise = posterior.cell_noise[cells, None] * one_run / fitted_noise(posterior, view.target)
        weight = posterior.cell_precision[cells, None]
        if np.any(view.warm):
            told = _weight(z - mean[at], by_line[at], pair[at] + by_f[at] + noise)
            weight = np.where(view.warm, told, weight)
        leverage = np.minimum(weight * by_line[at], MOST_LEVERAGE)
        before = (mean[at] - leverage * z) / (1 - leverage) + shift[at]
        common = shared[at] / (1 - leverage)
        prior = common + own[at]
        k = prior / (prior + noise)
        kept[at], runs[at] = k, posterior.cell_runs[cells]
        mean[at] = before + k * (z - before) - shift[at]
        # of Student's t what is left is the wider the further off the run was (Roth 2013)
        left = (1 - k) * prior * (FREEDOM + (z - before) ** 2 / (prior + noise)) / (FREEDOM + 1)
        shared[at] = (1 - k) ** 2 * common
        own[at] = np.maximum(left - shared[at], 0.0)
    variance = np.maximum(shared + own, SMALLEST)
    return Moments(mean + shift, variance + view.level_var, shared, kept, variance + one_run, factors, runs)


def _weight(
    error: Float[np.ndarray, "h K"], by_line: Float[np.ndarray, "h K"], noise: Float[np.ndarray, "h K"]
) -> Float[np.ndarray, "h K"]:
    """With which cells count in the (mu, s) of `condition.regressions`: a_i there."""
    return np.asarray((FREEDOM + 1) / (FREEDOM * noise + error**2 + by_line))


def _line(
    view: View, factors: Factors
) -> tuple[Float[np.ndarray, "n K"], Float[np.ndarray, "n K"], Float[np.ndarray, "n K"]]:
    """mu + s'f: its mean, its variance by (mu, s), and by f.

    The latter is s'Vs + tr(V C_s), C_s the covariance of s: what two uncertain factors of a product add.
    """
    f, v = factors
    h = np.column_stack([np.ones(len(f)), f])
    mean = view.mean + f @ view.loadings.T
    shared = _flat(h[:, :, None] * h[:, None, :]) @ _flat(view.uncertainty).T
    squares = view.loadings[:, :, None] * view.loadings[:, None, :] + view.uncertainty[:, 1:, 1:]
    return mean, np.maximum(shared, 0.0), np.maximum(_flat(v) @ _flat(squares).T, 0.0)


def _flat(matrices: Float[np.ndarray, "n F F"]) -> Float[np.ndarray, "n F*F"]:
    return matrices.reshape(len(matrices), matrices.shape[1] ** 2)


def _own(
    posterior: Posterior, view: View, rows: Int[np.ndarray, "n"], *, probes: bool
) -> tuple[Float[np.ndarray, "n 1"], Float[np.ndarray, "n K"]]:
    """What probes here add to the mean, and the variance of what belongs to the pair alone."""
    shift = np.zeros((len(rows), 1))
    own = np.tile(view.repeatable_var, (len(rows), 1))
    pairs, probed = pairs_here(posterior, view, rows)
    if probes and len(probed):
        shift[probed, 0] = posterior.pair_shift[pairs]
        own[probed] -= np.where(posterior.pair_shift[pairs, None] != 0, view.explained, 0.0)
        own[probed] += posterior.pair_doubt[pairs, None]
    return shift, own


def probes_at(posterior: Posterior, view: View, rows: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Number of methods that probed each row on the viewed target, the reference probe included."""
    pairs, probed = pairs_here(posterior, view, rows)
    count = np.zeros(len(rows), dtype=np.int64)
    count[probed] = posterior.pair_methods[pairs]
    if view.probed is not None and view.probed == posterior.reference:
        count += posterior.probed[rows]
    return count


def probed_here(posterior: Posterior, view: View) -> int:
    """Number of checkpoints probed on the viewed target, the vanilla apart."""
    start, end = pair_range(posterior, view)
    if view.probed is None or view.probed != posterior.reference:
        return end - start
    probed = posterior.probed.copy()
    probed[posterior.pair_checkpoint[start:end]] = True
    return int(probed.sum() - (posterior.vanilla >= 0 and probed[posterior.vanilla]))


def static_order(posterior: Posterior) -> Int[np.ndarray, "C"]:
    """All checkpoints but the vanilla, best quality first: the order made without looking at a target."""
    order = np.argsort(-posterior.quality, kind="stable")
    return np.asarray(order[order != posterior.vanilla])


def head(posterior: Posterior, view: View, order: Int[np.ndarray, "C"], size: int) -> Int[np.ndarray, "n"]:
    """The first `size` of the static order and of the view's own, all measured here, those that probes lift.

    Best expected gain first; ties by row. A view's own order is that of s'f: what is deep in both orders and
    was neither measured nor lifted here could come first by its doubt alone. Of the lifted, the best `size`
    are looked at.
    """
    own = _own_order(posterior, view, size) if size < len(order) else order[:0]
    rows = np.union1d(order[:size], own)
    if view.target is not None:
        rows = np.union1d(rows, posterior.cell_checkpoint[posterior.cell_target == view.target])
    start, end = pair_range(posterior, view)
    lifted = start + np.flatnonzero(posterior.pair_shift[start:end] > 0)
    if len(lifted):
        s = view.weights @ view.loadings
        along = posterior.pair_shift[lifted] + posterior.factors[posterior.pair_checkpoint[lifted]] @ s
        best = np.argsort(-along, kind="stable")[:size]
        rows = np.union1d(rows, posterior.pair_checkpoint[lifted[best]])
    rows = rows[rows != posterior.vanilla]
    found = moments(posterior, view, rows)
    gain = expected(view, found.mean, float(posterior.calibration[2]) ** 2 * found.variance)
    return np.asarray(rows[np.lexsort((rows, -np.round(gain, 9)))])  # equal but for rounding is equal


def _own_order(posterior: Posterior, view: View, size: int) -> Int[np.ndarray, "n"]:
    """The best `size` checkpoints by the view's own direction; none where it is that of the static order."""
    direction, usual = view.direction(), posterior.direction
    if direction @ usual >= (1 - 1e-9) * np.linalg.norm(direction) * np.linalg.norm(usual):
        return np.zeros(0, dtype=np.int64)
    along = posterior.factors @ direction.astype(posterior.factors.dtype)
    ranked = np.argpartition(along, len(along) - size - 1)
    return np.asarray(ranked[-size - 1 :], dtype=np.int64)  # one more: the vanilla may be among them


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
