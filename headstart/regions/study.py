"""Statistics of a region study: which group of models has the lower loss, and how it runs along lines. Pure.

After Gueta et al. 2023 (arXiv 2302.04863). The generalised loss is the test loss of a linear probe on the
frozen body, and is measured elsewhere: here it is any loss, the less the better. In are the models that share
a trait, In' convex combinations of them, Ex other models.

Deviations: every number has an interval. What is drawn for it are models and not points, since a hundred
mixtures of three models are still three models: a point counts as often as the models it is mixed of were
drawn, weighted by their shares. A bootstrap of a few models is too sure of itself, and wholly sure where all
agree, so the interval is at least the one that so many models would give as independent trials (Jeffreys).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

LEVEL = 0.9  # of an interval
DRAWS = 2000


class Estimate(NamedTuple):
    """A value and the interval that is to hold it in LEVEL of cases."""

    value: float
    low: float
    high: float


class Curve(NamedTuple):
    """Loss along lines between two models, one at position 0 and one at 1, less the mean of both ends.

    Below 0 a mixture is better than its ends are on average.
    """

    positions: tuple[float, ...]
    excess: tuple[Estimate, ...]  # mean over the lines, at each position
    lines: int
    left_out: int  # lines with a loss that is NaN or infinite
    below_both: Estimate | None  # share of the lines whose middle is at or below both ends; None: no middle


def probability_better(
    a: Float[np.ndarray, "p"],
    b: Float[np.ndarray, "q"],
    *,
    shares_a: Float[np.ndarray, "p m"] | None = None,
    shares_b: Float[np.ndarray, "q m"] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate | None:
    """P_B(a, b), 0..1: how often a random one of `a` has a lower loss than a random one of `b`; ties half.

    A loss that is NaN or infinite is worse than any other. None where a group is empty. Row i of `shares_a`
    says what point i is mixed of, as weights over m models; left out, every point is a model of its own. With
    both given, the columns are the same models, drawn together: pass them for P_B(In', In).
    """
    if len(a) == 0 or len(b) == 0:
        return None
    wins = _wins(_ranked(a), _ranked(b))
    rng = np.random.default_rng(seed)
    own_a, own_b = shares_a is None, shares_b is None
    of_a = np.eye(len(a)) if shares_a is None else np.abs(shares_a)
    of_b = np.eye(len(b)) if shares_b is None else np.abs(shares_b)
    found = []
    for _ in range(draws):
        drawn = _counts(rng, of_a.shape[1])
        again = drawn if not (own_a or own_b) else _counts(rng, of_b.shape[1])
        weight_a, weight_b = of_a @ drawn, of_b @ again
        total = weight_a.sum() * weight_b.sum()
        if total > 0:
            found.append(min(1.0, float(weight_a @ wins @ weight_b / total)))
    fewest = min(_models(of_a), _models(of_b))
    return _estimate(float(wins.mean()), found, fewest, level)


def probability_better_paired(
    a: Float[np.ndarray, "p"],
    b: Float[np.ndarray, "p"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate | None:
    """How often a_i has a lower loss than b_i, 0..1, ties half: pairs share a target, a seed or a model."""
    if len(a) == 0:
        return None
    first, second = _ranked(a), _ranked(b)
    wins = (first < second) + 0.5 * (first == second)
    rng = np.random.default_rng(seed)
    found = [float(_counts(rng, len(wins)) @ wins / len(wins)) for _ in range(draws)]
    return _estimate(float(wins.mean()), found, len(wins), level)


def curve(
    positions: Float[np.ndarray, "t"],
    losses: Float[np.ndarray, "l t"],
    *,
    ends: Int[np.ndarray, "l 2"] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Curve:
    """The mean curve of l lines, each measured at the same positions, among them 0 and 1.

    Positions below 0 and above 1 are extrapolations. `ends` numbers the models that a line joins, so that
    models are drawn for the interval and a line counts where both are; left out, lines are drawn. A single
    line has intervals of no width: they tell how lines differ, not how well a loss is known.
    """
    start, stop = (int(np.flatnonzero(positions == end)[0]) for end in (0.0, 1.0))
    sound = np.isfinite(losses).all(axis=1)
    kept = losses[sound].astype(np.float64)
    joined = None if ends is None else ends[sound]
    excess = kept - (kept[:, start] + kept[:, stop])[:, None] / 2
    middle = np.flatnonzero((positions > 0) & (positions < 1))
    weights = _line_weights(len(kept), joined, draws, np.random.default_rng(seed))
    return Curve(
        positions=tuple(positions.tolist()),
        excess=tuple(_mean(column, weights, level) for column in excess.T) if len(kept) else (),
        lines=len(kept),
        left_out=len(losses) - len(kept),
        below_both=_below_both(positions, kept, middle, weights, joined, level),
    )


def barrier(positions: Float[np.ndarray, "t"], losses: Float[np.ndarray, "l t"]) -> Float[np.ndarray, "l"]:
    """Of each line the most that the loss rises above the straight line between its ends, 0 and above.

    The error barrier of Frankle et al. 2020 (arXiv 1912.05671): 0 where two models lie in one basin.
    """
    start, stop = (losses[:, positions == end][:, :1] for end in (0.0, 1.0))
    between = (positions >= 0) & (positions <= 1)
    straight = start + (stop - start) * positions[between]
    return np.asarray(np.max(losses[:, between] - straight, axis=1))


def _below_both(
    positions: Float[np.ndarray, "t"],
    kept: Float[np.ndarray, "l t"],
    middle: Int[np.ndarray, "i"],
    weights: Float[np.ndarray, "draws l"],
    ends: Int[np.ndarray, "l 2"] | None,
    level: float,
) -> Estimate | None:
    """The share of lines whose point nearest the middle is at or below both ends."""
    if not len(middle) or not len(kept):
        return None
    centre = middle[np.argmin(np.abs(positions[middle] - 0.5))]
    lower = np.minimum(kept[:, positions == 0][:, 0], kept[:, positions == 1][:, 0])
    below = (kept[:, centre] <= lower).astype(np.float64)
    models = len(kept) if ends is None else max(1, len(np.unique(ends)) // 2)
    return _estimate(float(below.mean()), (weights @ below).tolist(), min(len(kept), models), level)


def _line_weights(
    lines: int, ends: Int[np.ndarray, "l 2"] | None, draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "draws l"]:
    """How much each line counts in every draw, rows summing to 1; draws that hold no line are left out."""
    if lines == 0:
        return np.zeros((0, 0))
    if ends is None:
        drawn = rng.multinomial(lines, np.full(lines, 1 / lines), size=draws).astype(np.float64)
    else:
        models, places = np.unique(ends, return_inverse=True)
        times = rng.multinomial(len(models), np.full(len(models), 1 / len(models)), size=draws)
        first, second = places.reshape(ends.shape).T
        drawn = (times[:, first] * times[:, second]).astype(np.float64)
    totals = drawn.sum(axis=1)
    return np.asarray(drawn[totals > 0] / totals[totals > 0, None])


def _mean(values: Float[np.ndarray, "l"], weights: Float[np.ndarray, "draws l"], level: float) -> Estimate:
    value = float(values.mean())
    found = weights @ values
    if not len(found):
        return Estimate(value, value, value)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def _ranked(losses: Float[np.ndarray, "p"]) -> Float[np.ndarray, "p"]:
    """What is not a number or infinite is worst, and all such are tied."""
    losses = np.asarray(losses, dtype=np.float64)
    return np.asarray(np.where(np.isfinite(losses), losses, math.inf))


def _wins(a: Float[np.ndarray, "p"], b: Float[np.ndarray, "q"]) -> Float[np.ndarray, "p q"]:
    return np.asarray((a[:, None] < b) + 0.5 * (a[:, None] == b))


def _counts(rng: np.random.Generator, models: int) -> Float[np.ndarray, "m"]:
    """How often each is drawn."""
    return rng.multinomial(models, np.full(models, 1 / models)).astype(np.float64)


def _models(shares: Float[np.ndarray, "p m"]) -> int:
    """How many models the points are mixed of, but no more than there are points."""
    return min(len(shares), int(np.sum(np.any(shares > 0, axis=0))))


def _estimate(value: float, found: list[float], trials: int, level: float) -> Estimate:
    """The wider of the bootstrap's interval and that of so many independent trials."""
    from scipy import stats  # noqa: PLC0415 - off the start of the service

    tails = [(1 - level) / 2, (1 + level) / 2]
    won, lost = value * trials + 0.5, (1 - value) * trials + 0.5
    low, high = (float(stats.beta.ppf(tail, won, lost)) for tail in tails)
    if found:
        drawn_low, drawn_high = np.quantile(found, tails).tolist()
        low, high = min(low, drawn_low), max(high, drawn_high)
    return Estimate(value, min(value, low), max(value, high))
