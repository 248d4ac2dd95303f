"""Targets made of a few files in memory, through the store, as an import makes them."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import parquet

from headstart.evidence.ingest import ImportLimits, run_next
from headstart.rows import ROLES, RowsFile
from headstart.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from headstart.entities import Import, Target

    Row = dict[str, Any]

LIMITS = ImportLimits(roots=(), allow_private=False, max_rows=100_000, max_bytes=32 << 20, lease_seconds=60.0)


def rows_of(size: int, classes: tuple[str, ...] = ("no", "yes"), start: int = 0) -> list[Row]:
    """Rows of different texts, the classes in turn."""
    return [
        {"text": f"text number {k}", "label": classes[k % len(classes)]} for k in range(start, start + size)
    ]


GOOD = rows_of(60)
PAIRS = [
    {"premise": f"p {k // 4}", "hypothesis": f"h {k}", "label": ("no", "yes")[k % 2]} for k in range(400)
]


def jsonl(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def csv_of(rows: list[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


TWO_ROLES = {"train.csv": csv_of(GOOD), "test.csv": csv_of(rows_of(20, start=100))}


def parquet_of(rows: list[Row]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def run(store: Store, files: dict[str, bytes], name: str = "set", **params: Any) -> Import:
    """Import uploaded files as a target; what came of it."""
    item = store.create_import("target", "upload", {"name": name, **params})
    for file, data in files.items():
        store.append_upload(item.id, file, data)
    store.queue_import(item.id)
    assert run_next(store, LIMITS)
    return store.get_import(item.id)


def made(files: dict[str, bytes], **params: Any) -> Target:
    """The target of uploaded files, of a store of its own."""
    store = Store("sqlite://")
    try:
        done = run(store, files, **params)
        assert done.error is None, done.error
        assert done.report is not None
        assert done.report.target_id is not None
        return store.target(done.report.target_id)
    finally:
        store.close()


def profile_of(files: dict[str, bytes], **params: Any) -> dict[str, Any]:
    profile = made(files, **params).profile
    assert profile is not None
    return profile


def refused(files: dict[str, bytes], **params: Any) -> str:
    """Why the files make no target; nothing of them may be in the store."""
    store = Store("sqlite://")
    try:
        done = run(store, files, **params)
        assert done.error is not None
        assert done.error.endswith((".", "?"))
        assert store.all_targets() == ()
        return done.error
    finally:
        store.close()


def stored_rows(store: Store, target_id: int, folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Role -> (text, second text, label) of each stored row, in order."""
    path = folder / "rows.parquet"
    path.write_bytes(b"".join(store.target_rows(target_id)))
    file = RowsFile(path)
    found: dict[str, list[tuple[Any, ...]]] = {}
    for role in ROLES:
        texts, pairs = [], []
        for first, second in file.texts(role, 10**9):
            texts += first
            pairs += second or [None] * len(first)
        labels = file.labels(role, 10**9).tolist()
        classes = file.head.classes
        named = labels if classes is None else [classes[k] for k in labels]
        assert len(texts) == file.head.sizes[role]
        found[role] = list(zip(texts, pairs, named, strict=True))
    return found
