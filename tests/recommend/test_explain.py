"""Where the points come from: parts that add up, and the scores that moved them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from headstart.recommend import decide
from headstart.recommend.explain import (
    MOST_MOVED,
    Explanation,
    explain,
    points_of_quality,
    population,
    sensitivity_of,
)
from headstart.recommend.posterior import RANK, Posterior
from headstart.recommend.transform import Transforms
from tests.recommend.posterior_of import CHECKPOINTS, MEASURED, NEVER_RUN, posterior_of

EVERY = np.arange(CHECKPOINTS)
SLOPE = 2.0  # points per z of the linear posterior
PARTS = ("target", "prior", "finetunes", "probes", "here")
VIEWS = {
    "known": lambda p: decide.known_view(p, 0),
    "known to few": lambda p: decide.known_view(p, 3),
    "unseen": lambda p: decide.unseen_view(p, np.arange(1.0, 6.0)),
    "unseen and probed": lambda p: decide.unseen_view(p, np.ones(5), NEVER_RUN),
    "unseen, the known targets' own loadings": lambda p: decide.unseen_view(p, np.ones(5), own_loadings=True),
    "like none": lambda p: decide.unseen_view(p, np.zeros(5)),
    "warm": lambda p: warm(p, 2),
}


def warm(posterior: Posterior, target: int) -> decide.View:
    """A known target of two components, which differ in everything."""
    one, other = decide.known_view(posterior, target), decide.known_view(posterior, 1)
    both = ("mean", "loadings", "uncertainty", "residual", "repeatable", "level_var", "explained")
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in both
    }
    transforms = Transforms([*one.transforms, *other.transforms])
    return dataclasses.replace(one, weights=np.array([0.3, 0.7]), transforms=transforms, warm=True, **joined)


def linear(**overrides: Any) -> Posterior:
    """Gains are SLOPE * z on every target, up to gains that no score can have."""
    drawn = posterior_of()
    z = np.tile(np.linspace(-100.0, 100.0, drawn.knots.shape[1]), (5, 1))
    cells = {"cell_gain": SLOPE * drawn.cell_z, "level": np.full(5, 50.0)}
    return posterior_of(**({"knots": SLOPE * z, "knots_z": z, **cells} | overrides))


def remade(posterior: Posterior, row: int, z: np.ndarray) -> Posterior:
    """The posterior had the cells of `row` been `z`: its factors solved for anew."""
    at = np.flatnonzero(posterior.cell_checkpoint == row)
    where = int(np.flatnonzero(posterior.rows == row)[0])
    t = posterior.cell_target[at]
    s, p = posterior.loadings[t], posterior.cell_precision[at]
    doubt = float(posterior.doubt[row])
    information = np.eye(RANK) / doubt + (s.T * p) @ s
    pull = s.T @ (p * (z - posterior.mean[t])) + posterior.prior[where] / doubt
    factors, cell_z = posterior.factors.astype(float), posterior.cell_z.copy()
    factors[row], cell_z[at] = np.linalg.solve(information, pull), z
    return dataclasses.replace(posterior, factors=factors, cell_z=cell_z)


def total(one: Explanation) -> float:
    return float(sum(getattr(one, name) for name in PARTS))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", VIEWS)
def test_the_parts_add_up_to_the_expected_gain(name: str, seed: int) -> None:
    posterior = posterior_of(seed=seed, calibration=np.array([0.7, 20.0, 1.0 + 0.1 * seed]))
    view = VIEWS[name](posterior)
    found = explain(posterior, view, EVERY)
    gain = decide.predict(posterior, view, EVERY).gain
    assert [one.row for one in found] == EVERY.tolist()
    np.testing.assert_allclose([one.gain for one in found], gain, rtol=0, atol=1e-11)
    np.testing.assert_allclose([total(one) for one in found], gain, rtol=0, atol=1e-11)
    for one in found:
        assert sum(move.points for move in one.moved_by) == pytest.approx(one.finetunes, abs=1e-5)


@pytest.mark.parametrize("name", VIEWS)
def test_a_source_that_is_not_there_adds_nothing(name: str) -> None:
    posterior = posterior_of()
    view = VIEWS[name](posterior)
    probed = set() if view.probed is None else set(
        posterior.pair_checkpoint[posterior.pair_target == view.probed].tolist()
    )  # fmt: skip
    measured = set() if view.target is None else set(
        posterior.cell_checkpoint[posterior.cell_target == view.target].tolist()
    )  # fmt: skip
    for one in explain(posterior, view, EVERY):
        assert (one.probes != 0.0) == (one.row in probed)
        assert (one.here != 0.0) == (one.row in measured)
        if not 1 <= one.row <= MEASURED:
            assert (one.finetunes, one.moved_by) == (0.0, ())


def test_the_parts_of_a_linear_target_by_hand() -> None:
    posterior = linear()
    row, target = 3, 2
    view = decide.known_view(posterior, target)
    one = explain(posterior, view, np.array([row]))[0]
    s, mean = posterior.loadings[target], posterior.mean[target]
    at = np.flatnonzero(posterior.cell_checkpoint == row)
    elsewhere = at[posterior.cell_target[at] != target]
    own = posterior.loadings[posterior.cell_target[elsewhere]]
    p, doubt = posterior.cell_precision[elsewhere], float(posterior.doubt[row])
    pull = own.T @ (p * (posterior.cell_z[elsewhere] - posterior.mean[posterior.cell_target[elsewhere]]))
    f = np.linalg.solve(np.eye(RANK) / doubt + (own.T * p) @ own, pull + posterior.prior[row - 1] / doubt)
    average = posterior.prior.mean(axis=0)
    assert one.target == pytest.approx(SLOPE * (mean + s @ average), abs=1e-9)
    assert one.prior == pytest.approx(SLOPE * s @ (posterior.prior[row - 1] - average), abs=1e-9)
    assert one.finetunes == pytest.approx(SLOPE * s @ (f - posterior.prior[row - 1]), abs=1e-5)
    assert {move.target for move in one.moved_by} == {0, 1}


def test_probes_count_before_the_finetunes_here() -> None:
    posterior = linear()
    found = explain(posterior, decide.known_view(posterior, 0), EVERY)
    shifts = dict(zip([2, 5, 10], [0.3, -0.2, 0.4], strict=True))
    for one in found:
        assert one.probes == pytest.approx(SLOPE * shifts.get(one.row, 0.0), abs=1e-5)


def test_a_move_is_what_the_gain_loses_had_the_score_been_as_foretold() -> None:
    posterior = linear()
    row, view = 6, decide.known_view(posterior, 2)
    at = np.flatnonzero(posterior.cell_checkpoint == row)
    before = explain(posterior, view, np.array([row]))[0]
    assert len(before.moved_by) == len(at) == 2
    for move in before.moved_by:
        z = posterior.cell_z[at].copy()
        cell = int(np.flatnonzero(posterior.cell_target[at] == move.target)[0])
        assert move.gain == posterior.cell_gain[at[cell]]
        assert move.runs == 1
        z[cell] = move.foretold / SLOPE
        after = explain(remade(posterior, row, z), view, np.array([row]))[0]
        assert before.gain - after.gain == pytest.approx(move.points, abs=1e-5)


def test_a_finetune_that_agrees_with_the_forecast_moves_nothing() -> None:
    posterior = posterior_of()
    row = 6
    at = np.flatnonzero(posterior.cell_checkpoint == row)
    t = posterior.cell_target[at]
    agreeing = remade(posterior, row, posterior.mean[t] + posterior.loadings[t] @ posterior.prior[row - 1])
    for target in (0, 2):
        view = decide.known_view(agreeing, target)
        one = explain(agreeing, view, np.array([row]))[0]
        assert one.finetunes == pytest.approx(0.0, abs=1e-9)
        assert len(one.moved_by) == len(t) - (target == 0)
        for move in one.moved_by:
            assert move.points == pytest.approx(0.0, abs=1e-9)
    gains = posterior.cell_gain.copy()
    for cell, target in zip(at, t.tolist(), strict=True):
        view = decide.known_view(agreeing, target)
        gains[cell] = view.transforms[0].gain(np.array(agreeing.cell_z[cell]))
    one = explain(
        dataclasses.replace(agreeing, cell_gain=gains), decide.known_view(agreeing, 0), np.array([row])
    )[0]
    assert one.here == pytest.approx(0.0, abs=1e-9)


def test_a_good_finetune_elsewhere_never_lowers_the_expected_gain() -> None:
    """With the doubt of every step's own, less doubt would take points off where gains are skewed."""
    posterior = posterior_of(mean=np.full(5, 0.5), loadings=np.tile([0.6, 0.0, 0.0], (5, 1)))
    row = 7
    at = np.flatnonzero(posterior.cell_checkpoint == row)
    t = posterior.cell_target[at]
    foretold = posterior.mean[t] + posterior.loadings[t] @ posterior.prior[row - 1]
    view = decide.known_view(posterior, 3)
    for better in (0.01, 0.5, 2.0):
        one = explain(remade(posterior, row, foretold + better), view, np.array([row]))[0]
        assert one.finetunes > 0
        assert min(move.points for move in one.moved_by) > 0


