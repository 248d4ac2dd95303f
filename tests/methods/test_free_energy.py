"""What the method makes of chains that a fake workbench draws from known landscapes, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError

from headstart.failures import NotApplicable
from headstart.logistic import Axes, Head
from headstart.methods.free_energy import METHOD, UNSEEN, FreeEnergyParams, folded, run
from tests.fake_bench import TARGET, FakeBench, FakeFeatures, Valley, fake_bench
from tests.hard_benches import HARD, informative

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.method import Measurement

MIXED = Valley(curvatures=np.geomspace(1e-3, 10, 40))
TEXTS: dict[str, Any] = {"objective": "masked-lm"}


def texts(valley: Valley = MIXED, seed: int = 0) -> FakeBench:
    return FakeBench(FakeFeatures({}, None), valley=valley, seed=seed)


def labelled(y: np.ndarray | None = None, order: np.ndarray | None = None, seed: int = 0) -> FakeBench:
    x, own, _ = informative()
    y = own if y is None else y
    if order is not None:
        x, y = x[order], y[order]
    bench = fake_bench(x, y, classes=3, seed=seed)
    bench.valley = MIXED
    return bench


def measured(bench: FakeBench, **params: Any) -> Measurement:
    found = run(bench, FreeEnergyParams(**params))
    assert np.isfinite(found.value)
    json.dumps(found.details, allow_nan=False)
    return found


# known answers


@pytest.mark.parametrize("radius", [0.3, 1.0, 30.0])
def test_a_quadratic_has_the_llc_of_its_closed_form(radius: float) -> None:
    found = measured(texts(), radius=radius, draws=3000, **TEXTS)
    told = found.details
    strength = told["strength"]
    assert strength == pytest.approx(400 / np.log(400))
    assert told["localisation"] == pytest.approx(40 / radius**2)
    truth = MIXED.llc(strength, told["localisation"])
    curved = strength * MIXED.curvatures
    assert truth == pytest.approx(np.sum(curved / (curved + told["localisation"])) / 2)
    assert told["llc"]["value"] == pytest.approx(truth, rel=0.02)
    assert abs(told["llc"]["value"] - truth) < 4 * told["llc"]["stderr"]
    assert not found.quarantine


def test_a_regular_model_has_an_llc_of_half_its_dimension() -> None:
    valley = Valley(curvatures=np.linspace(1, 3, 20))
    found = measured(texts(valley), localisation=1e-3, draws=1000, **TEXTS)
    assert found.details["llc"]["value"] == pytest.approx(10, rel=0.02)


def test_the_value_is_the_loss_of_all_rows_and_log_n_times_the_llc() -> None:
    found = measured(texts(), **TEXTS)
    told = found.details
    centre = 0.7 * np.random.default_rng(0).uniform(0.5, 1.5, size=400)
    assert told["n"] == found.rows_tested == 400
    assert told["loss"]["value"] == pytest.approx(centre.mean())
    assert told["loss"]["stderr"] == pytest.approx(centre.std(ddof=1) / 20)
    assert told["nl"]["value"] == pytest.approx(centre.sum())
    assert told["nl"]["stderr"] == pytest.approx(400 * told["loss"]["stderr"])
    assert found.value == told["wbic"]["value"]
    assert found.value == pytest.approx(told["nl"]["value"] + np.log(400) * told["llc"]["value"])
    assert found.stderr == told["wbic"]["stderr"] == pytest.approx(np.log(400) * told["llc"]["stderr"])
    assert told["free_energy"]["value"] == pytest.approx(found.value)  # of as many rows again
    assert told["device"] == "fake"


def test_rows_to_come_are_counted_as_asked() -> None:
    told = measured(texts(), m=50, **TEXTS).details
    loss, llc = told["loss"], told["llc"]
    assert told["free_energy"]["m"] == 50
    assert told["free_energy"]["value"] == pytest.approx(50 * loss["value"] + llc["value"] * np.log(50))
    assert told["free_energy"]["stderr"] == pytest.approx(
        np.hypot(50 * loss["stderr"], llc["stderr"] * np.log(50))
    )


def test_the_monte_carlo_error_is_the_spread_over_seeds() -> None:
    found = [measured(texts(seed=seed), **TEXTS) for seed in range(40)]
    spread = np.std([one.value for one in found], ddof=1)
    told = np.mean([one.stderr for one in found if one.stderr is not None])
    assert 0.7 < told / spread < 1.4


def test_the_scatter_of_batches_is_in_the_error_and_not_in_the_value() -> None:
    rough = measured(texts(replace(MIXED, scatter=0.5)), draws=3000, **TEXTS)
    smooth = measured(texts(), draws=3000, **TEXTS)
    assert rough.stderr is not None
    assert smooth.stderr is not None
    assert rough.stderr > 2 * smooth.stderr
    assert abs(rough.value - smooth.value) < 4 * rough.stderr


def test_another_temperature_is_no_wbic_and_says_so() -> None:
    found = measured(texts(), beta=1.0, **TEXTS)
    told = found.details
    assert told["strength"] == 400
    assert found.value == pytest.approx(told["nl"]["value"] + told["llc"]["value"])
    assert any("no WBIC" in note for note in told["notes"])
    assert not any("no WBIC" in note for note in measured(texts(), **TEXTS).details["notes"])


def test_a_slope_takes_off_the_llc_what_was_foretold_and_free_energy_is_not_given() -> None:
    steep = replace(MIXED, slopes=np.full(40, 0.05))
    told = measured(texts(steep), radius=0.01, draws=1000, **TEXTS).details
    strength, gamma = told["strength"], told["localisation"]
    assert told["slope"]["value"] == pytest.approx(40 * 0.05**2)
    assert told["slope"]["of_llc"] == pytest.approx(-(strength**2) * 40 * 0.05**2 / gamma)
    assert told["llc"]["value"] == pytest.approx(steep.llc(strength, gamma), abs=4 * told["llc"]["stderr"])
    steeper = replace(MIXED, slopes=np.full(40, 1.0))
    found = measured(texts(steeper), radius=0.1, **TEXTS)
    assert found.details["llc"]["value"] < 0
    assert found.details["free_energy"] is None
    assert any("no minimum of these rows" in note for note in found.details["notes"])
    assert not found.quarantine  # it is no fault of the chain


def test_where_the_prior_decides_all_it_is_said_that_the_llc_adds_nothing() -> None:
    tight = measured(texts(), radius=0.003, **TEXTS).details
    strength, gamma = tight["strength"], tight["localisation"]
    assert tight["trace"]["value"] == pytest.approx(MIXED.curvatures.sum())
    assert tight["first_order"]["value"] == pytest.approx(strength * MIXED.curvatures.sum() / (2 * gamma))
    assert tight["llc"]["value"] == pytest.approx(tight["first_order"]["value"], rel=0.1)
    assert any("trace and slope alone" in note for note in tight["notes"])
    wide = measured(texts(), radius=30.0, **TEXTS).details
    assert wide["first_order"]["value"] > 2 * wide["llc"]["value"]
    assert not any("trace and slope alone" in note for note in wide["notes"])


def test_without_probes_there_is_no_trace() -> None:
    told = measured(texts(), trace_probes=0, **TEXTS).details
    assert told["trace"] is told["first_order"] is None


def test_steps_that_metropolis_would_refuse_are_a_fault_of_crank_nicolson_and_a_note_of_euler() -> None:
    coarse = texts(replace(MIXED, acceptance=0.1))
    with pytest.raises(NotApplicable, match="too coarse"):
        run(coarse, FreeEnergyParams(**TEXTS))
    told = measured(coarse, scheme="euler", **TEXTS).details
    assert any("Metropolis would accept a step is 0.10" in note for note in told["notes"])
    told = measured(texts(replace(MIXED, acceptance=np.nan)), scheme="euler", precondition=0.99, **TEXTS)
    assert told.details["diagnosis"]["acceptance"] is None
    assert any("Preconditioned" in note for note in told.details["notes"])


def test_what_has_not_converged_is_an_outcome_with_its_diagnosis_and_a_remedy() -> None:
    bench = texts(replace(MIXED, acceptance=0.4))
    with pytest.raises(NotApplicable) as outcome:
        run(bench, FreeEnergyParams(draws=200, **TEXTS))
    assert outcome.value.sentence.startswith("The chains have not converged, so there is no value.")
    assert "R-hat 1.00" in outcome.value.sentence
    assert "effective draws of 800" in outcome.value.sentence
    assert outcome.value.remedy.endswith(".")


def test_the_paper_s_preset_is_kept_and_is_no_evidence() -> None:
    found = measured(texts(), preset="paper", **TEXTS)
    assert found.quarantine == "not_converged"
    assert found.quarantine_note is not None
    assert "too few" in found.quarantine_note
    assert found.details["preset"] == "paper"
    assert found.details["localisation"] == 1.0
    assert found.details["diagnosis"]["converged"] is False
    assert found.details["diagnosis"]["rhat"] is None
    passing = measured(texts(), preset="paper", chains=4, **TEXTS)
    assert passing.quarantine is None


def test_what_stands_still_in_the_paper_s_preset_has_no_error() -> None:
    found = measured(texts(Valley(curvatures=np.zeros(3))), preset="paper", **TEXTS)
    assert found.quarantine == "not_converged"
    assert found.stderr is None
    assert found.details["llc"] == {"value": 0.0, "stderr": None}


# the head


def test_a_folded_head_says_what_it_said_on_the_axes() -> None:
    generator = np.random.default_rng(0)
    axes = Axes(
        centre=generator.normal(size=5).astype(np.float32),
        turn=generator.normal(size=(5, 4)).astype(np.float32),
        variance=np.ones(4),
    )
    head = Head(
        weights=generator.normal(size=(2, 4)),
        bias=generator.normal(size=2),
        loss=0.0,
        gain=0.0,
        steps=1,
        converged=True,
    )
    x = generator.normal(size=(9, 5)).astype(np.float32)
    made = folded(head, axes, np.array([0, 2]), 3)
    logits = x @ made.weights + made.bias
    assert logits[:, [0, 2]] == pytest.approx(head.logits(axes.of(x)), abs=1e-4)
    assert np.all(logits[:, 1] == UNSEEN)


def test_the_head_is_trained_on_the_rows_of_the_chains_and_the_validation_rows_choose() -> None:
    bench = labelled()
    told = measured(bench, max_tokens=64, rows=200).details
    assert bench.specs[0].max_rows == bench.chained[0].most_rows == 200
    assert bench.specs[0].max_tokens == bench.chained[0].max_tokens == 64
    assert bench.specs[0].precision == bench.chained[0].precision == "fp32"
    assert not bench.chained[0].moves_head
    head = told["head"]
    assert head["converged"]
    assert head["classes"] == 3
    assert head["train_accuracy"] > 0.6
    assert told["loss"]["value"] < np.log(3)
    measured(bench, head="unfrozen")
    assert bench.chained[1].moves_head


def test_the_names_of_the_classes_and_the_order_of_rows_do_not_matter() -> None:
    _, y, _ = informative()
    found = measured(labelled())
    renamed = measured(labelled(np.array([2, 0, 1])[y]))
    assert renamed.value == pytest.approx(found.value, rel=1e-5)
    cuts = [int(share * len(y)) for share in (0.7, 0.85)]
    generator = np.random.default_rng(1)
    order = np.concatenate([generator.permutation(part) for part in np.split(np.arange(len(y)), cuts)])
    shuffled = measured(labelled(order=order))
    assert shuffled.value == pytest.approx(found.value, rel=1e-5)
    assert shuffled.stderr == pytest.approx(found.stderr)


def test_labels_without_meaning_have_the_higher_free_energy() -> None:
    _, y, _ = informative()
    known = measured(labelled()).details["nl"]["value"]
    assert measured(labelled(np.random.default_rng(0).permutation(y))).details["nl"]["value"] > known + 20


def test_the_same_seed_gives_the_same_bits_and_another_one_others() -> None:
    first, second = (asdict(measured(labelled(seed=3))) for _ in range(2))
    assert first == second
    assert measured(labelled(seed=4)).value != first["value"]
    assert labelled(seed=3).chained == []


def test_a_regression_is_for_the_objectives_that_read_texts() -> None:
    bench = fake_bench(np.ones((40, 2), np.float32), np.linspace(0, 1, 40), classes=None)
    bench.valley, bench.target = MIXED, replace(TARGET, task="regression", metric="spearman")
    with pytest.raises(NotApplicable, match="the target is a regression") as outcome:
        run(bench, FreeEnergyParams())
    assert "masked-lm" in outcome.value.remedy
    measured(bench, objective="causal-lm")
    assert [spec.head for spec in bench.chained] == [None]
    assert bench.specs == []  # no features were made for nothing


@pytest.mark.parametrize("hard", HARD, ids=lambda case: case.__name__.strip("_"))
def test_a_hard_case_is_finite_or_not_applicable(hard: Callable[[], FakeBench]) -> None:
    bench = hard()
    bench.valley = MIXED
    try:
        measured(bench)
    except NotApplicable as outcome:
        sentence = outcome.sentence
    else:
        return
    assert sentence.endswith(".")
    assert len(sentence) > 30


@pytest.mark.parametrize("objective", ["classification", "masked-lm"])
def test_few_rows_have_no_free_energy(objective: str) -> None:
    x, y, _ = informative(10)
    bench = fake_bench(x, y, classes=3)
    bench.valley = replace(MIXED, rows=7)
    with pytest.raises(NotApplicable, match="10 train rows or more, and the target has 7"):
        run(bench, FreeEnergyParams(objective=objective))


# the parameters


def test_the_preset_fills_in_what_was_left_out_and_the_key_has_it_all() -> None:
    paper = FreeEnergyParams(preset="paper")
    assert (paper.chains, paper.draws, paper.burn_in, paper.step) == (1, 3000, 0, 2e-7)
    assert (paper.scheme, paper.localisation, paper.radius) == ("euler", 1.0, None)
    own = FreeEnergyParams(preset="paper", draws=1000, radius=2.0)
    assert (own.draws, own.radius, own.localisation) == (1000, 2.0, None)
    usual = FreeEnergyParams()
    assert (usual.preset, usual.radius, usual.localisation, usual.step) == ("converged", 10.0, None, None)
    tight = FreeEnergyParams(localisation=100.0)
    assert (tight.localisation, tight.radius) == (100.0, None)
    for params in (paper, own, usual, tight):
        dumped = params.model_dump(mode="json")
        assert FreeEnergyParams.model_validate(dumped) == params
        assert FreeEnergyParams.model_validate(dumped).model_dump(mode="json") == dumped


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"precondition": 0.99}, "precondition 0.99 is for scheme euler, and the scheme is crank-nicolson"),
        ({"chains": 3}, "3 chains cannot tell whether they have converged: ask for 4 or more"),
        ({"radius": 1.0, "localisation": 5.0}, "radius is 1 and localisation 5: give one"),
        ({"radius": None}, "both are null: give one"),
        ({"head": "unfrozen", "objective": "causal-lm"}, "The head of causal-lm stays frozen"),
        ({"draws": 10}, "greater than or equal to 24"),
        ({"rows": 5}, "greater than or equal to 10"),
        ({"preset": ["paper"]}, "Input should be"),
        ({"step": float("nan")}, "finite number"),
        ({"epsilon": 1e-7}, "Extra inputs are not permitted"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        FreeEnergyParams(**given)
    with pytest.raises(ValidationError):
        FreeEnergyParams.model_validate("paper")


def test_what_is_asked_for_arrives_at_the_workbench() -> None:
    bench = texts(seed=5)
    measured(bench, beta=0.5, localisation=7.0, scheme="euler", step=1e-4, chains=5, draws=200, **TEXTS)
    asked = bench.chained[0]
    assert (asked.beta, asked.localisation, asked.scheme, asked.step) == (0.5, 7.0, "euler", 1e-4)
    assert (asked.chains, asked.draws, asked.seed, asked.objective) == (5, 200, 5, "masked-lm")
    assert METHOD.queue == "gpu"
    assert not METHOD.higher_is_better
