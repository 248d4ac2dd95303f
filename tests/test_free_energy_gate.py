"""What is made of the draws of chains around a checkpoint, and which of them are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from headstart.failures import NonFinite
from headstart.free_energy import (
    Quantity,
    adds_nothing,
    check_finite,
    first_order,
    free_energy_of,
    is_minimum,
    judge,
    loss_of,
    trace_of,
)
from headstart.workbench import ChainSpec
from tests.fake_bench import Valley

if TYPE_CHECKING:
    from headstart.workbench import Chains, Scheme

MIXED = Valley(curvatures=np.geomspace(1e-3, 10, 40))


def drawn(valley: Valley = MIXED, **asked: Any) -> Chains:
    spec = ChainSpec(**{"objective": "masked-lm", "draws": 300} | asked)
    return valley.chains(spec, np.full(valley.rows, valley.loss))


def faults(chains: Chains, scheme: Any = "crank-nicolson") -> str:
    verdict = judge(chains, scheme)
    assert verdict.converged == (not verdict.faults)
    assert bool(verdict.remedy) == bool(verdict.faults)
    json.dumps(verdict.told(), allow_nan=False)
    return " ".join([*verdict.faults, "//", verdict.remedy])


def test_good_chains_pass() -> None:
    assert faults(drawn()) == "// "
    assert faults(drawn(), "euler") == "// "


def test_a_chain_that_stands_still_is_refused() -> None:
    chains = drawn()
    chains.excess[2] = chains.excess[2, 0]
    chains.distance[2] = chains.distance[2, 0]
    told = faults(chains)
    assert "stands still" in told
    assert "larger step" in told
    verdict = judge(chains, "crank-nicolson")
    assert verdict.draws.rhat == np.inf
    assert verdict.told()["rhat"] is None
    for at in (slice(0, 100), slice(200, 300)):  # a third of it is enough
        chains = drawn()
        chains.excess[1, at] = 0.25
        assert "stands still" in faults(chains)
    assert "stands still" in faults(replace(drawn(), excess=np.zeros((4, 300))))
    assert "independent ones" not in told


def test_a_chain_stuck_in_another_place_is_refused_by_r_hat() -> None:
    chains = drawn()
    chains.excess[3] = 3.0 * chains.excess[3] + 1.0
    told = faults(chains)
    assert "R-hat is" in told
    assert "more draws" in told


def test_a_drift_is_refused() -> None:
    chains = drawn()
    chains.excess[:] += np.linspace(0, 0.5, 300) * np.ptp(chains.excess)
    assert "The chains still move" in faults(chains)
    fast = replace(chains, step=1 / chains.localisation)
    assert "longer burn-in (such as 300 steps)" in faults(fast)
    slow = replace(chains, step=1e-3 / chains.localisation)
    assert "longer burn-in (such as 4000 steps)" in faults(slow)
    slowest = replace(chains, step=1e-7 / chains.localisation)
    assert "burn-in" not in faults(slowest)
    assert "smaller radius: without a loss a chain of these steps takes 4e+07 of them" in faults(slowest)


def test_draws_that_hang_together_are_refused_with_how_many_would_do() -> None:
    chains = drawn(draws=100)
    slow = np.cumsum(np.random.default_rng(0).normal(size=chains.excess.shape), axis=1)
    told = faults(replace(chains, excess=slow))
    assert "independent ones, under 100" in told
    wanted = int(told.split("more draws (")[1].split(" ")[0])
    assert wanted >= 200


def test_one_chain_is_refused() -> None:
    told = faults(drawn(chains=1))
    assert "1 chains are too few" in told
    assert "R-hat" not in told  # which one chain does not have
    assert "4 chains or more" in told


def test_chains_that_still_leave_are_refused_though_their_loss_is_level() -> None:
    chains = drawn()
    chains.distance[:] = np.sqrt(np.arange(1, 301)) * 1e-3
    told = faults(chains)
    assert "still on their way" in told
    assert "R-hat" not in told
    assert judge(chains, "euler").travelled < 0.1


def test_a_few_wide_directions_are_not_taken_for_leaving() -> None:
    for seed in range(20):
        assert faults(drawn(Valley(curvatures=np.ones(1)), seed=seed, chains=8)) == "// "


def test_steps_too_coarse_are_refused_by_crank_nicolson_and_only_told_by_euler() -> None:
    for acceptance in (0.3, 0.0, float("nan")):
        chains = replace(drawn(), acceptance=acceptance)
        assert "too coarse" in faults(chains)
        assert "or finer" in faults(chains)
        assert faults(chains, "euler") == "// "


@pytest.mark.parametrize("scheme", ["crank-nicolson", "euler"])
def test_steps_too_coarse_for_the_sharpest_direction_are_refused_though_they_are_accepted(
    scheme: Scheme,
) -> None:
    """Of a quadratic loss half the steps are accepted, however coarse."""
    chains = drawn()
    steepest = chains.strength * 10.0 + (chains.localisation if scheme == "euler" else 0.0)

    def of(share: float, **changed: Any) -> Chains:
        return replace(chains, curvature=10.0, step=4 * share / steepest, **changed)

    assert faults(of(0.1), scheme) == "// "
    told = faults(of(0.5), scheme)
    assert "variance of its draws is 2 times too wide" in told
    finer = float(told.split("Ask for a step of ")[1].split(" ")[0])
    assert finer * steepest / 4 == pytest.approx(0.1, rel=0.3)
    assert "without any bound" in faults(of(1.5), scheme)
    assert "Ask for a step of" in faults(of(0.1, acceptance=0.2), "crank-nicolson")


def test_the_llc_adds_nothing_only_where_the_first_order_is_known() -> None:
    llc = Quantity(value=2.0, stderr=0.1)
    assert adds_nothing(llc, Quantity(value=2.1, stderr=0.2))
    assert not adds_nothing(llc, Quantity(value=3.0, stderr=0.2))
    for unsure in (1.0, 30.0, None):
        assert not adds_nothing(llc, Quantity(value=2.1, stderr=unsure))
    assert not adds_nothing(Quantity(value=2.0, stderr=None), Quantity(value=2.0, stderr=0.0))


@pytest.mark.parametrize("what", ["excess", "distance", "centre", "trace", "slope"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_what_is_no_number_ends_the_job(what: str, bad: float) -> None:
    chains = drawn()
    check_finite(chains)
    value = np.array(getattr(chains, what), dtype=np.float64)
    value.flat[0] = bad
    with pytest.raises(NonFinite, match="no finite number"):
        check_finite(replace(chains, **{what: float(value) if what == "slope" else value}))


def test_traces_have_the_error_of_their_probes() -> None:
    assert trace_of(np.zeros(0)) is None
    assert trace_of(np.array([3.0])) == Quantity(value=3.0, stderr=None)
    assert trace_of(np.array([3.0, 5.0])) == Quantity(value=4.0, stderr=1.0)


def test_numbers_of_one_row_or_an_unknown_error_stay_numbers() -> None:
    assert loss_of(np.array([2.0])) == Quantity(value=2.0, stderr=None)
    unsure = Quantity(value=-1.0, stderr=None)
    assert not is_minimum(unsure)
    assert free_energy_of(loss_of(np.ones(9)), unsure, 9) is None
    assert first_order(drawn(), Quantity(value=1.0, stderr=None)).stderr is None
    sure = Quantity(value=1.0, stderr=None)
    assert free_energy_of(Quantity(value=2.0, stderr=None), sure, 10) == Quantity(
        value=20 + np.log(10), stderr=None
    )


@pytest.mark.parametrize(("error", "refused"), [(0.1, False), (0.3, True), (np.inf, True), (None, False)])
def test_a_step_whose_doing_the_excess_is_is_refused(error: float | None, refused: bool) -> None:
    said = faults(replace(drawn(), step_error=error))
    assert ("is its doing" in said) is refused
