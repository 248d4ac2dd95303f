"""What the provenance of scores tells of their time: by hand."""

from typing import Any

import pytest

from headstart.recommend.timings import CACHED, FRESH, Kind, Timing, length_of, stop_of, works_of

SIZE = 1_000
FINETUNED: dict[str, Any] = {
    "tuning": "lora",
    "device": "CPU (x, 2 threads)",
    "dtype": "bfloat16",
    "rows": {"train": 100, "validation": 20, "test": 30},
    "tokens": 10 * 100 * 2,  # two epochs of rows of 10 tokens
    "epochs": 2.0,
    "steps": 8,
    "ended": "patience",
    "curve": [{"step": 4}, {"step": 8}],
    "max_tokens": 64,
    "truncated": 0.0,
    "train_seconds": 7.0,
    "resumed_at_step": 0,
    "seconds": 10.0,
}
SAMPLED: dict[str, Any] = {
    "device": "CPU (x, 2 threads)",
    "dtype": "float32",
    "rows": 100,
    "tokens": 1_200,
    "max_tokens": 128,
    "truncated": 0.25,
    "stage_seconds": {"centre": 1.0, "trace": 2.0, "step": 2.0, "chains": 30.0},
    "resumed_at_step": 0,
    "seconds": 40.0,
}
CHAINS = {"chains": 4, "draws": 40, "burn_in": 10, "batch_rows": 20, "trace_probes": 10, "step": None}
TRAINED = SIZE * 10 * (4 * 100 * 2 + 2 * 2 * 20)  # two evaluations
HELD = SIZE * 10 * 2 * (20 + 30)
PROBED: dict[str, Any] = {
    "device": "CPU (x, 2 threads)",
    "dtype": "float32",
    "rows": {"train": 100},
    "tokens": 1_200,
    "max_tokens": 256,
    "truncated": 0.5,
    "cached": False,
    "seconds": 3.0,
}


def timing(facts: dict[str, Any], method: str = "finetune", parameters: int | None = SIZE) -> Timing:
    return Timing(1, method, {}, parameters, 5, facts)


def test_a_finetune_is_its_training_and_the_rest() -> None:
    training, rest = works_of(timing(FINETUNED))
    assert training.kind == rest.kind == Kind("finetune", "lora")
    assert (training.device, training.dtype) == ("CPU (x, 2 threads)", "bfloat16")
    assert (training.operations, training.seconds, training.started) == (TRAINED, 7.0, False)
    assert (rest.operations, rest.seconds, rest.started) == (HELD, 3.0, True)


def test_one_that_collapsed_was_made_twice() -> None:
    run = {key: value for key, value in FINETUNED.items() if key != "seconds"}
    training, rest = works_of(timing(FINETUNED | {"runs": [run, run], "seconds": 20.0}))
    assert (training.operations, training.seconds) == (2 * TRAINED, 14.0)
    assert (rest.operations, rest.seconds) == (2 * HELD, 6.0)


def test_one_that_was_resumed_tells_of_its_training_alone() -> None:
    (training,) = works_of(timing(FINETUNED | {"resumed_at_step": 4, "seconds": 1.0}))
    assert (training.operations, training.seconds, training.started) == (TRAINED, 7.0, False)


def test_a_probe_is_a_forward_pass_or_reads_the_cache() -> None:
    (fresh,) = works_of(timing(PROBED, "logme"))
    (cached,) = works_of(timing(PROBED | {"cached": True}, "logme"))
    assert (fresh.operations, fresh.seconds, fresh.started) == (2 * SIZE * 1_200, 3.0, True)
    assert (fresh.kind, cached.kind) == (Kind("logme", FRESH), Kind("logme", CACHED))


def sampled(facts: dict[str, Any], params: dict[str, Any], parameters: int | None = SIZE) -> Timing:
    return Timing(1, "free_energy", params, parameters, 5, facts)


