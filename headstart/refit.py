"""Refit the posteriors that the evidence has outgrown. The one place where fit and store meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstart.recommend.posterior import FORMAT, fit, to_bytes

if TYPE_CHECKING:
    from headstart.store import Store


def is_stale(store: Store) -> bool:
    """Whether any family's newest posterior is older than the evidence."""
    version = store.evidence_version()
    newest = store.newest_posteriors(FORMAT)
    return any(newest.get(family.name, (0, -1))[1] < version for family in store.families())


def refit_stale(store: Store) -> int:
    """Fit every family whose newest posterior is older than the evidence; return how many were fitted.

    Safe to run in several processes at once: a posterior is a pure function of the evidence, so the worst
    case is the same row twice.
    """
    version = store.evidence_version()
    newest = store.newest_posteriors(FORMAT)
    fitted = 0
    for family in store.families():
        if newest.get(family.name, (0, -1))[1] >= version:
            continue
        evidence = store.evidence(family.name)
        posterior = fit(evidence)
        store.save_posterior(family.name, evidence.evidence_version, FORMAT, to_bytes(posterior))
        fitted += 1
    return fitted
