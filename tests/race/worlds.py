"""Worlds to race in: true gains, and learning curves on top of them, drawn before anybody runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from headstart.race.field import Field
from headstart.race.policy import End, Step, next_step
from headstart.race.prior import Prior, ignorant
from headstart.race.runs import Run

EVALUATIONS, PATIENCE, EPSILON = 10, 3, 0.001
VANILLA = 100  # the checkpoint's id; candidates follow


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """`gain` of n + 1 candidates, the vanilla's 0 first; points."""

    gain: np.ndarray
    prior: Prior
    level: float = 70.0  # of the vanilla
    noise: float = 0.8  # of a run's end by its seed
    wobble: float = 0.4  # of one evaluation
    speed: float = 1.5  # evaluations in which a curve comes 1 - 1/e of its way, typically
    spread: float = 0.4  # of log speed: large, and curves cross
    ahead: float = 0.5  # points at the start for a point of gain
    seed: int = 0
    collapses: frozenset[tuple[int, int]] = frozenset()  # (place, seed)
    parameters: tuple[float, ...] = ()
    names: tuple[int, ...] = ()  # ids of the checkpoints
    start: float = 50.0  # of every curve
    rows: int = 2000  # to validate on

    @property
    def ids(self) -> tuple[int, ...]:
        return self.names or tuple(VANILLA + k for k in range(len(self.gain)))

    def curve(self, place: int, seed: int) -> tuple[float, ...]:
        """Fractions, until patience ends it."""
        rng = np.random.default_rng([self.seed, place, seed])
        speed = self.speed * np.exp(self.spread * np.random.default_rng([self.seed, place]).normal())
        end = self.level + self.gain[place] + self.noise * rng.normal()
        start = min(self.start, self.level) + self.ahead * self.gain[place]
        k = np.arange(1, EVALUATIONS + 1)
        values = end + (start - end) * np.exp(-k / speed) + self.wobble * rng.normal(size=EVALUATIONS)
        values = np.clip(values / 100, 0.01, 1.0)
        best, idle, kept = -1.0, 0, []
        for value in values.tolist():
            kept.append(value)
            best, idle = (value, 0) if value > best + EPSILON else (best, idle + 1)
            if idle == PATIENCE:
                break
        return tuple(kept)

    def run(self, place: int, seed: int, evaluations: int | None = None) -> Run:
        """So far."""
        curve = self.curve(place, seed)
        ended = evaluations is None or evaluations >= len(curve)
        told = curve if ended else curve[:evaluations]
        size = self.parameters[place] if self.parameters else 1.0
        return Run(
            checkpoint_id=self.ids[place],
            seed=seed,
            curve=told,
            validation=max(told) if ended else None,
            collapsed=ended and (place, seed) in self.collapses,
            seconds=10.0 * size * len(told),
            steps=10 * len(told),
            steps_planned=10 * EVALUATIONS,
        )

    def field(self, **changes: object) -> Field:
        """Nobody has run."""
        blank = Field(
            ids=self.ids,
            parameters=self.parameters or (1.0,) * len(self.gain),
            prior=self.prior,
            patience=PATIENCE,
            epsilon=EPSILON,
            validation_rows=self.rows,
        )
        return replace(blank, **changes)  # type: ignore[arg-type]

    @property
    def cost_of_all(self) -> float:
        return sum(self.run(place, 0).seconds for place in range(len(self.gain)))

    def regret(self, place: int) -> float:
        return float(self.gain.max() - self.gain[place])


def raced(world: World, **changes: object) -> tuple[Field, End, list[Step]]:
    """From nothing to the end."""
    at, steps = world.field(**changes), []
    while isinstance(step := next_step(at), Step):
        steps.append(step)
        at = at.with_run(world.run(step.place, step.seed, step.evaluations))
        assert len(steps) < 500
    return at, step, steps


def drawn(seed: int, candidates: int = 12, **changes: object) -> World:
    """From a prior that is right: what is expected of a candidate comes true as the target is sensitive."""
    rng = np.random.default_rng([7, seed])
    mean = rng.normal(scale=1.2, size=candidates)
    sensitivity = rng.normal(1.0, 0.6)
    gain = sensitivity * mean + rng.normal(size=candidates)
    prior = Prior(
        checkpoint_ids=tuple(VANILLA + k for k in range(candidates + 1)),
        gain=np.append(0.0, mean),
        covariance=_bordered(0.36 * np.outer(mean, mean) + np.eye(candidates)),
        noise=0.8,
    )
    world = World(gain=np.append(0.0, gain), prior=prior, seed=seed)
    return replace(world, **changes)  # type: ignore[arg-type]


def unknown(seed: int, candidates: int = 12, spread: float = 2.0, **changes: object) -> World:
    """Nothing is known beforehand."""
    rng = np.random.default_rng([8, seed])
    gain = np.append(0.0, rng.normal(scale=spread, size=candidates))
    blank = ignorant(tuple(VANILLA + k for k in range(candidates + 1)))
    return replace(World(gain=gain, prior=blank, seed=seed), **changes)  # type: ignore[arg-type]


def _bordered(covariance: np.ndarray) -> np.ndarray:
    found = np.zeros((len(covariance) + 1, len(covariance) + 1))
    found[1:, 1:] = covariance
    return found
