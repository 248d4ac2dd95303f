"""Evidence from plain matrices, for tests of the maths."""

from __future__ import annotations

import dataclasses

import numpy as np

from headstart.recommend.evidence import FamilyEvidence

METHODS = ("linear_probe", "logme", "knn", "free_energy")


def evidence_of(
    gains: np.ndarray,
    *,
    probe: np.ndarray | None = None,
    vanilla_level: float = 0.7,
    vanilla_runs: int = 20,
    seed_noise: float = 0.3,
    rows_tested: float = np.nan,
    seed: int = 0,
    seeds: int = 1,
) -> FamilyEvidence:
    """A family with the vanilla at position 0 and `gains` (points, NaN: not measured) below it.

    The vanilla has `vanilla_runs` runs per target whose median is exactly `vanilla_level`; every cell is
    stored `seeds` times. `probe`: one value per checkpoint, the vanilla first; None: nobody was probed.
    What the checkpoints are is unknown.
    """
    rng = np.random.default_rng(seed)
    checkpoints, targets = gains.shape[0] + 1, gains.shape[1]
    rows, columns, seeds_of, values = [], [], [], []
    for t in range(targets):
        runs = seed_noise / 100 * rng.normal(size=vanilla_runs)
        runs += vanilla_level - (np.median(runs) if vanilla_runs else 0)
        for k, value in enumerate(runs):
            rows.append(0), columns.append(t), seeds_of.append(k), values.append(value)
    for m, t in zip(*np.nonzero(np.isfinite(gains)), strict=True):
        for k in range(seeds):
            rows.append(m + 1), columns.append(t), seeds_of.append(k)
            values.append(vanilla_level + gains[m, t] / 100)
    count = len(values)
    probed = np.array([], dtype=int) if probe is None else np.flatnonzero(np.isfinite(probe))
    return FamilyEvidence(
        family="base",
        evidence_version=7,
        checkpoint_ids=np.arange(checkpoints) + 100,
        checkpoint_names=("base", *(f"m{i}" for i in range(checkpoints - 1))),
        vanilla=0,
        parameters=np.full(checkpoints, np.nan),
        layers=np.full(checkpoints, np.nan),
        classification=np.full(checkpoints, np.nan),
        modified=np.full(checkpoints, np.nan),
        target_ids=np.arange(targets) + 500,
        target_names=tuple(f"t{t}" for t in range(targets)),
        target_rows=np.full(targets, rows_tested),
        checkpoint=np.array(rows, dtype=int),
        target=np.array(columns, dtype=int),
        protocol=np.zeros(count, dtype=int),
        seed=np.array(seeds_of, dtype=int),
        value=np.array(values, dtype=float),
        stderr=np.full(count, np.nan),
        rows_tested=np.full(count, rows_tested),
        created=np.full(count, 1e9),
        probe_methods=METHODS,
        probed_checkpoint=probed,
        probed_target=np.zeros(len(probed), dtype=int),
        probe_method=np.zeros(len(probed), dtype=int),
        probe_protocol=np.zeros(len(probed), dtype=int),
        probe_stderr=np.full(len(probed), np.nan),
        probe_value=np.array([]) if probe is None else probe[probed],
        probe_created=np.full(len(probed), 2e9),
    )


def probed(
    evidence: FamilyEvidence,
    values: np.ndarray,
    *,
    target: int,
    method: str = "logme",
    protocol: int = 0,
    stderr: float = np.nan,
    created: float = 2e9,
) -> FamilyEvidence:
    """The evidence and one more group of probes: a value per checkpoint, the vanilla first, NaN: none."""
    at = np.flatnonzero(np.isfinite(values))
    more = {
        "probed_checkpoint": at,
        "probed_target": np.full(len(at), target),
        "probe_method": np.full(len(at), METHODS.index(method)),
        "probe_protocol": np.full(len(at), protocol),
        "probe_value": values[at],
        "probe_stderr": np.full(len(at), stderr),
        "probe_created": np.full(len(at), created),
    }
    return dataclasses.replace(
        evidence, **{name: np.concatenate([getattr(evidence, name), one]) for name, one in more.items()}
    )


def world(
    seed: int = 0, checkpoints: int = 300, targets: int = 24, noise: float = 0.6
) -> dict[str, np.ndarray]:
    """Gains drawn from the model, with the truth beside them."""
    rng = np.random.default_rng(seed)
    probe = rng.normal(size=checkpoints)
    quality = 0.8 * probe + rng.normal(size=checkpoints)
    sensitivity = rng.uniform(0.3, 1.2, size=targets)
    mean = rng.normal(scale=0.3, size=targets)
    scale = np.exp(rng.normal(scale=0.7, size=targets)) * 1.5
    true_z = (
        mean + np.outer(quality, sensitivity) + noise * np.sqrt(0.7) * rng.normal(size=(checkpoints, targets))
    )
    z = true_z + noise * np.sqrt(0.3) * rng.normal(size=true_z.shape)
    return {
        "gains": scale * np.sinh(z),
        "beyond": true_z - mean - np.outer(quality, sensitivity),  # the repeatable part of each pair, in z
        "true_gains": scale * np.sinh(true_z),
        "probe": np.concatenate([[0.5], 0.5 + 0.05 * probe]),
        "quality": quality,
        "sensitivity": sensitivity,
        "scale": scale,
    }
