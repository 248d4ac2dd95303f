"""Refit the posteriors that the evidence has outgrown. The one place where fit and store meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.fit import fit, needs_others
from headstart.recommend.posterior import FORMAT, to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from headstart.recommend.evidence import FamilyEvidence
    from headstart.store import Store


def is_stale(store: Store) -> bool:
    """Whether any family's newest posterior is older than the evidence."""
    version = store.evidence_version()
    newest = store.newest_posteriors(FORMAT)
    return any(newest.get(family.name, (0, -1))[1] < version for family in store.families())


def refit_stale(store: Store) -> int:
    """Fit every family whose newest posterior is older than the evidence; return how many were fitted.

    A family of few measured checkpoints leans on the evidence of all others; each is read at most once.
    Safe to run in several processes at once: a posterior is a pure function of the evidence, so the worst
    case is the same row twice.
    """
    version = store.evidence_version()
    newest = store.newest_posteriors(FORMAT)
    names = [family.name for family in store.families()]
    read: dict[str, FamilyEvidence] = {}

    def evidence_of(family: str) -> FamilyEvidence:
        if family not in read:
            read[family] = store.evidence(family)
        return read[family]

    fitted = 0
    for name in names:
        if newest.get(name, (0, -1))[1] >= version:
            continue
        evidence = evidence_of(name)
        posterior = fit(evidence, others_of(evidence, names, evidence_of))
        store.save_posterior(name, evidence.evidence_version, FORMAT, to_bytes(posterior))
        fitted += 1
    return fitted


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
