"""What the procedure `keep` makes of finetunes that a fake workbench runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError

from headstart.failures import NotApplicable
from headstart.methods import finetune
from headstart.methods.finetune import OTHER_SEED, FinetuneParams
from headstart.procedures import PROCEDURES
from headstart.procedures.keep import KEEP, KeepParams, run
from headstart.workbench import Finetuned, Outputs
from tests.fake_bench import CHECKPOINT, TARGET, FakeBench, FakeFeatures

if TYPE_CHECKING:
    from headstart.workbench import FinetuneSpec, Judge

LABELS = np.array([0, 1, 1, 0, 1, 1, 0, 1])
RIGHT = Outputs(values=np.eye(2, dtype=np.float32)[LABELS], labels=LABELS)
ONE_CLASS = Outputs(values=np.eye(2, dtype=np.float32)[np.ones(8, dtype=int)], labels=LABELS)
PARAMS = KeepParams(name="me/kept", finetune=FinetuneParams(epochs=3))


@dataclass
class KeepingBench(FakeBench):
    """Each finetune says the next of these of its validation rows, and of its test rows."""

    ends: tuple[Outputs, ...] = (RIGHT,)
    asked: list[FinetuneSpec] = field(default_factory=list)
    told: list[tuple[FinetuneSpec, float, str, dict[str, Any], int]] = field(default_factory=list)

    def finetune(self, spec: FinetuneSpec, judge: Judge) -> Finetuned:
        said = self.ends[len(self.asked)]
        self.asked.append(spec)
        rate = spec.learning_rate or 3e-5
        return Finetuned(
            classes=("a", "b"),
            validation=said,
            test=said,
            curve=({"step": 10, "validation": judge(said)},),
            facts={"learning_rate": rate, "steps": 10, "tokens": 1000, "seconds": 2.5},
        )

    def keep_checkpoint(
        self, spec: FinetuneSpec, judge: Judge, name: str, card: dict[str, Any]
    ) -> dict[str, Any]:
        self.told.append((spec, judge(RIGHT), name, card, len(self.kept)))
        return {"name": name, "path": "/kept/me--kept", "digest": "sha256:1"}


def bench(*ends: Outputs) -> KeepingBench:
    return KeepingBench(
        found=FakeFeatures({}, None), seed=7, target=replace(TARGET, metric="accuracy"), ends=ends
    )


def test_it_is_the_ordinary_finetune_whose_score_is_stored_first() -> None:
    made, plain = bench(RIGHT), bench(RIGHT)
    result = run(made, PARAMS)
    assert made.asked == [PARAMS.finetune.spec(7)]
    ordinary = finetune.run(plain, PARAMS.finetune)
    assert made.kept == [(CHECKPOINT, finetune.METHOD, PARAMS.finetune, 7, ordinary, 2.5)]
    ((spec, judged, name, card, scores_before),) = made.told
    assert (spec, judged, name, scores_before) == (made.asked[0], 1.0, "me/kept", 1)
    assert card["recipe"]["epochs"] == 3
    assert result["checkpoint"] == {"name": "me/kept", "path": "/kept/me--kept", "digest": "sha256:1"}
    assert (
        result["score"]
        == card["score"]
        == {
            "value": 1.0,
            "stderr": ordinary.stderr,
            "rows_tested": 8,
            "metric": "accuracy",
            "validation": 1.0,
            "seed": 7,
            "learning_rate": 3e-5,
            "steps": 10,
        }
    )


def test_of_a_run_that_was_tried_again_the_second_is_kept() -> None:
    made = bench(ONE_CLASS, RIGHT)
    run(made, PARAMS)
    assert made.told[0][0] == made.asked[1]
    assert made.asked[1] == replace(made.asked[0], seed=7 + OTHER_SEED, learning_rate=1.5e-5)
    assert made.kept[0][3] == 7
    assert made.kept[0][5] == 5.0


def test_a_finetune_that_collapsed_is_scored_and_not_kept() -> None:
    made = bench(ONE_CLASS, ONE_CLASS)
    with pytest.raises(NotApplicable, match=r"was not kept\. It ended at the largest class"):
        run(made, PARAMS)
    assert made.kept[0][4].quarantine == "collapsed"
    assert made.told == []


@pytest.mark.parametrize(
    "name",
    ["../up", "/abs", "a/b/c", "a/../b", "", "12", "a b", "a--b", ".hidden", "me/", "é", "x" * 97, "a\n"],
)
def test_no_name_is_a_path(name: str) -> None:
    with pytest.raises(ValidationError, match="NAME or OWNER/NAME"):
        KeepParams(name=name)


@pytest.mark.parametrize("name", ["kept", "me/MiniLM-mnli.v2_1", "1a"])
def test_a_plain_name_will_do(name: str) -> None:
    assert KeepParams(name=name).name == name


def test_it_is_listed_and_waits_with_finetunes() -> None:
    assert PROCEDURES["keep"] is KEEP
    assert (KEEP.queue, KEEP.needs_rows) == (finetune.METHOD.queue, True)
