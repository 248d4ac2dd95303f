"""New scores without a refit, and targets with few scores of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from headstart.recommend import decide
from headstart.recommend.condition import (
    WARM,
    Seen,
    conditioned,
    regressions,
    view_of,
    warm_view,
)
from headstart.recommend.fit import fit
from headstart.recommend.posterior import RANK, Posterior
from headstart.recommend.views import View, known_view
from tests.recommend.evidence_of import evidence_of
from tests.recommend.model_world import World, targets_of, world_of
from tests.recommend.posterior_of import CHECKPOINTS, posterior_of

ASKED = 3  # the target that new scores arrive on
ROWS = np.arange(1, 151)


def sample(before: int, after: int, seed: int = 0) -> tuple[World, np.ndarray, np.ndarray]:
    """A family half measured, but on the asked target `before` checkpoints; and which `after` come next."""
    world = world_of(targets_of(seed, 12), seed, checkpoints=150)
    rng = np.random.default_rng(seed)
    seen, order = rng.random(world.run.shape) < 0.5, rng.permutation(150)
    seen[:, ASKED] = False
    seen[order[:before], ASKED] = True
    return world, seen, np.sort(order[before : before + after])


def told(posterior: Posterior, world: World, rows: np.ndarray) -> Posterior:
    return conditioned(posterior, ASKED, rows + 1, world.run[rows, ASKED])


def gains(posterior: Posterior, target: int = ASKED) -> np.ndarray:
    return decide.predict(posterior, view_of(posterior, target), ROWS).gain


# ---------------------------------------------------------------- new scores


@pytest.mark.parametrize("before", [0, 2, 8, 40])
def test_new_scores_do_what_a_refit_would_do(before: int) -> None:
    far: dict[str, list[float]] = {"here": [], "there": [], "quality": []}
    for seed in range(5):
        world, seen, new = sample(before, 5, seed)
        old = fit(world.evidence(seen))
        seen[new, ASKED] = True
        refitted, quick = fit(world.evidence(seen)), told(old, world, new)
        assert quick.measured[ASKED] == refitted.measured[ASKED] == before + 5
        np.testing.assert_array_equal(quick.rows, refitted.rows)
        np.testing.assert_array_equal(quick.cell_checkpoint, refitted.cell_checkpoint)
        np.testing.assert_array_equal(quick.cell_target, refitted.cell_target)
        np.testing.assert_allclose(quick.cell_gain, refitted.cell_gain, atol=1e-9)
        np.testing.assert_array_equal(quick.finetuned, refitted.finetuned)
        wide = 1 + world.targets.scale[ASKED]
        off, on = (np.abs(gains(one) - gains(refitted)) / wide for one in (old, quick))
        far["here"].append(float(on[new].mean() / off[new].mean()))
        far["there"].append(float(on.mean() / off.mean()))
        off, on = (np.abs(one.quality[new + 1] - refitted.quality[new + 1]) for one in (old, quick))
        far["quality"].append(float(on.mean() / off.mean()))
    assert np.mean(far["here"]) < 0.3
    assert np.mean(far["there"]) < 0.75
    assert np.mean(far["quality"]) < 0.75


def test_the_order_in_which_scores_arrive_hardly_matters() -> None:
    world, seen, new = sample(10, 6)
    fitted = fit(world.evidence(seen))
    together = told(fitted, world, new)
    forth, back = fitted, fitted
    for row in new:
        forth = told(forth, world, np.array([row]))
    for row in new[::-1]:
        back = told(back, world, np.array([row]))
    wide = np.abs(gains(together) - gains(fitted)).mean()
    assert wide > 0.1
    for one in (forth, back):
        np.testing.assert_array_equal(one.cell_checkpoint, together.cell_checkpoint)
        assert np.abs(gains(one) - gains(together)).mean() < 0.3 * wide
    np.testing.assert_allclose(forth.mean[ASKED], back.mean[ASKED], atol=0.1)


def test_a_score_narrows_its_own_checkpoint_and_a_run_more_of_it_narrows_more() -> None:
    small = posterior_of()
    target, row = 2, 9
    at = np.array([row])
    width = {}
    for name, runs in (("none", 0), ("one", 1), ("nine", 9)):
        one = small if not runs else conditioned(small, target, at, np.array([2.0]), np.array([runs]))
        found = decide.predict(one, known_view(one, target), at)
        width[name] = float((found.high - found.low)[0])
        assert found.runs_here[0] == runs
    assert width["none"] > 1.2 * width["one"] > 1.2 * width["nine"]
    better, worse = (conditioned(small, target, at, np.array([gain])) for gain in (20.0, -20.0))
    assert better.quality[row] > small.quality[row] > worse.quality[row]


def test_what_scores_are_not_about_stays_to_the_bit() -> None:
    small = posterior_of()
    after = conditioned(small, 2, np.array([9, 10]), np.array([3.0, -1.0]))
    measured = small.cell_checkpoint[small.cell_target == 2]
    others = np.setdiff1d(np.arange(CHECKPOINTS), [*measured, 9, 10])
    for name in ("factors", "quality", "finetuned"):
        np.testing.assert_array_equal(getattr(after, name)[others], getattr(small, name)[others])
    targets = [0, 1, 3, 4]
    for name in ("mean", "loadings", "uncertainty", "measured", "residual", "knots", "level"):
        np.testing.assert_array_equal(getattr(after, name)[targets], getattr(small, name)[targets])
    np.testing.assert_array_equal(small.measured, posterior_of().measured)
    assert conditioned(small, 2, np.zeros(0, dtype=np.int64), np.zeros(0)) is small


def test_a_checkpoint_nobody_measured_starts_from_its_prior() -> None:
    """One cell by hand: the Kalman update of f under the new (mu, s)."""
    small = posterior_of()
    row, target = 11, 2
    after = conditioned(small, target, np.array([row]), np.array([4.0]))
    at = int(np.searchsorted(after.rows, row))
    cell = int(np.flatnonzero((after.cell_checkpoint == row) & (after.cell_target == target)).item())
    s, p = after.loadings[target], after.cell_precision[cell]
    prior = small.factors[row].astype(float)
    covariance = np.linalg.inv(np.eye(RANK) / small.doubt[row] + p * np.outer(s, s))
    np.testing.assert_allclose(after.covariance[at], covariance, rtol=1e-9)
    np.testing.assert_allclose(after.prior[at], prior)
    left = after.cell_z[cell] - after.mean[target] - prior @ s
    np.testing.assert_allclose(after.factors[row], prior + p * covariance @ s * left, rtol=1e-5)


def test_a_wild_score_is_doubted() -> None:
    small = posterior_of()
    moved = [
        np.linalg.norm(conditioned(small, 2, np.array([9]), np.array([gain])).factors[9] - small.factors[9])
        for gain in (5.0, 1e12)
    ]
    assert np.isfinite(moved).all()
    assert moved[1] < 4 * moved[0] + 2


@pytest.mark.parametrize("rows", [[0], [3], [9, 9], [9, 3]])
def test_what_cannot_be_conditioned_on_is_refused(rows: list[int]) -> None:
    with pytest.raises(ValueError, match=r"vanilla|already|twice"):
        conditioned(posterior_of(), 1, np.array(rows), np.zeros(len(rows)))


def test_scores_on_scores_never_break_a_posterior() -> None:
    """Cells that were taken under other loadings are put right before the next."""
    rng = np.random.default_rng(0)
    one = posterior_of()
    for row in (9, 10, 11, 5, 6):
        for target in (2, 3):
            if not ((one.cell_checkpoint == row) & (one.cell_target == target)).any():
                one = conditioned(one, target, np.array([row]), 30 * rng.standard_t(2, 1))
    assert (np.linalg.eigvalsh(one.covariance) > 0).all()
    assert (np.linalg.eigvalsh(one.uncertainty) > 0).all()
    assert np.isfinite(one.factors).all()
    assert np.abs(one.factors).max() < 50


# ---------------------------------------------------------------- the warm view


def seen_of(n: int, scale: float, seed: int = 0, noise: float = 0.3) -> Seen:
    """Gains of n checkpoints drawn on a target of this scale."""
    rng = np.random.default_rng(seed)
    h = np.column_stack([np.ones(n), rng.normal(size=(n, RANK))])
    z = h @ np.array([0.1, 0.7, 0.2, 0.0]) + np.sqrt(noise) * rng.normal(size=n)
    return Seen(scale * np.sinh(z), h, np.full(n, noise))


PRIOR, PRIOR_VAR = np.array([0.0, 0.6, 0.0, 0.0]), np.array([0.3, 0.05, 0.05, 0.05])


def test_without_cells_a_regression_is_its_prior() -> None:
    found = regressions(seen_of(0, 1.0), np.array([0.5, 2.0]), PRIOR, PRIOR_VAR)
    np.testing.assert_allclose(found.mean, [PRIOR, PRIOR])
    np.testing.assert_allclose(found.covariance, np.diag(PRIOR_VAR))
    assert found.log_evidence[0] == pytest.approx(found.log_evidence[1])


def test_a_regression_is_the_one_of_the_books() -> None:
    seen, c = seen_of(7, 2.0), 1.3
    found = regressions(seen, np.array([c]), PRIOR, PRIOR_VAR)
    total = seen.h @ np.diag(PRIOR_VAR) @ seen.h.T + np.diag(seen.noise)
    left = np.arcsinh(seen.gain / c) - seen.h @ PRIOR
    gain = np.diag(PRIOR_VAR) @ seen.h.T @ np.linalg.inv(total)
    np.testing.assert_allclose(found.mean[0], PRIOR + gain @ left, rtol=1e-9)
    covariance = np.diag(PRIOR_VAR) - gain @ seen.h @ np.diag(PRIOR_VAR)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-12)


def test_the_evidence_is_the_density_of_the_gains() -> None:
    seen, scales = seen_of(6, 2.0), np.array([0.4, 1.0, 2.0, 7.0])
    found = regressions(seen, scales, PRIOR, PRIOR_VAR).log_evidence
    total = seen.h @ np.diag(PRIOR_VAR) @ seen.h.T + np.diag(seen.noise)
    student = stats.multivariate_t(seen.h @ PRIOR, total, df=6)
    steep = np.log(np.hypot(scales[:, None], seen.gain)).sum(axis=1)  # -log dz/dgain
    expected = np.array([student.logpdf(np.arcsinh(seen.gain / c)) for c in scales]) - steep
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-9)


def test_the_evidence_of_one_gain_integrates_to_the_same_for_every_scale() -> None:
    """A density in points: brute force over the gain."""
    z = np.linspace(-60, 60, 400_001)
    areas = []
    for c in (0.5, 5.0):
        gain = c * np.sinh(z[np.abs(z) < 40])
        one = np.array([1.0, 0.4, -1.0, 0.2])
        total = one @ (PRIOR_VAR * one) + 0.3
        left = z[np.abs(z) < 40] - one @ PRIOR
        density = [
            regressions(
                Seen(np.array([g]), one[None], np.array([0.3])), np.array([c]), PRIOR, PRIOR_VAR
            ).log_evidence.item()
            for g in gain[::2000]
        ]
        step = 2000 * (z[1] - z[0]) * np.hypot(c, gain[::2000])
        areas.append(float(np.sum(np.exp(density) * step)))
        by_hand = (1 + left[::2000] ** 2 / total / 6) ** -3.5 / np.sqrt(total) / np.hypot(c, gain[::2000])
        np.testing.assert_allclose(np.exp(density), by_hand, rtol=1e-9)
    assert areas[0] == pytest.approx(areas[1], rel=1e-3)


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
    assert view.warm
    assert view.target == ASKED
    assert view.weights.sum() == pytest.approx(1)
    expected = fitted.typical_theta.copy()
    expected[0] += fitted.centre[0]
    np.testing.assert_allclose(component_means(view), np.tile(expected, (9, 1)))
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
    assert view_of(fitted, ASKED).warm is False
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


def test_a_targets_own_transform_counts_from_enough_cells_on() -> None:
    for before, warm in ((WARM - 1, True), (WARM, False)):
        world, seen, _ = sample(before, 0)
        assert view_of(fit(world.evidence(seen)), ASKED).warm is warm


def test_a_transform_made_before_the_scores_is_not_taken_for_the_targets_own() -> None:
    world, seen, new = sample(0, WARM + 5)
    quick = told(fit(world.evidence(seen)), world, new)
    assert quick.measured[ASKED] > WARM
    assert view_of(quick, ASKED).warm


def test_all_equal_gains_are_a_transform_too() -> None:
    values = np.random.default_rng(0).normal(size=(WARM + 2, 3))
    values[:, 1] = 2.0
    assert not view_of(fit(evidence_of(values)), 1).warm
