"""Does the fit know how sure it is? Its own 80 % intervals, held against cells they were made without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.t_noise import T_QUANTILE_90

if TYPE_CHECKING:
    from jaxtyping import Float

ALLOWED = (0.70, 0.90)  # share of cells that an 80 % interval may hold before it is said to be off
FEWEST = 30  # cells below which nothing can be told
WIDEST = 5.0  # times that intervals are widened at most


def calibrate(errors: Float[np.ndarray, "n"]) -> Float[np.ndarray, "3"]:
    """Coverage of the 80 % interval, the number of cells, and by how much every interval has to be widened.

    `errors`: of each cell, foretold without itself, in units of its forecast's scale (Student t_6). Coverage
    counts as off when its 95 % interval (Wilson 1927) leaves ALLOWED altogether. Then, where it is too small,
    the widening is the factor that makes 80 % of these cells fall inside; one that is too large is only told.
    Cells of one checkpoint or target err together, so the interval is that of half as many cells.
    """
    count = len(errors)
    if not count:
        return np.array([np.nan, 0.0, 1.0])
    coverage = float(np.mean(np.abs(errors) <= T_QUANTILE_90))
    _, high = wilson(coverage, count / 2)
    widening = 1.0
    if count >= FEWEST and high < ALLOWED[0]:
        widening = float(np.clip(np.quantile(np.abs(errors), 0.8) / T_QUANTILE_90, 1.0, WIDEST))
    return np.array([coverage, float(count), widening])


def is_off(calibration: Float[np.ndarray, "3"]) -> bool:
    """Whether the coverage is known to lie outside ALLOWED."""
    coverage, count, _ = calibration.tolist()
    if count < FEWEST:
        return False
    low, high = wilson(coverage, count / 2)
    return high < ALLOWED[0] or low > ALLOWED[1]


def wilson(share: float, count: float) -> tuple[float, float]:
    """95 % interval of a share seen in `count` trials."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * float(np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)))
    return middle - half, middle + half
