"""Benches on other checkpoints and seeds: the score of a finetune in stretches is that of one in one go."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest

from headstart.entities import Checkpoint, Target
from headstart.failures import Interrupted, NonFinite, OutOfRange
from headstart.method import Measurement
from headstart.methods import finetune as method
from headstart.methods.finetune import METHOD, OTHER_SEED, FinetuneParams
from headstart.workbench import Briefing, Cancelled, KnownRun, Paused
from tests.worker.test_finetune import sentiment
from tests.worker.tiny_checkpoints import make_tiny
from worker import training_state, workbench
from worker.workbench import ChildWorkbench, Premises

if TYPE_CHECKING:
    from pathlib import Path

PARAMS = FinetuneParams(epochs=2, batch_rows=16, learning_rate=2e-3, precision="fp32", max_tokens=32)
FICKLE = {"seconds", "resumed_at_step", "train_seconds", "peak_memory_bytes"}  # of how it ran


def checkpoint(folder: Path, number: int = 1) -> Checkpoint:
    return Checkpoint(
        id=number,
        family="f",
        name=str(folder),
        revision="",
        is_vanilla=number == 1,
        parameters=None,
        license=None,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("place")
    make_tiny("bert", root / "one")
    sentiment(root / "rows.parquet", {"train": 160, "validation": 60, "test": 60})
    return root


def bench_in(place: Path, tmp_path: Path, sent: list[dict[str, Any]] | None = None) -> ChildWorkbench:
    (tmp_path / "job").mkdir(exist_ok=True)
    return ChildWorkbench(
        checkpoint=checkpoint(place / "one"),
        target=Target(
            id=5,
            name="t",
            task="classification",
            metric="accuracy",
            train_size=160,
            classes=2,
            rows_tested=60,
        ),
        seed=1,
        attempt=1,
        folder=tmp_path / "job",
        rows=place / "rows.parquet",
        premises=Premises(
            roots=(place,), cache=tmp_path / "cache", max_cache_bytes=1 << 24, allow_pickles=False
        ),
        cancelled=threading.Event(),
        send=[].append if sent is None else sent.append,
    )


def lasting(found: Measurement) -> dict[str, Any]:
    """A measurement without what tells how it ran."""

    def without(told: Any) -> Any:
        if isinstance(told, dict):
            return {name: without(value) for name, value in told.items() if name not in FICKLE}
        return [without(value) for value in told] if isinstance(told, list | tuple) else told

    return without(asdict(found))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    return method.run(bench_in(place, tmp_path_factory.mktemp("whole")), PARAMS)


def test_the_score_of_a_finetune_in_stretches_is_that_of_a_job(
    place: Path, tmp_path: Path, whole: Measurement
) -> None:
    bench = bench_in(place, tmp_path)
    with pytest.raises(Paused) as pause:
        method.run(bench.on(bench.checkpoint, seed=1, evaluations=1), PARAMS)
    assert (pause.value.step, pause.value.steps_planned, len(pause.value.curve)) == (10, 20, 1)
    with pytest.raises(Paused):  # another in between
        method.run(bench.on(bench.checkpoint, seed=2, evaluations=1), PARAMS)
    found = method.run(bench.on(bench.checkpoint, seed=1), PARAMS)
    assert lasting(found) == lasting(whole)
    assert sorted(path.name for path in bench.folder.iterdir()) == ["1-1", "1-2"]
    with pytest.raises(Paused) as none:
        method.run(bench.on(bench.checkpoint, seed=3, seconds=0.0), PARAMS)
    assert none.value.step == 0


class Ticking:
    """A clock that ticks at each look at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


