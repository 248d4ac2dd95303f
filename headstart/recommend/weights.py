"""How much a probe's surprise is worth: weights learnt from pairs that were both probed and finetuned.

    z_mt = mu_t + s_t f_m + sum_k w_k r_mtk + e_mt,      w_k >= 0,  w_k ~ N(0, PRIOR / K) before any such pair

z and the left part are the posterior's; r is the surprise of the pair by method k. The weights are fitted to
what the posterior would have got wrong without the pair's own finetunes: each cell is foretold with its own
share taken out of f, mu and s, so that a weight is what the probe adds to a forecast, and a fit's optimism
is not in it. Ridge regression with Student-t weights. A negative weight would say that of two checkpoints
alike in all else the one that probes worse is better: such a weight is chance, or one method explaining
another away, and is held at zero. K counts the methods with such pairs: methods repeat each other, and it is
their sum that the prior holds back, however many say the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend.t_noise import FREEDOM, RESIDUAL

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

CELLS = 20.0  # cells of a typical residual that the prior sum of zero is worth
PRIOR = RESIDUAL / CELLS
PASSES = 20


class Weights(NamedTuple):
    """One weight a method, in z per standard deviation of surprise."""

    weight: Float[np.ndarray, "K"]
    covariance: Float[np.ndarray, "K K"]  # posterior, were they free of the bound
    cells: Int[np.ndarray, "K"]  # probed and finetuned pairs it was learnt from
    prior: float = PRIOR  # variance of one weight before any

    def shift(self, surprise: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "n"]:
        """What the surprises add to the expected z."""
        return np.asarray(surprise @ self.weight)

    def doubt(self, surprise: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "n"]:
        """What the uncertainty of the weights adds to the variance of z.

        r' (S - S S / prior) r, S their covariance: as much of Var(w) r^2 as there is evidence, none without,
        since the residual of a pair holds what the probes leave open until they are known to tell.
        """
        spread = self.covariance - self.covariance @ self.covariance / self.prior
        free = np.outer(self.weight > 0, self.weight > 0)
        return np.asarray(np.maximum(np.einsum("nk,kl,nl->n", surprise, spread * free, surprise), 0.0))


def learn(
    error: Float[np.ndarray, "c"],
    variance: Float[np.ndarray, "c"],
    surprise: Float[np.ndarray, "c K"],
    known: Bool[np.ndarray, "c K"],
) -> Weights:
    """Fit the weights to the errors of c forecasts, in z, and the surprises of their pairs.

    `variance` is that of each error before the probes are looked at. Without a cell the weights are zero.
    """
    from scipy.optimize import nnls  # noqa: PLC0415 - off the start of the service

    methods = surprise.shape[1]
    prior = PRIOR / max(int(known.any(axis=0).sum()), 1)
    weight, precision = np.zeros(methods), np.eye(methods) / prior
    for _ in range(PASSES if known.any() else 0):
        left = error - surprise @ weight
        trust = (FREEDOM + 1) / (FREEDOM + left**2 / variance) / variance
        precision = (surprise * trust[:, None]).T @ surprise + np.eye(methods) / prior
        root = np.linalg.cholesky(precision)  # |root' w - root^-1 b|^2 = w' P w - 2 b' w + const
        weight, _ = nnls(root.T, np.linalg.solve(root, surprise.T @ (trust * error)))
    return Weights(weight, np.linalg.inv(precision), known.sum(axis=0), prior)
