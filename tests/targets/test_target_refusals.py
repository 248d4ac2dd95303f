"""Files that make no target, or only in part: a sentence, a remedy, and nothing stored."""

from __future__ import annotations

import gzip
import os
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from making import (
    GOOD,
    LIMITS,
    PAIRS,
    TWO_ROLES,
    csv_of,
    jsonl,
    made,
    parquet_of,
    profile_of,
    refused,
    rows_of,
)
from pyarrow import parquet

from headstart.evidence import table_formats
from headstart.evidence.ingest import ImportLimits, run_next

if TYPE_CHECKING:
    from pathlib import Path

    from headstart.store import Store

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
        "The train role has 2 different texts, too few to split",
    ),
    "one text": (
        {"t.csv": csv_of([{"text": "t", "label": k % 2} for k in range(50)])},
        "The train role has 1 text, too few to split",
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


@pytest.mark.parametrize(("rows", "groups"), [(200, 1), (200, 2)])
def test_a_short_file_of_long_pages_is_refused_before_it_is_unpacked(rows: int, groups: int) -> None:
    texts = [f"{k}{'x' * 225_000}" for k in range(rows)]
    table = pa.table({"text": texts, "label": ["a", "b"] * (rows // 2)})
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd", row_group_size=rows // groups)
    data = sink.getvalue().to_pybytes()
    assert len(data) < 200_000
    assert "t.parquet unpacks to more than 200 times its size" in refused({"t.parquet": data})


def test_a_huge_row_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row | {"unread": row["text"] * 100} for row in rows_of(1000)]
    monkeypatch.setattr(table_formats, "LARGEST_GROUP", 100_000)
    assert made({"t.parquet": parquet_of(rows)}).rows_tested == 200
    monkeypatch.setattr(table_formats, "LARGEST_GROUP", 10_000)
    said = refused({"t.parquet": parquet_of(rows)})
    assert "A row group of t.parquet unpacks to more than 10000 bytes. Write it with smaller ones" in said


def test_batches_of_a_parquet_file_hold_few_long_texts() -> None:
    texts = [f"{k}{'x' * 225_000}" for k in range(600)]
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table({"text": texts}), sink, compression="zstd", row_group_size=400)
    with parquet.ParquetFile(pa.BufferReader(sink.getvalue())) as file:
        sizes = [file.metadata.row_group(k).total_byte_size for k in range(2)]
        batches = list(table_formats._batches(file, ["text"], sizes))
    assert [text for batch in batches for text in batch.column(0).to_pylist()] == texts
    assert max(batch.nbytes for batch in batches) <= 1.01 * table_formats.LARGEST_BATCH


def test_binary_columns_are_refused() -> None:
    said = refused({"t.parquet": parquet_of([{"text": b"a", "label": "no"}] * 10)})
    assert "column 'text': the column is of type binary. Write it as string" in said


def test_too_many_rows_are_too_many(store: Store) -> None:
    item = store.create_import("target", "upload", {"name": "set"})
    store.append_upload(item.id, "t.csv", csv_of(GOOD))
    store.queue_import(item.id)
    few = ImportLimits(roots=(), allow_private=False, max_rows=59, max_bytes=1 << 20, lease_seconds=60.0)
    assert run_next(store, few)
    assert "t.csv goes over 59 rows" in (store.get_import(item.id).error or "")


@pytest.mark.parametrize(
    ("first", "later", "column"),
    [
        ({"text": "a", "label": "no"}, {"text": "a", "text_pair": "b", "label": "no"}, "text_pair"),
        ({"text": "a"}, {"text": "a", "label": "no"}, "label"),
    ],
)
def test_a_column_that_turns_up_later_is_refused(
    first: dict[str, str], later: dict[str, str], column: str
) -> None:
    said = refused({"train.jsonl": jsonl(GOOD), "test.jsonl": jsonl([first, first, later])})
    assert f"test.jsonl, line 3, column {column!r}: the column is new here" in said


def test_a_later_column_that_is_not_read_is_passed_over() -> None:
    rows = [*GOOD, {"text": "a", "label": "no", "note": "x"}, {"label": "yes", "text": "b"}]
    assert sum(profile_of({"t.jsonl": jsonl(rows)})["rows"].values()) == 62
    late = [*GOOD, {"text": "a", "label": "no", "text_pair": "x"}]
    named = profile_of({"t.jsonl": jsonl(late)}, columns={"text": "text"})
    assert sum(named["rows"].values()) == 61


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


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def test_other_files_of_a_folder_are_passed_over(store: Store, tmp_path: Path) -> None:
    files = {f"{k}.csv": b"a\n" for k in range(100)} | {"README.md": b"# Hi\n"} | TWO_ROLES
    assert from_path(store, folder_of(tmp_path / "set", files), tmp_path) is None
    report = store.get_import(1).report
    assert report is not None
    shown = "0.csv, 1.csv, 10.csv, 11.csv, 12.csv, 13.csv, 14.csv, 15.csv and 92 more"
    assert report.notes[-1] == f"Passed over, since their names are of no role: {shown}."


def test_a_file_name_that_is_not_utf_8_can_be_told(store: Store, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", TWO_ROLES)
    stray = os.fsdecode(b"\xff.csv")
    (folder / stray).write_bytes(b"a\n")
    assert from_path(store, folder, tmp_path) is None
    report = store.get_import(1).report
    assert report is not None
    assert report.notes[-1].endswith("of no role: \ufffd.csv.")
    for name in TWO_ROLES:
        (folder / name).unlink()
    assert "is not UTF-8. Rename it." in (from_path(store, folder, tmp_path) or "")


@pytest.mark.parametrize("name", ["test.tsv", "Dev.txt", "val", "test.csv.zip"])
def test_a_file_named_like_a_role_is_read_or_refused(store: Store, tmp_path: Path, name: str) -> None:
    files = {"train.csv": csv_of(GOOD), name: b"text\tlabel\n", "notes.md": b"# Hi\n"}
    sentence = f"{name} would not be read: its name ends in none of .csv, .jsonl"
    assert sentence in (from_path(store, folder_of(tmp_path / "set", files), tmp_path) or "")
    assert sentence in refused({k: v for k, v in files.items() if k != "notes.md"})


def test_an_upload_is_read_whole_or_refused() -> None:
    assert "notes.md would not be read" in refused({"t.csv": csv_of(GOOD), "notes.md": b"# Hi\n"})
    assert "Of no role by their names: labels.csv." in refused(TWO_ROLES | {"labels.csv": b"a\n"})
