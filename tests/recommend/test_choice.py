"""Joint draws of true gains: their marginals, P(best), regret, and the Pareto set."""

import numpy as np
import pytest
from scipy import integrate, stats

from headstart.recommend import decide
from headstart.recommend.choice import (
    DRAWS,
    LEADERS,
    VANILLA,
    _student_quantiles,
    draws,
    joint,
    leaders,
    p_best,
    pareto,
    regret,
    short_of,
    winners,
    winners_among,
)
from headstart.recommend.mixture import exceeds
from headstart.recommend.t_noise import t_cdf
from headstart.recommend.views import View, known_view, unseen_view
from tests.recommend.posterior_of import posterior_of
from tests.recommend.views_of import joint_of, straight, view_of

CLOSE = 0.035  # a probability near 1/2 is off by 0.013
FAR = (straight(offset=10.0),)  # the vanilla is far below


def some_view(seed: int, components: int) -> View:
    rng = np.random.default_rng(seed)
    weights = rng.random(components)
    return view_of(
        components,
        weights=weights / weights.sum(),
        transforms=tuple(straight(slope) for slope in 0.5 + rng.random(components)),
        level_var=np.full(components, 0.01),
    )


def test_students_quantiles() -> None:
    expected = stats.t.ppf((np.arange(DRAWS) + 0.5) / DRAWS, 6)
    np.testing.assert_allclose(_student_quantiles()[0], expected, rtol=2e-3)


@pytest.mark.parametrize("components", [1, 7])
def test_marginals_are_those_of_the_prediction(components: int) -> None:
    rng = np.random.default_rng(3)
    view = some_view(1, components)
    mean = rng.uniform(-0.8, 0.8, size=(40, components))
    known = joint_of(mean, 0.4, shared=0.2, level=0.1)
    found = draws(view, known)
    assert found.shape == (40, DRAWS)
    close = 0.003 if components == 1 else 2 * CLOSE  # a component of seven has a seventh of the draws
    for points in (-0.8, -0.3, 0.0, 0.2, 0.7):
        expected = exceeds(view, known.mean, known.spread, np.array([points]))
        np.testing.assert_allclose((found > points).mean(axis=1), expected, atol=close)
        assert abs(np.mean((found > points).mean(axis=1) - expected)) < close / 4


@pytest.mark.parametrize("target", [0, 3, None])
def test_the_joint_of_a_prediction_agrees_with_it(target: int | None) -> None:
    posterior = posterior_of(calibration=np.array([0.6, 40.0, 1.3]))
    view = unseen_view(posterior, np.ones(5)) if target is None else known_view(posterior, target)
    found = decide.predict(posterior, view, np.arange(1, 12))
    known = joint(view, found, 1.3)
    np.testing.assert_allclose(np.sum(known.shared[:, :, :-1] ** 2, axis=2), found.shared, atol=1e-12)
    np.testing.assert_allclose(known.shared[:, :, -1] ** 2, 1.69 * np.tile(view.level_var, (11, 1)))
    np.testing.assert_allclose(known.own + np.sum(known.shared**2, axis=2), found.spread**2)
    drawn = draws(view, known)
    np.testing.assert_allclose((drawn > 0).mean(axis=1), found.p_beats, atol=CLOSE)
    h = np.column_stack([np.ones(11), found.factors])
    theta = (
        h @ view.uncertainty[0] @ h.T
    )  # covariance of the rows' mu + s'f, whose correlation the joint keeps
    scale = np.sqrt(np.diag(theta))
    ours = known.shared[:, 0, :-1] @ known.shared[:, 0, :-1].T / np.sqrt(np.outer(*[found.shared[:, 0]] * 2))
    np.testing.assert_allclose(ours, theta / np.outer(scale, scale), atol=1e-9)


def test_the_same_question_has_the_same_draws() -> None:
    view, known = view_of(3), joint_of(np.linspace(0, 1, 9)[:, None] * np.ones(3), 0.5, shared=0.3)
    np.testing.assert_array_equal(draws(view, known), draws(view, known))


def test_p_best_of_one_is_its_chance_to_beat_the_vanilla() -> None:
    best = p_best(draws(view_of(), joint_of([0.3], [0.5])))
    assert best.rows[0] == pytest.approx(t_cdf(0.6), abs=0.003)
    assert best.vanilla == pytest.approx(1 - t_cdf(0.6), abs=0.003)


@pytest.mark.parametrize("apart", [0.0, 0.2, 0.6])
def test_p_best_of_two_by_themselves(apart: float) -> None:
    best = p_best(draws(view_of(transforms=FAR), joint_of([apart, 0.0], [0.4, 0.4])))
    expected, _ = integrate.quad(lambda t: stats.t.pdf(t, 6) * t_cdf(t + apart / 0.4), -40, 40)
    assert best.rows[0] == pytest.approx(expected, abs=CLOSE)
    assert best.vanilla == 0


