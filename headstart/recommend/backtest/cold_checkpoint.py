"""P2 and P3: checkpoints that were never finetuned, or on three targets only; in what order are they?

Predicted is the mean gain: the mean over the known targets of the expected gain in points. Held out in ten
folds, at random or by author: names of one author's series tell much of each other.

Each fold has a fit of its own, and their predictions are compared by their places in each fit's order of all
measured checkpoints, not by their points. A fit from which good checkpoints were held out has a lower level,
so that points of several fits in one list punish whatever was fitted: a straight line through the linear
probe, which orders as the probe does, falls from 0.61 to 0.56 in families cut to 45 checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstart.ranks import ranks
from headstart.recommend.backtest.baselines import (
    HEADSTART,
    PROBE,
    PUBLISHED,
    SIZE,
    STANDARDISED,
    STATIC,
    mean_gain,
    probe,
    size,
    standardised_gain,
)
from headstart.recommend.backtest.material import (
    authors,
    well_measured,
    without_authors,
    without_cells,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Int

    from headstart.recommend.backtest.engine import Engine, Fitted
    from headstart.recommend.backtest.material import Material

FOLDS = 10
FEWEST = 10  # well-measured checkpoints, for their order to say anything
KEPT = {"p2": 0, "p3": 3}  # targets that stay measured


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fold:
    """The predictions of one fold: n checkpoints."""

    rows: Int[np.ndarray, "n"]
    truth: Float[np.ndarray, "n"]  # mean measured gain on the targets held out, points
    predicted: dict[str, Float[np.ndarray, "n"]]  # by method; on one scale in all folds


def folds(material: Material, *, by_author: bool, rng: np.random.Generator) -> Int[np.ndarray, "C"]:
    """The fold of each checkpoint; by author, all of one author are in one."""
    if not by_author:
        return rng.integers(0, FOLDS, len(material.gains))
    names = authors(material.evidence)
    known = sorted(set(names))
    fold = dict(zip(known, (rng.permutation(len(known)) % FOLDS).tolist(), strict=True))
    return np.array([fold[name] for name in names], dtype=np.int64)


def held_out(
    gains: Float[np.ndarray, "C T"], rows: Int[np.ndarray, "n"], kept: int, rng: np.random.Generator
) -> Bool[np.ndarray, "C T"]:
    """The cells of these checkpoints to hide: all but `kept` random ones of each."""
    hidden = np.zeros(gains.shape, dtype=bool)
    for row in rows:
        hidden[row, rng.permutation(np.flatnonzero(np.isfinite(gains[row])))[kept:]] = True
    return hidden


def cold_checkpoints(
    engine: Engine,
    material: Material,
    others: Sequence[Material],
    at: Bool[np.ndarray, "C"],
    *,
    kept: int,
    by_author: bool,
    rng: np.random.Generator,
) -> Fold | None:
    """Hide the well-measured checkpoints among `at`, fit, and foretell their mean gain; None: there are none.

    By author, all else that is measured of those authors is hidden too, in this family and in the others.
    """
    rows = np.flatnonzero(at & (material.measured.sum(axis=1) > kept))
    rows = np.intersect1d(well_measured(material.gains), rows)
    if not len(rows):
        return None
    hidden = held_out(material.gains, rows, kept, rng)
    beside = [other.evidence for other in others]
    if by_author:
        names = authors(material.evidence)
        gone = {names[row] for row in rows}
        theirs = np.flatnonzero([name in gone for name in names])
        hidden[np.setdiff1d(theirs, rows)] = True  # measured too little to be judged, yet telling of the rest
        beside = [without_authors(other, gone) for other in beside]
    seen = np.where(hidden, np.nan, material.gains)
    fitted = engine.fit(without_cells(material.evidence, hidden), beside)
    measured = np.where(hidden, material.gains, 0.0)[rows].sum(axis=1) / hidden[rows].sum(axis=1)
    known = np.flatnonzero(material.measured.any(axis=1))
    predicted = {
        HEADSTART: _places(_mean_expected(fitted, seen, known), known, rows),
        STATIC: _places(fitted.quality()[known], known, rows),
        PROBE: probe(material)[rows],
        SIZE: size(material)[rows],
    }
    if kept:
        predicted[PUBLISHED] = mean_gain(seen)[rows]
        predicted[STANDARDISED] = standardised_gain(seen)[rows]
    return Fold(rows=rows, truth=measured, predicted=predicted)


def _places(
    values: Float[np.ndarray, "k"], known: Int[np.ndarray, "k"], rows: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """The place of each row among `known`, ascending, which it is one of: the share it is no worse than."""
    return ranks(values)[np.searchsorted(known, rows)] / len(known)


def _mean_expected(
    fitted: Fitted, seen: Float[np.ndarray, "C T"], rows: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Mean over the targets with any measurement of the expected gain in points."""
    targets = np.flatnonzero(np.isfinite(seen).any(axis=0))
    if not len(targets):
        return np.zeros(len(rows))
    return np.asarray(np.mean([fitted.gain(fitted.known(int(t)), rows) for t in targets], axis=0))
