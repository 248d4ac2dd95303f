"""Order, probability and verdict."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from headstart.recommend import decide
from headstart.recommend.condition import warm_view
from headstart.recommend.decide import View
from headstart.recommend.posterior import Posterior
from headstart.recommend.transform import Transform, Transforms, plain
from headstart.recommend.views import NORMAL
from tests.recommend.posterior_of import MEASURED, NEVER_RUN, TYPICAL, posterior_of

LEVELS = np.array([0.01, 0.1, 0.5, 0.9, 0.99])
FIELDS = tuple(decide.Prediction.__slots__)


def cell_of(posterior: Posterior, row: int, target: int) -> int:
    return int(np.flatnonzero((posterior.cell_checkpoint == row) & (posterior.cell_target == target)).item())


def brute(view: View, mean: np.ndarray, spread: np.ndarray, size: int = 400_000) -> np.ndarray:
    """Draws of the gain of one checkpoint, from what a view and its moments claim."""
    rng = np.random.default_rng(0)
    component = rng.choice(len(view.weights), size=size, p=view.weights)
    z = mean[component] + spread[component] * rng.standard_t(6, size=size)
    found = np.empty(size)
    for k, one in enumerate(view.transforms):
        found[component == k] = one.gain(z[component == k])
    return np.clip(found, -view.level, 100 - view.level)


# ---------------------------------------------------------------- known answers


def test_an_unmeasured_pair_by_hand(small: Posterior) -> None:
    row, target = 9, 2
    found = decide.predict(small, decide.known_view(small, target), np.array([row]))
    f, s, c = small.factors[row].astype(float), small.loadings[target], small.uncertainty[target]
    v = float(small.doubt[row]) * np.eye(3)
    h = np.array([1.0, *f])
    mean = small.mean[target] + s @ f
    one = Transform(small.knots[target], small.knots_z[target], small.tail[target])
    e, middle = small.level_stderr[target], np.median(small.cell_gain[small.cell_target == target])
    level_var = ((one.z(np.array(middle + e)) - one.z(np.array(middle - e))) / 2) ** 2
    pair = small.repeatable[target] * small.residual[target]
    shared = h @ c @ h / NORMAL  # this and all but the pair's own part is normal
    spread = np.sqrt(shared + (s @ v @ s + np.trace(v @ c[1:, 1:]) + level_var) / NORMAL + pair)
    assert found.mean.item() == pytest.approx(mean, rel=1e-6)
    assert found.spread.item() == pytest.approx(spread, rel=1e-6)
    assert found.shared.item() == pytest.approx(shared, rel=1e-6)
    assert found.kept.item() == 0
    t = stats.t(6)
    assert found.low.item() == pytest.approx(one.gain(np.array(mean + spread * t.ppf(0.1))), rel=1e-6)
    assert found.high.item() == pytest.approx(one.gain(np.array(mean + spread * t.ppf(0.9))), rel=1e-6)
    zero, worth = one.z(np.array(0.0)), one.z(np.array(decide.WORTH))
    assert found.p_beats.item() == pytest.approx(t.sf((zero - mean) / spread), rel=1e-6)
    assert found.p_worth.item() == pytest.approx(t.sf((worth - mean) / spread), rel=1e-6)
    nodes = np.linspace(-8, 8, 4001)
    points = one.gain(mean + np.sqrt(NORMAL) * spread * nodes)
    weight = stats.norm.pdf(nodes) * (nodes[1] - nodes[0])
    assert found.gain.item() == pytest.approx(np.clip(points, -90, 10) @ weight, rel=0.02)


def test_an_expectation_of_sinh_is_known_in_closed_form(small: Posterior) -> None:
    c = 1.5
    view = dataclasses.replace(
        decide.known_view(small, 0), transforms=Transforms([plain(0.0, c)]), level=50.0
    )
    mean, variance = np.array([[0.7], [-1.0], [0.0]]), np.array([[0.3], [0.05], [0.5]])
    known = c * np.exp(variance / 2) * np.sinh(mean)
    found = decide.expected(view, mean, variance / NORMAL)
    np.testing.assert_allclose(found, known[:, 0], rtol=3e-3, atol=1e-9)


def test_a_pairs_own_cell_is_taken_out_as_if_it_had_never_been() -> None:
    posterior = posterior_of(seed=3)
    target = 1
    found = decide.moments(posterior, decide.known_view(posterior, target), np.arange(1, 12))
    for row in range(1, MEASURED + 1):
        prior, information = posterior.prior[row - 1], np.eye(3) / float(posterior.doubt[row])
        pull = prior / float(posterior.doubt[row])
        for cell in np.flatnonzero(posterior.cell_checkpoint == row):
            t = posterior.cell_target[cell]
            if t != target:
                s, p = posterior.loadings[t], posterior.cell_precision[cell]
                information = information + p * np.outer(s, s)
                pull = pull + p * s * (posterior.cell_z[cell] - posterior.mean[t])
        np.testing.assert_allclose(
            found.factors.covariance[row - 1], np.linalg.inv(information), rtol=1e-5, atol=1e-7
        )
        np.testing.assert_allclose(
            found.factors.mean[row - 1], np.linalg.solve(information, pull), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_array_equal(found.factors.mean[8:], posterior.factors[9:12].astype(float))
    doubt = posterior.doubt[9:12, None, None].astype(float)
    np.testing.assert_array_equal(found.factors.covariance[8:], doubt * np.eye(3))


def test_cells_here_count_once_as_in_the_joint_gaussian() -> None:
    """(mu, s) regressed on four cells: the gains' posterior is that of all the numbers taken together.

    Each cell weighs as it did in the regression, by its Student weight. Of what is left the doubt about
    (mu, s) is normal, which narrows it; and the variance of a measured gain is that of Student's t, (6 + its
    squared leave-one-out error) / 7 times as large.
    """
    posterior = posterior_of(seed=5)
    target = 2  # f is known for sure, and no other target tells of it
    at = np.flatnonzero(posterior.cell_target == target)
    rows = posterior.cell_checkpoint[at]
    posterior = dataclasses.replace(
        posterior,
        covariance=np.zeros_like(posterior.covariance),
        doubt=np.full(12, 1e-12),
        cell_precision=np.zeros_like(posterior.cell_precision),
    )
    psi, rho = posterior.residual[target], posterior.repeatable[target]
    h, z = np.column_stack([np.ones(12), posterior.factors.astype(float)]), posterior.cell_z[at]
    weight = np.full(len(at), 1 / psi)
    for _ in range(60):
        theta, covariance = regressed(h[rows], z, weight)
        error2 = (z - h[rows] @ theta) ** 2 + np.einsum("ni,ij,nj->n", h[rows], covariance, h[rows])
        weight = 7 / (6 * psi + error2)
    view = dataclasses.replace(
        decide.known_view(posterior, target),
        mean=theta[:1],
        loadings=theta[None, 1:],
        uncertainty=covariance[None],
        level_var=np.zeros(1),
        warm=True,
    )
    found = decide.moments(posterior, view, np.arange(12))
    others = np.setdiff1d(np.arange(12), rows)
    line = np.einsum("ni,ij,nj->n", h, covariance, h) / NORMAL
    np.testing.assert_allclose(found.mean[others, 0], h[others] @ theta, atol=1e-9)
    np.testing.assert_allclose(found.variance[others, 0], (line + rho * psi)[others], atol=1e-9)
    for k, row in enumerate(rows):
        left = np.arange(len(at)) != k
        theta, covariance = regressed(h[rows[left]], z[left], weight[left])
        before, prior = h[row] @ theta, h[row] @ covariance @ h[row] / NORMAL + rho * psi
        kept = prior / (prior + (1 - rho) * psi)
        error2 = (z[k] - before) ** 2 / (prior + (1 - rho) * psi)
        assert found.kept[row, 0] == pytest.approx(kept, rel=1e-6)
        assert found.mean[row, 0] == pytest.approx(before + kept * (z[k] - before), rel=1e-6)
        assert found.variance[row, 0] == pytest.approx((1 - kept) * prior * (6 + error2) / 7, rel=1e-6)


def regressed(h: np.ndarray, z: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bayesian regression of z on h from the typical target on, by the books."""
    prior = np.diag(1 / posterior_of().typical_var)
    covariance = np.linalg.inv(prior + (h.T * weight) @ h)
    return covariance @ (prior @ TYPICAL + h.T @ (weight * z)), covariance


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_intervals_hold_what_is_part_normal_and_part_students(share: float) -> None:
    """Gains drawn from what a posterior says: `share` of the doubt is about (mu, s) and f."""
    doubt, own = share, max(1 - share, 1e-9)
    one = posterior_of(
        residual=np.full(5, own / 0.25),
        repeatable=np.full(5, 0.25),
        doubt=np.full(12, 1e-9),
        level_stderr=np.zeros(5),
        uncertainty=np.tile(np.diag([doubt, 0, 0, 0]) + 1e-12 * np.eye(4), (5, 1, 1)),
    )
    rng = np.random.default_rng(0)
    view = dataclasses.replace(decide.known_view(one, 2), transforms=Transforms([plain(0.0, 1.0)]))
    found = decide.predict(one, view, np.array([9]))
    mean = one.mean[2] + one.factors[9] @ one.loadings[2]
    z = mean + np.sqrt(doubt) * rng.normal(size=200_000) + np.sqrt(own) * rng.standard_t(6, size=200_000)
    low, high = (view.transforms[0].z(ends) for ends in (found.low, found.high))
    assert np.mean((low <= z) & (z <= high)) == pytest.approx(0.805, abs=0.01)
    assert found.shared.item() == pytest.approx(doubt / NORMAL, abs=1e-6)


