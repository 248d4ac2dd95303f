"""Which of several checkpoints is best: joint draws of their true gains, and what they tell.

P(best) and regret compare gains with each other, so they need more than the spread of each: the checkpoints
share the doubt about the target (its mu and loadings s) and about the vanilla's level. Given those, each is
on its own. Under component k of the view, for checkpoint m,

    z_mk = mean_mk + spread_mk T(x_mk),    spread_mk x_mk = a_mk' xi + l_k zeta + own_mk eps_m

xi, zeta and eps_m standard normal; a_mk'a_mk what the Prediction says comes of (mu, s), along (1, f_m)'L_k,
L_k the root of their covariance; l_k^2 the variance of the vanilla's level in z. own fills up what these
leave of spread, so x is standard normal, and T takes it to Student's t with 6 degrees of freedom (a Gaussian
copula): every marginal is the one that the probabilities and intervals of an answer are read from.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend.t_noise import FREEDOM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Float32, Int

    from headstart.recommend.contest import Gains
    from headstart.recommend.decide import Prediction
    from headstart.recommend.views import View

DRAWS = 512  # S, a power of two
SEED = 20221101
NODES = 256  # of a table of a transform
FURTHEST = 2.5  # z of the best and the worst of about 160 checkpoints
LEADERS = 24  # R, of a draw, among which the winner under a filter is looked for
VANILLA = 255  # its position among leaders
BEYOND = 0.05  # of what a draw lies further out that counts


class Joint(NamedTuple):
    """What is known together of the true gains of n checkpoints, in z, under each of the view's K targets.

    `shared`: loadings on standard normals that are common to all rows, those of (mu, s) first, that of the
    vanilla's level last. Their squares sum to no more than spread^2 but for rounding.
    """

    mean: Float[np.ndarray, "n K"]
    spread: Float[np.ndarray, "n K"]
    shared: Float[np.ndarray, "n K D"]

    @property
    def own(self) -> Float[np.ndarray, "n K"]:
        """Variance that a row shares with no other."""
        return np.asarray(np.maximum(self.spread**2 - np.sum(self.shared**2, axis=2), 0.0))


def joint(view: View, found: Prediction | Gains, widening: float = 1.0) -> Joint:
    """The joint of the rows of a Prediction, `widening` being the factor in its spreads.

    A row's shared variance is the Prediction's, its direction that of (1, f)'L, L the root of the covariance
    of (mu, s).
    """
    h = np.column_stack([np.ones(len(found.factors)), found.factors])
    theta = np.einsum("nd,kde->nke", h, _root(view.uncertainty))
    length = np.sqrt(np.sum(theta**2, axis=2))
    theta *= (np.sqrt(found.shared) / np.maximum(length, 1e-12))[:, :, None]
    level = np.broadcast_to(widening * np.sqrt(view.level_var), found.mean.shape)
    return Joint(found.mean, found.spread, np.concatenate([theta, level[:, :, None]], axis=2))


def _root(covariance: Float[np.ndarray, "K d d"]) -> Float[np.ndarray, "K d d"]:
    """The symmetric square root: a covariance may be singular, where there is no Cholesky factor."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))[:, None]) @ vectors.swapaxes(1, 2))


def draws(view: View, joint: Joint) -> Float32[np.ndarray, "n S"]:
    """S joint draws of the true gains of n checkpoints, in points; one row per checkpoint.

    The same input gives the same draws. Every standard normal is drawn by strata (Latin hypercube; McKay,
    Beckman & Conover 1979), the components of a mixture in proportion to their weights; a probability of 1/2
    is off by 0.013 (standard deviation). Gains are cut to what leaves the score within 0..100, and what lies
    beyond FURTHEST in z, or one spread beyond the mean of every row, is drawn in to BEYOND of itself: the
    order stays. Points grow exponentially there: with Student's tails the expected regret of the first of 128
    is 3.6 points in the published families, where 1.8 are measured (drawn in: 1.9; 54 targets, half of the
    cells of each held out). In worlds drawn from the three fits (7 x 108 targets; standard errors of 0.06 to
    0.14 points) 1.04 points are expected and 1.02 realised with half of the cells held out, 0.80 and 0.81
    with none, 1.74 and 2.05 on a target never seen; of the published targets, never seen, 1.78, and 1.98
    measured, seed noise included.
    """
    rows, components, common = joint.shared.shape
    ends = component_ends(view)
    counts = np.diff(ends, prepend=0)  # draws of each component
    normals = _normals(common + rows)
    scale = np.maximum(joint.spread, 1e-9)
    shared = (joint.shared / scale[:, :, None]).astype(np.float32)
    mean, spread, own = (
        np.repeat(one.astype(np.float32), counts, axis=1)
        for one in (joint.mean, joint.spread, np.sqrt(joint.own) / scale)
    )
    x = own * normals[common:]
    for k, (start, end) in enumerate(zip(ends - counts, ends, strict=True)):
        x[:, start:end] += shared[:, k] @ normals[:common, start:end]
    z = mean + spread * _student(x)
    low = np.minimum((mean - spread).min(axis=0, initial=0.0), -FURTHEST)
    high = np.maximum((mean + spread).max(axis=0, initial=0.0), FURTHEST)
    within = np.clip(z, low, high)
    z = within + np.float32(BEYOND) * (z - within)
    found = _gain(view, z, np.repeat(np.arange(components), counts))
    return np.asarray(np.clip(found, *view.bounds))


