"""A finetune in stretches is the finetune in one go, to the bit, wherever it paused."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from headstart.failures import Interrupted
from headstart.workbench import Paused
from tests.worker.test_finetune import SPEC as WHOLE
from tests.worker.test_finetune import ignore, judge, made, same
from tests.worker.tiny_checkpoints import make_tiny
from worker import training_state
from worker.training_state import Stretch
from worker.tuned import finetune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from headstart.workbench import Finetuned
    from worker.tuned import Inputs

SPEC = replace(WHOLE, epochs=2)  # 20 steps
FICKLE = ("seconds", "resumed_at_step", "train_seconds", "peak_memory_bytes")  # facts of how it ran


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def inputs(tmp_path: Path, folder: Path) -> Inputs:
    return made(tmp_path, folder)


def facts(found: Finetuned) -> dict[str, Any]:
    return {name: fact for name, fact in found.facts.items() if name not in FICKLE}


def in_stretches(
    inputs: Inputs, stretches: Iterator[Stretch], report: Callable[..., None] = ignore
) -> tuple[Finetuned, list[Paused]]:
    pauses = []
    for stretch in stretches:
        try:
            return finetune(replace(inputs, stretch=stretch), SPEC, judge, report), pauses
        except Paused as pause:
            pauses.append(pause)
    raise AssertionError("It never ended.")


@pytest.mark.parametrize("each", [1, 2, 3])
def test_paused_at_evaluations_it_gives_what_it_gives_in_one_go(inputs: Inputs, each: int) -> None:
    spec = replace(SPEC, evaluations=2)
    whole = finetune(inputs, spec, judge, ignore)
    pauses = []
    for most in range(each, 100, each):
        try:
            stretch = Stretch(evaluations=most)
            found = finetune(replace(inputs, stretch=stretch), spec, judge, ignore)
            break
        except Paused as pause:
            pauses.append(pause)
    assert same(found, whole)
    assert facts(found) == facts(whole)
    assert [len(pause.curve) for pause in pauses] == list(range(each, len(whole.curve), each))
    assert [pause.step for pause in pauses] == [5 * len(pause.curve) for pause in pauses]
    assert {pause.steps_planned for pause in pauses} == {20}
    seconds = [pause.seconds for pause in pauses]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= found.facts["train_seconds"]
    assert pauses[-1].curve == found.curve[: len(pauses[-1].curve)]


def test_asked_for_no_more_it_pauses_where_it_was(inputs: Inputs) -> None:
    whole = finetune(inputs, SPEC, judge, ignore)
    found, pauses = in_stretches(
        inputs,
        (Stretch(evaluations=most) for most in (1, 1, 0, None)),  # type: ignore[arg-type]
    )
    assert [pause.step for pause in pauses] == [10] * 3
    assert same(found, whole)
    again = finetune(replace(inputs, stretch=Stretch()), SPEC, judge, ignore)  # it has ended
    assert same(again, whole)
    assert again.facts["resumed_at_step"] == 20


class Ticking:
    """A clock that stands still but for one tick at each look of a stretch at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("ticks", [3, 8])
def test_paused_by_the_clock_it_gives_what_it_gives_in_one_go(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, ticks: int
) -> None:
    whole = finetune(inputs, SPEC, judge, ignore)
    clock = Ticking()
    monkeypatch.setattr(training_state, "time", clock)
    stages: list[str] = []

    def stretches() -> Iterator[Stretch]:
        while True:
            stages.append("stretch")
            yield Stretch(until=clock.now + ticks)

    found, pauses = in_stretches(inputs, stretches(), lambda _f, stage, *_: stages.append(stage))
    assert same(found, whole)
    assert facts(found) == facts(whole)
    assert len(pauses) >= 20 // ticks
    # Looked at before every step and every batch of rows evaluated: so many happen in between, and no more.
    told = "".join({"stretch": "|", "training": "t", "validating": "v"}.get(one, "") for one in stages)
    assert {len(part) for part in told.split("|")[1:-1]} <= {ticks - 1}


def test_no_time_at_all_trains_nothing_and_loses_nothing(inputs: Inputs) -> None:
    with pytest.raises(Paused) as none:
        finetune(replace(inputs, stretch=Stretch(until=time.monotonic())), SPEC, judge, ignore)
    assert (none.value.step, none.value.curve, none.value.steps_planned) == (0, (), 20)
    assert list(inputs.folder.iterdir()) == []


def test_a_training_that_paused_and_is_killed_then_goes_on_from_its_pause(inputs: Inputs) -> None:
    whole = finetune(inputs, SPEC, judge, ignore)

    def kill(_fraction: float, _stage: str, message: str, _left: float | None) -> None:
        if message.startswith("step 13 "):
            raise KeyboardInterrupt

    with pytest.raises(Paused):
        finetune(replace(inputs, stretch=Stretch(evaluations=1)), SPEC, judge, ignore)
    with pytest.raises(KeyboardInterrupt):
        finetune(replace(inputs, stretch=Stretch(evaluations=2)), SPEC, judge, kill)
    found = finetune(replace(inputs, stretch=Stretch()), SPEC, judge, ignore)
    assert found.facts["resumed_at_step"] == 10
    assert same(found, whole)


def test_the_state_of_a_training_that_has_ended_is_its_best_weights(inputs: Inputs) -> None:
    with pytest.raises(Paused):
        finetune(replace(inputs, stretch=Stretch(evaluations=1)), SPEC, judge, ignore)
    (state,) = inputs.folder.glob("training-*.pt")
    before = state.stat().st_size
    found = finetune(replace(inputs, stretch=Stretch()), SPEC, judge, ignore)
    assert state.stat().st_size < 0.35 * before
    again = finetune(replace(inputs, stretch=Stretch()), SPEC, judge, ignore)
    np.testing.assert_array_equal(again.validation.values, found.validation.values)


def test_a_pause_that_the_disk_does_not_take_is_told(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(Interrupted, match="did not take the state"):
        finetune(replace(inputs, stretch=Stretch(evaluations=1)), SPEC, judge, ignore)


def test_a_stretch_is_told_by_both_ends() -> None:
    assert not Stretch().over()
    assert not Stretch().enough(10**9)
    assert Stretch(evaluations=2).enough(2)
    assert not Stretch(evaluations=2).enough(1)
    assert Stretch(until=0.0).over()