@pytest.mark.parametrize("kind", ["known", "warm", "unseen"])
def test_numbers_are_those_of_draws(small: Posterior, kind: str) -> None:
    view = {
        "known": decide.known_view(small, 0),
        "warm": warm_view(small, 3),  # of many components, on which two checkpoints were measured
        "unseen": decide.unseen_view(small, np.ones(5)),
    }[kind]
    for row in (2, 9):
        found = decide.predict(small, view, np.array([row]))
        draws = brute(view, found.mean[0], found.spread[0])
        np.testing.assert_allclose(found.p_beats, np.mean(draws > 0), atol=0.004)
        np.testing.assert_allclose(found.p_worth, np.mean(draws > decide.WORTH), atol=0.004)
        low, high = np.quantile(draws, [0.1, 0.9])
        width = high - low
        np.testing.assert_allclose([found.low.item(), found.high.item()], [low, high], atol=0.01 * width)
        new = decide.forecast(small, view, np.array([row]))
        draws = brute(view, new.mean[0], new.spread[0])
        inner = LEVELS[1:4]
        np.testing.assert_allclose(
            new.quantile(inner)[0], np.quantile(draws, inner), atol=0.01 * np.ptp(np.quantile(draws, inner))
        )


def test_two_equal_components_are_one(small: Posterior) -> None:
    rows = np.arange(1, 12)
    for target in (0, 2):
        one = decide.known_view(small, target)
        twice = {
            name: np.concatenate([getattr(one, name)] * 2)
            for name in (
                "mean",
                "loadings",
                "uncertainty",
                "residual",
                "repeatable",
                "level_var",
                "explained",
            )
        }
        two = dataclasses.replace(
            one, weights=np.array([0.3, 0.7]), transforms=Transforms(2 * one.transforms), **twice
        )  # fmt: skip
        a, b = decide.predict(small, one, rows), decide.predict(small, two, rows)
        for name in ("gain", "low", "high", "p_beats", "p_worth"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-3, atol=1e-3)
        c, d = (decide.forecast(small, view, rows).quantile(LEVELS) for view in (one, two))
        np.testing.assert_allclose(c, d, atol=2e-2)


