"""Files into targets: what becomes of good ones, and what is said of bad ones."""

from __future__ import annotations

import gzip
import random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from making import (
    GOOD,
    PAIRS,
    csv_of,
    jsonl,
    made,
    parquet_of,
    profile_of,
    rows_of,
    run,
    stored_rows,
)
from pyarrow import parquet

from headstart.targets.texts import LONGEST_TEXT

if TYPE_CHECKING:
    from pathlib import Path

    from headstart.store import Store

WRITTEN = {"csv": csv_of, "jsonl": jsonl, "parquet": parquet_of}


# the same rows are the same target


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("label", [("no", "yes"), (0, 1), (0.5, 1.25, 3.0), (True, False)])
def test_the_format_and_the_order_of_rows_do_not_matter(form: str, label: tuple[Any, ...]) -> None:
    rows = [{"text": f"Sch\u00f6n, \u201e{k}\u201c\n", "label": label[k % len(label)]} for k in range(60)]
    test = [{"text": f"test {k}", "label": label[k % len(label)]} for k in range(12)]
    first = made({"train.jsonl": jsonl(rows), "test.jsonl": jsonl(test)})
    random.Random(1).shuffle(rows)
    packed = {f"train.{form}.gz": gzip.compress(WRITTEN[form](rows)), f"test.{form}": WRITTEN[form](test)}
    assert made(packed).fingerprint == first.fingerprint
    assert first.fingerprint is not None
    assert len(first.fingerprint) == 64


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"text": "another"}, False),
        ({"label": "yes"}, False),
        ({"text": "text  number\t0 \n"}, True),
        ({"label": " no"}, True),
    ],
)
def test_other_rows_are_another_target(change: dict[str, str], same: bool) -> None:
    rows, test = rows_of(60), {"test.jsonl": jsonl(rows_of(20, start=100))}
    first = made({"train.jsonl": jsonl(rows)} | test).fingerprint
    other = made({"train.jsonl": jsonl([rows[0] | change, *rows[1:]])} | test).fingerprint
    assert (first == other) is same


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_short_floats_are_what_they_say(kind: pa.DataType) -> None:
    rows = [{"text": f"t {k}", "label": k / 100} for k in range(101)]
    schema = pa.schema([("text", pa.string()), ("label", kind)])
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows, schema), sink)
    same = made({"t.parquet": sink.getvalue().to_pybytes()})
    assert same.fingerprint == made({"t.csv": csv_of(rows)}).fingerprint


def test_truth_is_written_alike() -> None:
    rows = [{"text": f"t {k}", "label": k % 2 == 0} for k in range(60)]
    first = made({"t.jsonl": jsonl(rows)}).fingerprint
    assert set(profile_of({"t.parquet": parquet_of(rows)})["classes"]) == {"true", "false"}
    for write in (str, str.lower, str.upper):
        told = [row | {"label": write(str(row["label"]))} for row in rows]
        assert made({"t.csv": csv_of(told)}).fingerprint == first


def test_a_role_is_part_of_the_fingerprint() -> None:
    a, b, c = (jsonl(rows_of(30, start=at)) for at in (0, 30, 60))
    one = made({"train.jsonl": a, "validation.jsonl": b, "test.jsonl": c})
    other = made({"train.jsonl": a, "validation.jsonl": c, "test.jsonl": b})
    assert one.fingerprint != other.fingerprint


def test_stored_rows_are_those_given_in_an_order_that_looks_random(store: Store, tmp_path: Path) -> None:
    train, test = rows_of(500), rows_of(50, start=1000)
    done = run(
        store, {"train.jsonl": jsonl(train), "dev.csv": csv_of(test[:20]), "test.csv": csv_of(test[20:])}
    )
    assert done.report is not None
    assert done.report.target_id is not None
    found = stored_rows(store, done.report.target_id, tmp_path)
    assert sorted(found["train"]) == sorted((row["text"], None, row["label"]) for row in train)
    assert sorted(found["validation"]) == sorted((r["text"], None, r["label"]) for r in test[:20])
    assert sorted(found["test"]) == sorted((r["text"], None, r["label"]) for r in test[20:])
    assert found["train"] != [(row["text"], None, row["label"]) for row in train]
    first = [label for _, _, label in found["train"][:100]]
    assert 30 <= first.count("yes") <= 70, "the first rows are a sample"


def test_pairs_keep_their_texts_together(store: Store, tmp_path: Path) -> None:
    done = run(store, {"all.jsonl": jsonl(PAIRS)})
    assert done.report is not None
    assert done.report.target_id is not None
    found = stored_rows(store, done.report.target_id, tmp_path)
    firsts = {role: {first for first, _, _ in rows} for role, rows in found.items()}
    assert not firsts["train"] & firsts["test"]
    assert not firsts["train"] & firsts["validation"]
    assert sum(map(len, found.values())) == len(PAIRS)
    target = store.target(done.report.target_id)
    assert (target.task, target.metric, target.classes) == ("classification", "accuracy", 2)
    assert (target.train_size, target.rows_tested) == (len(found["train"]), len(found["test"]))


