"""How much each member of a mean counts by what it is expected to gain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headstart.recommend.decide import Prediction
from headstart.recommend.shares import NORMAL_80, shares_by_gain


def told(gain: list[float], spread: list[float]) -> Prediction:
    gains, spreads = np.array(gain), np.array(spread)
    none: Any = np.zeros(len(gain))
    half = spreads * NORMAL_80 / 2
    return Prediction(
        gain=gains,
        low=gains - half,
        high=gains + half,
        p_beats=none,
        p_worth=none,
        runs_here=none,
        probes_here=none,
        mean=none,
        spread=none,
        shared=none,
        kept=none,
        factors=none,
    )


def test_a_spread_more_counts_e_times_as_much() -> None:
    shares = shares_by_gain(told([1.0, 3.0, 5.0], [2.0, 2.0, 2.0]))
    assert shares.sum() == pytest.approx(1.0)
    assert shares[1:] / shares[:-1] == pytest.approx([np.e, np.e])


def test_the_spread_is_the_root_mean_square() -> None:
    shares = shares_by_gain(told([0.0, 5.0], [1.0, 7.0]))
    assert shares[1] / shares[0] == pytest.approx(np.e)


def test_where_nothing_tells_them_apart_all_count_alike() -> None:
    assert shares_by_gain(told([2.0] * 4, [1.0] * 4)).tolist() == [0.25] * 4
    assert shares_by_gain(told([0.0, 1.0], [1e6, 1e6])) == pytest.approx([0.5, 0.5], abs=1e-6)


def test_gains_far_apart_and_known_for_sure_overflow_nothing() -> None:
    shares = shares_by_gain(told([0.0, 1e6], [0.0, 0.0]))
    assert shares[1] == 1.0
    assert 0.0 < shares[0] < 1e-300  # a mixture takes two members of a weight other than 0
