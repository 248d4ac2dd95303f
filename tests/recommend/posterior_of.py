"""A small posterior by hand, for tests of what is made of one."""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.recommend.posterior import RANK, Posterior
from headstart.recommend.transform import plain

CHECKPOINTS = 12  # the vanilla is row 0; 1 to 8 are measured
MEASURED = 8
NEVER_RUN = 4  # of the 5 targets: no vanilla, no cell; two checkpoints were probed on it
TYPICAL = np.array([0.0, 0.6, 0.2, 0.1])
TYPICAL_VAR = np.array([0.05, 0.05, 0.04, 0.03])
RESIDUAL = np.array([0.5, 0.6, 0.7, 0.5, 0.5])
REPEATABLE = np.array([0.6, 0.7, 0.5, 0.6, 0.5])
# checkpoint and target of each cell: targets 0 and 1 by all eight, target 2 by four, target 3 by two
PAIRS = np.array([(m, t) for m in range(1, 9) for t in range(4) if t < 2 or m <= 8 >> (t - 1)])


def posterior_of(*, seed: int = 0, **overrides: Any) -> Posterior:
    """Drawn from the model, with factors, covariances and uncertainties that follow from its cells.

    Overrides replace fields as they are: nothing else is brought in line with them.
    """
    rng = np.random.default_rng(seed)
    checkpoint, target = PAIRS.T
    transforms = [plain(0.5 * t - 0.5, 1.0 + t) for t in range(5)]
    theta = TYPICAL + np.sqrt(TYPICAL_VAR) * rng.normal(size=(5, RANK + 1))
    prior = 0.3 * rng.normal(size=(CHECKPOINTS, RANK))
    doubt = 1 + 0.1 * rng.random(CHECKPOINTS)
    drawn = prior + rng.normal(size=prior.shape)
    h = np.column_stack([np.ones(CHECKPOINTS), drawn])
    z = np.einsum("nk,nk->n", h[checkpoint], theta[target])
    z += np.sqrt(RESIDUAL[target]) * rng.normal(size=len(z))
    precision = (0.8 + 0.3 * rng.random(len(z))) / RESIDUAL[target]
    mean, covariance = prior.copy(), np.eye(RANK) * doubt[:, None, None]
    for m in range(1, MEASURED + 1):
        here = np.flatnonzero(checkpoint == m)
        s, left = theta[target[here], 1:], z[here] - theta[target[here], 0]
        covariance[m] = np.linalg.inv(np.eye(RANK) / doubt[m] + (s.T * precision[here]) @ s)
        mean[m] = covariance[m] @ (s.T @ (precision[here] * left) + prior[m] / doubt[m])
    h = np.column_stack([np.ones(CHECKPOINTS), mean])
    uncertainty = np.empty((5, RANK + 1, RANK + 1))
    for t in range(5):
        x, a = h[checkpoint[target == t]], precision[target == t]
        uncertainty[t] = np.linalg.inv((x.T * a) @ x + np.diag(1 / TYPICAL_VAR))
    fields: dict[str, Any] = {
        "evidence_version": 7,
        "vanilla": 0,
        "checkpoint_ids": 100 + np.arange(CHECKPOINTS),
        "factors": mean.astype(np.float32),
        "doubt": doubt.astype(np.float32),
        "quality": (mean @ TYPICAL[1:]).astype(np.float32),
        "finetuned": np.bincount(checkpoint, minlength=CHECKPOINTS),
        "probed": np.arange(CHECKPOINTS) % 3 != 2,
        "newest": np.where(np.arange(CHECKPOINTS) < 10, 1.7e9, np.nan),
        "rows": np.arange(1, MEASURED + 1),
        "covariance": covariance[1 : MEASURED + 1],
        "prior": prior[1 : MEASURED + 1],
        "target_ids": 500 + np.arange(5),
        "level": np.array([60.0, 75.0, 90.0, 55.0, np.nan]),
        "level_runs": np.array([20, 20, 5, 1, 0]),
        "level_stderr": np.array([0.1, 0.1, 0.3, 0.6, np.nan]),
        "noise": np.array([0.4, 0.4, 0.6, 0.6, np.nan]),
        "binomial": np.array([1.5, 1.4, 1.0, 2.0, np.nan]),
        "knots": np.array([one.knots for one in transforms]),
        "knots_z": np.array([one.knots_z for one in transforms]),
        "tail": np.array([one.tail for one in transforms]),
        "mean": theta[:, 0],
        "loadings": theta[:, 1:],
        "uncertainty": uncertainty,
        "residual": RESIDUAL,
        "repeatable": REPEATABLE,
        "measured": np.bincount(target, minlength=5),
        "cell_checkpoint": checkpoint,
        "cell_target": target,
        "cell_gain": np.array([transforms[t].gain(one) for t, one in zip(target, z, strict=True)]),
        "cell_z": z,
        "cell_noise": ((1 - REPEATABLE) * RESIDUAL)[target],
        "cell_precision": precision,
        "cell_runs": np.ones(len(z), dtype=np.int64),
        "reference": 1,
        "probe_methods": ("logme",),
        "probe_weight": np.array([0.3]),
        "probe_weight_stderr": np.array([0.1]),
        "probe_cells": np.array([2]),
        "probe_counts": np.array([[3], [0], [0], [0], [2]]),
        "probe_known": np.array([[3], [0], [0], [0], [2]]),
        "pair_checkpoint": np.array([2, 5, 10, 3, 11]),
        "pair_target": np.array([0, 0, 0, 4, 4]),
        "pair_methods": np.ones(5, dtype=np.int64),
        "pair_shift": np.array([0.3, -0.2, 0.4, 0.25, -0.25]),
        "pair_doubt": np.array([0.01, 0.01, 0.02, 0.01, 0.01]),
        "explained": np.array([0.09, 0.0, 0.0, 0.0, 0.06]),
        "typical_theta": TYPICAL,
        "typical_var": TYPICAL_VAR,
        "typical_residual": 0.55,
        "typical_repeatable": 0.6,
        "scale_line": np.array([0.5, 0.5, 0.6]),
        "centre": np.array([0.1, 0.25]),
        "calibration": np.array([0.8, 20.0, 1.0]),
    }
    return Posterior(**fields | overrides)