def component_ends(view: View) -> Int[np.ndarray, "K"]:
    """Where the draws of each of the view's components end: they come one after the other."""
    return np.asarray(np.round(np.cumsum(view.weights) / np.sum(view.weights) * DRAWS).astype(np.int64))


def level_error(view: View, joint: Joint, widening: float = 1.0) -> Float32[np.ndarray, "S"]:
    """By how many points too high the vanilla's level was measured, in each of the `draws`.

    In a draw the level is so much lower and every gain so much higher than measured: what was measured of a
    candidate's score stands. 0 where the target was never measured: no gain is told from its level then.
    """
    rows, _, common = joint.shared.shape
    stderr = 0.0 if view.target is None else float(np.nan_to_num(view.level_stderr))
    return np.asarray(np.float32(widening * stderr) * _normals(common + rows)[common - 1])


def _student(x: Float32[np.ndarray, "n S"]) -> Float32[np.ndarray, "n S"]:
    """Each row's draws replaced by the S quantiles of Student's t, in the same order: exact marginals.

    The order is sorted out of whole numbers that end in a draw's place, several times as fast as by argsort.
    """
    key = (x * np.float32(1 << 20)).astype(np.int64)
    key *= DRAWS
    key += np.arange(DRAWS)
    key.sort(axis=1)
    key &= DRAWS - 1
    found = np.empty_like(x)
    np.put_along_axis(found, key, _student_quantiles(), axis=1)
    return found


def _gain(
    view: View, z: Float32[np.ndarray, "n S"], component: Int[np.ndarray, "S"]
) -> Float32[np.ndarray, "n S"]:
    """From z to points, by a table of each transform, even in z: several times as fast."""
    low, high = float(z.min(initial=0.0)), float(z.max(initial=0.0)) + 1e-3
    grid = np.linspace(low, high, NODES)
    least, most = view.bounds
    told = view.transforms.gain(np.repeat(grid[:, None], len(view.transforms), axis=1)).T
    tables = np.clip(told, 2 * least, 2 * most).astype(np.float32)  # far beyond, and no number overflows
    steps = np.diff(tables, axis=1, append=0.0).ravel()
    place = (z - np.float32(low)) * np.float32((NODES - 1) / (high - low))
    node = np.minimum(place.astype(np.int32), NODES - 2)
    at = node + NODES * component.astype(np.int32)
    return np.asarray(tables.ravel()[at] + (place - node).astype(np.float32) * steps[at])


def _normals(columns: int) -> Float32[np.ndarray, "columns S"]:
    """Standard normals, `columns` independent rows of S of them."""
    return _stratified(1 << max(columns - 1, 0).bit_length())[:columns]


@lru_cache(maxsize=8)
def _stratified(columns: int) -> Float32[np.ndarray, "columns S"]:
    """Each row holds each of the S quantiles once, in an order of its own."""
    found = np.random.default_rng(SEED).permuted(np.tile(_quantiles(), (columns, 1)), axis=1)
    found.flags.writeable = False
    return found


@lru_cache(maxsize=1)
def normal_quantiles() -> Float[np.ndarray, "S"]:
    """The middles of S strata of the standard normal, ascending."""
    normal = NormalDist()
    found = np.array([normal.inv_cdf((s + 0.5) / DRAWS) for s in range(DRAWS)])
    found.flags.writeable = False
    return found


def _quantiles() -> Float32[np.ndarray, "S"]:
    return normal_quantiles().astype(np.float32)


