"""Families drawn from the very model that is fitted, with the truth beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.posterior import RANK
from tests.recommend.evidence_of import evidence_of

if TYPE_CHECKING:
    from headstart.recommend.evidence import FamilyEvidence

FINETUNES = ("checkpoint", "target", "protocol", "seed", "value", "stderr", "rows_tested", "created")
LEVEL = 0.7  # of the vanilla on every target
RUNS = 20  # of the vanilla on every target


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What the families of a world have in common."""

    mean: np.ndarray
    loadings: np.ndarray
    residual: np.ndarray  # psi
    repeatable: float  # rho
    scale: np.ndarray  # points


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """One family: C checkpoints without the vanilla, T targets."""

    targets: Targets
    probe: np.ndarray
    factors: np.ndarray
    line: np.ndarray  # mu + s'f
    true: np.ndarray  # gains in points that many seeds would show
    run: np.ndarray  # gains in points of one run of each pair
    again: np.ndarray  # and of another

    def evidence(self, seen: np.ndarray | None = None) -> FamilyEvidence:
        """With one run of each pair in `seen`, and the vanilla's runs as noisy as the candidates'."""
        gains = self.run if seen is None else np.where(seen, self.run, np.nan)
        plain = evidence_of(gains, probe=0.5 + 0.07 * np.append(0.0, self.probe), vanilla_runs=RUNS)
        noise = self.targets.scale * np.sqrt(1.5 * (1 - self.targets.repeatable) * self.targets.residual)
        vanilla, value = plain.checkpoint == 0, plain.value.copy()
        value[vanilla] = LEVEL + (plain.value[vanilla] - LEVEL) / 0.003 * noise[plain.target[vanilla]] / 100
        return replace(plain, value=value)


def targets_of(seed: int = 0, count: int = 20) -> Targets:
    rng = np.random.default_rng(seed)
    return Targets(
        mean=0.2 * rng.normal(size=count),
        loadings=np.column_stack([rng.uniform(0.3, 1.1, count), 0.3 * rng.normal(size=(count, RANK - 1))]),
        residual=rng.uniform(0.15, 0.4, count),
        repeatable=0.7,
        scale=1.5 * np.exp(0.4 * rng.normal(size=count)),
    )


def world_of(targets: Targets, seed: int = 0, checkpoints: int = 300) -> World:
    """Residuals are Student's t with 6 degrees of freedom, a pair's own part and its runs' noise alike."""
    rng = np.random.default_rng(seed)
    probe, factors = rng.normal(size=checkpoints), rng.normal(size=(checkpoints, RANK))
    factors[:, 0] += 0.7 * probe
    line = targets.mean + factors @ targets.loadings.T
    psi = targets.residual / (rng.chisquare(6, line.shape) / 6)
    own, one, two = rng.normal(size=(3, *line.shape))
    true = line + np.sqrt(targets.repeatable * psi) * own
    noise = np.sqrt((1 - targets.repeatable) * psi)
    return World(
        targets=targets,
        probe=probe,
        factors=factors,
        line=line,
        true=targets.scale * np.sinh(true),
        run=targets.scale * np.sinh(true + noise * one),
        again=targets.scale * np.sinh(true + noise * two),
    )


def only(evidence: FamilyEvidence, kept: np.ndarray) -> FamilyEvidence:
    """These finetune scores alone, in this order."""
    return replace(evidence, **{name: getattr(evidence, name)[kept] for name in FINETUNES})


def with_scores(
    evidence: FamilyEvidence, checkpoint: object, target: object, value: object, *, seed: object = 0
) -> FamilyEvidence:
    """The evidence and more finetune scores, of the one protocol."""
    columns = np.broadcast_arrays(checkpoint, target, 0, seed, value, np.nan, np.nan, 1e9)
    more = dict(zip(FINETUNES, (np.atleast_1d(one) for one in columns), strict=True))
    return replace(
        evidence, **{name: np.concatenate([getattr(evidence, name), one]) for name, one in more.items()}
    )