def test_the_strongest_come_first_and_no_more_than_fit() -> None:
    posterior = posterior_of()
    targets = 9
    cells = 2 * targets
    rng = np.random.default_rng(3)
    again = np.arange(targets) % 3
    many = dataclasses.replace(
        posterior,
        cell_checkpoint=np.repeat([1, 2], targets),
        cell_target=np.tile(np.arange(targets), 2),
        cell_z=rng.normal(size=cells),
        cell_gain=rng.normal(size=cells),
        cell_noise=np.full(cells, 0.2),
        cell_precision=np.full(cells, 1.0),
        cell_runs=np.ones(cells, dtype=np.int64),
        mean=posterior.mean[again],
        loadings=rng.normal(size=(targets, RANK)),
        knots=posterior.knots[again],
        knots_z=posterior.knots_z[again],
        tail=posterior.tail[again],
    )
    view = decide.unseen_view(posterior, np.ones(5))
    for one in explain(many, view, np.array([2, 5, 1])):
        sizes = [abs(move.points) for move in one.moved_by]
        assert len(sizes) == (0 if one.row == 5 else MOST_MOVED)
        assert sizes == sorted(sizes, reverse=True)


def test_the_order_of_the_rows_changes_nothing() -> None:
    posterior = posterior_of()
    view = decide.known_view(posterior, 0)
    straight = explain(posterior, view, EVERY)
    for one in explain(posterior, view, EVERY[::-1]):
        other = straight[one.row]
        assert [getattr(one, name) for name in PARTS] == pytest.approx(
            [getattr(other, name) for name in PARTS], abs=1e-12
        )
        assert [move.target for move in one.moved_by] == [move.target for move in other.moved_by]


