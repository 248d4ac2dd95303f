"""How much each of several checkpoints counts in a mean of them, by what each is expected to gain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.levels import NORMAL_QUANTILE_90

if TYPE_CHECKING:
    from jaxtyping import Float

    from headstart.recommend.decide import Prediction

NORMAL_80 = 2 * NORMAL_QUANTILE_90  # standard deviations that an 80 % interval of a Gaussian is wide
LEAST_SPREAD = 1e-3  # points
LOWEST = -700.0  # spreads; exp of less is 0


def shares_by_gain(found: Prediction) -> Float[np.ndarray, "n"]:
    """Weights of n checkpoints, above 0 and summing to 1: softmax of their expected gains over the spread.

        w_i = exp(g_i / s) / sum_j exp(g_j / s),   s = root mean square of the spreads of the gains

    g in points. One that is expected to gain a spread more than another counts e times as much: where the
    posterior can hardly tell them apart, the weights are near the uniform ones. Ours; the paper's centroid
    (arXiv 2302.04863) is the plain mean.
    """
    widths = (found.high - found.low) / NORMAL_80
    spread = max(float(np.sqrt(np.mean(widths**2))), LEAST_SPREAD)
    scaled = (found.gain - found.gain.max()) / spread
    raised = np.exp(np.maximum(scaled, LOWEST))
    return np.asarray(raised / raised.sum())
