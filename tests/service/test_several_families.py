"""Several families side by side, small and odd ones, and what an answer warns of."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from live_service import serving, settings
from test_best import chances
from test_recommend import add, ask, finetune, names

from headstart.entities import CheckpointDraft, ImportBatch, ImportReport, RowsDraft, TargetDraft
from headstart.refit import refit_stale
from service.snapshot import Snapshots

if TYPE_CHECKING:
    from pathlib import Path

    from headstart.entities import ScoreDraft
    from headstart.store import Store


def of(family: str, *scores: ScoreDraft) -> list[ScoreDraft]:
    """The same scores in another family."""
    return [
        replace(
            one,
            family=family,
            checkpoint=family if one.checkpoint == "base" else f"{family}-{one.checkpoint}",
        )
        for one in scores
    ]


def scores_on(levels: dict[str, float], checkpoints: int, seed: int = 0) -> list[ScoreDraft]:
    """A vanilla of 3 seeds and some checkpoints of one, on each target."""
    rng = np.random.default_rng(seed)
    found = []
    for target, level in levels.items():
        found += [finetune("base", target, level + 0.002 * rng.normal(), k) for k in range(3)]
        found += [finetune(f"m{k}", target, level + 0.02 * rng.normal()) for k in range(checkpoints)]
    return found


def test_families_are_compared_by_scores_and_their_vanillas_take_part(store: Store) -> None:
    add(
        store,
        *of("strong", *scores_on({"a": 0.8, "b": 0.7, "c": 0.75}, 12)),
        *of("weak", *scores_on({"a": 0.6, "b": 0.5}, 12, seed=1)),
    )
    refit_stale(store)
    with serving(store, settings()) as live:
        both = ask(live, target={"name": "a"}, limit=500)
        foretold = ask(live, target={"name": "c"}, limit=500)
        alone = ask(live, family="strong", target={"name": "a"}, limit=500)
        small = ask(live, target={"name": "a"}, limit=500, exclude=[f"strong-m{k}" for k in range(12)])
    scores = [c["expected_score"] for c in both["candidates"]]
    assert scores == sorted(scores, reverse=True)
    family = {c["checkpoint"]["name"]: c["checkpoint"]["family"] for c in both["candidates"]}
    first_of_weak = [family[name] for name in names(both)].index("weak")
    assert first_of_weak == 12, "20 points better everywhere"
    assert chances(both).sum() + both["p_vanilla_best"] == pytest.approx(1, abs=0.01)
    assert chances(both)[first_of_weak:].sum() == 0
    assert both["p_vanilla_best"] == pytest.approx(alone["p_vanilla_best"], abs=0.05)
    assert both["stopping"]["family"] == "strong"
    assert {job["family"] for job in both["next_jobs"]} == {"strong"}
    told = {one["family"]: one for one in foretold["families"]}
    assert told["strong"]["vanilla_basis"] == "measured"
    assert told["weak"]["vanilla_basis"] == "foretold"
    assert told["weak"]["vanilla_score"] == pytest.approx(0.55, abs=0.05)
    low, high = told["weak"]["vanilla_score_interval"]
    assert low < 0.55 < high
    assert any("expect a score of" in note and "from weak" in note for note in foretold["notes"])
    assert not any("guess that families are alike" in note for note in foretold["notes"])
    # where no candidate of a family passes, its vanilla is still there, and 20 points better
    assert {c["checkpoint"]["family"] for c in small["candidates"]} == {"weak"}
    assert small["p_vanilla_best"] == 1
    assert (small["stopping"]["pick"], small["stopping"]["family"]) == (None, "strong")
    assert small["stopping"]["expected_regret"] == 0
    assert small["expected_regret"] == pytest.approx(19, abs=3)
    assert (small["verdict"], small["p_worth"]) == ("stay_with_vanilla", 0)
    assert small["sentence"].startswith("Stay with strong: on a even the first choice, weak-m")
    assert small["next_jobs"] == [], "none of its candidates makes up for that"


def test_families_that_share_no_target_are_compared_with_a_warning(store: Store) -> None:
    add(
        store,
        *of("one", *scores_on({"a": 0.8, "b": 0.7}, 5)),
        *of("two", *scores_on({"x": 0.9, "y": 0.85}, 5, seed=1)),
    )
    refit_stale(store)
    with serving(store, settings()) as live:
        answer = ask(live, target={"name": "a"})
        own = ask(live, family="one", target={"name": "a"})
    assert any("vanillas of one and of two were never run on the same target" in n for n in answer["notes"])
    assert not any("never run on the same target" in note for note in own["notes"])
    pooled = [note for note in own["notes"] if "learnt together with two" in note]
    assert pooled == [own["notes"][-1]]
    assert "Only 5 checkpoints of one were finetuned" in pooled[0]


def test_a_family_of_one_checkpoint_and_one_without_a_vanilla(store: Store) -> None:
    add(
        store,
        finetune("base", "a", 0.7),
        *of("two", finetune("m0", "a", 0.72), finetune("m1", "a", 0.74)),
    )
    refit_stale(store)
    with serving(store, settings()) as live:
        alone = ask(live, family="base", target={"name": "a"})
        assert alone["candidates"] == []
        assert (alone["p_vanilla_best"], alone["expected_regret"], alone["p_worth"]) == (1, None, None)
        assert alone["stopping"] == {
            "pick": None, "family": "base", "expected_gain": 0, "expected_regret": 0,
        }  # fmt: skip
        assert alone["verdict"] == "stay_with_vanilla"
        assert alone["sentence"].startswith("Stay with base: only the vanilla of this family is known.")
        assert alone["next_jobs"] == []
        assert alone["families"][0]["vanilla_score"] == pytest.approx(0.7)
        assert alone["families"][0]["calibration"] == {"coverage": None, "cells": 0, "widening": 1}
        without = ask(live, family="two", target={"name": "a"}, explain=True, pareto=True, next_jobs=5)
        assert without["families"][0]["vanilla_basis"] == "foretold"
        assert {job["checkpoint"] for job in without["next_jobs"]} == {*names(without)}
        both = ask(live, target={"name": "a"})
        assert chances(both).sum() + both["p_vanilla_best"] == pytest.approx(1, abs=0.01)
        assert both["sentence"].startswith("Measure first: on a expect"), "two has no vanilla of its own"
        assert "points from two-m0 over base" in both["sentence"]


def test_a_drifting_family_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.recommend import fit as fitting

    add(store, *scores_on({"a": 0.8, "b": 0.7, "c": 0.6}, 15))
    monkeypatch.setattr(fitting, "calibrate", lambda _: np.array([0.52, 45.0, 1.7]))
    refit_stale(store)
    with serving(store, settings()) as live:
        answer = ask(live, target={"name": "a"})
    assert any("52 %" in note and "widened 1.7 times" in note for note in answer["notes"])
    assert answer["families"][0]["calibration"] == {"coverage": 0.52, "cells": 45, "widening": 1.7}


def test_a_target_with_rows_may_be_probed(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(size=(40, 4))
    probes = [
        replace(finetune(f"m{i}", t, 0.5 + 0.1 * own[i, k]), method="linear_probe")
        for k, t in enumerate("abc")
        for i in range(40)
    ]
    reference = [
        replace(finetune(f"m{i}", "mnli", 0.5 + 0.05 * rng.normal()), method="linear_probe")
        for i in range(40)
    ]
    finetunes = [finetune("base", t, 0.7 + rng.normal(0, 0.003), k) for t in "abc" for k in range(5)]
    finetunes += [
        finetune(f"m{i}", t, 0.7 + 0.02 * own[i, k]) for k, t in enumerate("abc") for i in range(40)
    ]
    add(store, *finetunes, *reference, replace(finetune("base", "mnli", 0.5), method="linear_probe"), *probes)
    rows = tmp_path / "rows"
    rows.write_bytes(b"as a worker reads them")
    store.queue_import(store.create_import("table", "upload").id)
    claimed = store.claim_import(60)
    assert claimed is not None
    draft = RowsDraft(target="rows", fingerprint="d1", profile={"rows": {"test": 5}}, file=rows)
    targets = (TargetDraft(name="rows", train_size=5000), TargetDraft(name="none", train_size=5000))
    batch = ImportBatch(checkpoints=(), targets=targets, scores=(), report=ImportReport(), rows=draft)
    assert store.finish_import(claimed.id, claimed.attempt, batch) is not None
    refit_stale(store)
    with serving(store, settings()) as live:
        with_rows = ask(live, family="base", target={"name": "rows"})
        without = ask(live, family="base", target={"name": "none"})
        one = ask(live, family="base", target={"name": "rows"}, next_jobs=1)
    assert {job["method"] for job in with_rows["next_jobs"]} == {"linear_probe"}, "cheap, and it tells"
    assert {job["method"] for job in one["next_jobs"]} == {"finetune"}, "one probe alone tells nothing"
    assert {job["method"] for job in without["next_jobs"]} == {"finetune"}
    cheap, dear = (answer["next_jobs"][0] for answer in (with_rows, without))
    assert cheap["seconds"] < dear["seconds"]
    assert cheap["value"] > 0


def test_an_answer_follows_the_levels_of_other_families(store: Store) -> None:
    add(
        store,
        *of("one", *scores_on({"a": 0.8, "b": 0.7}, 5)),
        *of("two", *scores_on({"a": 0.6, "b": 0.5}, 5, seed=1)),
    )
    refit_stale(store)
    snapshots = Snapshots(store, 60)
    snapshots.refresh()
    before = snapshots.current
    add(store, *of("two", *scores_on({"c": 0.4}, 5, seed=2)))
    refit_stale(store)
    snapshots.refresh()
    after = snapshots.current
    assert before is not None
    assert after is not None
    assert before.tag != after.tag
    target = after.targets_by_name["c"]
    assert after.families["one"].board(target).standing.mean < 75
    assert after.families["one"].board(target).standing.mean > 45


def test_unknown_sizes_and_families_without_any_level(store: Store) -> None:
    drafts = tuple(
        CheckpointDraft(family="bare", name=name, is_vanilla=name == "bare") for name in ("bare", "x", "y")
    )
    store.queue_import(store.create_import("table", "upload").id)
    claimed = store.claim_import(60)
    assert claimed is not None
    batch = ImportBatch(checkpoints=drafts, targets=(), scores=(), report=ImportReport())
    assert store.finish_import(claimed.id, claimed.attempt, batch) is not None
    refit_stale(store)
    with serving(store, settings()) as live:
        answer = ask(live, target={"train_size": 500}, pareto=True, explain=True)
    assert answer["families"][0]["vanilla_basis"] is None
    assert answer["families"][0]["vanilla_score_interval"] is None
    assert {c["expected_score"] for c in answer["candidates"]} == {None}
    assert chances(answer).sum() + answer["p_vanilla_best"] == pytest.approx(1, abs=0.01)
    assert len(answer["pareto"]) == 1


def test_a_snapshot_that_was_replaced_is_forgotten(store: Store) -> None:
    add(store, *scores_on({"a": 0.8}, 3))
    refit_stale(store)
    snapshots = Snapshots(store, 60)
    snapshots.refresh()
    assert snapshots.current is not None
    snapshots.current.warm()
    family = snapshots.current.families["base"]
    board = weakref.ref(family.board())
    gone = weakref.ref(family)
    del family
    add(store, *scores_on({"b": 0.8}, 3))
    refit_stale(store)
    snapshots.refresh()
    assert (gone(), board()) == (None, None), "what is frozen for the collector has to go by itself"
