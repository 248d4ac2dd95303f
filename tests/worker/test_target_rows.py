"""The rows of a target come onto a machine once, whole, whoever else fetches them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from headstart.failures import Interrupted
from tests.fake_bench import TARGET
from worker.target_rows import fetch_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOUND = replace(TARGET, fingerprint="f" * 64)
CHUNKS = [bytes([number]) * 1000 for number in range(20)]


class SlowStore:
    """Hands out rows chunk by chunk, and counts how often they were asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self._lock = threading.Lock()

    def target_rows(self, target_id: int) -> Iterator[bytes]:
        with self._lock:
            self.asked += 1
        for chunk in CHUNKS:
            time.sleep(0.001)
            yield chunk


def test_rows_are_fetched_once(tmp_path: Path) -> None:
    store = SlowStore()
    first = fetch_rows(store, FOUND, tmp_path)  # type: ignore[arg-type]
    assert first is not None
    assert first.read_bytes() == b"".join(CHUNKS)
    assert fetch_rows(store, FOUND, tmp_path) == first  # type: ignore[arg-type]
    assert store.asked == 1


def test_several_that_fetch_at_once_all_get_them_whole(tmp_path: Path) -> None:
    store = SlowStore()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fetch_rows(store, FOUND, tmp_path), range(8)))  # type: ignore[arg-type]
    assert {path.read_bytes() for path in found if path is not None} == {b"".join(CHUNKS)}
    assert [path.name for path in (tmp_path / "rows").iterdir()] == [f"{'f' * 64}.parquet"]


def test_a_target_without_rows_has_no_file(tmp_path: Path) -> None:
    assert fetch_rows(SlowStore(), TARGET, tmp_path) is None  # type: ignore[arg-type]


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("a file where the folder should be")
    with pytest.raises(Interrupted, match="cannot be kept"):
        fetch_rows(SlowStore(), FOUND, tmp_path)  # type: ignore[arg-type]
