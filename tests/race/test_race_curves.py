"""Where a paused run will end, from its curve and those of the runs that finished."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headstart.race.curves import LEAST, SHARE, Curves, Guide, cut_at_zero, rises
from headstart.race.runs import Run, put

PATIENCE, EPSILON = 3, 0.001


def run(*curve: float, at: int = 1, finished: bool = False) -> Run:
    """Values in points."""
    fractions = tuple(value / 100 for value in curve)
    return Run(checkpoint_id=at, seed=0, curve=fractions, validation=max(fractions) if finished else None)


def test_a_normal_cut_at_zero_has_the_moments_of_its_draws() -> None:
    drawn = np.random.default_rng(0).normal(size=2_000_000)
    for mean, sd in ((1.0, 1.0), (-1.0, 2.0), (5.0, 1.0)):
        left = (mean + sd * drawn)[mean + sd * drawn >= 0]
        assert cut_at_zero(mean, sd) == pytest.approx((left.mean(), left.std()), abs=0.01)
    assert cut_at_zero(-100.0, 1.0) == pytest.approx((0.01, 0.01), rel=0.01)
    assert cut_at_zero(-1.0, 0.0) == (0.0, 0.0)
    assert cut_at_zero(2.0, 0.0) == (2.0, 0.0)


def test_a_finished_run_is_as_it_is() -> None:
    done = run(60, 70, 69, finished=True)
    told = Curves([done], PATIENCE, EPSILON).foretell(done)
    assert told == pytest.approx((70, 0, 0))


def test_one_finished_curve_tells_the_rise_and_half_of_the_doubt_is_common() -> None:
    done, paused = run(50, 60, 70, 80, finished=True), run(55, at=2)
    told = Curves([done, paused], PATIENCE, EPSILON).foretell(paused)
    spread = SHARE * 30 + LEAST
    at = rises([Guide(done, 80.0)], 1)
    assert (at.mean, at.centre, at.slope) == pytest.approx((30, 50, 0))
    assert at.spread == pytest.approx(spread)
    assert told.value == pytest.approx(55 + 30, abs=1.0)  # the cut adds a little
    apart = 5**2 / (spread / 0.5) ** 2
    assert told.common**2 / (told.own + told.common**2) == pytest.approx(1 / (2 + apart), rel=1e-6)


def test_many_alike_curves_leave_little_doubt_and_different_ones_much() -> None:
    alike = [run(50, 70 + 0.1 * k, finished=True, at=k) for k in range(10)]
    apart = [run(50, 60 + 2 * k, finished=True, at=k) for k in range(10)]
    paused = run(50, at=99)
    sure = Curves([*alike, paused], PATIENCE, EPSILON).foretell(paused)
    unsure = Curves([*apart, paused], PATIENCE, EPSILON).foretell(paused)
    assert math.sqrt(sure.own) < 3.5
    assert unsure.own > 2 * sure.own
    assert sure.common < math.sqrt(sure.own) / 2


def test_who_was_ahead_early_rises_less_where_that_is_how_curves_go() -> None:
    done = [run(50 + 4 * k, 80 + k, finished=True, at=k) for k in range(6)]
    low, high = run(50, at=98), run(70, at=99)
    curves = Curves([*done, low, high], PATIENCE, EPSILON)
    assert low.best < 70 < curves.foretell(low).value < curves.foretell(high).value
    assert curves.foretell(high).value - curves.foretell(low).value < 13  # 20 as they stand, 5 in the end


def test_who_has_stopped_rising_has_less_before_it() -> None:
    done = run(50, 60, 70, 75, 78, 80, finished=True)
    rising, idle = run(50, 60, 66, at=2), run(66, 60, 60, at=3)
    curves = Curves([done, rising, idle], PATIENCE, EPSILON)
    assert idle.idle(EPSILON) == 2
    assert curves.foretell(idle).value - 66 == pytest.approx(
        (curves.foretell(rising).value - 66) / 3, rel=1e-6
    )


def test_runs_far_ahead_count_as_if_they_had_finished() -> None:
    done, far = run(50, 60, 70, 75, 78, 80, finished=True), run(70, 75, 77, 78, at=2)
    assert Curves([done, far], PATIENCE, EPSILON).rises(1).runs == 2
    assert Curves([done, far], PATIENCE, EPSILON).rises(2).runs == 1


def test_a_run_is_put_in_the_place_of_its_earlier_self() -> None:
    first, second = run(50), run(60, at=2)
    later = run(50, 55)
    assert put((first, second), later) == (later, second)
    assert put((first,), second) == (first, second)
    assert Run.from_json(later.to_json()) == later


def test_a_run_that_collapsed_is_over_and_tells_nothing() -> None:
    gone = Run(checkpoint_id=1, seed=0, curve=(0.5,), collapsed=True)
    assert gone.finished
    assert not gone.tells
