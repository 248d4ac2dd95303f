"""Refit the posteriors that the evidence has outgrown. The one place where fit and store meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.fit import fit, needs_others
from headstart.recommend.posterior import FORMAT, to_bytes

if TYPE_CHECKING:
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
        others = [evidence_of(other) for other in names if other != name] if needs_others(evidence) else []
        # a target added while they are read: a family must see the same ones as those it leans on
        others = [other for other in others if np.array_equal(other.target_ids, evidence.target_ids)]
        posterior = fit(evidence, others)
        store.save_posterior(name, evidence.evidence_version, FORMAT, to_bytes(posterior))
        fitted += 1
    return fitted
