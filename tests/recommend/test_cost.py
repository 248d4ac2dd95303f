"""Seconds of a job: by hand."""

import numpy as np
import pytest

from headstart.recommend import cost


def test_operations_of_a_finetune_and_of_a_forward_pass() -> None:
    base = np.array([1e8])
    assert cost.finetune_flops(base, 1_000, tokens=100, epochs=2)[0] == pytest.approx(
        6 * 1e8 * 1_000 * 100 * 2
    )
    assert cost.probe_flops(base, 1_000, tokens=100)[0] == pytest.approx(2 * 1e8 * 1_000 * 100)


def test_a_finetune_passes_forward_over_what_it_does_not_train_on() -> None:
    rows = {"train_rows": 100, "validation_rows": 20, "test_rows": 30, "tokens": 10, "epochs": 2, "passes": 3}
    held = 2 * 10 * (3 * 20 + 30)
    for tuning, each in (("full", 6), ("lora", 4), ("bitfit", 4), ("head", 2), ("of_ones_own", 6)):
        assert cost.finetune_work(**rows, tuning=tuning) == each * 10 * 100 * 2 + held


def test_chains_step_over_batches_and_look_at_every_row_before() -> None:
    asked: dict[str, float] = {"rows": 100, "tokens": 10, "batch_rows": 20, "chains": 4, "steps": 50}
    plain = {"traced": False, "picked": False, "headed": False, "controlled": False}
    bare = cost.sampling_work(**asked, **plain)
    assert bare == (10 * 6 * 20 * 4 * 50, 10 * 6 * 100)
    whole = cost.sampling_work(**asked, traced=True, picked=True, headed=True, controlled=False)
    assert whole == (bare.chains, 10 * ((6 + 18 + 2) * 100 + 160 * 6 * 20))
    few = cost.sampling_work(**asked | {"rows": 5}, **plain)
    assert few.chains == 10 * 6 * 5 * 4 * 50  # a batch has no more than there are
    assert cost.sampling_work(**asked, **plain | {"controlled": True}).chains == 2 * bare.chains
    assert cost.sampling_work(**asked | {"rows": 5}, **plain | {"controlled": True}) == few


def test_the_start_is_the_rates() -> None:
    found = cost.finetune_cost(np.array([1e8]), 1_000, tokens=100, epochs=1, rate=cost.Rate(1e13, start=2.0))
    np.testing.assert_allclose(found.seconds, [2 + 6])


def test_seconds_are_operations_over_the_rate_after_the_start() -> None:
    rate = cost.Rate(1e13, "measured")
    found = cost.finetune_cost(np.array([1e8, 2e8]), 1_000, tokens=100, epochs=1, rate=rate)
    np.testing.assert_allclose(found.seconds, [cost.START + 6, cost.START + 12])
    assert found.basis == "measured"
    assert cost.probe_cost(np.array([1e8]), 1_000, tokens=100, rate=rate).seconds[0] == cost.START + 2


def test_a_probe_is_cheaper_than_a_finetune() -> None:
    sizes = np.array([1e6, 1e8, 1e10])
    assert (cost.probe_cost(sizes).seconds < cost.finetune_cost(sizes).seconds).all()


def test_an_unknown_size_is_the_familys_median() -> None:
    sizes = np.array([1e8, np.nan, 3e8, 2e8, 0.0])
    np.testing.assert_allclose(cost.known_parameters(sizes), [1e8, 2e8, 3e8, 2e8, 2e8])
    np.testing.assert_allclose(cost.known_parameters(np.full(2, np.nan)), cost.PARAMETERS)
    assert cost.finetune_cost(np.zeros(0)).seconds.shape == (0,)


@pytest.mark.parametrize("rows", [None, float("nan"), 0.0])
def test_unknown_rows_are_the_usual_ones_and_say_so(rows: float | None) -> None:
    rate = cost.Rate(1e13, "measured")
    usual = cost.finetune_cost(np.array([1e8]), cost.TRAIN_ROWS, rate=rate)
    found = cost.finetune_cost(np.array([1e8]), rows, rate=rate)
    np.testing.assert_array_equal(found.seconds, usual.seconds)
    assert (usual.basis, found.basis) == ("measured", "assumed")


def test_a_rate_that_nobody_measured_is_assumed() -> None:
    assert cost.finetune_cost(np.array([1e8]), 100).basis == "assumed"
