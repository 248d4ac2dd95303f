"""Benches on mixtures: features of the weighted mean, in the scratch of the job, and mixtures kept."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.torch import load_file

from headstart.entities import Checkpoint, Target
from headstart.failures import CheckpointNotFound
from headstart.procedures.centroid import CentroidParams
from headstart.procedures.centroid import run as centroid
from headstart.procedures.region_study import RegionStudyParams
from headstart.procedures.region_study import run as region_study
from headstart.workbench import Briefing, Cancelled, FeatureSpec
from tests.worker.test_finetune import sentiment
from tests.worker.tiny_checkpoints import make_tiny
from worker import workbench
from worker.workbench import ChildWorkbench, Premises

if TYPE_CHECKING:
    from pathlib import Path

SPEC = FeatureSpec(precision="fp32", max_tokens=32)
HALVES = (0.5, 0.5)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("place")
    make_tiny("bert", root / "1")
    for number in (2, 3, 4):
        make_tiny("bert", root / str(number), labels=2, seed=number)
    sentiment(root / "rows.parquet", {"train": 60, "validation": 30, "test": 30})
    return root


def checkpoint(folder: Path, number: int) -> Checkpoint:
    return Checkpoint(
        id=number,
        family="f",
        name=str(folder / str(number)),
        revision="",
        is_vanilla=number == 1,
        parameters=None,
        license=None,
    )


def bench_in(place: Path, tmp_path: Path, **changes: Any) -> ChildWorkbench:
    (tmp_path / "job").mkdir(exist_ok=True)
    premises = Premises(
        roots=(place, tmp_path / "kept"),
        cache=tmp_path / "cache",
        max_cache_bytes=1 << 24,
        allow_pickles=False,
        kept=tmp_path / "kept",
    )
    given: dict[str, Any] = {
        "checkpoint": checkpoint(place, 1),
        "target": Target(
            id=5, name="t", task="classification", metric="accuracy", train_size=60, classes=2, rows_tested=30
        ),
        "seed": 1,
        "attempt": 1,
        "folder": tmp_path / "job",
        "rows": place / "rows.parquet",
        "premises": premises,
        "cancelled": threading.Event(),
        "send": [].append,
        "briefing": Briefing(candidates=tuple(checkpoint(place, number) for number in (1, 2, 3, 4))),
    }
    return ChildWorkbench(**given | changes)


def members(place: Path, *numbers: int) -> list[Checkpoint]:
    return [checkpoint(place, number) for number in numbers]


def test_features_of_a_mixture_are_those_of_the_kept_centroid(place: Path, tmp_path: Path) -> None:
    bench = bench_in(place, tmp_path)
    mixed = bench.mixed(members(place, 2, 3), HALVES, checkpoint(place, 1))
    rows = mixed.features(SPEC).rows("test")
    params = CentroidParams(family="f", name="me/c", candidates=(1, 2, 3), weights=HALVES)
    made = centroid(bench, params)["checkpoint"]
    assert bench.made is not None
    assert (bench.made.name, bench.made.revision) == ("me/c", made["digest"])
    kept = Checkpoint(
        id=9, family="f", name=made["path"], revision="", is_vanilla=False, parameters=None, license=None
    )
    found = bench.on(kept, seed=0).features(SPEC).rows("test")
    np.testing.assert_array_equal(rows.array("last"), found.array("last"))
    one = bench.on(checkpoint(place, 2), seed=0).features(SPEC).rows("test")
    assert np.abs(rows.array("last") - one.array("last")).max() > 0.01
    written = load_file(mixed.folder / next(mixed.folder.iterdir()) / "model.safetensors")
    assert "classifier.weight" not in written
    bench.close()


def test_features_of_mixtures_stay_out_of_the_shared_cache(place: Path, tmp_path: Path) -> None:
    bench = bench_in(place, tmp_path)
    for weights in (HALVES, (0.25, 0.75)):
        bench.mixed(members(place, 2, 3), weights, checkpoint(place, 1)).features(SPEC).rows("train")
    assert not (tmp_path / "cache" / "features").exists()
    assert len(list((tmp_path / "job" / "mixed-cache" / "features").iterdir())) == 2
    assert len(list((tmp_path / "job" / "mixed-cache" / "tokens").iterdir())) == 1
    bench.close()


def test_a_second_attempt_finds_the_mixture_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import mixtures

    first = bench_in(place, tmp_path).mixed(members(place, 2, 3), HALVES, checkpoint(place, 1))

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(mixtures, "write_mixture", never)
    again = bench_in(place, tmp_path, attempt=2).mixed(members(place, 2, 3), HALVES, checkpoint(place, 1))
    assert (again.folder, again.checkpoint) == (first.folder, first.checkpoint)


def test_a_cancel_while_mixing_leaves_nothing(place: Path, tmp_path: Path) -> None:
    bench = bench_in(place, tmp_path)
    bench.cancelled.set()
    with pytest.raises(Cancelled):
        bench.keep_mixture("me/c", members(place, 2, 3), HALVES, checkpoint(place, 1), {})
    assert list((tmp_path / "kept").glob("*")) == []
    assert bench.made is None


def test_a_mixture_on_the_way_leaves_the_share_done_to_the_procedure(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbench, "REPORT_SECONDS", 0.0)
    sent: list[dict[str, Any]] = []
    bench = bench_in(place, tmp_path, send=sent.append)
    bench.report(0.25, "region study", "hull, point 3")
    bench.mixed(members(place, 2, 3), HALVES, checkpoint(place, 1))
    told = [one["progress"] for one in sent]
    assert {one["fraction"] for one in told} == {0.25}
    assert {"region study", "mixing"} < {one["stage"] for one in told}
    assert "pooler" not in told[-1]["message"]


def test_a_member_that_is_not_there_is_told(place: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="no folder"):
        bench_in(place, tmp_path).mixed(members(place, 2, 7), HALVES, checkpoint(place, 1))


def test_a_study_runs_on_real_bodies_and_leaves_no_weights(place: Path, tmp_path: Path) -> None:
    bench = bench_in(place, tmp_path)
    params = RegionStudyParams(
        family="f",
        candidates=(1, 2, 3, 4),
        inside=(2, 3),
        hull_samples=1,
        pairs=1,
        line_points=(0.5,),
        max_tokens=32,
        l2=(0.1, 0.01),
    )
    result = region_study(bench, params)
    assert [one["kind"] for one in result["points"]].count("line") == 3
    assert all(np.isfinite(one["loss"]) for one in result["points"])
    centroid_of = {one["kind"]: one["loss"] for one in result["points"]}["centroid"]
    assert result["lines"][0]["loss"][1] == centroid_of  # of two, the middle of their line
    left = {path.name for path in (tmp_path / "job").iterdir()}
    assert not list((tmp_path / "job").glob("mixed-*/*.safetensors"))
    assert {name for name in left if name.startswith("mixed-")} == {"mixed-cache"}
    bench.close()
