"""The reference probe: the static prior of a checkpoint's quality, from day one. And free energy beside it.

Linear-probe gain over the family's vanilla on one dataset orders checkpoints without any finetune (Choshen
et al. 2023, arXiv 2211.00107, section 6; theirs is MNLI). Probes of two targets or of two protocols cannot
be compared, so one group of them is chosen, the *reference*; every other probe is a covariate of gains on
its own target (`headstart.recommend.surprises`).

Free energy has a reference of its own, chosen alike. That it orders checkpoints is known of images (Munn &
Wei 2025, arXiv 2410.05612), so it says nothing until the family's own finetunes show what it is worth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend.evidence import FREE_ENERGY, LINEAR_PROBE
from headstart.recommend.gains import robust_scale

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from headstart.recommend.evidence import FamilyEvidence

ENOUGH = 30  # probes that make a full reference; fewer count that much less
TYPICAL_SPREAD = 0.07  # of linear probes in a family, accuracy: 0.062 to 0.086 in the published three
FEWEST = 3  # free energies that are compared
FARTHEST = 4.0  # standard deviations from the median at which a free energy is cut
EQUAL = 1e-9  # a spread below this share of the values is rounding


class Reference(NamedTuple):
    """The scores of a method that the static ranking stands on: those of one target and protocol."""

    target: int  # position in the targets
    protocol: int  # code of the evidence


def reference(evidence: FamilyEvidence, method: str = LINEAR_PROBE) -> Reference | None:
    """The (target, protocol) with most checkpoints scored by the method; None: there is no such score.

    Ties go to one whose vanilla was probed, then to the lowest target id, then to the newest probe. So probes
    on a target of one's own do not displace a published reference, unless they cover as many checkpoints.
    """
    scored = scores_by(evidence, method)
    width = int(evidence.probe_protocol.max(initial=0)) + 1
    group = evidence.probed_target[scored] * width + evidence.probe_protocol[scored]
    ranks = []
    for one in np.unique(group):
        members = np.flatnonzero(scored)[group == one]
        seen = np.bincount(evidence.probed_checkpoint[members], minlength=len(evidence.checkpoint_ids)) > 0
        vanilla = evidence.vanilla is not None and bool(seen[evidence.vanilla])
        target, protocol = divmod(int(one), width)
        newest = float(evidence.probe_created[members].max())
        ranks.append((int(np.count_nonzero(seen)), vanilla, -target, newest, protocol))
    if not ranks:
        return None
    _, _, target, _, protocol = max(ranks)
    return Reference(-target, protocol)


def scores_by(evidence: FamilyEvidence, method: str) -> Bool[np.ndarray, "P"]:
    """Which of the probe scores are those of a method."""
    if method not in evidence.probe_methods:
        return np.zeros(len(evidence.probe_method), dtype=bool)
    return np.asarray(evidence.probe_method == evidence.probe_methods.index(method))


def linear_probes(evidence: FamilyEvidence) -> Bool[np.ndarray, "P"]:
    """Which of the probe scores are linear probes."""
    return scores_by(evidence, LINEAR_PROBE)


def of_reference(evidence: FamilyEvidence, chosen: Reference, method: str) -> Bool[np.ndarray, "P"]:
    """Which of the probe scores are the method's on its reference."""
    own = scores_by(evidence, method) & (evidence.probed_target == chosen.target)
    return np.asarray(own & (evidence.probe_protocol == chosen.protocol))


def mean_by_checkpoint(
    checkpoint: Int[np.ndarray, "n"], values: Float[np.ndarray, "n"], size: int
) -> Float[np.ndarray, "C"]:
    """Mean over the seeds of each of `size` checkpoints; NaN where there is none."""
    found = np.full(size, np.nan)
    seeds = np.bincount(checkpoint, minlength=size)
    total = np.bincount(checkpoint, weights=values, minlength=size)
    known = seeds > 0
    found[known] = total[known] / seeds[known]
    return found


def probe_covariate(evidence: FamilyEvidence, chosen: Reference | None) -> Float[np.ndarray, "C"]:
    """Linear-probe gain over the vanilla's probe, in robust standard deviations; NaN: not probed.

    Only the reference is read. Without a probe of the vanilla the median probe stands in for it. Clipped to
    [-6, 8]. The spread of n < ENOUGH probes leans to TYPICAL_SPREAD, the more so the fewer they are, and the
    covariate is shrunk to n / ENOUGH of itself: a few order checkpoints that nothing else tells apart, and
    hardly move an answer that stands on finetunes. No spread is below the probes' own standard error.
    """
    size = len(evidence.checkpoint_ids)
    if chosen is None:
        return np.full(size, np.nan)
    own = of_reference(evidence, chosen, LINEAR_PROBE)
    probe = mean_by_checkpoint(evidence.probed_checkpoint[own], evidence.probe_value[own], size)
    base = np.nan if evidence.vanilla is None else probe[evidence.vanilla]
    low, middle, high = np.nanquantile(probe, [0.1, 0.5, 0.9])
    spread = max((high - low) / 2.5631, 1e-3)
    share = min(1.0, np.isfinite(probe).sum() / ENOUGH)
    spread *= (TYPICAL_SPREAD / spread) ** (1 - share)
    stderr = evidence.probe_stderr[own]
    if np.isfinite(stderr).any():
        spread = max(spread, float(np.nanmedian(stderr)))
    return np.asarray(share * np.clip((probe - (middle if np.isnan(base) else base)) / spread, -6, 8))


def energy_covariate(evidence: FamilyEvidence) -> Float[np.ndarray, "C"]:
    """How far a checkpoint's free energy lies below the usual one, in robust standard deviations; NaN: none.

    Only the reference of free energies is read; less is better. The origin is the median of those that have
    one, the vanilla apart: what is common to all says nothing, and one without counts as usual, so that to be
    measured is no merit. (The linear probe counts from the vanilla's, as its weight does not start at zero;
    here the vanilla's own error would be added to all.) Cut at FARTHEST, and n / ENOUGH of it for n < ENOUGH.
    No spread is below their own Monte Carlo error. All NaN: fewer than FEWEST, or all are equal.
    """
    found = np.full(len(evidence.checkpoint_ids), np.nan)
    chosen = reference(evidence, FREE_ENERGY)
    if chosen is None:
        return found
    own = of_reference(evidence, chosen, FREE_ENERGY)
    energy = mean_by_checkpoint(evidence.probed_checkpoint[own], evidence.probe_value[own], len(found))
    compared = energy.copy()
    if evidence.vanilla is not None:
        compared[evidence.vanilla] = np.nan
    compared = compared[np.isfinite(compared)]
    spread = robust_scale(compared) if len(compared) >= FEWEST else 0.0
    if not spread > EQUAL * np.abs(compared).max(initial=0.0):
        return found
    stderr = evidence.probe_stderr[own]
    if np.isfinite(stderr).any():
        spread = max(spread, float(np.nanmedian(stderr)))
    share = min(1.0, len(compared) / ENOUGH)
    return np.asarray(share * np.clip((np.median(compared) - energy) / spread, -FARTHEST, FARTHEST))
