"""Student's t with 6 degrees of freedom, in closed form: the noise of the posterior.

About eight times faster than the general incomplete beta function; it is on the path of every answer.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

FREEDOM = 6.0
RESIDUAL = 0.5  # its variance in z before any evidence
T_QUANTILE_90 = 1.4397557472652  # 90 % quantile: half width of an 80 % interval in scale units

Real = TypeVar("Real", float, np.ndarray)


def t_cdf(t: Real) -> Real:
    """P(T <= t), elementwise. For 6 degrees of freedom, with s = t / sqrt(6 + t^2) and c = 1 - s^2:

    F(t) = 1/2 + s/2 (1 + c/2 + 3 c^2/8)   (Abramowitz and Stegun 26.7.4)
    """
    s: Real = t / (FREEDOM + t * t) ** 0.5
    c: Real = 1 - s * s
    p: Real = 0.5 + 0.5 * s * (1 + c * (0.5 + 0.375 * c))
    return p
