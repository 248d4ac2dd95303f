"""The factor model on problems drawn from it, and its steps against linear algebra by hand."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from headstart.recommend.factors import REPEATABLE, Fit, Problem, inverse, repeatable
from headstart.recommend.posterior import RANK

ROWS, TARGETS = 400, 24


def problem(z: np.ndarray, covariates: np.ndarray | None = None, noise: float = np.nan) -> Problem:
    """One family whose cells are the numbers of a table; the columns are intercept and probe."""
    row, target = np.nonzero(np.isfinite(z))
    x = np.column_stack([np.ones(len(z)), np.zeros(len(z))]) if covariates is None else covariates
    return Problem(
        covariates=csr_matrix(x),
        group=np.arange(x.shape[1]),
        weight=np.ones(len(z)),
        family=np.zeros(len(z), dtype=np.int64),
        row=row,
        target=target,
        z=z[row, target],
        effective=np.ones(len(row)),
        told=np.full(len(row), np.nan),
        seed_noise=np.full((1, z.shape[1]), noise),
    )


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    """A table drawn from the model, 40 % of it never measured."""
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(ROWS), rng.normal(size=ROWS)])
    slopes = np.array([[0.1, 0.0, 0.0], [0.7, 0.2, 0.0]])
    loadings = np.column_stack([rng.uniform(0.3, 1.0, TARGETS), 0.5 * rng.normal(size=(TARGETS, RANK - 1))])
    factors = x @ slopes + rng.normal(size=(ROWS, RANK))
    mean, psi = 0.3 * rng.normal(size=TARGETS), rng.uniform(0.1, 0.5, TARGETS)
    line = mean + factors @ loadings.T
    z = line + np.sqrt(psi) * rng.standard_t(6, line.shape)
    seen = rng.random(z.shape) < 0.6
    return {"x": x, "line": line, "psi": psi, "z": np.where(seen, z, np.nan), "all": z, "loadings": loadings}


@pytest.fixture(scope="module")
def fitted(truth: dict[str, np.ndarray]) -> Fit:
    return Fit(problem(truth["z"], truth["x"])).run()


def test_what_targets_make_of_checkpoints_is_recovered(fitted: Fit, truth: dict[str, np.ndarray]) -> None:
    """mu + S f, which no rotation of the factors changes."""
    found = fitted.mean + fitted.factors @ fitted.loadings.T
    assert np.corrcoef(found.ravel(), truth["line"].ravel())[0, 1] > 0.95
    unseen = np.isnan(truth["z"])
    left = float(np.mean((found - truth["line"])[unseen] ** 2))
    assert left < 0.15 * float(np.var(truth["line"]))


def test_the_targets_react_alike_as_they_do(fitted: Fit, truth: dict[str, np.ndarray]) -> None:
    """S S', which no rotation changes, in units of the factors' spread."""
    x = truth["x"]
    spread = np.cov((fitted.factors - x @ fitted.slopes).T) + fitted.covariance.mean(axis=0)
    np.testing.assert_allclose(spread, np.eye(RANK), atol=0.15)
    found, true = (s @ s.T for s in (fitted.loadings, truth["loadings"]))
    assert np.linalg.norm(found - true) < 0.2 * np.linalg.norm(true)


def test_the_noise_of_every_target_is_recovered(fitted: Fit, truth: dict[str, np.ndarray]) -> None:
    ratio = fitted.residual[0] / truth["psi"]
    assert ratio.mean() == pytest.approx(1, abs=0.08)
    assert ratio.std() < 0.15


def test_nothing_is_made_of_noise() -> None:
    z = np.random.default_rng(1).standard_t(6, size=(ROWS, TARGETS))
    fitted = Fit(problem(z)).run()
    assert np.var(fitted.factors @ fitted.loadings.T) < 0.12
    np.testing.assert_allclose(fitted.residual, 1.0, rtol=0.25)


def test_more_tokens_than_checkpoints_are_not_believed() -> None:
    rng = np.random.default_rng(0)
    loadings = np.column_stack([rng.uniform(0.3, 1, 10), 0.4 * rng.normal(size=(10, 2))])
    z = rng.normal(size=(150, RANK)) @ loadings.T + 0.6 * rng.normal(size=(150, 10))
    tokens = (rng.random((150, 300)) < 0.05).astype(float)
    x = np.column_stack([np.ones(150), np.zeros(150), tokens])
    fields = fields_of(problem(np.where(rng.random(z.shape) < 0.5, z, np.nan), x))
    fitted = Fit(Problem(**fields | {"group": np.array([0, 1, *[2] * 300])})).run()
    assert np.var(x @ fitted.slopes, axis=0).sum() < 0.3


def test_without_cells_it_is_the_prior() -> None:
    fitted = Fit(problem(np.full((5, 3), np.nan))).run()
    assert not fitted.mean.any()
    assert fitted.slopes[1] @ fitted.typical[1:] > 0, "the reference probe raises quality"
    np.testing.assert_array_equal(fitted.covariance, np.tile(np.eye(RANK), (5, 1, 1)))
    fitted.settle(np.ones((5, RANK)), 2 * np.ones(5))
    np.testing.assert_array_equal(fitted.factors, 1)
    np.testing.assert_allclose(fitted.covariance, np.tile(2 * np.eye(RANK), (5, 1, 1)))


def test_factors_are_a_regression_on_the_loadings(fitted: Fit, truth: dict[str, np.ndarray]) -> None:
    """`settle` against the normal equations of one checkpoint, with the precisions that it tells."""
    rng = np.random.default_rng(2)
    prior, doubt = rng.normal(size=(ROWS, RANK)), rng.uniform(1, 2, ROWS)
    precision = Fit(fitted.p).run().settle(prior, doubt)
    again = Fit(fitted.p).run()
    again.settle(prior, doubt)
    for m in (0, 17):
        cells = fitted.p.row == m
        s, p = again.loadings[fitted.p.target[cells]], precision[cells]
        left = fitted.p.z[cells] - again.mean[fitted.p.target[cells]]
        covariance = np.linalg.inv(np.eye(RANK) / doubt[m] + (s.T * p) @ s)
        np.testing.assert_allclose(again.covariance[m], covariance, rtol=1e-8)
        expected = covariance @ ((s.T * p) @ left + prior[m] / doubt[m])
        np.testing.assert_allclose(again.factors[m], expected, rtol=1e-7, atol=1e-10)


def test_an_outlier_counts_less_than_it_would_under_a_gaussian(truth: dict[str, np.ndarray]) -> None:
    z = truth["z"].copy()
    at = tuple(np.argwhere(np.isfinite(z))[5])
    z[at] = 30.0
    fitted = Fit(problem(z, truth["x"])).run()
    precision = fitted.settle(np.zeros((ROWS, RANK)), np.ones(ROWS))
    here = (fitted.p.row == at[0]) & (fitted.p.target == at[1])
    assert precision[here].item() < 0.05 * np.median(precision)


def test_cells_of_more_runs_count_more_and_told_noise_is_believed(truth: dict[str, np.ndarray]) -> None:
    plain = problem(truth["z"], truth["x"])
    many, sure = plain.effective.copy(), plain.told.copy()
    many[:10], sure[10:20] = 25.0, 1e-9
    found = Fit(Problem(**{**fields_of(plain), "effective": many, "told": sure})).run()
    noise = found.noise()
    variance = found.variance(noise, slice(0, 30))
    psi, rho = found.residual[0], repeatable(plain.seed_noise, found.residual)[0]
    at = plain.target[:30]
    np.testing.assert_allclose(variance[20:], psi[at[20:]])
    np.testing.assert_allclose(variance[10:20], (rho * psi)[at[10:20]], rtol=1e-6)
    np.testing.assert_allclose(variance[:10], ((rho + (1 - rho) / 25) * psi)[at[:10]])


def fields_of(one: Problem) -> dict[str, object]:
    return {name: getattr(one, name) for name in Problem.__slots__}


def test_what_is_repeatable_is_what_the_vanillas_seeds_do_not_show() -> None:
    residual = np.array([[0.5, 0.5, 0.5, 0.5]])
    share = repeatable(np.array([[0.25, 0.0, 5.0, np.nan]]), residual)
    np.testing.assert_allclose(share, [[0.5, REPEATABLE[1], REPEATABLE[0], 0.5]])


def test_checkpoints_of_another_family_count_less(truth: dict[str, np.ndarray]) -> None:
    """Those that react the other way round pull the loadings over by their weight."""
    z = truth["z"]
    both = np.concatenate([z[:40], -z[40:]])
    plain = problem(both, np.concatenate([truth["x"][:40], truth["x"][40:]]))
    family = np.repeat([0, 1], [40, ROWS - 40])
    found = []
    for weight in (1.0, 1e-3):
        fields = fields_of(plain) | {
            "family": family,
            "weight": np.where(family == 0, 1.0, weight),
            "seed_noise": np.full((2, TARGETS), np.nan),
        }
        one = Fit(Problem(**fields)).run()
        line = one.mean + one.factors[:40] @ one.loadings.T
        found.append(float(np.mean((line - truth["line"][:40]) ** 2)))
    assert found[1] < 0.9 * found[0]


@pytest.mark.parametrize("spread", [1.0, 1e-4, 1e4])
def test_the_inverse_of_small_matrices(spread: float) -> None:
    half = np.random.default_rng(0).normal(size=(50, RANK, RANK))
    matrices = spread * (half @ half.swapaxes(1, 2) + 0.1 * np.eye(RANK))
    np.testing.assert_allclose(inverse(matrices), np.linalg.inv(matrices), rtol=1e-9, atol=1e-9 / spread)


@pytest.mark.parametrize("targets", [1, 2])
def test_fewer_targets_than_factors(targets: int) -> None:
    z = np.random.default_rng(3).normal(size=(30, targets))
    fitted = Fit(problem(z)).run()
    for one in (fitted.mean, fitted.loadings, fitted.factors, fitted.covariance, fitted.residual):
        assert np.isfinite(one).all()
