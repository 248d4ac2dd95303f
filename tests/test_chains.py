"""Chains that have converged, chains that have not, and what their draws are worth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from headstart.chains import diagnose


def autoregressive(share: float, chains: int, draws: int, seed: int = 0) -> np.ndarray:
    """Stationary, of variance 1 / (1 - share^2)."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(chains, draws))
    found = np.empty((chains, draws))
    found[:, 0] = steps[:, 0] / math.sqrt(1 - share**2)
    for at in range(1, draws):
        found[:, at] = share * found[:, at - 1] + steps[:, at]
    return found


def test_independent_draws_are_worth_their_number() -> None:
    told = diagnose(np.random.default_rng(0).normal(3.0, 2.0, size=(4, 1_000)))
    assert told.converged
    assert told.effective == pytest.approx(4_000, rel=0.1)
    assert told.stderr == pytest.approx(2 / math.sqrt(4_000), rel=0.1)
    assert abs(told.mean - 3.0) < 4 * told.stderr


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_correlated_draws_are_worth_less(share: float) -> None:
    """n (1 - a) / (1 + a) of n draws of an AR(1)."""
    told = diagnose(autoregressive(share, 4, 5_000))
    assert told.effective == pytest.approx(20_000 * (1 - share) / (1 + share), rel=0.15)
    assert told.stderr == pytest.approx(1 / (1 - share) / math.sqrt(20_000), rel=0.1)


def test_honest_chains_are_seldom_refused() -> None:
    refused = [not diagnose(autoregressive(0.3, 4, 300, seed)).converged for seed in range(100)]
    assert np.mean(refused) <= 0.05


def test_a_stuck_chain_is_refused() -> None:
    draws = np.random.default_rng(1).normal(size=(4, 500))
    draws[2] = 0.1
    told = diagnose(draws)
    assert math.isinf(told.rhat)
    assert told.effective == 0
    assert told.faults == ("A chain stands still: it is the same in draw after draw.",)


@pytest.mark.parametrize("at", [slice(0, 100), slice(200, 300)])
@pytest.mark.parametrize("which", [slice(1, 2), slice(None)])
def test_chains_that_stand_still_for_a_third_are_refused(at: slice, which: slice) -> None:
    draws = np.random.default_rng(1).normal(size=(4, 300))
    draws[which, at] = 0.25
    told = diagnose(draws)
    assert told.stuck
    assert told.mean == pytest.approx(draws.mean())


def test_chains_that_stand_still_at_both_ends_are_refused() -> None:
    draws = np.ones((4, 300))
    draws[:, 100:200] = np.random.default_rng(1).normal(size=(4, 100))
    assert diagnose(draws).stuck


def test_one_chain_has_no_r_hat_and_no_fault_for_that() -> None:
    told = diagnose(np.random.default_rng(5).normal(size=(1, 500)))
    assert math.isnan(told.rhat)
    assert told.faults == ("1 chains are too few to tell: run 4 or more.",)


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**1000])
def test_the_size_of_the_draws_changes_nothing(scale: float) -> None:
    """By powers of two: to the bit."""
    draws = autoregressive(0.3, 4, 100)
    told, scaled = diagnose(draws), diagnose(scale * draws)
    assert scaled == replace(told, mean=scale * told.mean, stderr=scale * told.stderr)
    assert math.isfinite(diagnose(draws / np.abs(draws).max() * 1.7e308).stderr)
    assert diagnose(np.tile([0.0, 1.0], (4, 50))).rhat < 1.05


def test_a_chain_elsewhere_is_refused() -> None:
    draws = np.random.default_rng(2).normal(size=(4, 500))
    draws[0] += 1.0
    told = diagnose(draws)
    assert told.rhat > 1.05
    assert not told.converged


def test_chains_that_drift_together_are_refused() -> None:
    draws = np.random.default_rng(3).normal(size=(8, 600)) + np.linspace(0, 0.4, 600)
    told = diagnose(draws)
    assert told.drift > 3
    assert any("still move" in fault for fault in told.faults)


def test_few_draws_few_chains_and_no_numbers() -> None:
    rng = np.random.default_rng(4)
    assert any("too few" in fault for fault in diagnose(rng.normal(size=(2, 900))).faults)
    assert any("independent ones" in fault for fault in diagnose(autoregressive(0.9, 4, 100)).faults)
    lost = rng.normal(size=(4, 100))
    lost[1, 5] = np.nan
    told = diagnose(lost)
    assert math.isnan(told.mean)
    assert told.faults == ("Draws are NaN or infinite.",)
    with pytest.raises(ValueError, match="24"):
        diagnose(rng.normal(size=(4, 10)))