def test_a_forecast_is_one_new_run_over_the_same_level(small: Posterior) -> None:
    view, rows = decide.known_view(small, 1), np.array([3, 9])
    true, new = decide.predict(small, view, rows), decide.forecast(small, view, rows)
    one_run = (1 - small.repeatable[1]) * small.residual[1]
    np.testing.assert_allclose(new.spread**2, true.spread**2 - view.level_var + one_run, rtol=1e-9)
    np.testing.assert_array_equal(new.mean, true.mean)
    quantiles = new.quantile(LEVELS)
    assert quantiles.shape == (2, 5)
    for k, level in enumerate(LEVELS[1:4], start=1):  # the outermost are cut: a score ends at 100
        np.testing.assert_allclose(new.cdf(quantiles[:, k]), level, atol=1e-6)
    np.testing.assert_allclose(new.cdf(0.0), new.cdf(np.zeros(2)))


def test_the_own_finetune_narrows_and_pulls_by_what_is_kept(small: Posterior) -> None:
    view, rows = decide.known_view(small, 1), np.arange(1, 9)
    before, after = (decide.moments(small, view, rows, here=here) for here in (False, True))
    pulled = (after.mean - before.mean) * (small.cell_z[small.cell_target == 1][:, None] - before.mean)
    assert (pulled > 0).all()
    assert (after.variance < before.variance).all()
    assert ((after.kept > 0) & (after.kept < 1)).all()
    assert before.kept.max() == 0
    assert after.runs.tolist() == [1] * 8
    noisier = dataclasses.replace(small, cell_noise=3 * small.cell_noise)
    assert (decide.moments(noisier, view, rows).kept < after.kept).all()


