"""LEEP and NCE on tables small enough to do by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from headstart.methods import leep, nce
from tests.methods.drawn import bootstrap

if TYPE_CHECKING:
    from types import ModuleType


def informed(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A head with five classes that knows something of three labels."""
    generator = np.random.default_rng(seed)
    y = generator.integers(3, size=n)
    logits = generator.normal(size=(n, 5)) + 1.5 * np.eye(3, 5)[y]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), y


def test_leep_by_hand() -> None:
    theta = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])
    y = np.array([0, 0, 1])
    # P(y=0 | z) = (1.4 / 1.5, 0.6 / 1.5), P(y=1 | z) = (0.1 / 1.5, 0.9 / 1.5)
    told = [0.8 * 1.4 / 1.5 + 0.2 * 0.4, 0.6 * 1.4 / 1.5 + 0.4 * 0.4, 0.1 * 0.1 / 1.5 + 0.9 * 0.6]
    assert leep.estimate(theta, y, 1, 0).value == pytest.approx(np.mean(np.log(told)))


def test_nce_by_hand() -> None:
    predicted = np.array([0, 0, 0, 1, 1, 1])
    y = np.array([0, 0, 1, 1, 1, 1])
    expected = 0.5 * (2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert nce.estimate(np.eye(2)[predicted], y, 1, 0).value == pytest.approx(expected)


@pytest.mark.parametrize("method", [leep, nce])
def test_a_head_that_knows_all_leaves_no_doubt_and_one_that_knows_nothing_all_of_it(
    method: ModuleType,
) -> None:
    y = np.arange(60) % 3
    assert method.estimate(np.eye(4)[y + 1], y, 1, 0).value == pytest.approx(0.0, abs=1e-12)
    assert method.estimate(np.full((60, 4), 0.25), y, 1, 0).value == pytest.approx(-np.log(3))


@pytest.mark.parametrize("method", [leep, nce])
def test_rounding_does_not_lift_a_head_that_knows_all_above_zero(method: ModuleType) -> None:
    generator = np.random.default_rng(0)
    y = np.repeat([0, 1], 60)
    for _ in range(50):
        theta = np.kron(np.eye(2), generator.dirichlet(np.ones(3), size=60))
        theta /= theta.sum(axis=1, keepdims=True)
        assert -1e-12 < method.estimate(theta, y, 1, 0).value <= 0.0


def test_a_head_that_is_always_sure_makes_both_the_same() -> None:
    theta, y = informed(500)
    sure = np.eye(5)[theta.argmax(axis=1)]
    assert leep.estimate(sure, y, 1, 0).value == pytest.approx(nce.estimate(sure, y, 1, 0).value)


@pytest.mark.parametrize("method", [leep, nce])
def test_the_standard_error_is_that_of_a_row_bootstrap(method: ModuleType) -> None:
    theta, y = informed(1500)
    found = method.estimate(theta, y, 1, 0)
    again = bootstrap(lambda rows: method.estimate(theta[rows], y[rows], 1, 0).value, 1500)
    assert found.stderr == pytest.approx(again, rel=0.25)


@pytest.mark.parametrize("method", [leep, nce])
def test_what_the_head_knows_is_above_the_null(method: ModuleType) -> None:
    theta, y = informed(400)
    found = method.estimate(theta, y, 50, 0)
    assert found.value > found.null.max() + 0.1
