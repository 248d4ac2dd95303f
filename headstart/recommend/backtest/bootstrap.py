"""Means and differences with 95 % intervals by a paired bootstrap (Efron 1979); families averaged first.

What is drawn with replacement, targets or authors, is drawn for all families and methods at once: the same
targets and authors stand behind them, and a difference is one between methods on the same draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.ranks import spearman
from headstart.recommend.backtest.report import Comparison, Estimate, Line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float, Int

DRAWS = 4_000
AUTHOR_DRAWS = 1_000  # each ranks all checkpoints anew
INTERVAL = (0.025, 0.975)


def over_units(
    values: Float[np.ndarray, "F U"], weights: Float[np.ndarray, "F U"] | None = None, seed: int = 0
) -> Float[np.ndarray, "F D"]:
    """Means over drawn units (targets): the sample's own, then DRAWS of the bootstrap; NaN units are missing.

    Weighted where a unit stands for many cells.
    """
    units = values.shape[1]
    known = np.isfinite(values)
    weight = known * (1.0 if weights is None else weights)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(units, np.full(units, 1 / units), DRAWS) if units else np.zeros((DRAWS, 0))
    drawn = np.vstack([np.ones(units), times]).T
    total = (weight * np.where(known, values, 0.0)) @ drawn
    return _ratio(total, weight @ drawn)


def over_authors(
    predictions: Sequence[Float[np.ndarray, "n"]],
    truths: Sequence[Float[np.ndarray, "n"]],
    authors: Sequence[Sequence[str]],
    seed: int = 0,
) -> Float[np.ndarray, "F D"]:
    """Spearman of each family's predictions with its truths, authors drawn with all their checkpoints."""
    names = sorted({name for family in authors for name in family})
    code = {name: k for k, name in enumerate(names)}
    codes = [np.array([code[name] for name in family], dtype=np.int64) for family in authors]
    rng = np.random.default_rng(seed)
    found = np.empty((len(predictions), AUTHOR_DRAWS + 1))
    for draw in range(AUTHOR_DRAWS + 1):
        times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names)) if draw else None
        for f, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
            rows = np.arange(len(truth)) if times is None else _repeated(codes[f], times)
            found[f, draw] = spearman(prediction[rows], truth[rows]) if len(rows) > 2 else np.nan
    return found


def compared(
    name: str,
    statistics: Mapping[str, Float[np.ndarray, "F D"]],
    families: Sequence[str],
    *,
    protocol: str,
    measure: str,
    lead: str,
    step: int | None = None,
    less_is_better: bool = False,
) -> Comparison:
    """The table of one measure: each method's mean, and how far `lead` is above it."""
    first = statistics[lead]
    lines = tuple(
        Line(
            method=method,
            overall=_estimate(_over_families(found)),
            by_family={family: _estimate(found[f]) for f, family in enumerate(families)},
            lead=None if method == lead else _estimate(_over_families(first - found)),
            lead_by_family={}
            if method == lead
            else {family: _estimate(first[f] - found[f]) for f, family in enumerate(families)},
        )
        for method, found in statistics.items()
    )
    return Comparison(
        protocol=protocol,
        name=name,
        step=step,
        measure=measure,
        less_is_better=less_is_better,
        lead=lead,
        lines=lines,
    )


def _repeated(codes: Int[np.ndarray, "n"], times: Int[np.ndarray, "A"]) -> Int[np.ndarray, "r"]:
    return np.repeat(np.arange(len(codes)), times[codes])


def _over_families(found: Float[np.ndarray, "F D"]) -> Float[np.ndarray, "D"]:
    known = np.isfinite(found)
    return _ratio(np.where(known, found, 0.0).sum(axis=0), known.sum(axis=0).astype(float))


def _ratio(total: Float[np.ndarray, "..."], count: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.where(count > 0, total / np.where(count > 0, count, 1.0), np.nan)


def _estimate(draws: Float[np.ndarray, "D"]) -> Estimate | None:
    """The sample's value and the interval of its draws; None where there was nothing to measure."""
    if not np.isfinite(draws[0]):
        return None
    known = draws[1:][np.isfinite(draws[1:])]
    low, high = np.quantile(known, INTERVAL) if len(known) else (draws[0], draws[0])
    return Estimate(float(draws[0]), float(low), float(high))
