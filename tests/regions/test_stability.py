"""Stability: 1 for what is found whatever is drawn, low for what a few draws undo."""

from __future__ import annotations

import numpy as np
from planted import DIMS, planted

from headstart.regions.cluster import regions_of
from headstart.regions.cosine import block_grams, sketch_noise
from headstart.regions.stability import best_jaccard, stability


def test_clear_regions_are_stable() -> None:
    sketches, _ = planted([6, 5, 8], lone=3)
    assert min(region.stability for region in regions_of(sketches).regions) > 0.95


def test_a_region_cut_in_two_is_not() -> None:
    """The halves of one region are told as two: each draw finds the whole, of which a half is half."""
    sketches, truth = planted([12, 6])
    cut = np.where((truth == 0) & (np.cumsum(truth == 0) % 2 == 0), 2, truth)
    whole, other, half = stability(block_grams(sketches), cut, sketch_noise(DIMS))
    assert 0.3 < whole < 0.7
    assert 0.3 < half < 0.7
    assert other > 0.95


def test_a_region_that_is_not_there_has_none() -> None:
    sketches, truth = planted([8], lone=8)
    made_up = np.where(truth == 0, 0, np.where(np.cumsum(truth < 0) <= 4, 1, -1))
    real, none = stability(block_grams(sketches), made_up, sketch_noise(DIMS))
    assert real > 0.95
    assert none < 0.2


def test_a_pair_is_asked_only_where_both_are_drawn() -> None:
    sketches, _ = planted([2, 5], within=0.4)
    assert min(region.stability for region in regions_of(sketches).regions) > 0.95


def test_a_looser_region_is_less_stable() -> None:
    """Within the error of the sketch, drawing its dimensions moves members in and out."""
    tight, _ = planted([6, 6, 6], within=0.4, dims=1024, seed=2)
    loose, _ = planted([6, 6, 6], within=0.16, dims=1024, seed=2)
    found = [np.mean([region.stability for region in regions_of(x).regions]) for x in (tight, loose)]
    assert found[0] > 0.95
    assert found[1] < 0.9


def test_the_seed_decides_and_no_regions_have_no_stability() -> None:
    sketches, truth = planted([6, 6], within=0.16, dims=1024)
    grams, noise = block_grams(sketches), sketch_noise(1024)
    assert np.array_equal(stability(grams, truth, noise, seed=1), stability(grams, truth, noise, seed=1))
    assert stability(grams, np.full(12, -1), noise).shape == (0,)


def test_jaccard_of_the_best_match() -> None:
    similar, asked = best_jaccard(np.array([0, 0, 0, 1, 1, -1, 2]), np.array([1, 1, -1, 0, 0, 0, 1]), 3)
    np.testing.assert_allclose(similar, [2 / 4, 2 / 3, 1 / 3])
    assert asked.tolist() == [True, True, False]
    similar, _ = best_jaccard(np.array([0, 0]), np.array([-1, -1]), 1)
    assert similar.tolist() == [0.0]
