"""What features tell of the passes that made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from headstart.workbench import FeatureSpec
from tests.worker.small_rows import ignore, make_rows, make_texts
from tests.worker.tiny_checkpoints import make_tiny
from worker import features, forward
from worker.cache import Cache, Entry
from worker.checkpoints import CheckpointFiles, read_folder
from worker.features import FrozenFeatures, open_features

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headstart.rows import RowsFile


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(features, "BUDGETS", {"cpu": 100, "cuda": 100})
    monkeypatch.setattr(features, "SHELF", features.Shelf())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    return read_folder(make_tiny("bert", tmp_path / "bert"), roots=[tmp_path], pickles=False)


def opened(tmp_path: Path, files: CheckpointFiles, rows: RowsFile, *layers: str) -> FrozenFeatures:
    return open_features(
        files=files,
        rows=rows,
        spec=FeatureSpec(layers=layers, precision="fp32"),
        cache=Cache(tmp_path / "cache", 1 << 30),
        report=ignore,
    )


def test_facts_are_those_of_all_passes_that_made_the_layers(tmp_path: Path, files: CheckpointFiles) -> None:
    rows = make_rows(tmp_path / "rows", {"train": make_texts(20)})
    told = []
    for layers in (("last",), ("1", "last", "2"), ("2", "1"), ("last", "1")):
        found = opened(tmp_path, files, rows, *layers)
        found.rows("train")
        told.append(found.facts)
    last, more, further, both = told
    assert [facts["cached"] for facts in told] == [False, False, True, True]
    assert further["tokens"] == last["tokens"]
    assert both["tokens"] == more["tokens"] == last["tokens"] + further["tokens"]
    assert both["rows"] == last["rows"] == {"train": 20}
    assert both["truncated"] == last["truncated"]
    for seconds in ("load_seconds", "tokenise_seconds", "forward_seconds"):
        assert both[seconds] == more[seconds] == pytest.approx(last[seconds] + further[seconds], abs=0.0021)
    assert more["forward_seconds"] > last["forward_seconds"]


def test_features_that_another_job_made_meanwhile_are_cached(
    tmp_path: Path, files: CheckpointFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(tmp_path / "rows", {"train": make_texts(5)})
    late = opened(tmp_path, files, rows, "last")
    missing = late._missing

    def missing_then_made(entry: Entry) -> list[str]:
        found = missing(entry)
        monkeypatch.setattr(late, "_missing", missing)
        opened(tmp_path, files, rows, "last").rows("train")
        return found

    monkeypatch.setattr(late, "_missing", missing_then_made)
    late.rows("train")
    assert late.facts["cached"] is True


def test_retries_of_one_role_are_not_told_again_of_the_next(
    tmp_path: Path, files: CheckpointFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled, failed = forward._pooled, []

    def scarce(body, tokens, batch, *rest):
        if len(batch) > 2:
            failed.append(len(batch))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return pooled(body, tokens, batch, *rest)

    monkeypatch.setattr(forward, "_pooled", scarce)
    texts = ["good film"] * 9
    found = opened(tmp_path, files, make_rows(tmp_path / "rows", {"train": texts, "test": texts}), "last")
    found.rows("train")
    found.rows("test")
    assert found.facts["out_of_memory_retries"] == len(failed) >= 1


def test_memory_that_runs_out_inside_the_body_is_no_failure_of_the_body(
    tmp_path: Path, files: CheckpointFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(tmp_path, files, make_rows(tmp_path / "rows", {"train": ["good film"] * 9}), "last")
    inner = found._body().backbone.encoder
    run = inner.forward

    def scarce(hidden, *rest, **named):
        if len(hidden) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(hidden, *rest, **named)

    monkeypatch.setattr(inner, "forward", scarce)
    assert len(found.rows("train").array("last")) == 9
    assert found.facts["out_of_memory_retries"] >= 1