@lru_cache(maxsize=1)
def _student_quantiles() -> Float32[np.ndarray, "1 S"]:
    """The same of Student's t with 6 degrees of freedom, by series (Abramowitz & Stegun 26.7.5).

    Off by 0.1 % three standard deviations out, less within.
    """
    x, v = _quantiles().astype(np.float64), FREEDOM
    y = x * x
    one = (y + 1) / (4 * v)
    two = ((5 * y + 16) * y + 3) / (96 * v**2)
    three = (((3 * y + 19) * y + 17) * y - 15) / (384 * v**3)
    four = ((((79 * y + 776) * y + 1482) * y - 1920) * y - 945) / (92160 * v**4)
    return np.asarray(x * (1 + one + two + three + four), dtype=np.float32)[None]


class Best(NamedTuple):
    """P(it is the best of all that are compared). Sums to one."""

    rows: Float[np.ndarray, "n"]  # of each checkpoint; 0 for those not compared
    vanilla: float  # of the vanilla: nobody gains anything


class Winners(NamedTuple):
    """Who is best in each draw, and by how much."""

    best: Best
    highest: Float32[np.ndarray, "S"]  # points, of the best of each draw; 0 where that is the vanilla


class Leaders(NamedTuple):
    """The best of every draw, best first, the vanilla among them: few filters leave out all of a draw."""

    rows: bytes  # S x R positions among the checkpoints, a byte each; VANILLA
    gain: Float32[np.ndarray, "S*R"]  # points, falling in each draw
    start: Int[np.ndarray, "S"]  # of each draw in both
    tied: Int[np.ndarray, "t"]  # draws in which some are equal


def p_best(draws: Float32[np.ndarray, "n S"], rows: Int[np.ndarray, "r"] | None = None) -> Best:
    """P(best) of each checkpoint and of the vanilla, whose gain is 0. Equals in a draw share it.

    `rows` are the positions of the checkpoints compared, all by default: a filter needs no new draws.
    """
    return winners(draws, rows).best


def winners(draws: Float32[np.ndarray, "n S"], rows: Int[np.ndarray, "r"] | None = None) -> Winners:
    """P(best) as in `p_best`, and the best gain of each draw."""
    won, of_vanilla, highest = _won(draws if rows is None else draws[rows])
    found = np.zeros(len(draws))
    found[slice(None) if rows is None else rows] = won
    return Winners(_shares(found, of_vanilla), highest)