def test_probes_here_move_the_mean_and_take_doubt_away(small: Posterior) -> None:
    view, rows = decide.known_view(small, 0), np.array([9, 10])
    bare, told = (decide.moments(small, view, rows, probes=probes) for probes in (False, True))
    np.testing.assert_allclose(told.mean - bare.mean, [[0], [0.4]], atol=1e-12)
    np.testing.assert_allclose(told.variance - bare.variance, [[0], [0.02 - 0.09]], atol=1e-12)
    assert decide.predict(small, view, rows).probes_here.tolist() == [0, 1]
    assert decide.probed_here(small, view) == 3
    assert decide.probed_here(small, decide.known_view(small, small.reference)) == 7  # the vanilla apart


def test_a_fit_too_sure_of_itself_is_widened(small: Posterior) -> None:
    wide = dataclasses.replace(small, calibration=np.array([0.5, 400.0, 1.5]))
    rows = np.arange(1, 12)
    for view in (decide.known_view(small, 1), decide.unseen_view(small, np.ones(5))):
        a, b = decide.predict(small, view, rows), decide.predict(wide, view, rows)
        np.testing.assert_allclose(b.spread, 1.5 * a.spread)
        np.testing.assert_allclose(b.shared, 2.25 * a.shared)
        np.testing.assert_array_equal(b.mean, a.mean)
        assert (b.high - b.low > a.high - a.low).all()
        c, d = decide.forecast(small, view, rows), decide.forecast(wide, view, rows)
        np.testing.assert_allclose(d.spread, 1.5 * c.spread)


# ---------------------------------------------------------------- views


def test_a_mixture_of_one_target_is_that_target(fitted: Posterior) -> None:
    weights = np.zeros(24)
    weights[3] = 1.0
    rows = np.arange(20, 40)
    mixed = decide.predict(fitted, decide.unseen_view(fitted, weights, own_loadings=True), rows)
    known = dataclasses.replace(decide.known_view(fitted, 3), target=None, level_var=np.zeros(1))
    alone = decide.predict(fitted, known, rows)
    for name in ("gain", "low", "high", "p_beats"):
        np.testing.assert_allclose(getattr(mixed, name), getattr(alone, name), rtol=1e-5, atol=1e-6)


