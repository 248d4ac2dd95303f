"""The reference probe: the static prior of a checkpoint's quality, from day one.

Linear-probe gain over the family's vanilla on one dataset orders checkpoints without any finetune (Choshen
et al. 2023, arXiv 2211.00107, section 6; theirs is MNLI). Probes of two targets or of two protocols cannot
be compared, so one group of them is chosen, the *reference*; every other probe is a covariate of gains on
its own target (`headstart.recommend.surprises`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend.evidence import LINEAR_PROBE

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from headstart.recommend.evidence import FamilyEvidence

ENOUGH = 30  # probes that make a full reference; fewer count that much less
TYPICAL_SPREAD = 0.07  # of linear probes in a family, accuracy: 0.062 to 0.086 in the published three


class Reference(NamedTuple):
    """The linear probes that the static ranking stands on: those of one target and protocol."""

    target: int  # position in the targets
    protocol: int  # code of the evidence


def reference(evidence: FamilyEvidence) -> Reference | None:
    """The (target, protocol) with most checkpoints linearly probed; None: there is no linear probe.

    Ties go to one whose vanilla was probed, then to the lowest target id, then to the newest probe. So probes
    on a target of one's own do not displace a published reference, unless they cover as many checkpoints.
    """
    linear = linear_probes(evidence)
    width = int(evidence.probe_protocol.max(initial=0)) + 1
    group = evidence.probed_target[linear] * width + evidence.probe_protocol[linear]
    ranks = []
    for one in np.unique(group):
        members = np.flatnonzero(linear)[group == one]
        seen = np.bincount(evidence.probed_checkpoint[members], minlength=len(evidence.checkpoint_ids)) > 0
        vanilla = evidence.vanilla is not None and bool(seen[evidence.vanilla])
        target, protocol = divmod(int(one), width)
        newest = float(evidence.probe_created[members].max())
        ranks.append((int(np.count_nonzero(seen)), vanilla, -target, newest, protocol))
    if not ranks:
        return None
    _, _, target, _, protocol = max(ranks)
    return Reference(-target, protocol)


def linear_probes(evidence: FamilyEvidence) -> Bool[np.ndarray, "P"]:
    """Which of the probe scores are linear probes."""
    if LINEAR_PROBE not in evidence.probe_methods:
        return np.zeros(len(evidence.probe_method), dtype=bool)
    return np.asarray(evidence.probe_method == evidence.probe_methods.index(LINEAR_PROBE))


def probe_covariate(evidence: FamilyEvidence, chosen: Reference | None) -> Float[np.ndarray, "C"]:
    """Linear-probe gain over the vanilla's probe, in robust standard deviations; NaN: not probed.

    Only the reference is read. Without a probe of the vanilla the median probe stands in for it. Clipped to
    [-6, 8]. The spread of n < ENOUGH probes leans to TYPICAL_SPREAD, the more so the fewer they are, and the
    covariate is shrunk to n / ENOUGH of itself: a few order checkpoints that nothing else tells apart, and
    hardly move an answer that stands on finetunes. No spread is below the probes' own standard error.
    """
    probe = np.full(len(evidence.checkpoint_ids), np.nan)
    if chosen is None:
        return probe
    own = linear_probes(evidence) & (evidence.probed_target == chosen.target)
    own &= evidence.probe_protocol == chosen.protocol
    checkpoint = evidence.probed_checkpoint[own]
    seeds = np.bincount(checkpoint, minlength=len(probe))
    total = np.bincount(checkpoint, weights=evidence.probe_value[own], minlength=len(probe))
    probed = seeds > 0
    probe[probed] = total[probed] / seeds[probed]
    base = np.nan if evidence.vanilla is None else probe[evidence.vanilla]
    low, middle, high = np.nanquantile(probe, [0.1, 0.5, 0.9])
    spread = max((high - low) / 2.5631, 1e-3)
    share = min(1.0, probed.sum() / ENOUGH)
    spread *= (TYPICAL_SPREAD / spread) ** (1 - share)
    stderr = evidence.probe_stderr[own]
    if np.isfinite(stderr).any():
        spread = max(spread, float(np.nanmedian(stderr)))
    return np.asarray(share * np.clip((probe - (middle if np.isnan(base) else base)) / spread, -6, 8))
