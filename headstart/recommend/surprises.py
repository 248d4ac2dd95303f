"""What probes on a target say of its pairs beyond the quality of the checkpoints.

Good checkpoints probe well everywhere, so a probe is first asked what quality does not tell already.
Scores of one method, protocol and target make a group. Within it they are standardised robustly, so that
neither units nor scales matter, and regressed on quality; what is left is the *surprise* of a pair
(checkpoint, target). Its weight in a gain is learnt from finetunes (`headstart.recommend.weights`).

Whatever is common to a group cancels, the vanilla's own probe too, so gains over it would give the same:
probes compare the probed, and to be probed is no merit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend.evidence import LOWER_IS_BETTER
from headstart.recommend.gains import robust_scale
from headstart.recommend.probes import linear_probes

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from headstart.recommend.evidence import FamilyEvidence
    from headstart.recommend.probes import Reference

FEWEST = 3  # checkpoints that make a group
HALF = 4.0  # checkpoints in a group whose surprises count half: their own centre and scale are rough
FEW = 8.0  # a group's own slope on quality counts like its checkpoints against this many of its method
FARTHEST = 4.0  # standard deviations from the group's median at which a probe is cut
EQUAL = 1e-9  # a spread below this share of the values is rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surprises:
    """The surprises of n pairs (checkpoint, target) by K methods, as lines in the quality of the checkpoint.

    Positive is better; the unit is the standard deviation of a large group. Zero where a method was not run.
    Pairs are sorted by target, then checkpoint; the vanilla is not among them.
    """

    checkpoint: Int[np.ndarray, "n"]
    target: Int[np.ndarray, "n"]
    ran: Bool[np.ndarray, "n K"]  # the method was run on the pair
    known: Bool[np.ndarray, "n K"]  # and on enough others to compare with
    level: Float[np.ndarray, "n K"]
    slope: Float[np.ndarray, "n K"]

    def given(self, pairs: Int[np.ndarray, "c"], quality: Float[np.ndarray, "c"]) -> Float[np.ndarray, "c K"]:
        """The surprises of some pairs, when their checkpoints have this quality."""
        return np.asarray(self.level[pairs] - self.slope[pairs] * quality[:, None])


def surprises(
    evidence: FamilyEvidence, chosen: Reference | None, quality: Float[np.ndarray, "C"]
) -> Surprises:
    """Standardise every group of probes and regress it on quality.

    The reference is left out, and so is any other linear probe of its checkpoints on its target: quality
    holds them already. Where a method was run under several protocols, the pair has the mean surprise.
    """
    scores = _group_means(evidence, chosen)
    width, methods = max(len(evidence.checkpoint_ids), 1), len(evidence.probe_methods)
    key = scores.target * width + scores.checkpoint
    pairs = np.unique(key)
    cell = np.searchsorted(pairs, key) * methods + scores.method
    level, slope = _beyond(scores, quality, methods)
    known = np.isfinite(level)

    def by_pair(values: Float[np.ndarray, "s"]) -> Float[np.ndarray, "n K"]:
        total = np.bincount(cell[known], weights=values[known], minlength=len(pairs) * methods)
        return (total / np.maximum(protocols, 1)).reshape(len(pairs), methods)

    protocols = np.bincount(cell[known], minlength=len(pairs) * methods)
    ran = np.bincount(cell, minlength=len(pairs) * methods) > 0
    return Surprises(
        checkpoint=pairs % width,
        target=pairs // width,
        ran=ran.reshape(len(pairs), methods),
        known=(protocols > 0).reshape(len(pairs), methods),
        level=by_pair(level),
        slope=by_pair(slope),
    )


class _Scores(NamedTuple):
    """The mean over seeds of every probed (group, checkpoint), sorted by both; higher is better."""

    checkpoint: Int[np.ndarray, "s"]
    target: Int[np.ndarray, "s"]
    method: Int[np.ndarray, "s"]
    group: Int[np.ndarray, "s"]  # 0..G-1
    value: Float[np.ndarray, "s"]


def _group_means(evidence: FamilyEvidence, chosen: Reference | None) -> _Scores:
    use = np.ones(len(evidence.probe_value), dtype=bool)
    if evidence.vanilla is not None:
        use = evidence.probed_checkpoint != evidence.vanilla
    if chosen is not None:
        there = linear_probes(evidence) & (evidence.probed_target == chosen.target)
        told = np.zeros(len(evidence.checkpoint_ids), dtype=bool)
        told[evidence.probed_checkpoint[there & (evidence.probe_protocol == chosen.protocol)]] = True
        use &= ~(there & told[evidence.probed_checkpoint])
    kind = (evidence.probe_method, evidence.probe_protocol, evidence.probed_target)
    columns = tuple(one[use] for one in (*kind, evidence.probed_checkpoint))
    shape = tuple(int(one.max(initial=0)) + 1 for one in columns)
    keys, inverse, seeds = np.unique(
        np.ravel_multi_index(columns, shape), return_inverse=True, return_counts=True
    )
    method, _, target, checkpoint = np.unravel_index(keys, shape)
    _, group = np.unique(keys // shape[-1], return_inverse=True)
    lower = np.array([name in LOWER_IS_BETTER for name in evidence.probe_methods], dtype=bool)
    total = np.bincount(inverse, weights=evidence.probe_value[use], minlength=len(keys))
    return _Scores(checkpoint, target, method, group, np.where(lower[method], -1, 1) * total / seeds)


def _beyond(
    scores: _Scores, quality: Float[np.ndarray, "C"], methods: int
) -> tuple[Float[np.ndarray, "s"], Float[np.ndarray, "s"]]:
    """Level and slope of each score's surprise; NaN in groups that are too small or all equal.

    The slope of a group on quality is shrunk to that of its method over all groups, and that one to zero
    with the weight of one checkpoint.
    """
    standard, share = _standardised(scores)
    use = np.isfinite(standard)
    if not use.any():
        return standard, standard
    group, p, f = scores.group[use], standard[use], quality[scores.checkpoint[use]]
    size = np.bincount(group)
    mean_p, mean_f = (np.bincount(group, weights=one) / np.maximum(size, 1) for one in (p, f))
    p0, f0 = p - mean_p[group], f - mean_f[group]
    product, square = np.bincount(group, weights=p0 * f0), np.bincount(group, weights=f0 * f0)
    method_of = np.zeros(len(size), dtype=np.int64)
    method_of[group] = scores.method[use]
    together = [np.bincount(method_of, weights=one, minlength=methods) for one in (product, square)]
    of_method = together[0] / (together[1] + 1)
    slope = (product + FEW * of_method[method_of]) / (square + FEW)
    level, slopes = np.full_like(standard, np.nan), np.full_like(standard, np.nan)
    level[use] = share[use] * (p0 + slope[group] * mean_f[group])
    slopes[use] = share[use] * slope[group]
    return level, slopes


def _standardised(scores: _Scores) -> tuple[Float[np.ndarray, "s"], Float[np.ndarray, "s"]]:
    """Each score in robust deviations from its group's median, cut; and n / (n + HALF) of its group of n."""
    standard = np.full(len(scores.value), np.nan)
    share = np.empty_like(standard)
    ends = np.flatnonzero(np.diff(scores.group, append=-1)) + 1
    for start, end in pairwise([0, *ends.tolist()]):
        values = scores.value[start:end]
        share[start:end] = len(values) / (len(values) + HALF)
        scale = robust_scale(values) if len(values) >= FEWEST else 0.0
        if scale > EQUAL * np.abs(values).max():
            standard[start:end] = np.clip((values - np.median(values)) / scale, -FARTHEST, FARTHEST)
    return standard, share
