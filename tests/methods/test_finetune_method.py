"""What the method makes of finetunes that a fake workbench runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydantic import ValidationError

from headstart.failures import NotApplicable
from headstart.methods.finetune import METHOD, OTHER_SEED, FinetuneParams, has_collapsed, run
from headstart.metrics import macro_f1
from headstart.probe import accuracy_error
from headstart.workbench import Finetuned, Outputs
from tests.fake_bench import TARGET, FakeBench, FakeFeatures

if TYPE_CHECKING:
    from headstart.workbench import FinetuneSpec, Judge

LABELS = np.array([0, 1, 1, 0, 1, 2, 0, 1, 1, 2])


def logits(said: np.ndarray, classes: int = 3) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[said]


def outputs(wrong: int = 0, labels: np.ndarray = LABELS) -> Outputs:
    said = labels.copy()
    said[:wrong] = (said[:wrong] + 1) % 3
    return Outputs(values=logits(said), labels=labels)


MAJORITY = Outputs(values=logits(np.ones(10, dtype=int)), labels=LABELS)


@dataclass
class TuningBench(FakeBench):
    """Each finetune gives the next of these (validation, test)."""

    ends: list[tuple[Outputs, Outputs]] = field(default_factory=list)
    classes: tuple[str, ...] | None = ("a", "b", "c")
    asked: list[FinetuneSpec] = field(default_factory=list)
    judged: list[float] = field(default_factory=list)

    def finetune(self, spec: FinetuneSpec, judge: Judge) -> Finetuned:
        self.asked.append(spec)
        validation, test = self.ends[len(self.asked) - 1]
        self.judged.append(judge(validation))
        rate = spec.learning_rate or 2e-5
        return Finetuned(
            classes=self.classes,
            validation=validation,
            test=test,
            curve=({"step": 10, "validation": self.judged[-1]},),
            facts={"learning_rate": rate, "tokens": 1000, "seconds": 2.0},
        )


def bench(*ends: tuple[Outputs, Outputs], metric: str = "accuracy", seed: int = 7) -> TuningBench:
    return TuningBench(
        found=FakeFeatures({}, None), seed=seed, target=replace(TARGET, metric=metric), ends=list(ends)
    )


def test_the_score_is_the_metric_of_the_test_rows() -> None:
    made = bench((outputs(1), outputs(2)))
    found = run(made, FinetuneParams())
    assert found.value == 0.8
    assert found.stderr == accuracy_error(np.array([0.0] * 2 + [1.0] * 8))
    assert found.rows_tested == 10
    assert found.quarantine is None
    assert made.judged == [0.9]
    assert made.asked[0].seed == 7
    details = found.details
    assert set(details["metrics"]) == {"accuracy", "macro_f1", "matthews"}
    assert details["validation"] == 0.9
    assert details["curve"] == [{"step": 10, "validation": 0.9}]
    assert details["seconds"] == 2.0
    assert "runs" not in details


def test_the_target_says_which_metric_is_its_own() -> None:
    test = outputs(3)
    found = run(bench((outputs(1), test), metric="macro_f1"), FinetuneParams())
    assert found.value == pytest.approx(macro_f1(test.values.argmax(axis=1), LABELS))
    assert found.details["metric"] == "macro_f1"
    with pytest.raises(NotApplicable, match="'spearman' is none of a classification"):
        run(bench(metric="spearman"), FinetuneParams())


def test_a_regression_is_scored_by_its_correlation() -> None:
    labels = np.linspace(0, 5, 10)
    values = labels[:, None].astype(np.float32) ** 2
    made = replace(bench((Outputs(values=values, labels=labels),) * 2), classes=None)
    made.target = replace(TARGET, task="regression", metric="spearman")
    assert run(made, FinetuneParams()).value == pytest.approx(1.0)


def test_a_run_that_collapsed_is_tried_once_more_at_half_the_rate_and_both_are_kept() -> None:
    made = bench((MAJORITY, MAJORITY), (outputs(1), outputs(2)))
    found = run(made, FinetuneParams())
    assert [spec.seed for spec in made.asked] == [7, 7 + OTHER_SEED]
    assert [spec.learning_rate for spec in made.asked] == [None, 1e-5]
    assert found.value == 0.8
    assert found.quarantine is None
    assert [one["collapsed"] for one in found.details["runs"]] == [True, False]
    assert found.details["seed"] == 7 + OTHER_SEED


def test_a_run_that_collapses_twice_is_no_evidence() -> None:
    found = run(bench((MAJORITY, MAJORITY), (MAJORITY, outputs())), FinetuneParams(learning_rate=0.5))
    assert found.quarantine == "collapsed"
    assert found.quarantine_note is not None
    assert "2 runs, at rates of 0.5 and 0.25" in found.quarantine_note
    assert found.value == 0.5


def test_what_a_collapse_is() -> None:
    assert has_collapsed(MAJORITY, "accuracy", classes=True)
    below = Outputs(values=logits((LABELS + 1) % 3), labels=LABELS)
    assert has_collapsed(below, "accuracy", classes=True)
    assert not has_collapsed(outputs(4), "accuracy", classes=True)
    values = np.linspace(0, 1, 10)
    assert has_collapsed(Outputs(values=np.full((10, 1), 2.0), labels=values), "spearman", classes=False)
    assert not has_collapsed(Outputs(values=values[:, None], labels=values), "spearman", classes=False)


def test_a_run_of_skewed_classes_is_judged_by_the_target_s_own_metric() -> None:
    truth = np.repeat([0, 1], [90, 10])
    said = truth.copy()
    said[:8], said[95:] = 1, 0  # right less often than the largest class, and better
    found = Outputs(values=logits(said, 2), labels=truth)
    assert has_collapsed(found, "accuracy", classes=True)
    assert not has_collapsed(found, "macro_f1", classes=True)
    assert not has_collapsed(found, "matthews", classes=True)
    one_class = Outputs(values=logits(np.zeros(10, int), 2), labels=np.zeros(10, int))
    assert not has_collapsed(one_class, "accuracy", classes=True)


def test_the_labels_of_the_test_rows_choose_nothing() -> None:
    """Neither whether to try again nor which run to keep."""
    for seed in range(20):
        scrambled = np.random.default_rng(seed).integers(0, 3, 10)
        ends = [
            (one, Outputs(values=two.values, labels=scrambled))
            for one, two in ((MAJORITY, outputs()), (outputs(1), MAJORITY))
        ]
        made = bench(*ends)
        found = run(made, FinetuneParams())
        assert len(made.asked) == 2
        assert found.value == pytest.approx(np.mean(scrambled == 1))


def test_the_recipe_is_the_paper_s() -> None:
    recipe = FinetuneParams()
    assert (recipe.epochs, recipe.batch_rows, recipe.warmup, recipe.epsilon) == (10, 256, 0.006, 0.001)
    assert recipe.tuning == "full"
    assert METHOD.needs_rows
    assert METHOD.queue == "gpu"
    for wrong in (
        {"epochs": 0},
        {"batch_rows": 0},
        {"learning_rate": -1.0},
        {"tuning": "magic"},
        {"steps": 3},
    ):
        with pytest.raises(ValidationError):
            FinetuneParams(**wrong)
