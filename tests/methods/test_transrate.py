"""Coding rates by their definition, from either Gram matrix."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.methods import transrate
from tests.methods.drawn import bootstrap, drawn


def by_definition(x: np.ndarray, y: np.ndarray, distortion: float) -> float:
    z = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    z /= np.sqrt(np.mean(np.sum(z**2, axis=1)))

    def rate(part: np.ndarray) -> float:
        inner = np.eye(z.shape[1]) + part.T @ part / (len(part) * distortion)
        return 0.5 * float(np.linalg.slogdet(inner)[1])

    return rate(z) - sum(np.mean(y == k) * rate(z[y == k]) for k in np.unique(y))


def test_a_rate_is_half_the_log_of_variance_over_distortion() -> None:
    z = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert transrate.coding_rate(z, 0.5) == pytest.approx(0.5 * np.log((1 + 9) * (1 + 1)))


@pytest.mark.parametrize(("n", "d"), [(200, 8), (60, 40), (20, 50)])
def test_it_is_the_definition_above_and_below_the_width(n: int, d: int) -> None:
    x, y = drawn(n, d, 3)
    found = transrate.estimate(x, y, 1e-4, 1, 0)
    assert found.value == pytest.approx(by_definition(x, y, 1e-4), rel=1e-9)


def test_classes_of_the_same_rows_save_nothing_and_never_less() -> None:
    generator = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 30)
    values = []
    for _ in range(20):
        part = generator.normal(size=(30, 5))
        x = np.concatenate([generator.permutation(part) for _ in range(3)]).astype(np.float32)
        values.append(transrate.estimate(x, y, 1e-4, 1, 0).value)
    assert min(values) == 0.0
    assert max(values) == pytest.approx(0.0, abs=1e-9)
    assert transrate.METHOD.range == (0.0, np.inf)


def test_the_scale_and_the_origin_of_the_features_do_not_matter() -> None:
    x, y = drawn(300, 5, 3)
    values = [transrate.estimate(z.astype(np.float32), y, 1e-4, 1, 0).value for z in (x, 8 * x + 2)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize(("n", "d"), [(12, 30), (30, 4)])
def test_leverages_and_means_are_those_of_the_inverse(n: int, d: int) -> None:
    z = drawn(n, d, 2)[0].astype(np.float64)
    inverse = np.linalg.inv(0.01 * np.eye(d) + z.T @ z / n)
    np.testing.assert_allclose(
        transrate._leverage(z, 0.01), np.einsum("ni,ij,nj->n", z, inverse, z), rtol=1e-8
    )
    np.testing.assert_allclose(transrate._toward_mean(z, 0.01), inverse @ z.mean(axis=0), rtol=1e-8)


def test_the_standard_error_is_that_of_a_row_bootstrap() -> None:
    x, y = drawn(1500, 4, 3, apart=1.5)

    def value(rows: np.ndarray) -> float:
        return transrate.estimate(x[rows], y[rows], 1e-2, 1, 0).value

    found = transrate.estimate(x, y, 1e-2, 1, 0)
    assert found.stderr == pytest.approx(bootstrap(value, 1500), rel=0.25)
