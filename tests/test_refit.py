"""Refits: every family once per version of the evidence, small ones with the others beside them."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from headstart import refit
from headstart.entities import CheckpointDraft, ImportBatch, ImportReport, ScoreDraft, TargetDraft
from headstart.recommend import predictors
from headstart.recommend.fit import fit, needs_others
from headstart.recommend.posterior import FORMAT, from_bytes, to_bytes
from headstart.refit import is_stale, refit_stale
from headstart.store import Store
from service.snapshot import Snapshots

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from headstart.recommend.evidence import FamilyEvidence

OLD_FORMAT = "rank1-3"


@pytest.fixture
def store(tmp_path: Path, sqlite_template: Path) -> Iterator[Store]:
    shutil.copy(sqlite_template, tmp_path / "store.db")
    with closing(Store(f"sqlite:///{tmp_path}/store.db")) as store:
        yield store


def put(store: Store, family: str, checkpoints: int, targets: Iterable[str] = "abc") -> None:
    """A family with its vanilla and some checkpoints, all finetuned on every target."""
    rng = np.random.default_rng(checkpoints)
    names = [family, *(f"{family}-{k}" for k in range(checkpoints))]
    scores = [
        ScoreDraft(
            family=family,
            checkpoint=name,
            target=target,
            method="finetune",
            value=0.7 + 0.02 * float(rng.normal()),
        )
        for name in names
        for target in targets
    ]
    drafts = [CheckpointDraft(family=family, name=name, is_vanilla=name == family) for name in names]
    imported(store, checkpoints=tuple(drafts), scores=tuple(scores))


def imported(store: Store, **what: Any) -> None:
    batch = ImportBatch(**{"checkpoints": (), "targets": (), "scores": ()} | what, report=ImportReport())
    made = store.queue_import(store.create_import("table", "upload").id)
    claimed = store.claim_import(60)
    assert claimed is not None
    assert store.finish_import(made.id, claimed.attempt, batch) is not None


def newest(store: Store, family: str) -> bytes:
    return store.posterior(store.newest_posteriors(FORMAT)[family][0]).payload


def test_a_family_is_fitted_once_per_version(store: Store) -> None:
    assert refit_stale(store) == 0
    put(store, "one", 3)
    assert is_stale(store)
    assert refit_stale(store) == 1
    assert not is_stale(store)
    assert refit_stale(store) == 0
    put(store, "two", 3)
    assert refit_stale(store) == 2


def test_a_small_family_leans_on_the_others(store: Store) -> None:
    for family, checkpoints in (("one", 4), ("two", 6), ("three", 5)):
        put(store, family, checkpoints)
    refit_stale(store)
    evidence = {name: store.evidence(name) for name in ("one", "two", "three")}
    for name, own in evidence.items():
        others = [evidence[other] for other in evidence if other != name]
        assert newest(store, name) == to_bytes(fit(own, others))
        assert newest(store, name) != to_bytes(fit(own))


def test_the_others_are_read_only_where_they_are_needed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.recommend.fit.ENOUGH", 5)
    put(store, "large", 6)
    put(store, "small", 4)
    refit_stale(store)
    assert needs_others(store.evidence("small"))
    assert not needs_others(store.evidence("large"))
    read: list[str] = []
    plain = store.evidence

    def evidence(name: str) -> FamilyEvidence:
        read.append(name)
        return plain(name)

    monkeypatch.setattr(store, "evidence", evidence)
    put(store, "larger", 7)
    assert refit_stale(store) == 3
    assert sorted(read) == ["large", "larger", "small"], "each is read once"
    store.save_posterior("small", store.evidence_version(), FORMAT, newest(store, "small"))
    read.clear()
    newer = {name: (1, store.evidence_version()) for name in ("small", "larger")}
    monkeypatch.setattr(store, "newest_posteriors", lambda _: newer)
    assert refit_stale(store) == 1
    assert read == ["large"], "a large family needs nobody"


def test_a_family_that_saw_another_target_is_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "one", 4)
    put(store, "two", 6)
    plain = store.evidence

    def evidence(name: str) -> FamilyEvidence:
        found = plain(name)
        if name == "one":
            imported(store, targets=(TargetDraft(name="new"),))
        return found

    monkeypatch.setattr(store, "evidence", evidence)
    assert refit_stale(store) == 2
    assert len(from_bytes(newest(store, "two")).target_ids) == 4


def test_a_posterior_of_another_format_is_never_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "one", 3)
    version = store.evidence_version()
    store.save_posterior("one", version, OLD_FORMAT, b"not an archive")
    assert is_stale(store)
    assert store.newest_posteriors(FORMAT) == {}
    snapshots = Snapshots(store, 60)
    snapshots.refresh()
    assert snapshots.current is not None
    assert snapshots.current.families == {}, "nothing to answer from yet"
    assert refit_stale(store) == 1
    assert snapshots.refresh()
    assert set(snapshots.current.families) == {"one"}
    monkeypatch.setattr(refit, "FORMAT", "of tomorrow")
    assert is_stale(store), "as after an update"


def test_what_static_scores_foretell_is_told_beside_each_posterior(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "one", 6)
    refit_stale(store)
    identity, version = store.newest_posteriors(predictors.FORMAT)["one"]
    assert version == store.evidence_version()
    evidence = store.evidence("one")
    found = predictors.from_bytes(store.posterior(identity).payload)
    assert found == predictors.predictors(evidence, fit(evidence))
    monkeypatch.setattr(predictors, "FORMAT", "of tomorrow")
    assert is_stale(store), "as after an update, or where the process died between the two"
    assert refit_stale(store) == 1
    assert not is_stale(store)


def test_needs_others_counts_what_is_measured(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    put(store, "one", 5)
    evidence = store.evidence("one")
    monkeypatch.setattr("headstart.recommend.fit.ENOUGH", 5)
    assert not needs_others(evidence), "the vanilla is none of them, and five are"
    without = dataclasses.replace(evidence, vanilla=None)
    assert needs_others(without), "nothing is a gain without the vanilla"
