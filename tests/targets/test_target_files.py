"""Files into targets: what becomes of good ones, and what is said of bad ones."""

from __future__ import annotations

import gzip
import random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from making import LIMITS, csv_of, jsonl, made, parquet_of, profile_of, refused, rows_of, run, stored_rows
from pyarrow import parquet

from headstart.evidence.ingest import ImportLimits, run_next
from headstart.store import Store
from headstart.targets.texts import LONGEST_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAIRS = [
    {"premise": f"p {k // 4}", "hypothesis": f"h {k}", "label": ("no", "yes")[k % 2]} for k in range(400)
]
WRITTEN = {"csv": csv_of, "jsonl": jsonl, "parquet": parquet_of}


@pytest.fixture
def store() -> Iterator[Store]:
    opened = Store("sqlite://")
    yield opened
    opened.close()


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
    assert "30 rows of test have no label and were left out." in unlabelled["warnings"]


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
    assert "2 rows of test have a label that train does not have and were left out." in profile["warnings"]


def test_a_text_of_a_million_characters_is_cut_and_told() -> None:
    rows = [*rows_of(100), {"text": "x" * 1_000_000, "label": "no"}]
    for form, write in WRITTEN.items():
        profile = profile_of({f"t.{form}": write(rows)})
        assert profile["cut"] == {"train": 1}
        longest = max(profile["characters"][role]["most"] for role in profile["rows"])
        assert longest == LONGEST_TEXT
        assert any("longer than 100,000 characters" in said for said in profile["warnings"])


def test_other_columns_and_files_are_passed_over(store: Store) -> None:
    nested = [row | {"idx": k, "tokens": [{"b": k}]} for k, row in enumerate(rows_of(60))]
    for form in ("jsonl", "parquet"):
        files = {"labels.csv": b"a\n", "README.md": b"# Hi\n", "test.csv": csv_of(rows_of(20, start=100))}
        done = run(store, files | {f"train.{form}": WRITTEN[form](nested)}, name=form)
        assert done.error is None
        assert done.report is not None
        assert done.report.notes[-1] == "Passed over, since their names are of no role: labels.csv."


def test_columns_are_taken_as_named() -> None:
    rows = [{"text": "same", "body": f"body {k}", "label": "x", "kind": f"k{k % 3}"} for k in range(90)]
    profile = profile_of({"t.csv": csv_of(rows)}, columns={"text": "body", "label": "kind"})
    assert profile["columns"] == {"text": "body", "text_pair": None, "label": "kind"}
    assert set(profile["classes"]) == {"k0", "k1", "k2"}


# bad input: a sentence, a remedy, and nothing stored

