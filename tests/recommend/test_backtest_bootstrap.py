"""Intervals with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.recommend.backtest.bootstrap import compared, over_authors, over_units


def test_equal_methods_differ_by_nothing() -> None:
    values = over_units(np.random.default_rng(0).normal(size=(2, 30)))
    made = compared("", {"a": values, "b": values}, ("x", "y"), protocol="p1", measure="", lead="a")
    assert made.lines[0].lead is None
    lead = made.lines[1].lead
    assert lead is not None
    assert (lead.value, lead.low, lead.high) == (0.0, 0.0, 0.0)


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, size=(1, 200))
    found = (
        compared("", {"a": over_units(values)}, ("x",), protocol="p1", measure="", lead="a").lines[0].overall
    )
    assert found is not None
    half = 1.96 * values.std() / np.sqrt(200)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.01)
    assert found.high == pytest.approx(values.mean() + half, abs=0.01)


def test_methods_stand_on_the_same_draws() -> None:
    """A difference that is the same on every target has no interval, however far the targets lie apart."""
    values = np.random.default_rng(0).normal(0, 50, size=(2, 40))
    both = {"a": over_units(values + 1), "b": over_units(values)}
    lead = compared("", both, ("x", "y"), protocol="p1", measure="", lead="a").lines[1].lead
    assert lead is not None
    assert (lead.low, lead.high) == (pytest.approx(1.0), pytest.approx(1.0))


def test_families_are_averaged_first_and_what_is_missing_is_left_out() -> None:
    values = np.array([[1.0, 3.0, np.nan], [10.0, np.nan, np.nan]])
    found = over_units(values)
    assert found[:, 0].tolist() == [2.0, 10.0]
    made = compared("", {"a": found}, ("x", "y"), protocol="p1", measure="", lead="a")
    assert made.lines[0].overall is not None
    assert made.lines[0].overall.value == 6.0
    empty = compared(
        "", {"a": over_units(np.full((1, 2), np.nan))}, ("x",), protocol="p1", measure="", lead="a"
    )
    assert empty.lines[0].overall is None
    assert over_units(np.empty((2, 0))).shape == over_units(values).shape


def test_a_unit_of_many_cells_weighs_as_many() -> None:
    found = over_units(np.array([[1.0, 4.0]]), np.array([[30.0, 10.0]]))
    assert found[0, 0] == pytest.approx(1.75)


def test_authors_are_drawn_with_all_their_checkpoints() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=60)
    names = [f"a{i % 6}" for i in range(60)]
    perfect = over_authors([truth], [truth], [names])
    assert perfect.min() == pytest.approx(1.0)
    noisy = over_authors([truth + rng.normal(size=60)], [truth], [names])
    assert 0.4 < noisy[0, 0] < 0.95
    assert noisy[0, 1:].std() > 0.02
    lone = over_authors([truth], [truth], [["a"] * 60])  # one author: every draw is the sample
    np.testing.assert_allclose(lone, 1.0)
