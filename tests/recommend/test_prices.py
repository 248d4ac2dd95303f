"""What a job will take: operations by hand, on a line that is known."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from headstart.entities import Target
from headstart.methods import METHODS
from headstart.recommend import cost
from headstart.recommend.prices import (
    BY_NOTHING,
    NOTHING,
    Price,
    finetune_amount,
    finetune_rows,
    passes,
    price_of,
    probe_amount,
    probe_rows,
    profiled_tokens,
    sampling_amount,
    together,
)
from headstart.recommend.rates import UNKNOWN, Rates
from headstart.recommend.timings import CACHED, FRESH, Kind, Length, Stop, Work

CPU = "CPU (x, 2 threads)"
RATE = 1e12
CHARACTERS = {"least": 43, "median": 43, "p90": 43, "p99": 43, "most": 43}
PROFILE: dict[str, Any] = {
    "rows": {"train": 1_000, "validation": 200, "test": 300},
    "characters": {"train": CHARACTERS},
    "pair": False,
}
TARGET = Target(
    id=7,
    name="t",
    task="classification",
    metric="accuracy",
    train_size=1_000,
    classes=2,
    rows_tested=300,
    profile=PROFILE,
)
TOKENS = 12.0  # 43 / 4.3 characters, and two


def params(method: str, **given: Any) -> dict[str, Any]:
    return METHODS[method].params(**given).model_dump(mode="json")


def known(kind: Kind, count: int = 60) -> Rates:
    """Rates by which a job starts in 2 s and makes RATE operations a second."""
    sizes = np.geomspace(1e11, 1e15, count).tolist()
    return Rates(tuple(Work(kind, CPU, "bfloat16", size, 2 + size / RATE) for size in sizes))


def test_a_finetune_is_its_operations_on_the_line() -> None:
    recipe = params("finetune", epochs=2, patience=3)  # it cannot stop early
    amount = finetune_amount(UNKNOWN, recipe, TARGET)
    assert amount.work == pytest.approx(TOKENS * (6 * 1_000 * 2 + 2 * ((2 + 1) * 200 + 300)))
    price = price_of(known(Kind("finetune", "full")), "finetune", recipe, 10**8, TARGET)
    assert price.seconds == pytest.approx(2 + 1e8 * amount.work / RATE, rel=0.05)
    assert price.low < price.seconds < price.high
    assert (price.basis, price.device) == ("measured", CPU)


@pytest.mark.parametrize(
    ("given", "trained", "held"),
    [
        ({"tuning": "head"}, 2 * 1_000 * 2, 2 * (3 * 200 + 300)),
        ({"max_train_rows": 100}, 6 * 100 * 2, 2 * (3 * 200 + 300)),
        ({"max_rows": 50}, 6 * 1_000 * 2, 2 * (3 * 50 + 50)),
        ({"max_steps": 4, "batch_rows": 250}, 6 * 1_000 * 1, 2 * (2 * 200 + 300)),
        ({"evaluations": 2, "patience": 8}, 6 * 1_000 * 2, 2 * (5 * 200 + 300)),
    ],
)
def test_operations_of_recipes_by_hand(given: dict[str, Any], trained: float, held: float) -> None:
    recipe = params("finetune", **{"epochs": 2, "patience": 3} | given)
    assert finetune_amount(UNKNOWN, recipe, TARGET).work == pytest.approx(TOKENS * (trained + held))


def test_a_finetune_stops_when_others_did() -> None:
    recipe = params("finetune")
    stopped = Rates(stops=tuple(Stop(7, 4.0, early=True) for _ in range(100)))
    late, early = (finetune_amount(rates, recipe, TARGET) for rates in (UNKNOWN, stopped))
    assert late.work == pytest.approx(TOKENS * (6 * 1_000 * 7 + 2 * (8 * 200 + 300)))
    assert early.work == pytest.approx(TOKENS * (6 * 1_000 * 4 + 2 * (5 * 200 + 300)), rel=0.1)
    assert late.deviation > finetune_amount(UNKNOWN, params("finetune", epochs=2), TARGET).deviation


def test_a_probe_is_one_forward_pass_over_what_it_reads() -> None:
    assert probe_amount(UNKNOWN, "logme", params("logme"), TARGET).work == 2 * TOKENS * 1_000
    assert probe_amount(UNKNOWN, "linear_probe", params("linear_probe"), TARGET).work == 2 * TOKENS * 1_500
    assert probe_amount(UNKNOWN, "logme", params("logme", max_rows=100), TARGET).work == 2 * TOKENS * 100


def test_a_probe_whose_features_are_there_is_priced_by_such() -> None:
    fresh, cached = (
        known(Kind("logme", FRESH)).works,
        tuple(
            Work(Kind("logme", CACHED), CPU, "bfloat16", size, 0.5) for size in np.geomspace(1e11, 1e15, 60)
        ),
    )
    rates, given = Rates(fresh + cached), params("logme")
    first = price_of(rates, "logme", given, 10**9, TARGET)
    second = price_of(rates, "logme", given, 10**9, TARGET, cached=True)
    assert first.seconds == pytest.approx(2 + 1e9 * 2 * TOKENS * 1_000 / RATE, rel=0.1)
    assert second.seconds == pytest.approx(0.5, rel=0.3)


def test_probes_share_the_passes_of_roles_that_they_both_read() -> None:
    logme, linear = passes("logme", params("logme")), passes("linear_probe", params("linear_probe"))
    assert set(logme) < set(linear)
    assert passes("leep", params("leep")) == logme  # which names no layers
    assert not set(logme) & set(passes("logme", params("logme", layers=("mean",))))
    assert passes("finetune", params("finetune")) == ()


@pytest.mark.parametrize(
    ("given", "operations"),
    [
        ({}, 6 * 16 * (2 * 4 * 120 + 160) + (6 + 18 + 2) * 500),
        ({"trace_probes": 0, "objective": "masked-lm"}, 6 * 16 * (2 * 4 * 120 + 160) + 6 * 500),
        ({"chains": 8, "draws": 600, "step": 1e-5}, 2 * 6 * 16 * 8 * 620 + (6 + 18 + 2) * 500),
        ({"preset": "paper", "batch_rows": 2_048}, 6 * 500 * 3_000 + (6 + 18 + 2) * 500),
    ],
)
def test_chains_are_their_steps_on_the_line(given: dict[str, Any], operations: float) -> None:
    asked = params("free_energy", rows=500, **given)
    amount = sampling_amount(UNKNOWN, asked, TARGET)
    assert amount.work == pytest.approx(TOKENS * operations)
    price = price_of(known(Kind("free_energy", FRESH)), "free_energy", asked, 10**8, TARGET)
    assert price.seconds == pytest.approx(2 + 1e8 * amount.work / RATE, rel=0.05)
    assert price.basis == "measured"
    assert passes("free_energy", asked) == ()


def test_draws_alone_are_no_chains() -> None:
    asked = {"max_tokens": 64, "draws": 50}
    assert passes("gauge", asked)
    known_of = known(Kind("gauge", FRESH))
    plain = price_of(known_of, "gauge", {"max_tokens": 64}, 10**8, TARGET)
    assert price_of(known_of, "gauge", asked, 10**8, TARGET) == plain


def test_chains_read_no_more_rows_than_there_are() -> None:
    every, more = (sampling_amount(UNKNOWN, params("free_energy", rows=n), TARGET) for n in (1_000, 2_000))
    assert every == more


def test_tokens_that_jobs_found_go_before_the_profile() -> None:
    rates = Rates(lengths={7: (Length(7, 30.0, 256, 0.0),)})
    found = probe_amount(rates, "logme", params("logme"), TARGET)
    assert found == (2 * 30.0 * 1_000, 0.0)


def test_tokens_of_a_profile_are_joined_by_lines_and_cut() -> None:
    lengths = {"least": 0, "median": 86, "p90": 172, "p99": 430, "most": 4_300}
    profile = PROFILE | {"characters": {"train": lengths}}
    mean = 2 + 0.5 * 10 + 0.4 * 30 + 0.09 * 70 + 0.01 * 550
    assert profiled_tokens(profile, 10_000) == pytest.approx(mean)
    assert profiled_tokens(profile | {"pair": True}, 10_000) == pytest.approx(mean + 1)
    assert profiled_tokens(profile, 42) == pytest.approx(0.5 * 12 + 0.4 * 32 + 0.1 * 42)
    assert profiled_tokens({}, 256) is None
    assert profiled_tokens({"characters": {"train": {"least": 1}}}, 256) is None


@pytest.mark.parametrize("target", [None, dataclasses.replace(TARGET, profile=None, train_size=None)])
def test_where_nothing_is_known_it_is_guessed_and_said(target: Target | None) -> None:
    amount = probe_amount(UNKNOWN, "logme", params("logme"), target)
    assert amount.work == 2 * cost.TOKENS * cost.TRAIN_ROWS
    assert amount.deviation > BY_NOTHING
    price = price_of(UNKNOWN, "logme", params("logme"), None, target)
    assert (price.basis, price.device) == ("assumed", None)
    assert price.high / price.low > 10


def test_an_unknown_size_widens_the_interval() -> None:
    rates, recipe = known(Kind("finetune", "full")), params("finetune", epochs=2)
    told = price_of(rates, "finetune", recipe, int(cost.PARAMETERS), TARGET)
    guessed = price_of(rates, "finetune", recipe, None, TARGET)
    assert guessed.seconds == told.seconds
    assert guessed.high > told.high


def test_larger_is_dearer_and_the_head_alone_is_cheaper() -> None:
    rates = known(Kind("finetune", "full"))
    prices = [
        price_of(rates, "finetune", params("finetune"), size, TARGET).seconds for size in (10**7, 10**9)
    ]
    assert prices[0] < prices[1]
    works = {
        tuning: finetune_amount(UNKNOWN, params("finetune", tuning=tuning), TARGET).work
        for tuning in ("head", "bitfit", "full")
    }
    assert works["head"] < works["bitfit"] < works["full"]


def test_a_method_whose_jobs_name_no_tokens_is_its_start() -> None:
    works = tuple(Work(Kind("gauge", FRESH), "", "", 0.0, 4.0) for _ in range(40))
    for size in (10, 10**10):
        price = price_of(Rates(works), "gauge", {"rows": 100}, size, TARGET)
        assert price.seconds == pytest.approx(4.0, rel=0.1)
        assert (price.basis, price.device) == ("measured", None)


def test_precision_chooses_the_numbers() -> None:
    kind = Kind("finetune", "full")
    slow = tuple(one._replace(dtype="float32", seconds=4 * one.seconds) for one in known(kind).works)
    rates = Rates(known(kind).works + slow)
    auto, wide = (
        price_of(rates, "finetune", params("finetune", precision=one), 10**8, TARGET).seconds
        for one in ("auto", "fp32")
    )
    assert wide > 2 * auto


def test_many_checkpoints_at_once_are_priced_as_one_is() -> None:
    rates, size = known(Kind("finetune", "full")), 10**8
    one = price_of(rates, "finetune", params("finetune"), size, TARGET).seconds
    rate = rates.line(Kind("finetune", "full")).rate
    many = cost.finetune_cost(np.array([1.0 * size]), finetune_rows(rates, TARGET), rate=rate)
    assert many.seconds[0] == pytest.approx(one)
    assert many.basis == "measured"
    rates = known(Kind("linear_probe", FRESH))
    one = price_of(rates, "linear_probe", params("linear_probe"), size, TARGET).seconds
    rate = rates.line(Kind("linear_probe", FRESH)).rate
    assert cost.probe_cost(np.array([1.0 * size]), probe_rows(rates, TARGET), rate=rate).seconds[0] == (
        pytest.approx(one)
    )


def test_prices_add_up_with_their_errors() -> None:
    one = Price(10.0, 5.0, 20.0, "measured", CPU)
    guessed = Price(1.0, 0.1, 9.0, "assumed", None)
    assert together([one, one]) == Price(20.0, 10.0, 40.0, "measured", CPU)
    assert together([one, NOTHING]) == one
    assert together([one, guessed]) == Price(11.0, 5.1, 29.0, "assumed", None)
    assert together([]) == NOTHING


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_a_finite_price(method: str) -> None:
    for target in (TARGET, None):
        found = price_of(UNKNOWN, method, params(method), 10**8, target)
        assert 0 < found.low < found.seconds < found.high
        assert math.isfinite(found.high)
