"""The logistic head: gradient, optimum, and what its loss must not depend on."""

import numpy as np
import pytest
from scipy.optimize import minimize

from headstart.logistic import descend, fit_logistic, logistic_loss, principal_axes


def rows(n: int = 300, d: int = 6, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of unlike scale, and labels that follow from them in part."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * 10.0 ** rng.uniform(-2, 2, d) + 3
    scores = (x - x.mean(axis=0)) / x.std(axis=0) @ rng.standard_normal((d, classes))
    y = (scores + rng.gumbel(size=scores.shape) * 2).argmax(axis=1)
    return x.astype(np.float32), y


def turned(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axes = principal_axes(x)
    return axes.of(x), axes.variance


def test_axes_are_standardised_and_uncorrelated() -> None:
    x, _ = rows()
    z, variance = turned(x)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(z.T, bias=True), np.diag(variance), atol=1e-4)
    assert variance.sum() == pytest.approx(6)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    np.testing.assert_allclose(z @ z.T, standard @ standard.T, atol=1e-3)


def test_axes_end_where_the_rows_do() -> None:
    x, _ = rows(n=5, d=40)
    z, variance = turned(x)
    assert z.shape == (5, 4)
    assert variance.sum() == pytest.approx(40, rel=1e-5)


def test_constant_columns_count_as_nothing() -> None:
    x, _ = rows()
    z, variance = turned(np.column_stack([x, np.full((len(x), 2), 1234.567, np.float32)]))
    assert len(variance) == 6
    np.testing.assert_allclose(np.abs(z), np.abs(turned(x)[0]), atol=1e-3)
    assert turned(np.ones((7, 3), np.float32))[0].shape == (7, 0)


def test_the_gradient_is_that_of_the_loss() -> None:
    x, y = rows(n=40)
    z = turned(x)[0].astype(np.float64)
    at = np.random.default_rng(1).standard_normal((3, 7))
    _, slope = logistic_loss(at, z, y, 0.3)
    for k, j in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[k, j] = 1e-5
        up, down = (logistic_loss(at + sign * step, z, y, 0.3)[0] for sign in (1, -1))
        assert slope[k, j] == pytest.approx((up - down) / 2e-5, abs=1e-8)


def test_the_loss_does_not_depend_on_how_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows()
    z = turned(x)[0].astype(np.float64)
    at = np.random.default_rng(1).standard_normal((3, 7))
    whole, slope = logistic_loss(at, z, y, 0.3)
    monkeypatch.setattr("headstart.arrays.BLOCK", 100)
    cut, turn = logistic_loss(at, z, y, 0.3)
    assert cut == pytest.approx(whole, rel=1e-12)
    np.testing.assert_allclose(turn, slope, atol=1e-12)


def test_without_features_the_shares_are_the_optimum() -> None:
    y = np.array([0, 0, 0, 1, 1, 2])
    head = fit_logistic(np.zeros((6, 0), np.float32), y, 0.1, np.zeros(0))
    shares = np.array([3, 2, 1]) / 6
    assert head.loss == pytest.approx(-np.sum(shares * np.log(shares)))
    assert head.converged


@pytest.mark.parametrize("l2", [1.0, 0.01, 1e-4])
def test_the_optimum_is_that_of_another_optimiser(l2: float) -> None:
    x, y = rows()
    z, variance = turned(x)
    exact = z.astype(np.float64)
    head = fit_logistic(exact, y, l2, variance, gain=1e-15)
    other = minimize(
        lambda at: [
            part.ravel() if i else part
            for i, part in enumerate(logistic_loss(at.reshape(3, 7), exact, y, l2))
        ],
        np.zeros(21),
        jac=True,
        method="BFGS",
        options={"gtol": 1e-8},
    )
    assert head.converged
    assert head.loss == pytest.approx(other.fun, abs=1e-11)
    np.testing.assert_allclose(head.weights, other.x.reshape(3, 7)[:, :-1], atol=2e-4)


def test_two_classes_are_binary_logistic_regression_at_half_the_penalty() -> None:
    x, y = rows(classes=2)
    z, variance = turned(x)
    head = fit_logistic(z, y, 0.02, variance, gain=1e-10)

    def binary(at: np.ndarray) -> float:
        margin = (2 * y - 1) * (z.astype(np.float64) @ at[:-1] + at[-1])
        return float(np.mean(np.logaddexp(0, -margin)) + 0.005 * np.sum(at[:-1] ** 2))

    other = minimize(binary, np.zeros(7), method="BFGS", options={"gtol": 1e-7})
    assert head.loss == pytest.approx(other.fun, abs=1e-7)
    np.testing.assert_allclose(head.weights[1] - head.weights[0], other.x[:-1], atol=1e-3)
    np.testing.assert_allclose(head.weights.sum(axis=0), 0, atol=1e-5)


def test_separable_rows_have_a_finite_head() -> None:
    y = np.repeat([0, 1], 20)
    z = np.where(y[:, None] == 0, -1.0, 1.0)
    head = fit_logistic(z, y, 1e-4, np.ones(1), gain=1e-15)
    weight = head.weights[1, 0]
    assert head.converged
    assert head.logits(z).argmax(axis=1).tolist() == y.tolist()
    # for weights -w and w the gradient is 0 where l2 w = 1 - p = 1 / (1 + exp(2 w))
    assert 1e-4 * weight == pytest.approx(1 / (1 + np.exp(2 * weight)), rel=1e-3)


def test_the_fit_does_not_depend_on_the_scale_of_features() -> None:
    x, y = rows()
    scaled = (x * np.float32([1e-3, 1e3, 1, 7, 0.1, 50]) + np.float32(2)).astype(np.float32)
    fits = [fit_logistic(z, y, 0.01, variance, gain=1e-9) for z, variance in (turned(x), turned(scaled))]
    assert fits[0].loss == pytest.approx(fits[1].loss, abs=1e-5)


def test_a_start_nearby_saves_steps_and_ends_at_the_same_place() -> None:
    x, y = rows(n=2000, d=30, classes=5)
    z, variance = turned(x)
    cold = fit_logistic(z, y, 0.01, variance)
    warm = fit_logistic(z, y, 0.01, variance, start=fit_logistic(z, y, 0.012, variance))
    assert warm.steps < cold.steps
    assert warm.loss == pytest.approx(cold.loss, abs=1e-4)


def test_fp32_predicts_as_fp64_does() -> None:
    x, y = rows(n=2000, d=50, classes=7)
    z, variance = turned(x)
    single = fit_logistic(z, y, 0.003, variance, gain=1e-8)
    double = fit_logistic(z.astype(np.float64), y, 0.003, variance, gain=1e-12)
    assert single.loss == pytest.approx(double.loss, abs=1e-6)
    assert np.mean(single.logits(z).argmax(axis=1) == double.logits(z).argmax(axis=1)) > 0.998


def test_the_descent_finds_the_bottom_of_a_valley() -> None:
    wide = np.geomspace(0.01, 1, 20)

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        return float(0.5 * np.sum(wide * (at - 1) ** 2)), wide * (at - 1)

    at, value, slope, steps = descend(loss, np.zeros(20), 1e-20)
    np.testing.assert_allclose(at, 1, atol=1e-7)
    assert value < 1e-17
    assert 0.5 * slope @ slope <= 1e-20
    assert steps < 100


def test_the_descent_ends_where_nothing_descends() -> None:
    lie = np.ones(3)
    _, value, _, steps = descend(lambda at: (float(np.sum(at**2)), -lie), np.zeros(3), 1e-9)
    assert (value, steps) == (0.0, 0)
    *_, steps = descend(lambda at: (float(at @ at), 2 * at), np.full(3, 5.0), 1e-9, most=1)
    assert steps == 1


def test_a_head_that_rounding_stopped_says_so() -> None:
    x, y = rows()
    z, variance = turned(x)
    head = fit_logistic(z, y, 1e-4, variance, gain=0.0)
    assert not head.converged
    assert 0 < head.gain < 1e-9
