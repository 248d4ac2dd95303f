"""Targets with few scores of their own: a mixture over scales, and how their own transform takes over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headstart.recommend import decide
from headstart.recommend.condition import OWN, Seen, conditioned, regressions, view_of, warm_view
from headstart.recommend.fit import fit
from headstart.recommend.posterior import RANK
from headstart.recommend.views import View, known_view
from tests.recommend.asked_world import ASKED, ROWS, sample
from tests.recommend.evidence_of import evidence_of
from tests.recommend.model_world import targets_of, world_of


def seen_of(n: int, scale: float, seed: int = 0, noise: float = 0.3) -> Seen:
    """Gains of n checkpoints drawn on a target of this scale."""
    rng = np.random.default_rng(seed)
    h = np.column_stack([np.ones(n), rng.normal(size=(n, RANK))])
    z = h @ np.array([0.1, 0.7, 0.2, 0.0]) + np.sqrt(noise) * rng.normal(size=n)
    return Seen(scale * np.sinh(z), h, np.full((1, n), noise))


PRIOR, PRIOR_VAR = np.array([0.0, 0.6, 0.0, 0.0]), np.array([0.3, 0.05, 0.05, 0.05])


def test_without_cells_a_regression_is_its_prior() -> None:
    found = regressions(seen_of(0, 1.0), np.array([0.5, 2.0]), PRIOR, PRIOR_VAR)
    np.testing.assert_allclose(found.mean, [PRIOR, PRIOR])
    np.testing.assert_allclose(found.covariance, [np.diag(PRIOR_VAR)] * 2)
    assert found.log_evidence[0] == pytest.approx(found.log_evidence[1])


def test_a_regression_is_the_one_of_the_books_under_its_own_weights() -> None:
    """Given the weights that follow from it; 7/6 of a normal's where nothing surprises."""
    seen, c = seen_of(7, 2.0), 1.3
    found = regressions(seen, np.array([c]), PRIOR, PRIOR_VAR)
    z, mean, covariance = np.arcsinh(seen.gain / c), found.mean[0], found.covariance[0]
    error2 = (z - seen.h @ mean) ** 2 + np.einsum("ni,ij,nj->n", seen.h, covariance, seen.h)
    total = seen.h @ np.diag(PRIOR_VAR) @ seen.h.T + np.diag((6 * seen.noise[0] + error2) / 7)
    gain = np.diag(PRIOR_VAR) @ seen.h.T @ np.linalg.inv(total)
    np.testing.assert_allclose(mean, PRIOR + gain @ (z - seen.h @ PRIOR), atol=0.01)
    np.testing.assert_allclose(covariance, np.diag(PRIOR_VAR) - gain @ seen.h @ np.diag(PRIOR_VAR), atol=0.01)
    as_foretold = Seen(c * np.sinh(seen.h @ PRIOR), seen.h, seen.noise * 1e6)
    found = regressions(as_foretold, np.array([c]), PRIOR, PRIOR_VAR)
    np.testing.assert_allclose(found.mean[0], PRIOR, atol=1e-9)
    information = np.diag(1 / PRIOR_VAR) + 7 / 6 / as_foretold.noise[0, 0] * seen.h.T @ seen.h
    np.testing.assert_allclose(found.covariance[0], np.linalg.inv(information), rtol=1e-6)


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("n", [1, 4, 15])
def test_the_evidence_is_the_density_of_the_gains_but_for_little(n: int, failed: bool) -> None:
    """By brute force: the mean over draws of (mu, s) of what the cells' Student densities say, in points."""
    seen, scales = seen_of(n, 2.0), np.exp(np.linspace(-1.5, 2.5, 9))
    if failed:
        seen.gain[0] = -30.0
    found = regressions(seen, scales, PRIOR, PRIOR_VAR).log_evidence
    theta = PRIOR + np.sqrt(PRIOR_VAR) * np.random.default_rng(1).normal(size=(100_000, RANK + 1))
    exact = np.empty(len(scales))
    for k, c in enumerate(scales):
        error = np.arcsinh(seen.gain / c) - theta @ seen.h.T
        log = -3.5 * np.log1p(error**2 / (6 * seen.noise)).sum(axis=1)
        exact[k] = np.log(np.exp(log - log.max()).mean()) + log.max()
        exact[k] -= 0.5 * np.log(seen.noise * (c**2 + seen.gain**2)).sum()  # dz/dgain
    assert (exact > found).all(), "a lower bound"
    one, two = (np.exp(some - some.max()) for some in (exact, found))
    assert 0.5 * np.abs(one / one.sum() - two / two.sum()).sum() < 0.05


def test_noise_that_a_scale_foretells_counts_for_it() -> None:
    """Two scales under which the cells are as far off in z, but one expects less noise."""
    seen = seen_of(8, 1.0)
    wide = Seen(seen.gain, seen.h, np.array([[0.3], [30.0]]) * np.ones((1, 8)))
    found = regressions(wide, np.ones(2), PRIOR, PRIOR_VAR).log_evidence
    assert found[0] > found[1] + 5


