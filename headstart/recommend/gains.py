"""From scores to gains: the robust vanilla of each target, seed noise, one cell per checkpoint and target.

Gains are percentage points: 100 * (score - median of the vanilla's runs), same target and family
(Choshen et al. 2023, arXiv 2211.00107, with the median where the paper takes the mean: published vanilla
runs contain failures).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstart.statistics import robust_spread

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from headstart.recommend.evidence import FamilyEvidence


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vanilla:
    """The vanilla on each of T targets, in points (0..100). NaN where it was never run."""

    level: Float[np.ndarray, "T"]  # median of the runs
    runs: Int[np.ndarray, "T"]
    noise: Float[np.ndarray, "T"]  # standard deviation between seeds, shrunk


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """One mean gain per measured (checkpoint, target), the vanilla apart."""

    checkpoint: Int[np.ndarray, "n"]
    target: Int[np.ndarray, "n"]
    gain: Float[np.ndarray, "n"]  # points, mean over the runs
    runs: Int[np.ndarray, "n"]
    stderr: Float[np.ndarray, "n"]  # points; NaN: not told


def vanilla_levels(evidence: FamilyEvidence) -> Vanilla:
    """Median and seed noise of the vanilla's runs on each target.

    Where a protocol with several runs and one with a single run exist, they count alike, run by run.
    """
    count = len(evidence.target_ids)
    level, noise = np.full(count, np.nan), np.full(count, np.nan)
    runs = np.zeros(count, dtype=np.int64)
    if evidence.vanilla is not None:
        own = evidence.checkpoint == evidence.vanilla
        for t in np.unique(evidence.target[own]):
            values = 100 * evidence.value[own & (evidence.target == t)]
            level[t] = np.median(values)
            runs[t] = len(values)
            noise[t] = seed_noise(values, float(evidence.target_rows[t]))
    known = noise[np.isfinite(noise)]
    noise[(runs > 0) & np.isnan(noise)] = np.median(known) if len(known) else 1.0
    return Vanilla(level=level, runs=runs, noise=noise)


def seed_noise(values: Float[np.ndarray, "n"], rows_tested: float) -> float:
    """Standard deviation between seeds, in points, from runs of one checkpoint on one target.

    Failed runs (further than max(4 * MAD, 2 points) from the median) are left out; the variance is
    shrunk with the weight of 4 runs towards the binomial variance of the test split. NaN when there is
    neither a second run nor a test size.
    """
    median = np.median(values)
    kept = values[np.abs(values - median) <= max(4 * robust_spread(values), 2.0)]
    share = median / 100
    binomial = 1e4 * share * (1 - share) / rows_tested
    if len(kept) < 2:
        return float(np.sqrt(binomial))
    variance = float(np.var(kept, ddof=1))
    if np.isnan(binomial):
        return float(np.sqrt(max(variance, 1e-4)))
    freedom = len(kept) - 1
    return float(np.sqrt(max((freedom * variance + 4 * binomial) / (freedom + 4), 1e-4)))


def gain_cells(evidence: FamilyEvidence, vanilla: Vanilla) -> Cells:
    """Mean gain per (checkpoint, target) over all runs in force, where the vanilla is known."""
    use = np.isfinite(vanilla.level[evidence.target])
    if evidence.vanilla is not None:
        use &= evidence.checkpoint != evidence.vanilla
    width = max(len(evidence.target_ids), 1)
    keys, inverse, runs = np.unique(
        evidence.checkpoint[use] * width + evidence.target[use], return_inverse=True, return_counts=True
    )
    target = keys % width
    total = np.bincount(inverse, weights=100 * evidence.value[use], minlength=len(keys))
    variance = np.bincount(inverse, weights=(100 * evidence.stderr[use]) ** 2, minlength=len(keys))
    return Cells(
        checkpoint=keys // width,
        target=target,
        gain=total / np.maximum(runs, 1) - vanilla.level[target],
        runs=runs,
        stderr=np.sqrt(variance) / np.maximum(runs, 1),
    )


def robust_scale(values: Float[np.ndarray, "n"]) -> float:
    """The larger of the interquartile range / 1.349 and the standard deviation within [q05, q95]."""
    q05, q25, q75, q95 = np.quantile(values, [0.05, 0.25, 0.75, 0.95])
    return max(float((q75 - q25) / 1.349), float(np.clip(values, q05, q95).std()))
