"""How well measures go with transfer, with a bootstrap over settings. Pure functions.

Checkpoints of one setting differ by their seed alone: they are drawn together, for 51 checkpoints of 17
settings say little more about other settings than 17 would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float, Int

    Correlation = Callable[[Float[np.ndarray, "*b n"], Float[np.ndarray, "*b n"]], Float[np.ndarray, "*b"]]

RESAMPLES, TAIL = 2000, 2.5  # percent on either side


def pearson(a: Float[np.ndarray, "*b n"], b: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, "*b"]:
    """Along the last axis; NaN where either is constant."""
    return partial(a, b)


def spearman(a: Float[np.ndarray, "*b n"], b: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, "*b"]:
    """Pearson's of the ranks along the last axis, ties at their mean."""
    return partial(rankdata(a, axis=-1), rankdata(b, axis=-1))


def partial(
    a: Float[np.ndarray, "*b n"], b: Float[np.ndarray, "*b n"], *given: Float[np.ndarray, "*b n"]
) -> Float[np.ndarray, "*b"]:
    """Pearson's correlation of what is left of both when the given ones are regressed out (with a constant).

    NaN where nothing is left of one of them: below a millionth of its standard deviation.
    """
    a, b, *given = (_standardised(one) for one in (a, b, *given))
    basis: list[np.ndarray] = []
    for one in given:  # Gram and Schmidt
        left = _without(one, basis)
        size = np.sqrt(np.mean(left**2, axis=-1, keepdims=True))
        basis.append(np.divide(left, size, out=np.zeros_like(left), where=size > 1e-6))
    a, b = _without(a, basis), _without(b, basis)
    sizes = np.mean(a**2, axis=-1), np.mean(b**2, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.mean(a * b, axis=-1) / np.sqrt(sizes[0] * sizes[1])
    return np.where((sizes[0] > 1e-12) & (sizes[1] > 1e-12), np.clip(found, -1, 1), np.nan)


def partial_ranks(
    a: Float[np.ndarray, "*b n"], b: Float[np.ndarray, "*b n"], *given: Float[np.ndarray, "*b n"]
) -> Float[np.ndarray, "*b"]:
    """The same of the ranks of all."""
    return partial(*(rankdata(one, axis=-1) for one in (a, b, *given)))


def resampled(settings: Sequence[str], seed: int = 0, resamples: int = RESAMPLES) -> Int[np.ndarray, "r n"]:
    """Rows of each resample: settings drawn with replacement, each with all its checkpoints.

    Raises: ValueError where settings have different numbers of checkpoints.
    """
    names, own = np.unique(np.asarray(settings), return_inverse=True)
    counts = np.bincount(own)
    if (counts != counts[0]).any():
        raise ValueError("Each setting needs the same number of checkpoints.")
    rows = np.argsort(own, kind="stable").reshape(len(names), counts[0])
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    return rows[drawn].reshape(resamples, -1)


def interval(
    statistic: Callable[..., Float[np.ndarray, "*b"]],
    columns: Sequence[Float[np.ndarray, "n"]],
    draws: Int[np.ndarray, "r n"],
) -> dict[str, float]:
    """A statistic of some columns and its 95 % interval over resamples of rows."""
    value = float(statistic(*columns))
    found = statistic(*(column[draws] for column in columns))
    found = found[np.isfinite(found)]
    low, high = np.percentile(found, [TAIL, 100 - TAIL]) if len(found) else (np.nan, np.nan)
    return {"value": value, "low": float(low), "high": float(high)}


def between(values: Float[np.ndarray, "n"], settings: Sequence[str]) -> float:
    """Share of variance that settings explain, seeds taken off (ICC of one-way ANOVA); its root bounds r."""
    names, own = np.unique(np.asarray(settings), return_inverse=True)
    groups = [values[own == one] for one in range(len(names))]
    each = len(values) / len(names)
    if each < 2:
        return float("nan")
    within = float(np.mean([np.var(one, ddof=1) for one in groups]))
    among = each * float(np.var([one.mean() for one in groups], ddof=1))
    return max(0.0, (among - within) / (among + (each - 1) * within)) if among or within else float("nan")


def _standardised(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    x = x - x.mean(axis=-1, keepdims=True)
    size = np.sqrt(np.mean(x**2, axis=-1, keepdims=True))
    return np.divide(x, size, out=np.zeros_like(x), where=size > 0)


def _without(x: np.ndarray, basis: list[np.ndarray]) -> np.ndarray:
    for one in (*basis, *basis):  # twice, for rounding
        x = x - np.mean(x * one, axis=-1, keepdims=True) * one
    return x
