"""Robust statistics that evidence and advice both stand on. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float


def robust_spread(values: Float[np.ndarray, "n"]) -> float:
    """Standard deviation from the median absolute deviation, 1.4826 * MAD: exact for Gaussian values."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
