"""What runs say of gains: the Gaussian against brute force, and what follows from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headstart.race import belief as module
from headstart.race.belief import Chances, believe
from headstart.race.field import Field
from headstart.race.prior import Prior, ignorant
from headstart.race.runs import Run

NOISE = 0.5
GAIN = np.array([0.0, 1.0, -0.5, 0.3])
C = np.zeros((4, 4))
C[1:, 1:] = [[2.0, 0.9, 0.2], [0.9, 1.5, 0.1], [0.2, 0.1, 1.0]]
PRIOR = Prior(checkpoint_ids=(9, 1, 2, 3), gain=GAIN, covariance=C, noise=NOISE)


def ended(checkpoint: int, points: float, seed: int = 0) -> Run:
    return Run(checkpoint_id=checkpoint, seed=seed, curve=(points / 100,), validation=points / 100)


def field(*runs: Run, **changes: object) -> Field:
    blank = Field(ids=(9, 1, 2, 3), parameters=(1.0,) * 4, prior=PRIOR, runs=runs)
    return replace(blank, **changes)  # type: ignore[arg-type]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Gaussian without the allowances for a prior that is wrong."""
    monkeypatch.setattr(module, "SURE", 1e12)
    monkeypatch.setattr(module, "FREEDOM", 1e12)


@pytest.mark.usefixtures("plain")
def test_conditioning_agrees_with_weighing_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WEIGHT", 1e12)
    found = believe(field(ended(9, 70.0), ended(9, 70.6, 1), ended(1, 71.5), ended(2, 70.2)))
    rng = np.random.default_rng(0)
    g = rng.multivariate_normal(GAIN[1:], C[1:, 1:], 400_000)
    # the level, flat: integrated out by projecting on differences
    seen, of = np.array([70.0, 70.6, 71.5, 70.2]), np.array([0, 0, 1, 2])
    left = seen - np.column_stack([np.zeros(len(g)), g])[:, of]
    left -= left.mean(axis=1, keepdims=True)
    weight = np.exp(-0.5 * (left**2).sum(axis=1) / NOISE**2)
    mean = weight @ g / weight.sum()
    spread = np.sqrt(weight @ (g - mean) ** 2 / weight.sum())
    np.testing.assert_allclose(found.gain, mean, atol=0.02)
    np.testing.assert_allclose(found.spread, spread, atol=0.02)


def test_without_runs_it_is_the_prior() -> None:
    found = believe(field())
    np.testing.assert_allclose(found.gain, GAIN[1:])
    np.testing.assert_allclose(found.covariance, C[1:, 1:])


@pytest.mark.usefixtures("plain")
def test_the_level_itself_tells_nothing() -> None:
    low = believe(field(ended(9, 20.0), ended(1, 22.0)))
    high = believe(field(ended(9, 80.0), ended(1, 82.0)))
    np.testing.assert_allclose(low.gain, high.gain, atol=1e-6)
    alone = believe(field(ended(9, 20.0)))
    np.testing.assert_allclose(alone.gain, GAIN[1:], atol=1e-3)


@pytest.mark.usefixtures("plain")
def test_the_vanillas_noise_is_common_to_all() -> None:
    found = believe(field(ended(9, 70.0), *(ended(k, 70.0) for k in (1, 2, 3))))
    independent = replace(PRIOR, covariance=np.diag(np.append(0.0, np.full(3, 100.0))))
    wide = believe(replace(field(*[ended(k, 70.0) for k in (9, 1, 2, 3)]), prior=independent))
    off = wide.covariance[~np.eye(3, dtype=bool)]
    np.testing.assert_allclose(off, NOISE**2, rtol=0.05)
    assert (found.spread < np.sqrt(np.diag(C)[1:])).all()


def test_one_terrible_start_is_no_news_of_the_vanilla() -> None:
    before = believe(field(ended(9, 70.0)))
    after = believe(field(ended(9, 70.0), ended(3, 40.0)))
    assert after.gain[2] == pytest.approx(-30, abs=1.5)
    np.testing.assert_allclose(after.gain[:2], before.gain[:2], atol=0.8)


def test_validation_rows_leave_a_doubt_that_seeds_do_not_take_away() -> None:
    def spread(rows: int | None) -> float:
        runs = [ended(k, 70.0, seed) for k in (9, 1) for seed in range(5)]
        return float(believe(field(*runs, validation_rows=rows)).spread[0])

    assert spread(300) > spread(3000) > 0
    share = replace(PRIOR, noise_share=1e-6)
    runs = [ended(k, 70.0, seed) for k in (9, 1) for seed in range(5)]
    found = believe(replace(field(*runs, validation_rows=300), prior=share))
    binomial = 1e4 * 0.7 * 0.3 / 300
    assert found.spread[0] ** 2 > 0.5 * 2 * module.ROWS * binomial * 2.0 / (2.0 + 2 * module.ROWS * binomial)


def test_seeds_tell_their_own_noise() -> None:
    calm = believe(field(*(ended(9, 70.0, seed) for seed in range(5)))).seed_noise
    wild = believe(field(*(ended(9, 70.0 + 3 * (seed % 2), seed) for seed in range(5)))).seed_noise
    assert calm < NOISE < wild


def test_paused_and_collapsed_runs() -> None:
    paused = Run(checkpoint_id=1, seed=0, curve=(0.65,))
    assert len(believe(field(paused)).end_var) == 0  # nothing has finished: nothing is foretold
    done = Run(checkpoint_id=9, seed=0, curve=(0.6, 0.7), validation=0.7)
    both = believe(field(done, paused))
    assert both.foretold_var[1] > 0
    assert both.foretold_var[0] == 0
    gone = Run(checkpoint_id=1, seed=0, curve=(0.1,), validation=0.1, collapsed=True)
    np.testing.assert_allclose(believe(field(done, gone)).gain, believe(field(done)).gain)


def test_probabilities_by_hand() -> None:
    draws = np.array([[1.0, 2.0], [-1.0, -2.0], [3.0, 0.2], [0.4, 0.1]])
    found = Chances.of(draws, 0.5, np.array([0, 1]))
    assert found.best.tolist() == [0.25, 0.5, 0.25]
    assert found.worth.tolist() == [0.5, 0.25]
    assert found.any_worth == 0.5
    assert found.highest == pytest.approx((2 + 0 + 3 + 0.4) / 4)
    one = Chances.of(draws, 0.5, np.array([1]))
    assert one.best.tolist() == [0.25, 0.0, 0.75]


def test_draws_are_those_of_the_belief_and_always_the_same() -> None:
    found = believe(field(ended(9, 70.0), ended(1, 71.0)))
    drawn = found.draws()
    np.testing.assert_allclose(drawn.mean(axis=0), found.gain, atol=1e-9)
    np.testing.assert_allclose(np.cov(drawn.T), found.covariance, atol=0.12)
    np.testing.assert_array_equal(drawn, found.draws())


def test_who_is_level_with_the_vanilla_gains_nothing_by_the_others_losses() -> None:
    ids = tuple(range(9, 21))
    runs = [ended(9, 90.0), ended(10, 90.0), *(ended(one, 82.0) for one in ids[2:])]
    blank = Field(ids=ids, parameters=(1.0,) * len(ids), prior=ignorant(ids), runs=tuple(runs))
    found = believe(replace(blank, validation_rows=300))
    assert abs(found.gain[0]) < 0.3
    assert found.gain[1:].max() < -2