def test_weights_find_the_scale() -> None:
    scales = np.exp(np.linspace(-2, 3, 21))
    errors = []
    for scale in (0.5, 3.0, 12.0):
        for seed in range(5):
            found = regressions(seen_of(12, scale, seed), scales, PRIOR, PRIOR_VAR).log_evidence
            errors.append(abs(np.log(scales[found.argmax()] / scale)))
    assert np.median(errors) < 0.4


def component_means(view: View) -> np.ndarray:
    return np.column_stack([view.mean, view.loadings])


def test_a_target_without_cells_is_seen_by_its_prior() -> None:
    world, seen, _ = sample(0, 0)
    fitted = fit(world.evidence(seen))
    view = view_of(fitted, ASKED)
    assert np.all(view.warm)
    assert view.target == ASKED
    assert view.weights.sum() == pytest.approx(1)
    expected = fitted.typical_theta.copy()
    expected[0] += fitted.centre[0]
    np.testing.assert_allclose(component_means(view), np.tile(expected, (9, 1)))
    assert (view.residual == fitted.typical_residual).all()
    middle = np.exp(np.sum(view.weights * np.log([one.tail for one in view.transforms])))
    assert middle == pytest.approx(np.exp(fitted.scale_line[0] + fitted.scale_line[1] * np.log(1.5)))
    spread = np.sqrt(view.weights @ np.log([one.tail / middle for one in view.transforms]) ** 2)
    assert spread == pytest.approx(fitted.scale_line[2], rel=1e-6)
    wide = decide.predict(fitted, view, ROWS)
    other = decide.predict(fitted, view_of(fitted, 0), ROWS)
    assert np.median(wide.high - wide.low) > np.median(other.high - other.low)


def test_with_many_cells_both_views_agree() -> None:
    world, seen, _ = sample(150, 0)
    fitted = fit(world.evidence(seen))
    own, warm = known_view(fitted, ASKED), warm_view(fitted, ASKED)
    assert not np.any(view_of(fitted, ASKED).warm)
    scale = np.exp(warm.weights @ np.log([one.tail for one in warm.transforms]))
    assert scale == pytest.approx(world.targets.scale[ASKED], rel=0.5)
    one, two = (decide.predict(fitted, view, ROWS) for view in (own, warm))
    width = np.median(one.high - one.low)
    assert np.median(two.high - two.low) == pytest.approx(width, rel=0.25)
    assert np.mean(np.abs(one.gain - two.gain)) < 0.25 * width
    assert np.corrcoef(one.gain, two.gain)[0, 1] > 0.97


def test_few_cells_of_large_gains_make_the_scale_large() -> None:
    found = []
    for times in (0.3, 1.0, 5.0):
        world, seen, _ = sample(8, 0)
        run = world.run.copy()
        run[:, ASKED] *= times
        view = view_of(fit(replace(world, run=run).evidence(seen)), ASKED)
        found.append(float(np.exp(view.weights @ np.log([one.tail for one in view.transforms]))))
    assert found[0] < found[1] < found[2]
    assert found[2] > 2.5 * found[0]


def test_warm_answers_hold_what_they_say() -> None:
    held = []
    for seed in range(6):
        world, seen, _ = sample(6, 0, seed)
        fitted = fit(world.evidence(seen))
        found = decide.predict(fitted, view_of(fitted, ASKED), ROWS)
        true = np.clip(world.true[:, ASKED], -70, 30)
        held.append((found.low <= true) & (true <= found.high))
    assert 0.68 < np.mean(held) < 0.92


def test_a_failed_run_does_not_ruin_a_warm_target() -> None:
    harm = []
    for seed in range(8):
        world, seen, _ = sample(6, 0, seed)
        fitted = fit(world.evidence(seen))
        scale = world.targets.scale[ASKED]
        cells = np.flatnonzero(fitted.cell_target == ASKED)
        gain = fitted.cell_gain.copy()
        gain[cells[0]] = -20 * scale
        broken = replace(fitted, cell_gain=gain)
        others = ~np.isin(ROWS, fitted.cell_checkpoint[cells])
        one, two = (decide.predict(each, warm_view(each, ASKED), ROWS) for each in (fitted, broken))
        harm.append(np.mean(np.abs(one.gain - two.gain)[others]) / scale)
    assert np.mean(harm) < 0.45