def test_what_all_share_changes_no_order() -> None:
    best = p_best(draws(view_of(), joint_of([0.21, 0.2], 0.3, shared=0.3)))
    assert best.rows[0] == pytest.approx(t_cdf(0.7), abs=0.003)
    assert best.rows[1] == 0


def test_the_doubt_about_the_level_is_one_for_all() -> None:
    mean = np.zeros(50)
    together = p_best(draws(view_of(), joint_of(mean, 0.3, level=0.3)))
    apart = p_best(draws(view_of(), joint_of(mean, 0.3)))
    assert together.vanilla == pytest.approx(0.5, abs=0.01)
    assert apart.vanilla == 0


def test_equals_share_it() -> None:
    best = p_best(draws(view_of(), joint_of([1.0, 1.0, 0.9], 0.3, shared=0.3)))
    assert best.rows[0] == best.rows[1]
    assert best.rows[2] == 0
    alike = p_best(draws(view_of(transforms=FAR), joint_of(np.zeros(4), 0.3)))
    np.testing.assert_allclose(alike.rows, 0.25, atol=CLOSE)


def test_a_certain_best() -> None:
    found = draws(view_of(), joint_of([2.0, 1.0, -1.0], 1e-9))
    np.testing.assert_allclose(p_best(found).rows, [1, 0, 0])
    assert regret(found, 0) == 0
    assert regret(found, 1) == pytest.approx(1, abs=1e-3)
    assert regret(found, None) == pytest.approx(2, abs=1e-3)


def test_p_best_sums_to_one_for_any_subset_and_order() -> None:
    rng = np.random.default_rng(0)
    found = draws(some_view(2, 5), joint_of(rng.normal(0, 2, size=(128, 5)), 0.8, shared=0.3))
    best = p_best(found)
    assert best.rows.sum() + best.vanilla == pytest.approx(1, abs=1e-12)
    order = rng.permutation(128)
    np.testing.assert_allclose(p_best(found[order]).rows, best.rows[order], atol=1e-7)
    rows = np.sort(order[:30])
    few, alone = p_best(found, rows), p_best(found[rows])
    np.testing.assert_allclose(few.rows[rows], alone.rows, atol=1e-7)
    assert few.rows.sum() + few.vanilla == pytest.approx(1, abs=1e-12)
    assert np.count_nonzero(np.delete(few.rows, rows)) == 0
    assert (few.rows[rows] >= best.rows[rows] - 1e-7).all(), "fewer rivals"


@pytest.mark.parametrize("checkpoints", [1, LEADERS - 1, LEADERS, 128, VANILLA])
def test_leaders_tell_what_a_full_comparison_tells(checkpoints: int) -> None:
    rng = np.random.default_rng(checkpoints)
    mean = rng.normal(-0.3, 0.3, size=(checkpoints, 1))
    drawn = draws(some_view(2, 1), joint_of(mean, 0.4, shared=0.2, level=0.1))
    first = leaders(drawn)
    assert len(first.tied) < 2
    for share in (0.03, 0.1, 0.5, 1.0):  # with few left, no leader of some draws is among them
        rows = np.flatnonzero(rng.random(checkpoints) < share)
        rows = rows if len(rows) else np.array([checkpoints - 1])
        fast, full = winners_among(drawn, first, rows), winners(drawn, rows)
        np.testing.assert_array_equal(fast.best.rows, full.best.rows)
        np.testing.assert_array_equal(fast.highest, full.highest)
        assert fast.best.vanilla == full.best.vanilla == p_best(drawn, rows).vanilla
        for pick in (int(rows[0]), None):
            told = short_of(fast.highest, None if pick is None else drawn[pick])
            assert told == regret(drawn, pick, rows)


def test_leaders_that_are_equal_share_a_draw() -> None:
    rng = np.random.default_rng(8)
    drawn = np.clip(rng.integers(-3, 3, size=(90, DRAWS)), -2, 2).astype(np.float32)
    drawn[:, :50] = -1  # the vanilla's
    first = leaders(drawn)
    assert len(first.tied) > DRAWS / 2
    for rows in (np.arange(90), np.array([4]), np.arange(0, 90, 7)):
        fast, full = winners_among(drawn, first, rows), winners(drawn, rows)
        np.testing.assert_allclose(fast.best.rows, full.best.rows, rtol=1e-12)
        assert fast.best.vanilla == pytest.approx(full.best.vanilla, rel=1e-12)
        np.testing.assert_array_equal(fast.highest, full.highest)


def test_no_more_are_compared_than_have_a_byte() -> None:
    with pytest.raises(ValueError, match="256 checkpoints"):
        leaders(np.zeros((VANILLA + 1, 4), dtype=np.float32))