GOOD = rows_of(60)
LONG_CLASSES = [{"text": f"t {k}", "label": f"class {k // 2}"} for k in range(2100)]
BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "empty file": ({"t.csv": b""}, "t.csv, line 1, column 'text': the file is empty"),
    "only a header": ({"t.csv": b"text,label\n"}, "the set is empty"),
    "empty Parquet": ({"t.parquet": parquet_of(GOOD[:0])}, "no column is known to hold the text"),
    "empty train": (
        {"train.csv": b"text,label\n", "test.csv": csv_of(GOOD)},
        "The train role has no rows. Give some",
    ),
    "one class": ({"t.csv": csv_of(rows_of(60, ("no",)))}, "Every label of train is 'no'"),
    "one class in train": (
        {"train.csv": csv_of(rows_of(60, ("no",))), "test.csv": csv_of(GOOD)},
        "Every label of train is 'no'",
    ),
    "one value": (
        {"t.jsonl": jsonl([row | {"label": 0.5} for row in GOOD])},
        "Every label of train is the same number",
    ),
    "a class with one row": (
        {"t.csv": csv_of([*GOOD, {"text": "x", "label": "odd"}])},
        "The class has a single row: 'odd'. Add rows, remove these, or merge them",
    ),
    "ids as labels": (
        {"t.csv": csv_of([{"text": f"t {k}", "label": k} for k in range(60)])},
        "60 classes have a single row: '0', '1', '10', '11', '12', ....",
    ),
    "too many classes": ({"t.csv": csv_of(LONG_CLASSES)}, "1,050 classes with 2.0 rows each on average"),
    "no labels": (
        {"t.jsonl": jsonl([row | {"label": None} for row in GOOD])},
        "None of the 60 rows of train has a label",
    ),
    "no label column": ({"t.jsonl": jsonl([{"text": "a"}])}, "no column is known to hold the label"),
    "no text column": (
        {"t.csv": b"label,foo\na,b\n"},
        "no column is known to hold the text: there are 'label'",
    ),
    "mixed types": (
        {"t.jsonl": jsonl([*GOOD, {"text": "x", "label": 3}])},
        "t.jsonl, line 61, column 'label': the label '3' is a whole number, and 'no' in t.jsonl, line 1",
    ),
    "a text that is a number": ({"t.jsonl": jsonl([{"text": 5, "label": "a"}])}, "this is of type int"),
    "a text that is a list": ({"t.jsonl": jsonl([{"text": ["a"], "label": "a"}])}, "the field is nested"),
    "duplicate columns": ({"t.csv": b"text,label,text\na,b,c\n"}, "the column stands there twice"),
    "duplicate keys": (
        {"t.jsonl": b'{"text": "a", "label": "b", "text": "c"}\n'},
        "a field stands there twice",
    ),
    "not UTF-8": (
        {"t.csv": "text,label\ncaf\xe9,a\n".encode("latin-1")},
        "t.csv, line 2, column '(whole line)'",
    ),
    "a list": ({"t.json": b'[{"text": "a", "label": "b"}]\n'}, "Write one object a line, no list"),
    "a gzip bomb": (
        {"t.jsonl.gz": gzip.compress(jsonl([{"text": "x" * 4_000_000, "label": "a"}]))},
        "expands to more than 200 times its size",
    ),
    "broken gzip": ({"t.csv.gz": gzip.compress(csv_of(GOOD))[:-20]}, "is not a whole gzip file"),
    "truncated Parquet": ({"t.parquet": parquet_of(GOOD)[:-30]}, "not a Parquet file that can be read"),
    "a line without end": (
        {"t.csv": b"text,label\n" + b"x" * (17 << 20)},
        "the line is longer than 16777216",
    ),
    "two files of a role": (
        {"train.csv": csv_of(GOOD), "dev.csv": csv_of(GOOD), "valid.jsonl": jsonl(GOOD)},
        "dev.csv and valid.jsonl are both the validation role",
    ),
    "no train": (
        {"a.csv": csv_of(GOOD), "b.csv": csv_of(GOOD)},
        "None of the files is train: there are a.csv, b.csv",
    ),
    "no table": ({"a.txt": b"a", "b.txt": b"b"}, "There is no table in upload"),
    "a pair and a single": (
        {"train.csv": csv_of(GOOD), "test.csv": csv_of(PAIRS)},
        "here a row has 2 texts, and train.csv has 1",
    ),
    "labels of two worlds": (
        {"train.csv": csv_of(GOOD), "test.csv": csv_of(rows_of(20, ("neg", "pos")))},
        "No row of test has a label that train has",
    ),
    "two texts": (
        {"t.csv": csv_of([{"text": f"t {k % 2}", "label": k % 2} for k in range(50)])},
        "2 different texts, too few to split",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_and_leaves_nothing(name: str) -> None:
    files, sentence = BAD[name]
    assert sentence in refused(files)


def test_bad_wishes_are_told() -> None:
    files = {"t.csv": csv_of(GOOD)}
    assert "Did you mean 'text'?" in refused(files, columns={"text": "txt"})
    assert "the metric 'spearman' is none of a classification" in refused(files, metric="spearman").lower()
    assert "'no' is no number, and the task is a regression" in refused(files, task="regression")


def test_a_short_file_of_long_texts_holds_no_more_than_it_may() -> None:
    text = pa.array(["x" * 200_000]).dictionary_encode()
    rows = 10_000  # two gigabytes of text, in a file of some kilobytes
    table = pa.table(
        {
            "text": pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), text.dictionary),
            "label": ["a", "b"] * (rows // 2),
        }
    )
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    data = sink.getvalue().to_pybytes()
    assert len(data) < 200_000
    assert "The train role holds more than 33554432 bytes of text" in refused({"t.parquet": data})


def test_too_many_rows_are_too_many(store: Store) -> None:
    item = store.create_import("target", "upload", {"name": "set"})
    store.append_upload(item.id, "t.csv", csv_of(GOOD))
    store.queue_import(item.id)
    few = ImportLimits(roots=(), allow_private=False, max_rows=59, max_bytes=1 << 20, lease_seconds=60.0)
    assert run_next(store, few)
    assert "t.csv goes over 59 rows" in (store.get_import(item.id).error or "")


# paths


def from_path(store: Store, path: Path, *roots: Path) -> str | None:
    limits = ImportLimits(
        roots=roots, allow_private=False, max_rows=LIMITS.max_rows, max_bytes=1 << 20, lease_seconds=60.0
    )
    item = store.queue_import(store.create_import("target", str(path), {"name": "set"}).id)
    assert run_next(store, limits)
    return store.get_import(item.id).error


def test_a_folder_or_file_under_a_root_is_read(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "test.csv").mkdir(parents=True)  # folders in it are not read
    (folder / "train.csv").write_bytes(csv_of(GOOD))
    assert from_path(store, folder, tmp_path) is None
    assert from_path(store, folder / "train.csv", tmp_path) is None


def test_what_lies_outside_is_not_read(store: Store, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "train.csv").write_bytes(csv_of(GOOD))
    (root / "link").symlink_to(outside)
    (root / "set").mkdir()
    (root / "set" / "train.csv").symlink_to(outside / "train.csv")
    for path in (outside, root / "link", root / "set", root / ".." / "outside"):
        assert "HEADSTART_ROOTS" in (from_path(store, path, root) or "")
    assert "There is no file or folder" in (from_path(store, root / "nothing", root) or "")
    assert store.all_targets() == ()
