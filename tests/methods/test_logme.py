"""LogME is the logarithm of a Gaussian density, at its peak, whatever the shape of the features."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from headstart.failures import NotApplicable
from headstart.linalg import spectrum
from headstart.methods import logme
from tests.methods.drawn import bootstrap, drawn, stream_of


def by_density(x: np.ndarray, y: np.ndarray) -> float:
    """The largest log density of y ~ N(0, sigma^2 I + tau^2 X X'), per row, searched over both."""

    def negated(logs: np.ndarray) -> float:
        covariance = np.exp(logs[0]) * np.eye(len(y)) + np.exp(logs[1]) * x @ x.T
        return -float(stats.multivariate_normal.logpdf(y, cov=covariance)) / len(y)

    starts = [(-1.0, -4.0), (-2.0, -8.0), (0.0, 0.0)]
    options = {"xatol": 1e-7, "fatol": 1e-13, "maxiter": 4000}
    return max(
        -optimize.minimize(negated, np.array(start), method="Nelder-Mead", options=options).fun
        for start in starts
    )


def of_the_paper(x: np.ndarray, y: np.ndarray) -> float:
    """Equation 3 of the paper at the fixed point of its algorithm 1, iterated until it stands still."""
    n, d = x.shape
    s = np.linalg.svd(x, compute_uv=False) ** 2
    alpha = beta = 1.0
    for _ in range(2000):
        m = beta * np.linalg.solve(alpha * np.eye(d) + beta * x.T @ x, x.T @ y)
        gamma = np.sum(beta * s / (alpha + beta * s))
        misfit = np.sum((x @ m - y) ** 2)
        alpha, beta = gamma / (m @ m), (n - gamma) / misfit
    evidence = n / 2 * np.log(beta) + d / 2 * np.log(alpha) - n / 2 * np.log(2 * np.pi)
    evidence -= beta / 2 * misfit + alpha / 2 * m @ m
    evidence -= 0.5 * np.linalg.slogdet(alpha * np.eye(d) + beta * x.T @ x)[1]
    return float(evidence / n)


@pytest.mark.parametrize(("n", "d"), [(60, 5), (30, 30), (12, 40)])
def test_it_is_the_peak_of_the_gaussian_density(n: int, d: int) -> None:
    x, _ = drawn(n, d, 2)
    wide = x.astype(np.float64)
    generator = np.random.default_rng(2)
    y = wide @ generator.normal(size=d) / np.sqrt(d) + 0.7 * generator.normal(size=n)
    found = logme.estimate_values(stream_of(x, y), y, 1, 0)
    assert found.value == pytest.approx(by_density(wide, y), abs=1e-6)


def test_classes_average_one_against_the_rest() -> None:
    x, y = drawn(25, 40, 3)
    found = logme.estimate_classes(stream_of(x, y), y, 1, 0)
    each = [by_density(x.astype(np.float64), (y == k).astype(np.float64)) for k in range(3)]
    assert found.value == pytest.approx(np.mean(each), abs=1e-6)


def test_it_is_the_number_of_the_paper_where_rows_outnumber_features() -> None:
    x, y = drawn(400, 20, 4)
    found = logme.estimate_classes(stream_of(x, y), y, 1, 0)
    each = [of_the_paper(x.astype(np.float64), (y == k).astype(np.float64)) for k in range(4)]
    assert found.value == pytest.approx(np.mean(each), rel=1e-6)


def test_noise_scores_the_same_at_every_width() -> None:
    generator = np.random.default_rng(0)
    y = np.arange(100) % 4
    values = []
    for d in (2, 50, 100, 768, 3000):
        x = generator.normal(size=(100, d)).astype(np.float32)
        found = logme.estimate_classes(stream_of(x, y), y, 20, 0)
        values.append(found.value)
        assert found.value < np.max(found.null) + 0.02
    assert np.ptp(values) < 0.03  # the published code gives -0.5 to 28.8


def test_the_search_finds_the_higher_of_two_peaks() -> None:
    eigenvalues = np.array([1e6, 1e-2])
    along, energy = np.array([[5.0, 4.999]]), np.array([10.0])
    found = logme.fit(eigenvalues, along, energy, 40)
    t = np.exp(np.linspace(-30, 30, 200_001))[:, None]
    noise = ((along / (1 + t * eigenvalues)).sum(axis=1) + 0.001) / 40
    profile = -0.5 * (40 * np.log(2 * np.pi * np.e * noise) + np.log(1 + t * eigenvalues).sum(axis=1))
    assert found.evidence[0] == pytest.approx(profile.max(), abs=1e-6)


def test_an_exact_fit_is_finite_and_beats_a_noisy_one() -> None:
    x, _ = drawn(200, 10, 2)
    exact = x.astype(np.float64) @ np.arange(10.0)
    noisy = exact + np.random.default_rng(0).normal(size=200)
    values = [logme.estimate_values(stream_of(x, y), y, 1, 0).value for y in (exact, noisy)]
    assert np.isfinite(values).all()
    assert values[0] > values[1] + 5


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_values_that_are_all_the_same_are_refused(value: float) -> None:
    x, _ = drawn(100, 8, 2)
    y = np.full(100, value)
    with pytest.raises(NotApplicable, match="all 100 rows read have the same"):
        logme.estimate_values(stream_of(x, y), y, 1, 0)


def test_a_class_of_no_rows_changes_nothing() -> None:
    x, y = drawn(100, 5, 3)
    found = logme.estimate_classes(stream_of(x, y), y, 3, 0)
    again = logme.estimate_classes(stream_of(x, y * 2 + 1), y * 2 + 1, 3, 0)
    assert (again.value, again.stderr, again.null.tolist()) == (
        found.value,
        found.stderr,
        found.null.tolist(),
    )


@pytest.mark.parametrize("regression", [False, True])
def test_the_standard_error_is_that_of_a_row_bootstrap(regression: bool) -> None:
    x, y = drawn(600, 6, 3)
    labels = x[:, 0] + y + np.sin(30 * x[:, 1]) if regression else y
    by = logme.estimate_values if regression else logme.estimate_classes

    def value(rows: np.ndarray) -> float:
        return by(stream_of(x[rows], labels[rows]), labels[rows], 1, 0).value

    found = by(stream_of(x, labels), labels, 1, 0)
    assert found.stderr == pytest.approx(bootstrap(value, 600), rel=0.25)


def test_the_standard_error_is_that_of_fresh_rows_where_features_outnumber_them() -> None:
    x, y = drawn(100 * 60, 200, 3, apart=0.2, seed=3)
    parts = np.arange(6000).reshape(60, 100)
    found = [logme.estimate_classes(stream_of(x[p], y[p]), y[p], 1, 0) for p in parts]
    spread = np.std([one.value for one in found])
    assert 0.9 < np.mean([one.stderr for one in found]) / spread < 1.5  # a drawn bootstrap gives 6


def test_the_eigenvalues_of_the_gram_are_enough() -> None:
    x, y = drawn(50, 4, 2)
    wide, target = x.astype(np.float64), (y == 0).astype(np.float64)
    eigenvalues, vectors = spectrum(wide.T @ wide)
    along = ((target @ wide) @ vectors) ** 2 / eigenvalues
    found = logme.fit(eigenvalues, along[None], np.array([target.sum()]), 50)
    assert found.evidence[0] / 50 == pytest.approx(by_density(wide, target), abs=1e-6)
