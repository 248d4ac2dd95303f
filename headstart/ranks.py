"""Correlations between predictions and values, with their standard error and null. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float

    Correlation = Callable[[Float[np.ndarray, "n"], Float[np.ndarray, "n"]], float]


def ranks(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def pearson(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float:
    """Linear correlation, -1..1; 0.0 where either is constant, for that says nothing of the other."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - np.mean(a), b - np.mean(b)
    a, b = a / np.max(np.abs(a)), b / np.max(np.abs(b))  # squares of tiny values would vanish
    return float(np.clip(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)), -1.0, 1.0))


def spearman(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float:
    """Rank correlation, -1..1, ties at their mean rank; 0.0 where either is constant."""
    return pearson(ranks(a), ranks(b))


CORRELATIONS: dict[str, Correlation] = {"spearman": spearman, "pearson": pearson}


def correlation_named(metric: str | None) -> str:
    """Which of CORRELATIONS suits a target of this metric: its own, or else Spearman's."""
    return metric if metric in CORRELATIONS else "spearman"


def bootstrap_stderr(
    statistic: Correlation,
    a: Float[np.ndarray, "n"],
    b: Float[np.ndarray, "n"],
    rng: np.random.Generator,
    draws: int = 200,
) -> float:
    """Standard deviation of the statistic over rows drawn with replacement (Efron 1979)."""
    found = []
    for _ in range(draws):
        rows = rng.integers(len(a), size=len(a))
        found.append(statistic(a[rows], b[rows]))
    return float(np.std(found, ddof=1))
