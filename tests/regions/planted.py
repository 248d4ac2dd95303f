"""Sketches of task vectors whose regions are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

DIMS = 8192  # cosines have a standard error of 0.011


def planted(
    sizes: Sequence[int],
    *,
    within: float = 0.25,
    lone: int = 0,
    tasks: Sequence[int] | None = None,
    across: float = 0.0,
    drift: float = 0.0,
    uneven: float = 0.0,
    dims: int = DIMS,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Sketches (n, dims) in a random order, and the region of each, -1 for one that is like no other.

    Members have a cosine of `within` with those of their region, of `across` with those of another region of
    the same task, and `drift` with everybody on top. `uneven`: how much strengths of members differ.
    """
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(lone, -1)]).astype(int)
    rng.shuffle(truth)
    centres = rng.normal(size=(len(sizes), dims))
    if tasks is not None:
        common = rng.normal(size=(max(tasks) + 1, dims))[list(tasks)]
        centres = np.sqrt(1 - across / within) * centres + np.sqrt(across / within) * common
    everybody = rng.normal(size=dims)
    sketches = np.empty((len(truth), dims))
    for row, region in enumerate(truth):
        strength = within * (1 + uneven * rng.uniform(-1, 1)) if region >= 0 else 0.0
        own = np.sqrt(1 - strength - drift) * rng.normal(size=dims)
        shared = np.sqrt(strength) * centres[region] if region >= 0 else 0.0
        norm = rng.uniform(0.1, 10)  # how long it was trained has no say
        sketches[row] = norm * (own + shared + np.sqrt(drift) * everybody)
    return sketches.astype(np.float32), truth


def recovered(labels: np.ndarray, truth: np.ndarray) -> bool:
    """Whether these are the very groups, whatever their numbers, and the others in none."""
    pairs = {(a, b) for a, b in zip(labels.tolist(), truth.tolist(), strict=True)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) and all(
        (a < 0) == (b < 0) for a, b in pairs
    )
