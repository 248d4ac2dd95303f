"""What finishing an import does to scores, checkpoints and targets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from headstart.entities import CheckpointDraft, ImportBatch, ImportReport, ScoreDraft, TargetDraft
from headstart.store import Store, params_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from tests.conftest import FrozenClock

    Fill = Callable[..., Import]

SCORE = ScoreDraft(
    family="roberta",
    checkpoint="org/a",
    target="mnli",
    method="finetune",
    value=0.9,
    stderr=0.01,
    seed=3,
    rows_tested=1000,
    method_version="2",
    params={"lr": 1e-5, "epochs": 3},
    source="table.csv",
    provenance={"line": 7, "note": "é\0"},
)
VANILLA = CheckpointDraft(family="roberta", name="base", is_vanilla=True)


def test_a_score_comes_back_as_it_was_drafted(store: Store, fill: Fill, clock: FrozenClock) -> None:
    imported = fill(SCORE)
    (score,) = store.scores().items
    for name in ("family", "checkpoint", "target", "method", "value", "stderr", "seed", "rows_tested"):
        assert getattr(score, name) == getattr(SCORE, name)
    assert (score.method_version, score.source) == (SCORE.method_version, SCORE.source)
    assert score.provenance == SCORE.provenance
    assert score.params_digest == params_digest(SCORE.params)
    assert (score.quarantine, score.quarantine_note) == (None, None)
    assert (score.import_id, score.created_at) == (imported.id, clock.now)


def test_values_keep_every_bit(store: Store, fill: Fill) -> None:
    values = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.5, 1.0, 0.0]
    fill(*(replace(SCORE, seed=i, value=value) for i, value in enumerate(values)))
    assert [s.value for s in store.scores().items] == values


def test_a_score_creates_what_it_names(store: Store, fill: Fill) -> None:
    report = fill(SCORE, replace(SCORE, seed=4)).report
    assert report is not None
    assert (report.checkpoints_new, report.targets_new, report.scores_stored) == (1, 1, 2)
    checkpoint, target = store.checkpoint(1), store.target(1)
    assert (checkpoint.family, checkpoint.name, checkpoint.revision) == ("roberta", "org/a", "")
    assert (checkpoint.is_vanilla, checkpoint.details) == (False, {})
    assert (target.name, target.metric, target.task) == ("mnli", "accuracy", None)


def test_the_report_keeps_what_the_importer_counted(store: Store, fill: Fill) -> None:
    store.queue_import(store.create_import("table", "upload").id)
    claim = store.claim_import(60)
    counted = ImportReport(rows_read=12, files={"a.csv": "ab" * 32}, notes=("one", "two"))
    scores = (
        SCORE,
        replace(SCORE, seed=4, provenance={"realigned_from": "qnli"}),
        replace(SCORE, seed=5, quarantine="off_grid", quarantine_note="seen"),
        replace(SCORE, seed=6, quarantine="off_grid", provenance={"realigned_from": None}),
        replace(SCORE, value=0.1),
    )
    batch = ImportBatch(checkpoints=(), targets=(), scores=scores, report=counted)
    finished = store.finish_import(claim.id, 1, batch)
    assert finished.report == replace(
        counted,
        scores_stored=5,
        scores_quarantined={"contradicts": 1, "off_grid": 2},
        scores_realigned=2,
        checkpoints_new=1,
        targets_new=1,
    )
    assert store.get_import(claim.id) == finished


def test_the_same_file_twice_changes_nothing(store: Store, fill: Fill) -> None:
    drafts = (
        SCORE,
        replace(SCORE, value=0.5),  # contradicts the first
        replace(SCORE, seed=4, quarantine="off_grid"),
        replace(SCORE, checkpoint="org/b"),
        replace(SCORE, params={}),
    )
    fill(*drafts, checkpoints=[VANILLA], targets=[TargetDraft(name="mnli", task="nli")])
    for change in (
        lambda: None,
        lambda: store.set_quarantine(1, "manual", "a person set it"),
        lambda: store.set_quarantine(3, None, "a person lifted it"),
        lambda: store.set_quarantine(5, None, "and put the other one in force"),
        lambda: store.set_quarantine(4, None, None),
    ):
        change()
        before = (store.scores().items, store.checkpoints().items, store.targets().items)
        version = store.evidence_version()
        report = fill(*drafts, checkpoints=[VANILLA], targets=[TargetDraft(name="mnli", task="nli")]).report
        assert (report.scores_stored, report.scores_unchanged) == (0, 5)
        assert (report.checkpoints_new, report.targets_new) == (0, 0)
        assert (report.scores_quarantined, report.scores_realigned) == ({"off_grid": 1}, 0)
        assert (store.scores().items, store.checkpoints().items, store.targets().items) == before
        assert store.evidence_version() == version


def test_a_contradicting_score_is_quarantined_and_names_the_one_in_force(store: Store, fill: Fill) -> None:
    fill(replace(SCORE, quarantine="off_grid", value=0.3), SCORE)
    holder = store.scores(quarantined=False).items[0]
    report = fill(replace(SCORE, value=0.5)).report
    assert report.scores_quarantined == {"contradicts": 1}
    found = store.scores(quarantined=True).items[-1]
    assert (found.value, found.quarantine) == (0.5, "contradicts")
    assert f"Score {holder.id} " in found.quarantine_note
    assert "0.9" in found.quarantine_note
    assert store.score(holder.id) == holder


def test_zero_is_a_value_that_can_be_contradicted(store: Store, fill: Fill) -> None:
    fill(replace(SCORE, value=0.0))
    assert fill(SCORE).report.scores_quarantined == {"contradicts": 1}
    assert fill(replace(SCORE, seed=9), replace(SCORE, value=0.0, seed=9)).report.scores_stored == 2


def test_within_a_batch_the_later_score_contradicts_the_earlier(store: Store, fill: Fill) -> None:
    # An older score of the key in quarantine must not be mistaken for the one in force.
    fill(replace(SCORE, value=0.2, quarantine="off_grid"))
    report = fill(SCORE, replace(SCORE, value=0.5), replace(SCORE, value=0.6), SCORE).report
    assert (report.scores_stored, report.scores_unchanged) == (3, 1)
    assert report.scores_quarantined == {"contradicts": 2}
    (holder,) = store.scores(quarantined=False).items
    assert holder.value == 0.9
    notes = [s.quarantine_note for s in store.scores(quarantined=True).items if s.value != 0.2]
    assert all(f"Score {holder.id} " in note and "0.9" in note for note in notes)


def test_a_score_in_force_may_join_quarantined_ones(store: Store, fill: Fill) -> None:
    fill(replace(SCORE, value=0.2, quarantine="off_grid"))
    assert fill(SCORE).report.scores_stored == 1
    assert store.scores(quarantined=False).items[0].value == 0.9


def test_every_part_of_the_key_makes_another_score(store: Store, fill: Fill) -> None:
    others = [
        replace(SCORE, family="bert"),
        replace(SCORE, checkpoint="org/b"),
        replace(SCORE, target="qnli"),
        replace(SCORE, method="linear_probe"),
        replace(SCORE, method_version="3"),
        replace(SCORE, params={"lr": 1e-5, "epochs": 4}),
        replace(SCORE, seed=4),
    ]
    report = fill(SCORE, *others).report
    assert (report.scores_stored, report.scores_quarantined) == (8, {})
    same = replace(SCORE, params={"epochs": 3, "lr": 1e-5}, source="other.csv", provenance={}, stderr=None)
    assert fill(same).report.scores_unchanged == 1


def test_what_is_known_wins_over_unknown_and_never_the_reverse(store: Store, fill: Fill) -> None:
    blank = CheckpointDraft(family="roberta", name="org/a", details={"task": None})
    known = replace(blank, parameters=10, license="mit", details={"task": "nli", "size": 1})
    later = replace(blank, parameters=99, license="gpl", details={"task": "qa", "new": True})
    target = TargetDraft(name="mnli")
    known_target = TargetDraft(name="mnli", task="nli", train_size=5, classes=3, rows_tested=0)
    fill(checkpoints=[blank], targets=[target])
    for checkpoints, targets in (
        ([known], [known_target]),
        ([blank], [target]),
        ([later], [replace(known_target, task="qa", train_size=6, rows_tested=7, metric="f1")]),
    ):
        fill(checkpoints=checkpoints, targets=targets)
        found = store.checkpoint(1)
        assert (found.parameters, found.license) == (10, "mit")
        assert {k: found.details[k] for k in ("task", "size")} == {"task": "nli", "size": 1}
        stored = store.target(1)
        assert (stored.task, stored.train_size, stored.classes, stored.rows_tested) == ("nli", 5, 3, 0)
        assert stored.metric == "accuracy"
    assert store.checkpoint(1).details["new"] is True
    assert len(store.checkpoints().items) == len(store.targets().items) == 1


def test_drafts_of_one_name_in_a_batch_complete_each_other(store: Store, fill: Fill) -> None:
    report = fill(
        checkpoints=[
            CheckpointDraft(family="f", name="a", license="mit"),
            CheckpointDraft(family="f", name="a", parameters=5, license="gpl", is_vanilla=True),
            CheckpointDraft(family="f", name="a", parameters=9),
        ],
        targets=[TargetDraft(name="t", task="nli"), TargetDraft(name="t", classes=3, task="qa")],
    ).report
    assert (report.checkpoints_new, report.targets_new) == (1, 1)
    found, target = store.checkpoint(1), store.target(1)
    assert (found.parameters, found.license, found.is_vanilla) == (5, "mit", True)
    assert (target.task, target.classes) == ("nli", 3)


def test_a_family_keeps_its_first_vanilla(store: Store, fill: Fill) -> None:
    fill(checkpoints=[replace(VANILLA, is_vanilla=False), replace(VANILLA, family="bert")])
    assert store.family("roberta").vanilla_id is None
    fill(checkpoints=[VANILLA])
    first = store.family("roberta")
    assert store.checkpoint(first.vanilla_id).name == "base"
    fill(checkpoints=[replace(VANILLA, name="other"), replace(VANILLA, name="third")])
    assert store.family("roberta") == replace(first, checkpoints=3)
    assert [c.name for c in store.checkpoints(family="roberta").items if c.is_vanilla] == ["base"]
    assert store.families() == (store.family("roberta"), store.family("bert"))


def test_a_score_belongs_to_the_revision_drafted_beside_it(store: Store, fill: Fill) -> None:
    first = CheckpointDraft(family="roberta", name="org/a", revision="r1")
    fill(SCORE, checkpoints=[first])
    assert store.checkpoint(store.score(1).checkpoint_id).revision == "r1"
    fill(replace(SCORE, value=0.1), checkpoints=[replace(first, revision="r2")])
    assert store.checkpoint(store.score(2).checkpoint_id).revision == "r2"
    # Without a draft: the one the store met first, whatever came later.
    assert fill(SCORE).report.scores_unchanged == 1
    assert len(store.checkpoints().items) == 2


def test_an_import_larger_than_one_query_is_whole(store: Store, fill: Fill) -> None:
    drafts = [replace(SCORE, checkpoint=f"c{i}", target=f"t{i % 7}") for i in range(12_000)]
    assert fill(*drafts).report.scores_stored == 12_000
    assert fill(*drafts).report.scores_unchanged == 12_000
    assert store.family("roberta").checkpoints == 12_000


def test_params_digest_ignores_order_and_nothing_else() -> None:
    assert params_digest({"a": 1, "b": {"c": 2, "d": [1, 2]}}) == params_digest(
        {"b": {"d": [1, 2], "c": 2}, "a": 1}
    )
    different = [{}, {"a": 1}, {"a": "1"}, {"a": None}, {"a": True}, {"a": [1]}, {"b": 1}]
    assert len({params_digest(params) for params in different}) == len(different)
    # Stored in every key: another digest would double the evidence.
    assert params_digest({}) == "44136fa355b3678a1146ad16f7e8649e"
