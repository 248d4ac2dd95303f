"""Purity and the adjusted Rand index: known answers."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.regions.purity import adjusted_rand, counts_by_region, purity

LABELS = np.array([0, 0, 0, 1, 1, 1, -1])


def test_the_same_partition() -> None:
    sources = ["b", "b", "b", "a", "a", "a", "c"]
    assert purity(LABELS, sources) == 1.0
    assert adjusted_rand(LABELS, sources) == 1.0
    assert counts_by_region(LABELS, sources) == [{"b": 3}, {"a": 3}]


def test_by_hand() -> None:
    """Pairs: 2 in both, 6 in regions, 7 in sources, of 15: (2 - 2.8) / (6.5 - 2.8)."""
    sources = ["a", "a", "b", "a", "a", "b", "b"]
    assert purity(LABELS, sources) == pytest.approx(4 / 6)
    assert adjusted_rand(LABELS, sources) == pytest.approx((2 - 2.8) / (6.5 - 2.8))
    assert counts_by_region(LABELS, sources) == [{"a": 2, "b": 1}, {"a": 2, "b": 1}]


def test_chance_has_an_index_of_about_0_and_a_purity_that_is_not() -> None:
    rng = np.random.default_rng(0)
    found = [
        adjusted_rand(rng.integers(4, size=40), [str(k) for k in rng.integers(4, size=40)])
        for _ in range(200)
    ]
    assert np.mean(found) == pytest.approx(0.0, abs=0.01)
    assert purity(np.arange(9), ["a", "b", "c"] * 3) == 1.0
    assert adjusted_rand(np.arange(9), ["a", "b", "c"] * 3) == 0.0


def test_what_is_not_known_is_left_out() -> None:
    assert purity(LABELS, ["a", None, "a", "b", "b", None, "b"]) == 1.0
    assert purity(np.array([-1, -1]), ["a", "b"]) is None
    assert adjusted_rand(LABELS, [None] * 7) is None
    assert adjusted_rand(np.array([0, 0]), ["a", "a"]) == 1.0
    assert counts_by_region(np.array([-1, 0]), ["a", None]) == [{}]


def test_equally_frequent_sources_come_by_name() -> None:
    assert list(counts_by_region(np.array([0, 0, 0, 0]), ["z", "b", "z", "b"])[0]) == ["b", "z"]
