"""Symmetric matrices of sums over rows: spectrum, shrinkage, Cholesky factor. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

RANK = 1e-12  # eigenvalues below this share of the largest are rounding, and count as 0


def spectrum(
    symmetric: Float[np.ndarray, "w w"], most: int | None = None
) -> tuple[Float[np.ndarray, "r"], Float[np.ndarray, "w r"]]:
    """The eigenvalues that are not rounding, largest first, at most `most`, and their vectors as columns.

    None at all (r = 0) for a matrix of zeros.
    """
    from scipy import linalg  # noqa: PLC0415 - off the start of the service

    width = len(symmetric)
    few = None if most is None or most >= width else (width - most, width - 1)
    values, vectors = linalg.eigh(symmetric, subset_by_index=few, driver="evr" if few else "evd")
    rank = int(np.sum(values > max(RANK * values[-1], 0.0)))
    keep = slice(None, -1 - min(rank, most or rank), -1)
    return values[keep], vectors[:, keep]


def ledoit_wolf(
    covariance: Float[np.ndarray, "w w"], quartic: float, rows: int, features: int
) -> tuple[float, float]:
    """How far to shrink a covariance (0..1), and its mean variance: the multiple of I to shrink to.

    Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, JMVA 88 (2004),
    section 3.2: shrinkage = min(b^2, d^2) / d^2, with d^2 = |S - mu I|^2 and b^2 = mean |x x' - S|^2 / n. The
    sum of |x - mean|^4, `quartic`, is all it takes beside S. `features` may be more than the width of S: rows
    do not vary in the others.
    """
    mean_variance = float(np.trace(covariance)) / features
    square = float(np.sum(covariance**2))
    distance = square - features * mean_variance**2
    error = (quartic / rows - square) / rows
    if error <= 0 or distance <= 0:
        return (0.0 if distance > 0 else 1.0), mean_variance
    return min(error, distance) / distance, mean_variance


def cholesky(symmetric: Float[np.ndarray, "w w"]) -> Float[np.ndarray, "w w"] | None:
    """The lower factor; None where the matrix is singular to rounding."""
    from scipy import linalg  # noqa: PLC0415 - off the start of the service

    try:
        factor = linalg.cholesky(symmetric, lower=True)
    except linalg.LinAlgError:
        return None
    diagonal = np.diag(factor)
    return factor if diagonal.min() ** 2 > RANK * diagonal.max() ** 2 else None
