"""New scores without a refit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from headstart.recommend import decide
from headstart.recommend.condition import conditioned, view_of
from headstart.recommend.fit import fit
from headstart.recommend.posterior import RANK, Posterior
from headstart.recommend.views import known_view
from tests.recommend.asked_world import ASKED, ROWS, sample
from tests.recommend.posterior_of import CHECKPOINTS, NEVER_RUN, posterior_of

if TYPE_CHECKING:
    from tests.recommend.model_world import World


def told(posterior: Posterior, world: World, rows: np.ndarray) -> Posterior:
    return conditioned(posterior, ASKED, rows + 1, world.run[rows, ASKED])


def gains(posterior: Posterior, target: int = ASKED) -> np.ndarray:
    return decide.predict(posterior, view_of(posterior, target), ROWS).gain


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


@pytest.mark.parametrize(
    ("scores", "target", "told"),
    [
        (([9], [np.nan]), 2, "gain is no number"),
        (([9, 10], [1.0, -np.inf]), 2, "gain is no number"),
        (([9, 10], [1.0, 2.0], [1, 0]), 2, "mean of no run"),
        (([9], [1.0], [-2]), 2, "mean of no run"),
        (([9], [1.0, 2.0]), 2, "1 checkpoints, 2 gains"),
        (([9, 10], [1.0, 2.0], [1]), 2, "and 1 numbers of runs"),
        (([9], [1.0]), NEVER_RUN, "vanilla was never run"),
        (([CHECKPOINTS], [1.0]), 2, "no checkpoints at"),
        (([-1], [1.0]), 2, "no checkpoints at"),
    ],
)
def test_odd_scores_are_refused_with_a_sentence(scores: tuple[Any, ...], target: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        conditioned(posterior_of(), target, *scores)


def test_lists_do_as_well_as_arrays() -> None:
    small = posterior_of()
    plain = conditioned(small, 2, [10, 9], [2.0, -1], [1, 3])
    arrays = conditioned(small, 2, np.array([10, 9]), np.array([2.0, -1.0]), np.array([1, 3]))
    for name in ("factors", "mean", "cell_checkpoint", "cell_gain", "cell_runs", "finetuned"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(arrays, name))
    assert plain.cell_checkpoint.dtype == small.cell_checkpoint.dtype
    assert conditioned(small, 2, [], []) is small


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
