"""The H-score equals its definition, shrunk and not."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.failures import NotApplicable
from headstart.methods import hscore
from tests.methods.drawn import bootstrap, drawn, stream_of


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """tr(pinv(cov f) cov(E[f | y])), covariances divided by n."""
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    means = np.stack([centred[y == k].mean(axis=0) for k in np.unique(y)])[
        np.unique(y, return_inverse=True)[1]
    ]
    return float(np.trace(np.linalg.pinv(centred.T @ centred, rcond=1e-15) @ means.T @ means))


def shrunk_by_definition(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    n, d = x.shape
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    s = centred.T @ centred / n
    error = np.mean([np.sum((np.outer(row, row) - s) ** 2) for row in centred]) / n
    a = min(1.0, error / np.sum((s - np.trace(s) / d * np.eye(d)) ** 2))
    means = np.stack([centred[y == k].mean(axis=0) for k in range(y.max() + 1)])[y]
    total = (1 - a) * s + a * np.trace(s) / d * np.eye(d)
    return float((1 - a) * np.trace(np.linalg.inv(total) @ means.T @ means / n)), a


def test_one_feature_gives_the_share_of_variance_between_classes() -> None:
    x = np.array([[0.0], [2.0], [4.0], [6.0]], dtype=np.float32)
    y = np.array([0, 0, 1, 1])
    assert hscore.estimate(stream_of(x, y), y, 0.0, 1, 0).value == pytest.approx(4 / 5)


def test_without_shrinkage_it_is_the_original() -> None:
    x, y = drawn(400, 50, 5)
    found = hscore.estimate(stream_of(x, y), y, 0.0, 1, 0)
    assert found.value == pytest.approx(by_definition(x, y), rel=3e-8)


@pytest.mark.parametrize(("n", "d"), [(300, 20), (30, 60)])
def test_shrunk_it_is_the_definition(n: int, d: int) -> None:
    x, y = drawn(n, d, 3)
    value, amount = shrunk_by_definition(x, y)
    found = hscore.estimate(stream_of(x, y), y, "ledoit-wolf", 1, 0)
    assert found.value == pytest.approx(value, rel=1e-9)
    assert found.details["shrinkage"] == pytest.approx(amount, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(600, 16), (60, 128)])
@pytest.mark.parametrize("mean", [1e3, 1e4, 1e5])
def test_far_from_the_origin_it_is_the_definition(n: int, d: int, mean: float) -> None:
    x, y = drawn(n, d, 3)
    far = (x.astype(np.float64) + mean).astype(np.float32)
    value, amount = shrunk_by_definition(far, y)
    found = hscore.estimate(stream_of(far, y), y, "ledoit-wolf", 1, 0)
    assert found.value == pytest.approx(value, rel=1e-6)
    assert found.details["shrinkage"] == pytest.approx(amount, rel=1e-6)


def test_one_feature_far_from_the_origin_changes_nothing() -> None:
    x, y = drawn(600, 16, 3)
    x[:, 5] = np.round(64 * x[:, 5]) / 64  # so that fp32 holds it at 10,000 as well
    far = x.copy()
    far[:, 5] += 1e4
    values = [hscore.estimate(stream_of(z, y), y, "ledoit-wolf", 1, 0).value for z in (x, far)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(40, 5), (20, 50)])
def test_features_that_are_the_same_on_all_rows_are_refused(n: int, d: int) -> None:
    y = np.arange(n) % 2
    with pytest.raises(NotApplicable, match=f"the same on all {n} rows"):
        hscore.estimate(stream_of(np.full((n, d), 0.3, np.float32), y), y, "ledoit-wolf", 1, 0)


def test_a_singular_covariance_has_to_be_shrunk() -> None:
    x, y = drawn(30, 60, 3)
    with pytest.raises(NotApplicable, match="60 features over 30 rows is singular"):
        hscore.estimate(stream_of(x, y), y, 0.0, 1, 0)


def test_it_is_blind_to_an_invertible_map_of_the_features() -> None:
    x, y = drawn(500, 6, 3)
    turned = x @ np.random.default_rng(4).normal(size=(6, 6)).astype(np.float32) + 3
    values = [hscore.estimate(stream_of(z, y), y, 0.0, 1, 0).value for z in (x, turned.astype(np.float32))]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.parametrize("shrinkage", ["ledoit-wolf", 0.0])
def test_the_standard_error_is_that_of_a_row_bootstrap(shrinkage: hscore.Shrinkage) -> None:
    x, y = drawn(600, 6, 3)

    def value(rows: np.ndarray) -> float:
        return hscore.estimate(stream_of(x[rows], y[rows]), y[rows], shrinkage, 1, 0).value

    found = hscore.estimate(stream_of(x, y), y, shrinkage, 1, 0)
    assert found.stderr == pytest.approx(bootstrap(value, 600), rel=0.25)


def test_the_null_is_that_of_labels_without_meaning() -> None:
    x, y = drawn(2000, 10, 3, apart=2.0)
    found = hscore.estimate(stream_of(x, y), y, 0.0, 200, 0)
    assert np.mean(found.null) == pytest.approx(10 * 2 / 1999, rel=0.1)  # d (k - 1) / (n - 1)
    assert found.value > 10 * found.null.max()
