"""P_B and curves: known answers, intervals that cover, and that hold for a few models."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.regions.study import barrier, curve, probability_better, probability_better_paired


def test_by_hand() -> None:
    """Of six pairs, three are won, one tied: 3.5 / 6."""
    found = probability_better(np.array([1.0, 3.0]), np.array([2.0, 3.0, 0.5]))
    assert found is not None
    assert found.value == pytest.approx((1 + 1 + 0 + 0 + 0.5 + 0) / 6)
    assert found.low <= found.value <= found.high


def test_all_won_is_not_certain_where_models_are_few() -> None:
    few = probability_better(np.zeros(3), np.ones(3))
    many = probability_better(np.zeros(100), np.ones(100))
    assert few is not None
    assert many is not None
    assert few.value == many.value == few.high == 1.0
    assert few.low < 0.6
    assert many.low > 0.95


def test_the_other_way_round_is_one_less_it() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=9).round(1), rng.normal(0.3, size=14).round(1)
    there, back = probability_better(a, b), probability_better(b, a)
    assert there is not None
    assert back is not None
    assert there.value + back.value == pytest.approx(1.0)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = 0.7602  # P(N(0, 1) < N(1, 1)) = Phi(1 / sqrt 2)
    held = 0
    for seed in range(100):
        found = probability_better(rng.normal(size=15), rng.normal(1.0, size=15), draws=200, seed=seed)
        assert found is not None
        held += found.low <= truth <= found.high
    assert held >= 85


def test_mixtures_of_a_few_models_are_a_few_models() -> None:
    """A hundred mixtures of four models against four others: the interval is that of four."""
    rng = np.random.default_rng(2)
    shares = rng.dirichlet(np.ones(4), size=100)
    quality = np.array([0.0, 1.0, 2.0, 3.0])
    against = np.array([0.5, 1.5, 2.5, 1.0])
    naive = probability_better(shares @ quality, against)
    honest = probability_better(shares @ quality, against, shares_a=shares)
    assert naive is not None
    assert honest is not None
    assert naive.value == honest.value
    sure = probability_better(shares @ quality - 9, against, shares_a=shares)
    assert sure is not None
    assert (sure.value, sure.high) == (1.0, 1.0)
    assert sure.low < 0.7


def test_mixtures_and_their_members_are_drawn_together() -> None:
    """Each mixture is as good as its one model: apart they vary, together they cannot."""
    quality = np.arange(12.0)
    together = probability_better(quality, quality, shares_a=np.eye(12), shares_b=np.eye(12))
    apart = probability_better(quality, quality)
    assert together is not None
    assert apart is not None
    assert together.value == apart.value == 0.5
    assert together.high - together.low <= apart.high - apart.low


def test_diverged_losses_are_the_worst_and_tied() -> None:
    found = probability_better(np.array([np.nan, 1.0]), np.array([np.inf, 2.0]))
    assert found is not None
    assert found.value == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    assert probability_better(np.zeros(0), np.ones(2)) is None


def test_pairs() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    found = probability_better_paired(a, a + np.array([1.0, 1.0, -1.0, 0.0]))
    assert found is not None
    assert found.value == pytest.approx(2.5 / 4)
    assert found == probability_better_paired(a, a + np.array([1.0, 1.0, -1.0, 0.0]))
    assert probability_better_paired(np.zeros(0), np.zeros(0)) is None


POSITIONS = np.array([-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0])


def bowl(depth: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    """Losses of lines: a parabola through the ends' mean, `depth` below it in the middle."""
    return 1.0 + tilt[:, None] * (POSITIONS - 0.5) - depth[:, None] * 4 * POSITIONS * (1 - POSITIONS)


def test_a_bowl_is_below_in_between_and_climbs_beyond() -> None:
    depth = np.array([0.2, 0.1, 0.3])
    found = curve(POSITIONS, bowl(depth, np.array([0.1, -0.1, 0.0])))
    values = [estimate.value for estimate in found.excess]
    np.testing.assert_allclose(values, [1.6, 0, -0.15, -0.2, -0.15, 0, 1.6], atol=1e-12)
    assert found.positions == tuple(POSITIONS)
    assert (found.lines, found.left_out) == (3, 0)
    assert found.below_both is not None
    assert found.below_both.value == 1.0
    assert found.excess[3].low == pytest.approx(-0.3, abs=0.05)
    assert found.excess[3].high == pytest.approx(-0.1, abs=0.05)


def test_a_line_from_good_to_bad_is_not_below_both() -> None:
    found = curve(POSITIONS, bowl(np.array([0.0, 0.2]), np.array([1.0, 0.0])))
    assert found.below_both is not None
    assert found.below_both.value == 0.5


def test_lines_of_one_model_are_no_proof() -> None:
    """All six lines among four models, one of which makes its three deep: drawing models tells it."""
    ends = np.array([(a, b) for a in range(4) for b in range(a + 1, 4)])
    losses = bowl(np.where((ends == 0).any(axis=1), 0.4, 0.0), np.zeros(6))
    of_lines = curve(POSITIONS, losses).excess[3]
    of_models = curve(POSITIONS, losses, ends=ends).excess[3]
    assert of_models.value == of_lines.value
    assert of_models.high - of_models.low > of_lines.high - of_lines.low


def test_a_diverged_line_is_left_out_and_told() -> None:
    losses = bowl(np.array([0.2, 0.2]), np.zeros(2))
    losses[0, 0] = np.nan
    found = curve(POSITIONS, losses)
    assert (found.lines, found.left_out) == (1, 1)
    assert found.excess[3].value == pytest.approx(-0.2)
    none = curve(POSITIONS, losses[:1])
    assert (none.excess, none.lines, none.below_both) == ((), 0, None)


def test_ends_alone_have_no_middle() -> None:
    assert curve(np.array([0.0, 1.0]), np.array([[1.0, 2.0]])).below_both is None


def test_barriers() -> None:
    losses = bowl(np.array([0.2, -0.3]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(barrier(POSITIONS, losses), [0.0, 0.3], atol=1e-12)
