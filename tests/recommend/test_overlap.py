"""The difference of partly paired means, and the correlation of runs at one seed."""

import numpy as np
import pytest

from headstart.recommend.overlap import MOST, difference, seed_correlation


def test_the_slope_is_found_and_failed_runs_do_not_hide_it() -> None:
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(200), 5)
    for kappa in (0.0, 0.5, 0.9):
        theirs = rng.normal(size=1000)
        ours = (
            kappa * theirs + np.sqrt(1 - kappa**2) * rng.normal(size=1000) + 3 * rng.normal(size=200)[group]
        )
        assert seed_correlation(ours, theirs, group, np.arange(200)) == pytest.approx(kappa, abs=0.06)
        failed = ours - 80 * (np.arange(1000) % 50 == 0)
        assert seed_correlation(failed, theirs, group, np.arange(200)) == pytest.approx(
            0.95 * kappa, abs=0.12
        )


def test_it_stays_between_none_and_almost_one() -> None:
    theirs = np.random.default_rng(1).normal(size=30_000)
    group, kinds = np.repeat(np.arange(10_000), 3), np.arange(10_000)
    assert seed_correlation(theirs, theirs, group, kinds) == MOST
    assert seed_correlation(-theirs, theirs, group, kinds) == 0
    nothing = np.zeros(0)
    assert seed_correlation(nothing, nothing, nothing.astype(int), nothing.astype(int)) == 0


def test_many_candidates_on_the_same_few_vanilla_runs_are_no_proof() -> None:
    rng = np.random.default_rng(1)
    theirs = np.tile(rng.normal(size=3), 500)
    kinds = np.zeros(500, dtype=int)
    group = np.repeat(np.arange(500), 3)
    assert seed_correlation(theirs, theirs, group, kinds) < 0.5
    assert seed_correlation(theirs, theirs, group, np.arange(500)) > 0.8


def test_the_weights_are_the_best_linear_unbiased_ones() -> None:
    """Against a numeric minimum over all unbiased weights."""
    cases = ((0.0, 2, 3, 4), (0.5, 3, 2, 1), (0.9, 1, 4, 0), (0.7, 2, 0, 2), (0.6, 1, 2, 1), (0.8, 1, 0, 1))
    for kappa, shared, ours, theirs in cases:
        n, m = shared + ours, shared + theirs
        covariance = np.eye(n + m)
        for s in range(shared):
            covariance[s, n + s] = covariance[n + s, s] = -kappa
        unit = np.zeros((n + m, 2))
        unit[:n, 0], unit[n:, 1] = 1, 1
        solved = np.linalg.solve(covariance, unit)
        weights = solved @ np.linalg.solve(unit.T @ solved, np.ones(2))
        found = difference(
            kappa,
            paired=np.array([float(shared)]),
            alone=np.array([float(ours)]),
            singles=np.array([ours]),
            partners=np.array([shared]),
            others=np.array([theirs]),
        )
        assert found.paired[0] == pytest.approx(weights[:shared].sum())
        in_partners = found.control[0] + (1 - found.control[0]) * shared / m
        assert in_partners == pytest.approx(weights[n : n + shared].sum())
        if m < 3:  # the level is a mean
            assert found.own[0] + found.common[0] == pytest.approx(weights @ covariance @ weights)