def test_a_run_that_collapses_pauses_in_its_second_try_as_well(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = method.told

    def first_collapses(*arguments: Any, seed: int, **named: Any) -> dict[str, Any]:
        return told(*arguments, seed=seed, **named) | {"collapsed": seed < OTHER_SEED}

    monkeypatch.setattr(method, "told", first_collapses)
    whole = method.run(bench_in(place, tmp_path), PARAMS)
    clock = Ticking()
    monkeypatch.setattr(workbench, "time", clock)
    monkeypatch.setattr(training_state, "time", clock)
    bench = bench_in(place, tmp_path)
    found, pauses = None, []
    while found is None:
        assert len(pauses) < 20
        try:
            found = method.run(bench.on(bench.checkpoint, seed=1, seconds=40.0), PARAMS)
        except Paused as pause:
            pauses.append(pause)
    assert lasting(found) == lasting(whole)
    first, second = found.details["runs"]
    assert (first["seed"], second["seed"]) == (1, 1 + OTHER_SEED)
    in_second = [pause for pause in pauses if pause.seconds > first["train_seconds"]]
    assert 0 < len(in_second) < len(pauses)
    seconds = [pause.seconds for pause in pauses]
    assert seconds == sorted(seconds)


def test_what_a_training_says_stands_beside_what_its_procedure_says(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbench, "REPORT_SECONDS", 0.0)
    sent: list[dict[str, Any]] = []
    bench = bench_in(place, tmp_path, sent)
    bench.report(0.25, "racing", "run 5: cand-3", 90.0)
    bench.on(bench.checkpoint, seed=1).report(0.9, "training", "step 3 of 20", 4.0)
    bench.report(0.5, "racing")
    said = [tuple(told["progress"].values()) for told in sent]
    assert said == [
        (0.25, "racing", "run 5: cand-3", 90.0),
        (0.25, "training", "run 5: cand-3; step 3 of 20", 90.0),
        (0.5, "racing", "", None),
    ]


def test_a_cancel_reaches_a_training_on_a_bench_of_a_bench(place: Path, tmp_path: Path) -> None:
    bench = bench_in(place, tmp_path)
    at = bench.on(bench.checkpoint, seed=1)
    bench.cancelled.set()
    with pytest.raises(Cancelled):
        method.run(at, PARAMS)


def test_a_score_travels_as_a_job_of_its_own_would_be_asked_for(place: Path, tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []
    bench = bench_in(place, tmp_path, sent)
    found = Measurement(value=0.75, stderr=0.1, rows_tested=60, details={"odd": float("nan")})
    bench.keep_score(checkpoint(place, 7), METHOD, PARAMS, 3, found, seconds=4)
    (told,) = json.loads(json.dumps(sent, allow_nan=False))
    draft = told["score"]["draft"]
    assert (draft["method"], draft["method_version"]) == ("finetune", METHOD.version)
    assert (draft["checkpoint_id"], draft["target_id"], draft["seed"]) == (7, 5, 3)
    assert draft["params"] == PARAMS.model_dump(mode="json")
    assert Measurement(**told["score"]["measurement"]) == replace(found, details={"odd": None})
    for value, failure in ((float("nan"), NonFinite), (1.5, OutOfRange)):
        with pytest.raises(failure):
            bench.keep_score(checkpoint(place, 7), METHOD, PARAMS, 3, replace(found, value=value), 4.0)
    assert len(sent) == 1
    bench_in(place, tmp_path).keep_score(checkpoint(place, 8), METHOD, PARAMS, 3, found, seconds=4)
    (bench.folder / "score-broken.json").write_text("{")
    bench.tell_kept()  # another attempt
    numbers = [one["score"]["draft"]["checkpoint_id"] for one in sent[1:]]
    assert sorted(numbers) == [7, 8]
    assert sent[0] in sent[1:]


def test_a_scratch_folder_that_cannot_be_written_is_said(place: Path, tmp_path: Path) -> None:
    bench = bench_in(place, tmp_path)
    (bench.folder / "1-1").touch()
    with pytest.raises(Interrupted, match="scratch folder"):
        bench.on(bench.checkpoint, seed=1)


def test_a_briefing_travels(place: Path) -> None:
    briefing = Briefing(
        candidates=(checkpoint(place), checkpoint(place, 2)),
        known=(
            KnownRun(
                checkpoint_id=2,
                seed=1,
                validation=0.5,
                curve=({"step": 10, "validation": 0.5},),
                collapsed=False,
                seconds=2.0,
            ),
        ),
        prior={"gain": [0.0, 1.5]},
    )
    assert Briefing.from_json(json.loads(json.dumps(briefing.to_json()))) == briefing
    assert Briefing.from_json(json.loads(json.dumps(Briefing().to_json()))) == Briefing()
