"""A small drawn world, and engines whose results are known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import norm

from headstart.recommend.backtest.material import Material, material_of
from tests.recommend.evidence_of import evidence_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstart.recommend.evidence import FamilyEvidence

NOISE = 0.5  # of one run, points


class World(NamedTuple):
    material: Material
    true: np.ndarray  # C x T, the vanilla's row 0


def world(seed: int = 0, checkpoints: int = 40, targets: int = 8, noise: float = NOISE) -> World:
    """gain = sensitivity * quality + own part, then noise; four authors; the probe tells half of quality."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=checkpoints)
    true = np.outer(quality, rng.uniform(0.5, 2.0, targets)) + 0.5 * rng.normal(size=(checkpoints, targets))
    probe = np.concatenate([[0.5], 0.5 + 0.05 * (quality + rng.normal(size=checkpoints))])
    shown = true + noise * rng.normal(size=true.shape)
    evidence = evidence_of(shown, probe=probe, seed_noise=noise, seed=seed)
    names = ("base", *(f"author{i % 4}/model-{i}" for i in range(checkpoints)))
    material = material_of(replace(evidence, checkpoint_names=names))
    return World(material, np.vstack([np.zeros(targets), true]))


@dataclass(frozen=True)
class Normal:
    """Each row's gain is normal."""

    mean: np.ndarray
    sd: float

    def cdf(self, points: np.ndarray | float) -> np.ndarray:
        return np.asarray(norm.cdf((points - self.mean) / self.sd))

    def quantile(self, levels: np.ndarray) -> np.ndarray:
        return np.asarray(self.mean[:, None] + self.sd * norm.ppf(levels))


@dataclass(frozen=True)
class Fixed:
    """An engine that believes in one matrix of gains, whatever it is shown; it keeps what it was shown."""

    gains: np.ndarray  # C x T
    sd: float = NOISE

    def fit(self, evidence: FamilyEvidence, others: Sequence[FamilyEvidence]) -> FixedFit:
        return FixedFit(self, evidence, tuple(others))


@dataclass(frozen=True)
class FixedFit:
    engine: Fixed
    evidence: FamilyEvidence
    others: tuple[FamilyEvidence, ...]

    def quality(self) -> np.ndarray:
        return np.asarray(self.engine.gains.mean(axis=1))

    def unseen(self, material: Material, target: int) -> Any:
        return self.engine.gains[:, target]

    def known(self, target: int) -> Any:
        return self.engine.gains[:, target]

    def warm(self, target: int, rows: np.ndarray, gains: np.ndarray) -> Any:
        return self.engine.gains[:, target]

    def gain(self, view: Any, rows: np.ndarray) -> np.ndarray:
        return np.asarray(view[rows])

    def forecast(self, view: Any, rows: np.ndarray) -> Normal:
        return Normal(view[rows], self.engine.sd)

    def pick(self, view: Any, rows: np.ndarray, tried: np.ndarray) -> int:
        left = np.setdiff1d(rows, tried)
        return int(left[view[left].argmax()])

    def draw(self, target: int, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        true = self.engine.gains[rows, target]
        return true, true + self.engine.sd * rng.normal(size=len(rows))