def test_regret_is_least_for_the_highest_expected_gain() -> None:
    rng = np.random.default_rng(1)
    found = draws(view_of(), joint_of(rng.normal(0, 0.5, size=20), 0.6, shared=0.2, level=0.1))
    regrets = np.array([regret(found, pick) for pick in range(20)])
    assert (regrets >= 0).all()
    assert regrets.argmin() == found.mean(axis=1).argmax()
    np.testing.assert_allclose(regrets + found.mean(axis=1), regret(found, None), atol=1e-5)
    assert regret(found, 3, np.array([3])) == pytest.approx(np.maximum(-found[3], 0).mean(), abs=1e-6)
    assert regret(found, 3, np.array([3, 4])) <= regrets[3]


def test_regret_of_two_in_closed_form() -> None:
    found = draws(view_of(transforms=FAR), joint_of([0.0, 0.0], [0.0, 0.5]))
    expected, _ = integrate.quad(lambda t: t * stats.t.pdf(t, 6), 0, 5)
    expected += 5 * stats.t.sf(5, 6)  # 2.5 in z, next to nothing counts beyond
    assert regret(found, 0) == pytest.approx(0.5 * expected, rel=0.01)
    assert regret(found, 1) == pytest.approx(0.5 * expected, rel=0.01)


def test_the_expected_gain_is_the_mean_of_the_draws_within_reach() -> None:
    found = draws(view_of(), joint_of(np.linspace(-1, 1, 21), 0.3, shared=0.1))
    np.testing.assert_allclose(found.mean(axis=1), np.linspace(-1, 1, 21), atol=0.02)


def test_no_score_leaves_its_range_and_no_draw_runs_away() -> None:
    steep = draws(view_of(slope=60.0, level=90.0), joint_of(np.zeros(8), 1.0))
    assert steep.max() == 10
    assert steep.min() == -90
    far = draws(view_of(level=float("nan")), joint_of([0.0, 4.0], 0.8))
    assert 4.8 < far[1].max() < 5.0, "one spread from its mean, and little more"
    assert -2.7 < far[0].min() < -2.5


def test_drawing_in_the_tails_keeps_the_order() -> None:
    known = joint_of([0.0, 2.2, 2.4, 2.4], [1.0, 0.4, 0.4, 0.8])
    near = p_best(draws(view_of(transforms=FAR), known))
    down = known._replace(mean=known.mean - 2)  # where little is drawn in
    np.testing.assert_allclose(near.rows, p_best(draws(view_of(transforms=FAR), down)).rows, atol=0.01)


def test_odd_joints() -> None:
    empty = draws(view_of(2), joint_of(np.zeros((0, 2)), np.zeros((0, 2))))
    assert empty.shape == (0, DRAWS)
    assert p_best(empty).vanilla == 1
    assert regret(empty, None) == 0
    some = draws(
        view_of(3, weights=np.array([0.0, 1.0, 0.0])), joint_of(np.full((5, 3), [9.0, 0.5, 9.0]), 0.0)
    )
    np.testing.assert_allclose(some, 0.5, atol=1e-4)
    none = p_best(some, np.zeros(0, dtype=np.int64))
    assert none.vanilla == 1
    posterior = posterior_of()
    flat = known_view(posterior, 0)
    flat.uncertainty[:] = 0.0
    known = joint(flat, decide.predict(posterior, flat, np.arange(1, 12)))
    assert np.isfinite(draws(flat, known)).all()


# ---------------------------------------------------------------- the Pareto set


def dominated(score: np.ndarray, size: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """By definition, pair by pair; an unknown size or cost is the largest, an unknown score the lowest."""
    rows = np.column_stack([-np.nan_to_num(score, nan=-np.inf), size, cost])
    rows = np.where(np.isnan(rows), np.inf, rows)
    better = (rows[:, None] <= rows[None]).all(axis=2) & (rows[:, None] < rows[None]).any(axis=2)
    return better.any(axis=0) | np.isnan(score)


@pytest.mark.parametrize("seed", range(20))
def test_pareto_is_what_nobody_dominates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, size, cost = rng.integers(0, [[4], [3], [6]], size=(3, 40)).astype(float)  # many ties
    if seed % 2:
        score, size, cost = rng.normal(size=(3, 40))
    for column in (score, size, cost):
        column[rng.random(40) < 0.1 * (seed % 3)] = np.nan
    np.testing.assert_array_equal(pareto(score, size, cost), ~dominated(score, size, cost))


def test_pareto_by_hand() -> None:
    assert pareto([3, 2, 1, 3], [9, 5, 7, 9], [1, 1, 1, 2]).tolist() == [True, True, False, False]
    assert pareto([1, 1], [5, 5], [2, 2]).tolist() == [True, True], "equals stand together"
    assert pareto([], [], []).tolist() == []


def test_an_unknown_size_is_no_merit() -> None:
    nan = np.nan
    assert pareto([2, 1, 3], [1e8, nan, nan], [1, 1, 1]).tolist() == [True, False, True]
    assert pareto([2, 1], [nan, nan], [nan, nan]).tolist() == [True, False], (
        "among unknowns the score decides"
    )
    assert pareto([nan, 1], [1, 2], [1, 2]).tolist() == [False, True]
    assert pareto([nan], [1], [1]).tolist() == [False]