def test_chains_are_their_steps_and_the_rest() -> None:
    steps, rest = works_of(sampled(SAMPLED, CHAINS))
    assert steps.kind == rest.kind == Kind("free_energy", FRESH)
    assert (steps.operations, steps.seconds, steps.started) == (SIZE * 12 * 6 * 20 * 4 * 50, 30.0, False)
    before = SIZE * 12 * ((6 + 18) * 100 + 160 * 6 * 20)
    assert (rest.operations, rest.seconds, rest.started) == (before, 10.0, True)
    _, headed = works_of(sampled(SAMPLED, CHAINS | {"objective": "classification"}))
    assert headed.operations == before + SIZE * 12 * 2 * 100
    (resumed,) = works_of(sampled(SAMPLED | {"resumed_at_step": 7, "seconds": 20.0}, CHAINS))
    assert resumed == steps
    assert length_of(sampled(SAMPLED, CHAINS)) == (5, 12.0, 128, 0.25)


def test_a_method_of_another_package_may_have_draws_and_no_chains() -> None:
    (found,) = works_of(Timing(1, "gauge", {"draws": 50}, SIZE, 5, {"seconds": 2.0, "tokens": 10}))
    assert (found.operations, found.seconds) == (2 * SIZE * 10, 2.0)


@pytest.mark.parametrize(
    "odd", [{"rows": {"train": 100}}, {"tokens": "many"}, {"stage_seconds": 3}, {"stage_seconds": {}}]
)
def test_chains_with_odd_counts_tell_nothing(odd: dict[str, Any]) -> None:
    assert works_of(sampled(SAMPLED | odd, CHAINS)) == ()
    assert works_of(sampled(SAMPLED, CHAINS, None)) == ()


def test_a_method_that_tells_no_tokens_has_no_operations() -> None:
    (found,) = works_of(timing({"seconds": 2.0}, "gauge"))
    assert (found.device, found.operations) == ("", 0.0)


@pytest.mark.parametrize("seconds", [None, "7", True, 0, -1.0, float("nan"), float("inf")])
def test_without_seconds_nothing_is_told(seconds: object) -> None:
    assert works_of(timing(FINETUNED | {"seconds": seconds})) == ()
    assert works_of(timing({}, "logme")) == ()


@pytest.mark.parametrize(
    "odd",
    [
        {"rows": None},
        {"rows": {"train": "many"}},
        {"tokens": -5},
        {"epochs": 0},
        {"train_seconds": "long"},
        {"runs": [FINETUNED, {}]},
    ],
)
def test_a_finetune_with_odd_counts_tells_nothing(odd: dict[str, Any]) -> None:
    assert works_of(timing(FINETUNED | odd)) == ()


@pytest.mark.parametrize("odd", [{"runs": "two"}, {"runs": []}, {"curve": None}, {"tuning": None}])
def test_what_is_odd_beside_the_counts_does_no_harm(odd: dict[str, Any]) -> None:
    assert len(works_of(timing(FINETUNED | odd))) == 2


def test_a_checkpoint_of_unknown_size_tells_nothing_of_the_pace() -> None:
    assert works_of(timing(FINETUNED, parameters=None)) == ()
    (probe,) = works_of(timing(PROBED, "logme", parameters=None))
    assert probe.operations == 0.0


def test_rows_are_as_long_as_the_tokens_say() -> None:
    assert length_of(timing(FINETUNED)) == (5, 10.0, 64, 0.0)
    assert length_of(timing(PROBED, "logme")) == (5, 12.0, 256, 0.5)
    assert length_of(timing(PROBED | {"rows": {}}, "logme")) is None
    assert length_of(timing({"seconds": 2.0})) is None


def test_a_stop_is_early_where_validation_gained_no_more() -> None:
    assert stop_of(timing(FINETUNED)) == (5, 2.0, True)
    assert stop_of(timing(FINETUNED | {"ended": "epochs"})) == (5, 2.0, False)
    assert stop_of(timing(FINETUNED | {"ended": "steps"})) is None
    assert stop_of(timing(PROBED, "logme")) is None
