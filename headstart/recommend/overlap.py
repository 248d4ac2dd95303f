"""The difference of two means whose runs partly share seeds, and how much a shared seed makes them agree.

At one seed of one protocol the vanilla and a candidate see the same order of rows and the same new head:

    candidate = level + gain + b_s + e_s,   vanilla = level + b_s + e'_s,   kappa = var b / (var b + var e)

kappa is the correlation of the two at a seed, and the slope of one on the other. Everything here is in
units of the seed noise (variance 1 a run); all functions are pure and elementwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

PRIOR = 10.0  # seed deviations of a vanilla that nothing followed: what kappa is shrunk to zero with
MOST = 0.95  # kappa is held below: a difference of finite runs is never exact
OUTLIER = 4.0  # standard deviations at which a deviation is cut before kappa is estimated


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Difference:
    """How to weigh the runs of each of G groups (one checkpoint, target and protocol), and what is left.

    gain = paired * (mean of the paired runs) + (1 - paired) * (mean of the others)
           - level - control * (mean of the vanilla's paired runs - level)
    """

    paired: Float[np.ndarray, "G"]  # 0..1
    control: Float[np.ndarray, "G"]  # 0..1; kappa where all the candidate's runs are paired
    own: Float[np.ndarray, "G"]  # variance of the gain that comes with the candidate's runs
    common: Float[np.ndarray, "G"]  # and with the vanilla's, the same for all candidates
    seeds: Float[np.ndarray, "G"]  # the part of `own` that candidates with the same seeds have in common


def difference(
    kappa: float,
    *,
    paired: Float[np.ndarray, "G"],
    alone: Float[np.ndarray, "G"],
    singles: Int[np.ndarray, "G"],
    partners: Int[np.ndarray, "G"],
    others: Int[np.ndarray, "G"],
) -> Difference:
    """Best linear unbiased difference of two partly paired means, for a known kappa.

    Lin & Stivers 1974 (Biometrika 61, 325-334). With no seed in common it is mean - level. With the same
    seeds on both sides it is the mean pairwise difference, whatever kappa. With more seeds of the vanilla's
    it is the control variate of double sampling, with kappa as coefficient (Cochran 1977, section 12.6).

    Args:
        kappa: correlation of two runs at one seed, in [0, 1).
        paired: information of the candidate's runs at seeds that the vanilla ran, in single runs.
        alone: information of its other runs.
        singles: how many these are.
        partners: the vanilla's runs at the shared seeds.
        others: the vanilla's further runs that the level is the median of; 0: the level is the mean of
            the partners.

    Deviations: the level is a median, its variance taken for pi/2 that of a mean from three runs on, its
    covariances for a mean's. `own` and `common` each take half of what both sides share; they add up.
    """
    has = partners > 0
    mine, theirs = np.where(has, paired, 1.0), np.where(has, partners, 1)
    shared = kappa / np.maximum(mine, theirs)  # covariance of the two paired means
    side, far = 1 + alone / mine, 1 + others / theirs
    scale = side * far - shared**2 * alone * others
    weight = np.where(has, (far + shared * alone) / scale, 0.0)
    taken = (side + shared * others) / scale  # the weight of the vanilla's paired runs
    size = np.where(has, partners, 0) + others
    control = np.where(others > 0, 1 - (1 - taken) * size / np.maximum(others, 1), 1.0)
    control = np.where(has, control, 0.0)
    rest = 1 - control
    candidate = weight**2 / mine + (1 - weight) ** 2 / np.where(alone > 0, alone, 1.0)
    level = median_variance(size)
    vanilla = rest**2 * level + has * (control**2 / theirs + 2 * control * rest / np.maximum(size, 1))
    both = has * weight * (control * shared + rest * kappa / np.maximum(np.maximum(size, mine), 1))
    # neither side can have less than what its runs do not share
    own = np.maximum(candidate - both, (1 - kappa) / (alone + np.where(has, paired, 0.0)))
    common = np.maximum(vanilla - both, (1 - kappa) / np.maximum(size, 1))
    effects = shared * weight**2 + kappa * (1 - weight) ** 2 / np.maximum(np.maximum(alone, singles), 1)
    return Difference(
        paired=weight, control=control, own=own, common=common, seeds=np.clip(effects - both, 0.0, own)
    )


def median_variance(runs: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Variance of the median of Gaussian runs: 1 / n for one and two, else pi / 2n, its limit for many."""
    return np.asarray(np.where(runs > 2, np.pi / 2, 1.0) / np.maximum(runs, 1))


def seed_correlation(
    ours: Float[np.ndarray, "n"],
    theirs: Float[np.ndarray, "n"],
    group: Int[np.ndarray, "n"],
    kind: Int[np.ndarray, "G"],
) -> float:
    """Kappa: the slope of candidates' seed deviations on the vanilla's at the same seeds, in [0, MOST].

    Args:
        ours: the candidate's run of each pair, in standard deviations of the seed noise.
        theirs: the vanilla's run at that seed of that protocol.
        group: which of G groups the pair belongs to. Only deviations from a group's mean count.
        kind: target and protocol of each group. Groups of one kind share the vanilla's runs, so
            they count together as one.

    Shrunk to zero with PRIOR deviations: two runs with the same number often share nothing else (seeds
    of imported runs may be their numbers in a file), and a width must not rest on agreement nobody has seen.
    The price is small: where both ran the same seeds the gain does not depend on kappa, only its width.
    """
    size = np.bincount(group, minlength=len(kind))

    def within(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        means = np.bincount(group, weights=values, minlength=len(kind)) / np.maximum(size, 1)
        return np.asarray(np.clip(values - means[group], -OUTLIER, OUTLIER))

    x, y = within(theirs), within(ours)
    _, kind = np.unique(kind, return_inverse=True)
    counted = np.bincount(kind, weights=size > 1)[kind[group]]
    weight = (size[group] > 1) / np.maximum(counted, 1)
    slope = float(np.sum(weight * x * y) / (np.sum(weight * x * x) + PRIOR))
    return min(max(slope, 0.0), MOST)