def test_numbers_are_a_regression(store: Store, tmp_path: Path) -> None:
    rows = [{"sentence1": f"a {k}", "sentence2": f"b {k}", "score": k / 7} for k in range(100)]
    done = run(store, {"t.jsonl": jsonl(rows)}, metric="pearson")
    assert done.report is not None
    assert done.report.target_id is not None
    target = store.target(done.report.target_id)
    assert (target.task, target.metric, target.classes) == ("regression", "pearson", None)
    found = stored_rows(store, done.report.target_id, tmp_path)
    assert sorted(label for rows in found.values() for _, _, label in rows) == [k / 7 for k in range(100)]
    assert made({"t.jsonl": jsonl(rows)}).metric == "spearman"
    whole = [row | {"score": k % 6} for k, row in enumerate(rows)]
    assert made({"t.jsonl": jsonl(whole)}).classes == 6
    assert made({"t.jsonl": jsonl(whole)}, task="regression").classes is None


def test_the_metric_of_the_same_rows_is_the_one_asked_for_last(store: Store) -> None:
    files = {"t.jsonl": jsonl([{"text": f"t {k}", "score": k / 7} for k in range(100)])}
    found = []
    for wish in ({}, {"metric": "pearson"}, {}, {"metric": "spearman"}):
        assert run(store, files, **wish).error is None
        found.append(store.target_named("set").metric)
    assert found == ["spearman", "pearson", "pearson", "spearman"]


# roles


def test_what_is_missing_is_split_off_by_the_seed() -> None:
    files = {"tickets.csv": csv_of(rows_of(1000))}
    profile = profile_of(files)
    assert profile["rows"] == {"train": 700, "validation": 100, "test": 200}
    assert profile["origins"]["test"] == "20.0% of tickets.csv, split off by seed 0"
    assert made(files).fingerprint == made(files).fingerprint
    assert made(files).fingerprint != made(files, seed=1).fingerprint
    shares = profile_of(files, test_share=0.3, validation_share=0.05)
    assert shares["rows"] == {"train": 650, "validation": 50, "test": 300}


def test_validation_is_the_test_where_no_test_is_labelled() -> None:
    files = {"train.jsonl": jsonl(rows_of(100)), "dev.jsonl": jsonl(rows_of(40, start=100))}
    without = profile_of(files)
    assert without["rows"] == {"train": 90, "validation": 10, "test": 40}
    assert without["origins"]["test"] == "dev.jsonl (validation, since there is no labelled test)"
    hidden = [row | {"label": None} for row in rows_of(30, start=200)]
    unlabelled = profile_of(files | {"test.jsonl": jsonl(hidden)})
    assert unlabelled["rows"] == without["rows"]
    assert unlabelled["dropped"] == {"test": {"no_label": 30}}
    assert "Left out: 30 rows of test without a label." in unlabelled["warnings"]


def test_rows_that_cannot_be_used_are_counted() -> None:
    train = [*rows_of(300), {"text": " ", "label": "no"}, {"text": "x", "label": None}, {"label": "no"}]
    test = [*rows_of(250, start=400), {"text": "rare", "label": "maybe"}, {"text": "rarer", "label": "maybe"}]
    validation = rows_of(50, start=800)
    profile = profile_of(
        {"train.jsonl": jsonl(train), "val.jsonl": jsonl(validation), "test.jsonl": jsonl(test)}
    )
    assert profile["rows"] == {"train": 300, "validation": 50, "test": 250}
    assert profile["dropped"] == {"train": {"empty_text": 2, "no_label": 1}, "test": {"unseen_label": 2}}
    assert set(profile["classes"]) == {"no", "yes"}
    assert "Left out: 2 rows of test with a label that train does not have." in profile["warnings"]


def test_a_text_of_a_million_characters_is_cut_and_told() -> None:
    rows = [*rows_of(100), {"text": "x" * 1_000_000, "label": "no"}]
    for form, write in WRITTEN.items():
        profile = profile_of({f"t.{form}": write(rows)})
        assert profile["cut"] == {"train": 1}
        longest = max(profile["characters"][role]["most"] for role in profile["rows"])
        assert longest == LONGEST_TEXT
        assert "Cut at 100,000 characters: 1 text of train." in profile["warnings"]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_other_columns_are_passed_over(form: str) -> None:
    nested = [row | {"idx": k, "tokens": [{"b": k}]} for k, row in enumerate(rows_of(60))]
    assert profile_of({f"train.{form}": WRITTEN[form](nested)})["rows"]["train"] == 42


@pytest.mark.parametrize("columns", [{}, {"text": "text", "label": "label"}])
def test_a_test_without_a_column_of_labels_has_none(columns: dict[str, str]) -> None:
    dev, hidden = rows_of(40, start=100), [{"id": k, "text": f"hidden {k}"} for k in range(30)]
    files = {"train.csv": csv_of(GOOD), "test.csv": csv_of(hidden), "dev.csv": csv_of(dev)}
    profile = profile_of(files, columns=columns)
    assert profile["rows"]["test"] == 40
    assert profile["origins"]["test"] == "dev.csv (validation, since there is no labelled test)"
    assert profile["columns"]["label"] == "label"
    assert "Left out: 30 rows of test without a label." in profile["warnings"]
    split = profile_of({name: files[name] for name in ("train.csv", "test.csv")}, columns=columns)
    assert split["rows"]["test"] == 12


def test_columns_are_taken_as_named() -> None:
    rows = [{"text": "same", "body": f"body {k}", "label": "x", "kind": f"k{k % 3}"} for k in range(90)]
    profile = profile_of({"t.csv": csv_of(rows)}, columns={"text": "body", "label": "kind"})
    assert profile["columns"] == {"text": "body", "text_pair": None, "label": "kind"}
    assert set(profile["classes"]) == {"k0", "k1", "k2"}
