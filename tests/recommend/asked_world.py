"""A family half measured, and one target of it that few or none were measured on."""

from __future__ import annotations

import numpy as np

from tests.recommend.model_world import World, targets_of, world_of

ASKED = 3  # position of the target
ROWS = np.arange(1, 151)


def sample(before: int, after: int, seed: int = 0) -> tuple[World, np.ndarray, np.ndarray]:
    """A family half measured, but on the asked target `before` checkpoints; and which `after` come next."""
    world = world_of(targets_of(seed, 12), seed, checkpoints=150)
    rng = np.random.default_rng(seed)
    seen, order = rng.random(world.run.shape) < 0.5, rng.permutation(150)
    seen[:, ASKED] = False
    seen[order[:before], ASKED] = True
    return world, seen, np.sort(order[before : before + after])
