"""Refit the posteriors that the evidence has outgrown. The one place where fit and store meet.

Beside each posterior stands what static scores foretell in the same evidence
(`headstart.recommend.predictors`), as a row of a format of its own, which no answer has to read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend import predictors
from headstart.recommend.fit import fit, needs_others
from headstart.recommend.posterior import FORMAT, to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from headstart.recommend.evidence import FamilyEvidence
    from headstart.store import Store


def is_stale(store: Store) -> bool:
    """Whether any family's newest posterior, or what stands beside it, is older than the evidence."""
    version, fitted = store.evidence_version(), _fitted(store)
    return any(fitted.get(family.name, -1) < version for family in store.families())


def refit_stale(store: Store) -> int:
    """Fit every family whose newest posterior is older than the evidence; return how many were fitted.

    A family of few measured checkpoints leans on the evidence of all others; each is read at most once.
    Safe to run in several processes at once: a posterior is a pure function of the evidence, so the worst
    case is the same row twice.
    """
    version, done = store.evidence_version(), _fitted(store)
    names = [family.name for family in store.families()]
    read: dict[str, FamilyEvidence] = {}

    def evidence_of(family: str) -> FamilyEvidence:
        if family not in read:
            read[family] = store.evidence(family)
        return read[family]

    fitted = 0
    for name in names:
        if done.get(name, -1) >= version:
            continue
        evidence = evidence_of(name)
        posterior = fit(evidence, others_of(evidence, names, evidence_of))
        store.save_posterior(name, evidence.evidence_version, FORMAT, to_bytes(posterior))
        told = predictors.to_bytes(predictors.predictors(evidence, posterior))
        store.save_posterior(name, evidence.evidence_version, predictors.FORMAT, told)
        fitted += 1
    return fitted


def _fitted(store: Store) -> dict[str, int]:
    """Family -> evidence version of its newest posterior or of what stands beside it, whichever is older."""
    posteriors, beside = (store.newest_posteriors(one) for one in (FORMAT, predictors.FORMAT))
    return {name: min(posteriors[name][1], beside[name][1]) for name in posteriors.keys() & beside.keys()}


def others_of(
    evidence: FamilyEvidence, families: Iterable[str], read: Callable[[str], FamilyEvidence]
) -> list[FamilyEvidence]:
    """The evidence of the other families that this one's fit leans on; none where it needs none.

    A target may be added while they are read: a family must see the same ones as those it leans on.
    """
    if not needs_others(evidence):
        return []
    found = [read(name) for name in families if name != evidence.family]
    return [one for one in found if np.array_equal(one.target_ids, evidence.target_ids)]
