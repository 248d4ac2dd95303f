"""P1: the order of all checkpoints for a target that nothing was measured on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.ranks import spearman
from headstart.recommend.backtest.baselines import HEADSTART, RANDOM, STATIC, cold_orders
from headstart.recommend.backtest.tables import Table

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from headstart.recommend.backtest.engine import Fitted
    from headstart.recommend.backtest.material import Material
    from headstart.recommend.backtest.tables import Found

FEWEST = 5  # measured checkpoints on a target, for their order to say anything

TABLES = {
    "order": Table("p1", "A target never seen, all else measured: order of the checkpoints", "Spearman"),
    "top 1": Table("p1", "The same: gain of the first checkpoint", "points"),
    "top 3": Table("p1", "The same: best gain among the first three", "points"),
    "promise": Table("p1", "The same: expected minus measured gain of the first ten", "points"),
    "patchy": Table("p1", "A target never seen, patchy measurements: order of the checkpoints", "Spearman"),
    "patchy top 3": Table("p1", "The same: best gain among the first three", "points"),
}


def judged(
    gains: Float[np.ndarray, "C T"], seen: Float[np.ndarray, "C T"], target: int
) -> Bool[np.ndarray, "C"]:
    """Checkpoints whose gain on the target is known and that were measured elsewhere."""
    elsewhere = np.delete(np.isfinite(seen), target, axis=1).any(axis=1)
    return np.asarray(np.isfinite(gains[:, target]) & elsewhere)


def cold_target(
    material: Material,
    fitted: Fitted,
    seen: Float[np.ndarray, "C T"],
    rows: Int[np.ndarray, "n"],
    target: int,
    rng: np.random.Generator,
    prefix: str = "",
) -> Found:
    """Every order of `rows` against their measured gains. `seen`: the gains that `fitted` was fitted on."""
    truth = material.gains[rows, target]
    orders = {
        HEADSTART: fitted.gain(fitted.unseen(material, target), rows),
        STATIC: fitted.quality()[rows],
        **{name: order[rows] for name, order in cold_orders(material, seen).items()},
    }
    found: Found = {"order": {}, "top 1": {}, "top 3": {}}
    for name, order in orders.items():
        first = truth[first_of(order, rng)]
        found["order"][name] = spearman(order, truth)
        found["top 1"][name], found["top 3"][name] = float(first[0]), float(first[:3].max())
    ten = first_of(orders[HEADSTART], rng)[:10]
    found["promise"] = {HEADSTART: float((orders[HEADSTART] - truth)[ten].mean())}
    found["order"][RANDOM] = 0.0
    found["top 1"][RANDOM], found["top 3"][RANDOM] = best_of_random(truth, 1), best_of_random(truth, 3)
    if not prefix:
        return found
    return {prefix: found["order"], f"{prefix} top 3": found["top 3"]}


def first_of(order: Float[np.ndarray, "n"], rng: np.random.Generator) -> Int[np.ndarray, "n"]:
    """Positions, highest first; equal ones at random, since the order of the store may tell."""
    return np.lexsort((rng.random(len(order)), -order))


def best_of_random(values: Float[np.ndarray, "n"], count: int) -> float:
    """Expected maximum of `count` of the values drawn at random without replacement, exactly.

    The i-th smallest is the maximum of C(i - 1, count - 1) of the C(n, count) draws.
    """
    n, count = len(values), min(count, len(values))
    share = np.zeros(n)
    share[-1] = count / n
    for i in range(n - 1, count - 1, -1):  # C(i - 1, k - 1) / C(i, k - 1) = (i - k + 1) / i
        share[i - 1] = share[i] * (i - count + 1) / i
    return float(np.sort(values) @ share)
