"""From z to points: expectation, quantiles and probabilities of the true gain under a view's K components.

Under component k the gain's z is m_k + s_k t, t of Student's t with 6 degrees of freedom, and the inverse of
its transform turns that into points. Means and spreads are (n, K): n checkpoints, K components.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.t_noise import t_cdf
from headstart.recommend.views import NORMAL

if TYPE_CHECKING:
    from jaxtyping import Float

    from headstart.recommend.views import View

NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(11)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()
STEPS = 40  # at most, to a quantile of a mixture; about 7 are taken
CLOSE = 1e-5  # a quantile's probability is met to this


def expected(
    view: View, mean: Float[np.ndarray, "n K"], variance: Float[np.ndarray, "n K"]
) -> Float[np.ndarray, "n"]:
    """Expected gain in points; `variance`: the spread squared."""
    return np.asarray(expected_of_each(view, mean, variance) @ view.weights)


def expected_of_each(
    view: View, mean: Float[np.ndarray, "n K"], variance: Float[np.ndarray, "n K"]
) -> Float[np.ndarray, "n K"]:
    """The same under each component, by 11-node Gauss-Hermite quadrature in z.

    The tails are those of a normal that counts like the Student's t (`views.NORMAL`): under the latter the
    mean of an exponential tail does not exist. Every node is cut to what leaves the score within 0..100.
    """
    spread = np.sqrt(NORMAL * variance)
    gain = view.transforms.gain(mean[:, None] + spread[:, None] * NODES[:, None])
    return np.asarray(np.einsum("q,nqk->nk", NODE_WEIGHTS, np.clip(gain, *view.bounds)))


def p_exceeds(
    view: View, mean: Float[np.ndarray, "K"], spread: Float[np.ndarray, "K"], worth: float
) -> float:
    """P(true gain > worth points) of one checkpoint, from its row of `Prediction.mean` and `.spread`."""
    least, most = view.bounds
    if not least <= worth < most:
        return float(worth < least)
    if len(mean) == 1:
        return t_cdf((float(mean[0]) - view.transforms.z_of_one(worth)) / float(spread[0]))
    return float(t_cdf((mean - view.transforms.z(np.array([worth]))[0]) / spread) @ view.weights)


def exceeds(
    view: View,
    mean: Float[np.ndarray, "n K"],
    spread: Float[np.ndarray, "n K"],
    gain: Float[np.ndarray, "n|1"],
) -> Float[np.ndarray, "n"]:
    """P(gain > points) of each checkpoint, each against its own points or all against the same.

    No score can be above 100 or below 0: beyond these bounds it is 0 or 1.
    """
    least, most = view.bounds
    found = _above(view, mean, spread, gain)
    return np.asarray(np.where(gain >= most, 0.0, np.where(gain < least, 1.0, found)))


def _above(
    view: View,
    mean: Float[np.ndarray, "n K"],
    spread: Float[np.ndarray, "n K"],
    gain: Float[np.ndarray, "n|1"],
) -> Float[np.ndarray, "n"]:
    """The same without the bounds: continuous, so that quantiles can be searched for."""
    return np.asarray(t_cdf((mean - view.z(gain)) / spread) @ view.weights)


def quantiles(
    view: View,
    mean: Float[np.ndarray, "n K"],
    spread: Float[np.ndarray, "n K"],
    levels: Float[np.ndarray, "L"],
    at: Float[np.ndarray, "L"],
) -> Float[np.ndarray, "n L"]:
    """Gains in points at these probabilities. `at`: the same quantiles of Student's t.

    Of one component by its transform; of many as the root of P(gain <= x) - level between the outermost
    quantiles of the components, by regula falsi (Illinois: Dowell & Jarratt 1971).
    """
    each = view.transforms.gain(mean[:, None] + spread[:, None] * at[:, None])
    found = each[:, :, 0]
    if each.shape[2] > 1:
        rows, size, components = each.shape
        mean, spread = np.repeat(mean, size, axis=0), np.repeat(spread, size, axis=0)
        apart = each.reshape(rows * size, components).T
        found = _root(view, mean, spread, apart, np.tile(levels, rows)).reshape(rows, size)
    return np.asarray(np.clip(found, *view.bounds))


def _root(
    view: View,
    mean: Float[np.ndarray, "m K"],
    spread: Float[np.ndarray, "m K"],
    each: Float[np.ndarray, "K m"],
    level: Float[np.ndarray, "m"],
) -> Float[np.ndarray, "m"]:
    """Where P(gain <= x) is `level`, from each component's own quantile."""
    low, high = each.min(axis=0), each.max(axis=0)
    at_low, at_high = -level, 1 - level
    x: Float[np.ndarray, "m"] = view.weights @ each
    side = np.zeros(len(level))
    for _ in range(STEPS):
        error = 1 - _above(view, mean, spread, x) - level
        if np.abs(error).max(initial=0.0) < CLOSE:
            break
        below = error < 0
        # an end kept twice in a row counts half, which pulls the next step over to its side
        at_high = np.where(below, np.where(side < 0, at_high / 2, at_high), error)
        at_low = np.where(below, error, np.where(side > 0, at_low / 2, at_low))
        low, high = np.where(below, x, low), np.where(below, high, x)
        side = np.where(below, -1.0, 1.0)
        x = (low * at_high - high * at_low) / np.maximum(at_high - at_low, 1e-300)
    return x