def test_the_noise_of_a_scale_that_few_gains_told_wrong_is_not_believed() -> None:
    """The same cells, by a fit that took their residual and seed noise for four times as large."""
    world, seen, _ = sample(8, 0)
    fitted = fit(world.evidence(seen))
    here = fitted.cell_target == ASKED
    wide = replace(
        fitted,
        residual=np.where(np.arange(12) == ASKED, 4.0, 1.0) * fitted.residual,
        cell_noise=np.where(here, 4.0, 1.0) * fitted.cell_noise,
    )
    one, two = (decide.predict(each, warm_view(each, ASKED), ROWS) for each in (fitted, wide))
    for name in ("gain", "low", "high", "kept"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-9)


def test_what_is_measured_counts_on_a_target_of_a_large_scale() -> None:
    off = []
    for seed in range(12):
        targets = targets_of(seed, 12)
        targets = replace(targets, scale=np.where(np.arange(12) == ASKED, 9.0, targets.scale))
        world = world_of(targets, seed, checkpoints=150)
        _, seen, _ = sample(5, 0, seed)
        fitted = fit(world.evidence(seen))
        rows = np.flatnonzero(seen[:, ASKED])
        found = decide.predict(fitted, view_of(fitted, ASKED), rows + 1)
        off.append(found.gain - np.clip(world.true[rows, ASKED], -70, 30))
    assert np.mean(np.abs(off)) < 4.7  # by the fit's residual and seed noise: 5.2


def test_noise_shown_by_the_vanilla_tells_how_much_belongs_to_the_pair() -> None:
    world, seen, _ = sample(4, 0)
    fitted = fit(world.evidence(seen))
    shares = []
    for times in (0.1, 1.0, 4.0):
        view = warm_view(replace(fitted, noise=times * fitted.noise), ASKED)
        assert ((view.repeatable >= 0.2) & (view.repeatable <= 0.9)).all()
        shares.append(float(view.weights @ view.repeatable))
    assert shares[0] > shares[1] > shares[2]
    for unknown in (np.nan, 0.0):
        view = warm_view(replace(fitted, noise=np.full(12, unknown)), ASKED)
        assert (view.repeatable == fitted.typical_repeatable).all()


# ---------------------------------------------------------------- from one view to the other


@pytest.mark.parametrize(
    ("before", "share"), [(0, 0.0), (OWN[0], 0.0), (15, 0.25), (20, 0.5), (29, 0.95), (OWN[1], 1.0)]
)
def test_a_targets_own_transform_counts_the_more_the_more_cells_it_has(before: int, share: float) -> None:
    world, seen, _ = sample(before, 0)
    fitted = fit(world.evidence(seen))
    view = view_of(fitted, ASKED)
    own = ~np.broadcast_to(view.warm, len(view.weights))
    assert view.weights.sum() == pytest.approx(1)
    assert view.weights[own].sum() == pytest.approx(share)
    for k in np.flatnonzero(own):
        np.testing.assert_array_equal(view.transforms[k].knots, fitted.knots[ASKED])
        np.testing.assert_array_equal(view.loadings[k], fitted.loadings[ASKED])
    found = decide.predict(fitted, view, ROWS)
    assert ((found.low <= found.gain) & (found.gain <= found.high)).all()


def test_a_blend_foretells_what_its_parts_do() -> None:
    world, seen, _ = sample(20, 0)
    fitted = fit(world.evidence(seen))
    own, warm, blend = (
        decide.moments(fitted, make(fitted, ASKED), ROWS) for make in (known_view, warm_view, view_of)
    )
    for name in ("mean", "variance", "shared", "kept", "new"):
        parts = np.column_stack([getattr(own, name), getattr(warm, name)])
        np.testing.assert_allclose(getattr(blend, name), parts, rtol=1e-9)


def test_no_cell_makes_an_answer_jump() -> None:
    """The step from 19 cells to 20, beside those from 17 to 19."""
    steps = []
    for seed in range(6):
        found = []
        for before in (17, 18, 19, 20):
            world, seen, _ = sample(before, 0, seed)
            fitted = fit(world.evidence(seen))
            one = decide.predict(fitted, view_of(fitted, ASKED), ROWS)
            found.append([one.gain, one.high - one.low])
        steps.append(np.sqrt(np.mean(np.diff(found, axis=0) ** 2, axis=2)))
    gain, width = np.mean(steps, axis=0).T
    assert gain[2] < 2 * gain[:2].mean()
    assert width[2] < 2 * width[:2].mean()


def test_a_transform_made_before_the_scores_is_not_taken_for_the_targets_own() -> None:
    world, seen, new = sample(0, OWN[1] + 5)
    quick = conditioned(fit(world.evidence(seen)), ASKED, new + 1, world.run[new, ASKED])
    assert quick.measured[ASKED] > OWN[1]
    assert np.all(view_of(quick, ASKED).warm)


def test_all_equal_gains_are_a_transform_too() -> None:
    values = np.random.default_rng(0).normal(size=(OWN[1] + 2, 3))
    values[:, 1] = 2.0
    assert not np.any(view_of(fit(evidence_of(values)), 1).warm)
