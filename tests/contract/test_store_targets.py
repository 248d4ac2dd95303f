"""The rows of targets in the store: whole or not at all, once, and never exchanged."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from store_acts import NOTHING, SCORE, at_once, claimed, with_scores

from headstart.entities import ImportReport, ImportState, RowsDraft, TargetDraft
from headstart.errors import Conflict, HeadstartError, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from headstart.entities import Import, ImportBatch
    from headstart.store import Store

ROWS = bytes(range(256)) * 10_000  # more than two chunks
PROFILE = {"rows": {"train": 70, "validation": 10, "test": 20}, "warnings": ["The test role is small."]}


def batch(folder: Path, name: str = "tickets", fingerprint: str = "f" * 64, **draft: Any) -> ImportBatch:
    path = folder / f"{fingerprint[:4]}.parquet"
    path.write_bytes(ROWS)
    target = TargetDraft(**{"name": name, "task": "classification", "rows_tested": 20} | draft)
    rows = RowsDraft(target=name, fingerprint=fingerprint, profile=PROFILE, file=path)
    return dataclasses.replace(NOTHING, targets=(target,), rows=rows)


def finish(store: Store, found: ImportBatch) -> Import:
    item = claimed(store)
    done = store.finish_import(item.id, item.attempt, found)
    assert done is not None
    return done


def test_rows_are_stored_with_their_target_and_read_again(store: Store, tmp_path: Path) -> None:
    done = finish(store, batch(tmp_path))
    assert done.report is not None
    assert done.report.target_id is not None
    target = store.target(done.report.target_id)
    assert (target.name, target.fingerprint, target.profile) == ("tickets", "f" * 64, PROFILE)
    chunks = list(store.target_rows(target.id))
    assert b"".join(chunks) == ROWS
    assert len(chunks) == 3
    assert store.target_named("tickets") == target
    assert store.evidence_version() == 0, "rows are no evidence"


def test_the_same_rows_again_change_nothing(store: Store, tmp_path: Path) -> None:
    first = finish(store, batch(tmp_path))
    again = finish(store, batch(tmp_path))
    assert first.report is not None
    assert again.report is not None
    assert again.report.target_id == first.report.target_id
    assert again.report.targets_new == 0
    assert b"".join(store.target_rows(again.report.target_id or 0)) == ROWS


def test_other_rows_are_a_conflict_and_nothing_of_them_is_stored(store: Store, tmp_path: Path) -> None:
    first = finish(store, batch(tmp_path))
    item = claimed(store)
    with pytest.raises(Conflict, match=r"'tickets' has other rows already .* choose another name"):
        store.finish_import(item.id, item.attempt, batch(tmp_path, fingerprint="e" * 64, classes=7))
    assert first.report is not None
    target = store.target(first.report.target_id or 0)
    assert (target.fingerprint, target.classes) == ("f" * 64, None)
    assert store.get_import(item.id).state is ImportState.RUNNING
    assert store.fail_import(item.id, item.attempt, "Other rows.")


def test_a_target_that_has_scores_takes_rows_of_the_same_test_alone(store: Store, tmp_path: Path) -> None:
    scored = dataclasses.replace(
        with_scores(SCORE), targets=(TargetDraft(name=SCORE.target, metric="f1", rows_tested=277),)
    )
    finish(store, scored)
    item = claimed(store)
    with pytest.raises(Conflict, match="scores on a test split of 277 rows, and this one has 20"):
        store.finish_import(item.id, item.attempt, batch(tmp_path, SCORE.target))
    target = store.target_named(SCORE.target)
    assert (target.fingerprint, target.task, target.rows_tested) == (None, None, 277)
    with pytest.raises(NotFound, match="POST /targets"):
        list(store.target_rows(target.id))


def test_a_target_whose_test_nobody_knew_takes_the_rows(store: Store, tmp_path: Path) -> None:
    finish(store, with_scores(SCORE))
    done = finish(store, batch(tmp_path, SCORE.target))
    assert done.report is not None
    assert done.report.targets_new == 0
    target = store.target_named(SCORE.target)
    assert (target.id, target.rows_tested, target.task) == (done.report.target_id, 20, "classification")


ASKED = PROFILE | {"asked_metric": "pearson"}


def regression(folder: Path, name: str, profile: dict[str, Any] = PROFILE, metric: str = "spearman") -> Any:
    found = batch(folder, name, task="regression", metric=metric, train_size=70)
    assert found.rows is not None
    return dataclasses.replace(found, rows=dataclasses.replace(found.rows, profile=profile))


def test_rows_tell_what_a_score_table_does_not(store: Store, tmp_path: Path) -> None:
    finish(store, with_scores(SCORE))
    assert store.target_named(SCORE.target).metric == "accuracy"
    finish(store, regression(tmp_path, SCORE.target))
    target = store.target_named(SCORE.target)
    assert (target.task, target.metric, target.train_size) == ("regression", "spearman", 70)


def test_rows_say_how_many_are_learnt_from(store: Store, tmp_path: Path) -> None:
    finish(store, dataclasses.replace(NOTHING, targets=(TargetDraft(name="stsb", train_size=5749),)))
    finish(store, batch(tmp_path, "stsb", train_size=70))
    assert store.target_named("stsb").train_size == 70


@pytest.mark.parametrize("scored", [False, True])
def test_the_metric_asked_for_is_that_of_the_scores(store: Store, tmp_path: Path, scored: bool) -> None:
    finish(store, regression(tmp_path, SCORE.target))
    if scored:
        finish(store, with_scores(SCORE))
    again = claimed(store)
    wanted = regression(tmp_path, SCORE.target, ASKED, "pearson")
    if scored:
        with pytest.raises(Conflict, match="has scores by spearman, and pearson is wanted of its rows"):
            store.finish_import(again.id, again.attempt, wanted)
    else:
        store.finish_import(again.id, again.attempt, wanted)
    kept = "spearman" if scored else "pearson"
    assert store.target_named(SCORE.target).metric == kept
    finish(store, regression(tmp_path, SCORE.target))  # asks for none
    assert store.target_named(SCORE.target).metric == kept


def test_a_published_classification_takes_no_rows_of_a_regression(store: Store, tmp_path: Path) -> None:
    known = TargetDraft(name=SCORE.target, task="nli")
    finish(store, dataclasses.replace(with_scores(SCORE), targets=(known,)))
    item = claimed(store)
    with pytest.raises(Conflict, match="has scores by accuracy, and spearman is wanted"):
        store.finish_import(item.id, item.attempt, regression(tmp_path, SCORE.target))
    target = store.target_named(SCORE.target)
    assert (target.task, target.metric, target.fingerprint) == ("nli", "accuracy", None)


def test_a_report_that_no_answer_can_hold_is_mended(store: Store) -> None:
    found = dataclasses.replace(NOTHING, report=ImportReport(notes=("\udcff.csv",), files={"\udcff": "d"}))
    report = finish(store, found).report
    assert report is not None
    assert (report.notes, report.files) == (("?.csv",), {"?": "d"})
    item = claimed(store)
    assert store.fail_import(item.id, item.attempt, "No file '\udcff'.")
    assert store.get_import(item.id).error == "No file '?'."


def test_a_stale_attempt_stores_no_rows(store: Store, tmp_path: Path, clock: Any) -> None:
    stale = claimed(store)
    clock.move(61)
    assert store.claim_import(60) is not None
    assert store.finish_import(stale.id, stale.attempt, batch(tmp_path)) is None
    assert store.all_targets() == ()


def test_two_at_once_store_one_set_of_rows(store: Store, tmp_path: Path) -> None:
    if store.in_memory:
        pytest.skip("a store in memory has one connection")
    items = [claimed(store), claimed(store)]
    batches = [batch(tmp_path), batch(tmp_path, fingerprint="e" * 64)]

    def attempt(item: Import, found: ImportBatch) -> bool:
        try:
            return store.finish_import(item.id, item.attempt, found) is not None
        except HeadstartError:
            return False

    ended = at_once(
        lambda: attempt(items[0], batches[0]),
        lambda: attempt(items[1], batches[1]),
    )
    assert sorted(map(bool, ended)) == [False, True]
    [target] = store.all_targets()
    won = batches[ended.index(True)]
    assert won.rows is not None
    assert target.fingerprint == won.rows.fingerprint
    assert b"".join(store.target_rows(target.id)) == ROWS
