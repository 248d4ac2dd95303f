"""A fit that is too sure of itself is flagged and widened; few cells flag nothing."""

import numpy as np
import pytest
from scipy.stats import binomtest

from headstart.recommend.calibration import FEWEST, WIDEST, calibrate, is_off, wilson
from headstart.recommend.t_noise import T_QUANTILE_90


def errors(seed: int, count: int, times: float = 1.0) -> np.ndarray:
    """Forecasts whose errors are `times` as large as they say."""
    return times * np.random.default_rng(seed).standard_t(6, count)


@pytest.mark.parametrize("count", [FEWEST, 300, 5000])
def test_an_honest_fit_is_left_alone(count: int) -> None:
    for seed in range(20):
        coverage, cells, widening = calibrate(errors(seed, count))
        assert widening == 1
        assert cells == count
        assert not is_off(np.array([coverage, cells, widening]))
    assert coverage == pytest.approx(0.8, abs=3 * np.sqrt(0.16 / count))


def test_a_fit_that_is_too_sure_is_flagged_and_widened_to_eighty_percent() -> None:
    wrong = errors(0, 3000, times=2.0)
    found = calibrate(wrong)
    assert found[0] < 0.6
    assert is_off(found)
    assert found[2] == pytest.approx(2.0, rel=0.1)
    assert np.mean(np.abs(wrong) <= found[2] * T_QUANTILE_90) == pytest.approx(0.8, abs=0.001)
    assert np.mean(np.abs(errors(1, 3000, times=2.0)) <= found[2] * T_QUANTILE_90) == pytest.approx(
        0.8, abs=0.03
    )


def test_a_fit_that_is_too_careful_is_told_and_not_narrowed() -> None:
    found = calibrate(errors(0, 3000, times=0.5))
    assert found[0] > 0.95
    assert is_off(found)
    assert found[2] == 1


def test_few_cells_flag_nothing_however_wrong() -> None:
    found = calibrate(errors(0, FEWEST - 1, times=100.0))
    assert found[2] == 1
    assert not is_off(found)


def test_a_little_too_narrow_is_within_what_is_allowed() -> None:
    assert calibrate(errors(0, 3000, times=1.15))[2] == 1


def test_widening_ends() -> None:
    assert calibrate(errors(0, 100, times=1e6))[2] == WIDEST


def test_without_cells_nothing_is_told() -> None:
    coverage, cells, widening = calibrate(np.zeros(0))
    assert np.isnan(coverage)
    assert (cells, widening) == (0, 1)
    assert not is_off(np.array([coverage, cells, widening]))


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (8, 10), (10, 10), (700, 1000)])
def test_the_interval_of_a_share_is_wilsons(hits: int, count: int) -> None:
    theirs = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson(hits / count, count) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
