"""The Bhattacharyya coefficients of Gaussians with known parameters."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from headstart.failures import NotApplicable
from headstart.methods import gbc
from tests.methods.drawn import bootstrap, drawn, stream_of


def test_a_pair_is_the_integral_of_the_root_of_both_densities() -> None:
    a, b = stats.norm(0, 1), stats.norm(1.5, 2)
    overlap, _ = integrate.quad(lambda z: np.sqrt(a.pdf(z) * b.pdf(z)), -30, 30)
    value, _, _ = gbc.separability(np.array([[0.0], [1.5]]), np.array([[1.0], [4.0]]))
    assert value == pytest.approx(-overlap, rel=1e-8)


def test_alike_is_minus_one_and_far_apart_is_zero() -> None:
    ones = np.ones((3, 2))
    assert gbc.separability(ones, ones)[0] == pytest.approx(-1.0)
    assert gbc.separability(1e3 * np.eye(3, 2), ones)[0] == pytest.approx(0.0, abs=1e-12)


def test_the_slopes_are_those_of_small_steps() -> None:
    generator = np.random.default_rng(0)
    means, variances = generator.normal(size=(4, 3)), generator.uniform(0.5, 2, size=(4, 3))
    _, by_mean, by_variance = gbc.separability(means, variances)
    for k, c in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[k, c] = 1e-6
        ahead, behind = (
            gbc.separability(means + step, variances)[0],
            gbc.separability(means - step, variances)[0],
        )
        assert by_mean[k, c] == pytest.approx((ahead - behind) / 2e-6, rel=1e-5, abs=1e-9)
        ahead, behind = (
            gbc.separability(means, variances + step)[0],
            gbc.separability(means, variances - step)[0],
        )
        assert by_variance[k, c] == pytest.approx((ahead - behind) / 2e-6, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("shape", ["spherical", "diagonal"])
def test_streamed_it_is_the_value_in_the_principal_components(shape: gbc.Shape) -> None:
    x, y = drawn(5000, 6, 3, apart=1.5)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    z = centred @ np.linalg.svd(centred, full_matrices=False)[2][:4].T
    means = np.stack([z[y == k].mean(axis=0) for k in range(3)])
    variances = np.stack([z[y == k].var(axis=0) for k in range(3)])
    if shape == "spherical":
        variances = np.repeat(variances.mean(axis=1, keepdims=True), 4, axis=1)
    found = gbc.estimate(stream_of(x, y), y, 4, shape, 1, 0)
    assert found.value == pytest.approx(gbc.separability(means, variances)[0], rel=1e-9)
    assert found.details["components"] == 4


@pytest.mark.parametrize("shape", ["spherical", "diagonal"])
def test_classes_of_the_same_rows_are_not_below_minus_one(shape: gbc.Shape) -> None:
    generator = np.random.default_rng(0)
    y = np.repeat([0, 1], 50)
    values = []
    for _ in range(20):
        z = generator.normal(size=(50, 20)).astype(np.float32)
        x = np.concatenate([z, generator.permutation(z)])
        values.append(gbc.estimate(stream_of(x, y), y, 64, shape, 1, 0).value)
    assert min(values) == -1.0
    assert max(values) == pytest.approx(-1.0)


@pytest.mark.parametrize("shape", ["spherical", "diagonal"])
def test_the_standard_error_is_that_of_a_row_bootstrap(shape: gbc.Shape) -> None:
    x, y = drawn(900, 4, 3, apart=1.0)

    def value(rows: np.ndarray) -> float:
        return gbc.estimate(stream_of(x[rows], y[rows]), y[rows], 64, shape, 1, 0).value

    found = gbc.estimate(stream_of(x, y), y, 64, shape, 1, 0)
    assert found.stderr == pytest.approx(bootstrap(value, 900), rel=0.25)


def test_a_class_of_one_row_is_left_out() -> None:
    x, y = drawn(300, 4, 2, apart=1.0)
    y = y.copy()
    y[0] = 2
    found = gbc.estimate(stream_of(x, y), y, 64, "diagonal", 2, 0)
    assert found.details["classes_left_out"] == 1
    with pytest.raises(NotApplicable, match="two classes of two rows"):
        gbc.estimate(stream_of(x[:4], y[:4]), np.array([0, 0, 1, 2]), 64, "diagonal", 2, 0)
