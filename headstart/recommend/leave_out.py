"""A checkpoint's factors without one of its cells, exactly: the cell's precision is taken back out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float


def without(
    factors: Float[np.ndarray, "n K"],
    covariance: Float[np.ndarray, "n K K"],
    loadings: Float[np.ndarray, "n K"],
    precision: Float[np.ndarray, "n"],
    error: Float[np.ndarray, "n"],
) -> tuple[Float[np.ndarray, "n K"], Float[np.ndarray, "n K K"]]:
    """Mean and covariance of f before the cell z = mu + s'f + e, e of variance 1 / precision, was seen.

    `error` is z - mu - s'f at the mean that has seen it. With q = s'Vs (Sherman & Morrison 1950):
    V' = V + p Vs s'V / (1 - pq),  f' = f - p Vs error / (1 - pq). pq < 1, since V holds the cell.
    """
    along = np.einsum("nij,nj->ni", covariance, loadings)
    share = precision * np.einsum("ni,ni->n", loadings, along)
    gain = precision / np.maximum(1 - share, 1e-9)
    before = covariance + gain[:, None, None] * along[:, :, None] * along[:, None, :]
    return factors - (gain * error)[:, None] * along, before
