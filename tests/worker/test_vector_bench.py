"""The bench's task vectors: one after the other, what fails told, what was read once not read again."""

from __future__ import annotations

import math
import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from headstart.entities import Checkpoint, Lineage, LineageVerdict
from headstart.failures import CheckpointNotFound, JobFailure, NonFinite, NotApplicable
from headstart.procedures.regions import RegionsParams
from headstart.procedures.regions import run as regions
from headstart.workbench import Briefing, Cancelled
from tests.worker.tiny_checkpoints import make_tiny
from worker import workbench
from worker.workbench import ChildWorkbench, Premises

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("place")
    for number in (1, 2, 3, 4):  # of other seeds: of other pretrainings
        make_tiny("bert", root / str(number), seed=number)
    shutil.copytree(root / "1", root / "5")
    shutil.copytree(root / "2", root / "broken")
    file = root / "broken" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    return root


def of(place: Path, number: int, name: str | None = None) -> Checkpoint:
    return Checkpoint(
        id=number,
        family="f",
        name=str(place / (name or str(number))),
        revision="",
        is_vanilla=number == 1,
        parameters=None,
        license=None,
    )


def bench_in(place: Path, tmp_path: Path, **changes: Any) -> ChildWorkbench:
    target: Any = None
    given: dict[str, Any] = {
        "checkpoint": of(place, 1),
        "target": target,
        "seed": 0,
        "attempt": 1,
        "folder": tmp_path,
        "rows": None,
        "premises": Premises(
            roots=(place,), cache=tmp_path / "cache", max_cache_bytes=1 << 24, allow_pickles=False
        ),
        "cancelled": threading.Event(),
        "send": [].append,
    }
    return ChildWorkbench(**given | changes)


def test_each_is_read_in_its_order_and_one_that_cannot_be_is_told(place: Path, tmp_path: Path) -> None:
    asked = [of(place, 2), of(place, 7, "nowhere"), of(place, 8, "broken"), of(place, 3)]
    found = list(bench_in(place, tmp_path).task_vectors(asked, of(place, 1)))
    assert [one.checkpoint_id for one in found] == [2, 7, 8, 3]
    names = [None if one.failure is None else one.failure.name for one in found]
    assert names == [None, "CheckpointNotFound", "Refused", None]
    first, last = found[0].vector, found[-1].vector
    assert first is not None
    assert last is not None
    assert first.norm > 0
    assert not np.array_equal(first.sketch, last.sketch)
    assert all(one.vector is None or one.failure is None for one in found)


def test_what_was_read_once_is_not_read_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = bench_in(place, tmp_path).task_vectors([of(place, 2)], of(place, 1))
    from worker import task_vectors

    def never(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(task_vectors, "_read", never)
    (again,) = bench_in(place, tmp_path).task_vectors([of(place, 2)], of(place, 1))
    assert first.vector is not None
    assert again.vector is not None
    assert np.array_equal(first.vector.sketch, again.vector.sketch)
    assert first.vector.facts() == again.vector.facts()


@pytest.mark.parametrize("name", ["nowhere", "broken"])
def test_a_vanilla_that_cannot_be_read_is_the_jobs_failure(place: Path, tmp_path: Path, name: str) -> None:
    bench = bench_in(place, tmp_path)
    with pytest.raises(JobFailure) as failed:
        list(bench.task_vectors([of(place, 2)], of(place, 1, name)))
    assert isinstance(failed.value, CheckpointNotFound) == (name == "nowhere")


def test_a_vanilla_with_gaps_or_without_numbers_contradicts_nobody(place: Path, tmp_path: Path) -> None:
    file = shutil.copytree(place / "1", tmp_path / "gaps") / "model.safetensors"
    save_file({f"0.model.{name}": one for name, one in load_file(file).items()}, file, {"format": "pt"})
    file = shutil.copytree(place / "1", tmp_path / "spoilt") / "model.safetensors"
    save_file({name: one * math.nan for name, one in load_file(file).items()}, file, {"format": "pt"})
    bench = bench_in(place, tmp_path)
    bench.premises = replace(bench.premises, roots=(place, tmp_path))
    with pytest.raises(NotApplicable, match=r"The vanilla's files have no tensor for embeddings\."):
        list(bench.task_vectors([of(place, 2)], of(tmp_path, 1, "gaps")))
    with pytest.raises(NonFinite, match="of the vanilla holds") as failed:
        list(bench.task_vectors([of(place, 2)], of(tmp_path, 1, "spoilt")))
    assert failed.value.failure().name == "NonFinite"


def test_progress_rises_and_names_the_checkpoint(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbench, "REPORT_SECONDS", 0.0)
    sent: list[dict[str, Any]] = []
    bench = bench_in(place, tmp_path, send=sent.append)
    list(bench.task_vectors([of(place, 2), of(place, 3)], of(place, 1)))
    told = [one["progress"] for one in sent]
    fractions = [one["fraction"] for one in told]
    assert fractions == sorted(fractions)
    assert 0.4 < max(fractions) <= 0.9
    assert any(one["message"].endswith("/3, 2 of 2") for one in told)


def test_a_cancel_ends_it_at_the_next_piece(place: Path, tmp_path: Path) -> None:
    bench = bench_in(place, tmp_path)
    found = bench.task_vectors([of(place, 2), of(place, 3)], of(place, 1))
    next(found)
    bench.cancelled.set()
    with pytest.raises(Cancelled):
        next(found)


def test_lineages_are_for_the_end_of_the_job(place: Path, tmp_path: Path) -> None:
    ones = tuple(of(place, number) for number in (1, 2, 3, 4, 5))
    bench = bench_in(place, tmp_path, briefing=Briefing(candidates=ones))
    result = regions(bench, RegionsParams(family="f", candidates=(1, 2, 3, 4, 5)))
    told = {one.checkpoint_id: one for one in bench.lineages}
    assert [told[number].lineage for number in (2, 3, 4)] == [Lineage.CONTRADICTED] * 3
    assert told[5].lineage is Lineage.VERIFIED
    assert all(isinstance(one, LineageVerdict) for one in bench.lineages)
    assert {one["id"]: one["reason"] for one in result["members"]}[5] == told[5].reason
    elsewhere = bench.on(ones[1], seed=1)
    elsewhere.tell_lineage(ones[1], Lineage.VERIFIED, "By hand.")
    assert bench.lineages[-1].reason == "By hand."
    assert elsewhere.lineages == []