def _won(
    compared: Float32[np.ndarray, "r S"],
) -> tuple[Float[np.ndarray, "r"], float, Float32[np.ndarray, "S"]]:
    """Draws won by each checkpoint and by the vanilla; the best gain of each draw."""
    count = compared.shape[1]
    highest = compared.max(axis=0, initial=0.0)
    wins, vanilla = compared == highest, highest == 0.0
    winners = np.flatnonzero(wins)
    won = np.bincount(winners // max(count, 1), minlength=len(compared)).astype(float)
    of_vanilla = float(np.count_nonzero(vanilla))
    if won.sum() + of_vanilla > count:  # ties
        share = 1 / (wins.sum(axis=0) + vanilla)
        won, of_vanilla = wins @ share, float(vanilla @ share)
    return won, of_vanilla, highest


def _shares(won: Float[np.ndarray, "n"], of_vanilla: float) -> Best:
    total = float(won.sum()) + of_vanilla
    return Best(won / total, of_vanilla / total)


def leaders(draws: Float32[np.ndarray, "n S"]) -> Leaders:
    """The LEADERS best of every draw.

    Raises: ValueError for more than VANILLA checkpoints, since a position is a byte.
    """
    n, count = draws.shape
    if n > VANILLA:
        raise ValueError(f"{n} checkpoints, and no more than {VANILLA} have a byte to be named by")
    by_draw = np.zeros((count, n + 1), dtype=draws.dtype)  # the vanilla last
    by_draw[:, :n] = draws.T
    most = min(LEADERS, n + 1)
    # one more than are kept, where there is one: it may be equal to the last
    first = np.argpartition(-by_draw, min(most, n), axis=1)[:, : most + 1]
    gain = np.take_along_axis(by_draw, first, axis=1)
    order = np.argsort(-gain, axis=1, kind="stable")
    gain = np.take_along_axis(gain, order, axis=1)
    rows = np.take_along_axis(first, order, axis=1)[:, :most]
    tied = np.flatnonzero((gain[:, 1:] == gain[:, :-1]).any(axis=1))
    names = np.where(rows == n, VANILLA, rows).astype(np.uint8).tobytes()
    return Leaders(names, gain[:, :most].ravel(), np.arange(0, count * most, most), tied)


def winners_among(draws: Float32[np.ndarray, "n S"], best: Leaders, rows: Int[np.ndarray, "r"]) -> Winners:
    """As `winners`, several times as fast: a draw is won by the first of its leaders that takes part.

    All of `rows` are compared only in draws where no leader takes part, or some are equal.
    """
    takes_part = np.zeros(VANILLA + 1, dtype=bool)
    takes_part[rows] = takes_part[VANILLA] = True
    # looked up by a table of bytes, in half of the time that indexing takes
    among = np.frombuffer(best.rows.translate(takes_part.tobytes()), dtype=bool)
    at = among.reshape(len(best.start), -1).argmax(axis=1)
    at += best.start
    winner, highest = np.frombuffer(best.rows, dtype=np.uint8).take(at), best.gain.take(at)
    found, left = among.take(at), best.tied
    if len(left) or not found.all():
        found[left] = False
        winner, left = winner[found], np.flatnonzero(~found)
    counts = np.bincount(winner, minlength=VANILLA + 1)
    won, of_vanilla = counts[: len(draws)].astype(float), float(counts[VANILLA])
    if len(left):
        more, by_vanilla, highest[left] = _won(draws[rows[:, None], left])
        won[rows] += more
        of_vanilla += by_vanilla
    return Winners(_shares(won, of_vanilla), highest)


def regret(
    draws: Float32[np.ndarray, "n S"], pick: int | None, rows: Int[np.ndarray, "r"] | None = None
) -> float:
    """Expected regret of a pick, in points and never negative: E[max(0, max_m g_m)] - E[g_pick].

    `pick` is a position in the draws, None the vanilla; `rows` as in `p_best`, the pick always compared.
    """
    compared = draws if rows is None else draws[rows]
    return short_of(compared.max(axis=0, initial=0.0), None if pick is None else draws[pick])


def short_of(highest: Float32[np.ndarray, "S"], pick: Float32[np.ndarray, "S"] | None) -> float:
    """The expected regret of a pick whose gains these are, None: the vanilla; `highest` as in `Winners`."""
    lost = highest if pick is None else np.maximum(highest - pick, 0.0)
    return float(lost.mean(dtype=np.float64))


def pareto(
    score: Float[np.ndarray, "n"] | Sequence[float],
    parameters: Float[np.ndarray, "n"] | Sequence[float],
    cost: Float[np.ndarray, "n"] | Sequence[float],
) -> Bool[np.ndarray, "n"]:
    """Which checkpoints no other dominates, by scoring as high, being as small and costing as little, and not
    the same in all three.

    An unknown (NaN) size or cost counts as the largest: no merit beside a known one, and without a say among
    checkpoints that are all unknown. An unknown score is never chosen and dominates nothing. Equals stand or
    fall together. O(n log n) comparisons: best score first, against the staircase of (size, cost) met so far
    (Kung, Luccio & Preparata 1975).
    """
    gain = np.nan_to_num(np.asarray(score, dtype=np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    size, price = (
        np.nan_to_num(np.asarray(one, dtype=np.float64), nan=np.inf, posinf=np.inf)
        for one in (parameters, cost)
    )
    order = np.lexsort((price, size, -gain))
    found = np.zeros(len(gain), dtype=bool)
    sizes: list[float] = []  # of the staircase: sizes rise,
    prices: list[float] = []  # prices fall
    before, verdict = (np.nan, np.nan, np.nan), False
    for m, g, n, c in zip(order.tolist(), *(one[order].tolist() for one in (gain, size, price)), strict=True):
        if g == -np.inf:
            break
        if (g, n, c) != before:
            at = bisect_right(sizes, n)
            before, verdict = (g, n, c), not at or prices[at - 1] > c
            if verdict:
                _step(sizes, prices, at, n, c)
        found[m] = verdict
    return found


def _step(sizes: list[float], prices: list[float], at: int, size: float, price: float) -> None:
    """Put a step on the staircase and take away those that it hides."""
    start = at - 1 if at and sizes[at - 1] == size else at
    end = at
    while end < len(sizes) and prices[end] >= price:
        end += 1
    sizes[start:end], prices[start:end] = [size], [price]
