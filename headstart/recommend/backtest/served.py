"""The engine that the service answers with, as the protocols ask it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend import choice, decide, plan
from headstart.recommend.condition import conditioned, view_of
from headstart.recommend.fit import fit
from headstart.recommend.t_noise import FREEDOM
from headstart.recommend.views import transform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int

    from headstart.recommend.backtest.material import Material
    from headstart.recommend.decide import Forecast
    from headstart.recommend.evidence import FamilyEvidence
    from headstart.recommend.posterior import Posterior
    from headstart.recommend.views import View


class Served:
    """See Engine. The fits are those of `fit`."""

    def fit(self, evidence: FamilyEvidence, others: Sequence[FamilyEvidence]) -> ServedFit:
        """See Engine."""
        return ServedFit(fit(evidence, others))


class Seen(NamedTuple):
    """A target, and the posterior that has seen what was measured on it."""

    posterior: Posterior
    view: View


@dataclass(frozen=True, slots=True, eq=False)
class ServedFit:
    """See Fitted: every answer is the one that the service would give."""

    posterior: Posterior

    def quality(self) -> Float[np.ndarray, "C"]:
        """See Fitted."""
        return self.posterior.quality.astype(float)

    def unseen(self, material: Material, target: int) -> Seen:
        """See Fitted: likeness by training rows and classes, where they are known."""
        size, classes = material.train_sizes, material.classes
        weights = decide.likeness(size, classes, _known(size[target]), _known(classes[target]))
        return Seen(self.posterior, decide.unseen_view(self.posterior, weights))

    def known(self, target: int) -> Seen:
        """See Fitted."""
        return Seen(self.posterior, view_of(self.posterior, target))

    def warm(self, target: int, rows: Int[np.ndarray, "k"], gains: Float[np.ndarray, "k"]) -> Seen:
        """See Fitted."""
        order = np.argsort(rows)
        told = conditioned(self.posterior, target, rows[order], gains[order]) if len(rows) else self.posterior
        return Seen(told, view_of(told, target))

    def gain(self, seen: Seen, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """See Fitted."""
        found, widening = (
            decide.moments(seen.posterior, seen.view, rows),
            float(seen.posterior.calibration[2]),
        )
        return decide.expected(seen.view, found.mean, widening**2 * found.variance)

    def forecast(self, seen: Seen, rows: Int[np.ndarray, "n"]) -> Forecast:
        """See Fitted."""
        return decide.forecast(seen.posterior, seen.view, rows)

    def pick(self, seen: Seen, rows: Int[np.ndarray, "n"], tried: Int[np.ndarray, "k"]) -> int:
        """See Fitted: `plan.pick_next`."""
        found = decide.predict(seen.posterior, seen.view, rows)
        widening = float(seen.posterior.calibration[2])
        joint = choice.joint(seen.view, found, widening)
        spread = plan.spread_in_points(seen.view, joint)
        chosen = plan.pick_next(found.gain, spread, np.isin(rows, tried))
        if chosen is None:
            raise ValueError("all checkpoints were tried")
        return int(rows[chosen])

    def draw(
        self, target: int, rows: Int[np.ndarray, "n"], rng: np.random.Generator
    ) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """See Fitted: f, (mu, s), what the pair repeats and a run's noise are drawn as the fit has them."""
        fitted = self.posterior
        known = decide.factors_of(fitted, rows)
        root = np.linalg.cholesky(known.covariance + 1e-9 * np.eye(known.mean.shape[1]))
        f = known.mean + np.einsum("nij,nj->ni", root, rng.standard_normal(known.mean.shape))
        theta = np.append(fitted.mean[target], fitted.loadings[target])
        theta = rng.multivariate_normal(theta, fitted.uncertainty[target])
        residual, share = float(fitted.residual[target]), float(fitted.repeatable[target])
        z = theta[0] + f @ theta[1:] + np.sqrt(share * residual) * rng.standard_t(FREEDOM, len(rows))
        noise = np.sqrt((1 - share) * residual) * rng.standard_normal(len(rows))
        to_points, level = transform(fitted, target).gain, float(fitted.level[target])
        true, shown = (
            np.clip(to_points(one), min(-level, 0.0), max(100.0 - level, 0.0)) for one in (z, z + noise)
        )
        return true, shown


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
