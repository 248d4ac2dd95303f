"""P4: a few checkpoints were measured on a new target; does that order the others better?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.ranks import spearman
from headstart.recommend.backtest.cold_target import first_of
from headstart.recommend.backtest.tables import Table

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from headstart.recommend.backtest.engine import Fitted
    from headstart.recommend.backtest.material import Material
    from headstart.recommend.backtest.tables import Found

MEASURED = (3, 5)
DRAWS = 8  # random sets of measured checkpoints per target
LEFT = 5  # fewest checkpoints left to order
AT_RANDOM, THE_FIRST = "at random", "the first of the order"
WARM, COLD = "knowing them", "before"

TABLES = {
    f"{which} {k}": Table(
        "p4", f"A new target, k measured, {which}: order of the others", "Spearman", WARM, step=k
    )
    for which in (AT_RANDOM, THE_FIRST)
    for k in MEASURED
}


def warm_target(
    material: Material, fitted: Fitted, rows: Int[np.ndarray, "n"], target: int, rng: np.random.Generator
) -> Found:
    """Spearman of the checkpoints left, ordered with and without the measured ones' gains."""
    truth = material.gains[rows, target]
    cold = fitted.gain(fitted.unseen(material, target), rows)
    first = first_of(cold, rng)
    found: Found = {}
    for k in MEASURED:
        if len(rows) < k + LEFT:
            continue
        drawn = [rng.permutation(len(rows))[:k] for _ in range(DRAWS)]
        for question, sets in ((f"{AT_RANDOM} {k}", drawn), (f"{THE_FIRST} {k}", [first[:k]])):
            both = np.mean([_ordered(fitted, target, rows, truth, cold, at) for at in sets], axis=0)
            found[question] = dict(zip((WARM, COLD), both.tolist(), strict=True))
    return found


def _ordered(
    fitted: Fitted,
    target: int,
    rows: Int[np.ndarray, "n"],
    truth: Float[np.ndarray, "n"],
    cold: Float[np.ndarray, "n"],
    at: Int[np.ndarray, "k"],
) -> tuple[float, float]:
    left = np.setdiff1d(np.arange(len(rows)), at)
    warm = fitted.gain(fitted.warm(target, rows[at], truth[at]), rows[left])
    return spearman(warm, truth[left]), spearman(cold[left], truth[left])