def test_an_unseen_target_is_drawn_from_the_known_in_shape_and_from_the_family_in_order(
    small: Posterior,
) -> None:
    weights = np.array([1.0, 3.0, 0.0, 9.0, 9.0])  # 3 is measured too little, 4 has no level
    view = decide.unseen_view(small, weights)
    np.testing.assert_allclose(view.weights, [0.25, 0.75])
    np.testing.assert_array_equal(view.loadings, np.tile(small.direction, (2, 1)))
    np.testing.assert_array_equal(view.uncertainty, np.tile(np.diag(small.typical_var), (2, 1, 1)))
    np.testing.assert_array_equal(view.residual, small.residual[:2])
    np.testing.assert_array_equal([one.tail for one in view.transforms], small.tail[:2])
    assert view.level == 0.25 * 60 + 0.75 * 75
    assert view.level_stderr == pytest.approx(np.hypot(15 * np.sqrt(0.1875), 0.1), rel=1e-6)
    assert not view.level_var.any()
    own = decide.unseen_view(small, weights, own_loadings=True)
    np.testing.assert_array_equal(own.loadings, small.loadings[:2])
    certain = dataclasses.replace(
        small, covariance=np.tile(np.eye(3), (8, 1, 1)), doubt=np.ones(12), typical_var=np.zeros(4)
    )
    order = decide.static_order(certain)
    assert decide.head(certain, decide.unseen_view(certain, weights), order, 11).tolist() == order.tolist()


def test_without_a_target_to_stand_for_it_the_typical_one_does(small: Posterior) -> None:
    view = decide.unseen_view(small, np.zeros(5), probed=NEVER_RUN)
    assert np.isnan(view.level)
    assert np.isnan(view.level_stderr)
    assert len(view.weights) == 1
    scale = np.exp(0.5 + 0.5 * np.log(2.0))
    assert view.transforms[0].tail == pytest.approx(scale)
    assert view.transforms[0].z(np.array(scale * np.sinh(0.1))) == pytest.approx(0, abs=1e-3)
    assert view.uncertainty[0, 0, 0] == small.typical_var[0] + small.centre[1]
    found = decide.predict(small, view, np.arange(1, 12))
    assert np.abs([found.gain, found.low, found.high]).max() <= 100
    assert found.probes_here.tolist() == [int(row in (3, 11)) for row in range(1, 12)]
    plain_ = decide.predict(small, decide.unseen_view(small, np.zeros(5)), np.arange(1, 12))
    assert found.gain[2] > plain_.gain[2]
    assert found.gain[10] < plain_.gain[10]


def test_likeness_weighs_size_and_classes_and_forgives_the_unknown() -> None:
    sizes, classes = np.array([100.0, 1000.0, np.nan]), np.array([2.0, 2.0, 50.0])
    near = decide.likeness(sizes, classes, 1000, None)
    assert near[1] > near[0]
    assert near[2] == 1.0
    assert (decide.likeness(sizes, classes, None, None) == 1).all()
    assert decide.likeness(sizes, classes, 1000, 50)[2] > 1.0 > decide.likeness(sizes, classes, 1000, 50)[0]
    assert (decide.likeness(sizes, classes, 10**9, 2) > 0).all()


def test_none_of_a_thing_is_like_a_fact_that_is_not_known() -> None:
    none, some = np.array([0.0, 1000.0, -1.0]), np.array([2.0, 0.0, 2.0])
    assert (decide.likeness(none, some, 0, 0) == 1).all()
    found = decide.likeness(none, some, 1000, 2)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, [1.05, 1.05, 1.05])