def bare(checkpoints: int) -> Posterior:
    """A family in which nothing was finetuned."""
    posterior = posterior_of()
    counted = (
        "cell_checkpoint",
        "cell_target",
        "cell_runs",
        "pair_checkpoint",
        "pair_target",
        "pair_methods",
    )
    measured = ("cell_gain", "cell_z", "cell_noise", "cell_precision", "pair_shift", "pair_doubt")
    no_cells: dict[str, Any] = dict.fromkeys(counted, np.zeros(0, dtype=np.int64))
    no_cells |= dict.fromkeys(measured, np.zeros(0))
    return dataclasses.replace(
        posterior,
        checkpoint_ids=posterior.checkpoint_ids[:checkpoints],
        factors=posterior.factors[:checkpoints],
        doubt=posterior.doubt[:checkpoints],
        quality=posterior.quality[:checkpoints],
        probed=posterior.probed[:checkpoints],
        rows=np.zeros(0, dtype=np.int64),
        covariance=np.zeros((0, RANK, RANK)),
        prior=np.zeros((0, RANK)),
        measured=np.zeros(5, dtype=np.int64),
        **no_cells,
    )


@pytest.mark.parametrize("checkpoints", [0, 1, 12])
def test_a_family_that_nobody_finetuned(checkpoints: int) -> None:
    posterior = bare(checkpoints)
    rows = np.arange(checkpoints)
    for view in (decide.known_view(posterior, 0), decide.unseen_view(posterior, np.ones(5))):
        found = explain(posterior, view, rows)
        assert len(found) == checkpoints
        for one in found:
            assert total(one) == pytest.approx(one.gain, abs=1e-11)
            assert (one.finetunes, one.probes, one.here, one.moved_by) == (0.0, 0.0, 0.0, ())
        assert np.isfinite(sensitivity_of(view, population(posterior))).all()


def test_sensitivity_by_hand() -> None:
    """Factors known to be alike, covariance C: the population's standard deviation of s'f is sqrt(s'Cs)."""
    covariance = np.array([[1.0, 0.2, 0.0], [0.2, 0.5, 0.0], [0.0, 0.0, 2.0]])
    posterior = linear(
        factors=np.zeros((CHECKPOINTS, RANK)),
        prior=np.zeros((MEASURED, RANK)),
        covariance=np.tile(covariance, (MEASURED, 1, 1)),
        uncertainty=np.zeros((5, RANK + 1, RANK + 1)),
    )
    view = decide.known_view(posterior, 0)
    s, residual, repeatable = posterior.loadings[0], posterior.residual[0], posterior.repeatable[0]
    family = population(posterior)
    found, noise, quality = sensitivity_of(view, family), (1 - repeatable) * residual, s @ covariance @ s
    assert found.points == pytest.approx(SLOPE * np.sqrt(quality))
    assert found.points == points_of_quality(view, family)
    assert found.apparent == pytest.approx(SLOPE * np.sqrt(quality + residual))
    assert found.noise_share == pytest.approx(noise / (quality + residual))
    assert found.quality_share == pytest.approx(quality / (quality + residual))
    half = dataclasses.replace(view, loadings=view.loadings / 2)
    assert points_of_quality(half, family) == pytest.approx(found.points / 2)
    doubt = np.diag([9.0, 0.3, 0.2, 0.1])
    unsure = sensitivity_of(dataclasses.replace(view, uncertainty=doubt[None]), family)
    assert unsure.points == found.points
    assert unsure.noise_share == pytest.approx(noise / (quality + 0.3 + 0.1 + 0.2 + residual))
    louder = sensitivity_of(dataclasses.replace(view, residual=5 * view.residual), family)
    assert louder.points == found.points, "noise has no part in it"
    assert louder.apparent > found.apparent
    assert louder.noise_share > found.noise_share


@pytest.mark.parametrize("name", VIEWS)
def test_noise_is_a_share(name: str) -> None:
    posterior = posterior_of()
    found = sensitivity_of(VIEWS[name](posterior), population(posterior))
    assert found.noise_share > 0
    assert found.quality_share > 0
    assert found.noise_share + found.quality_share < 1
    assert 0 < found.points < found.apparent
