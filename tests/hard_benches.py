"""Benches of drawn features: plain ones, and hard ones that every method has to take or refuse in words."""

from __future__ import annotations

import numpy as np

from tests.fake_bench import FakeBench, fake_bench


def informative(n: int = 420, d: int = 10, k: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels, and the probabilities of a head with five classes; all know something."""
    generator = np.random.default_rng(0)
    y = generator.integers(k, size=n)
    x = generator.normal(size=(n, d)) + 0.7 * generator.normal(size=(k, d))[y] + 1.0
    logits = generator.normal(size=(n, 5)) + 2.0 * np.eye(k, 5)[y]
    theta = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return x.astype(np.float32), y, theta


def bench_of(x: np.ndarray, y: np.ndarray, theta: np.ndarray, classes: int | None = 3) -> FakeBench:
    return fake_bench(x, y, classes=classes, source=theta)


def regression() -> FakeBench:
    x, _, theta = informative()
    values = x[:, 0] + np.random.default_rng(2).normal(size=len(x))
    return bench_of(x, values.astype(np.float64), theta, classes=None)


def one_class() -> FakeBench:
    x, y, theta = informative()
    return bench_of(x, np.zeros_like(y), theta)


def _class_of_one_row() -> FakeBench:
    x, y, theta = informative()
    y = y % 2
    y[5] = 2
    return bench_of(x, y, theta)


def _class_without_rows() -> FakeBench:
    x, y, theta = informative()
    return bench_of(x, y % 2 * 2, theta)


def _fewer_rows_than_features() -> FakeBench:
    x, y, theta = informative(60, 200)
    return bench_of(x, y, theta)


def _constant_column() -> FakeBench:
    x, y, theta = informative()
    x[:, 3] = 7.0
    return bench_of(x, y, theta)


def _constant_features() -> FakeBench:
    x, y, theta = informative()
    return bench_of(np.full_like(x, 0.3), y, theta)


def _zero_features() -> FakeBench:
    x, y, theta = informative()
    return bench_of(np.zeros_like(x), y, theta)


def _duplicated_columns() -> FakeBench:
    x, y, theta = informative()
    return bench_of(np.hstack([x, x, x]), y, theta)


def _duplicated_rows() -> FakeBench:
    x, y, theta = informative(12)
    return bench_of(
        *(np.tile(part, (20, 1)) if part.ndim > 1 else np.tile(part, 20) for part in (x, y, theta))
    )


def _far_from_the_origin() -> FakeBench:
    x, y, theta = informative()
    x[:, 0] += 3000.0  # as one feature of many a language model is
    return bench_of(x, y, theta)


def _separable() -> FakeBench:
    x, y, theta = informative()
    return bench_of(np.hstack([x, 50.0 * np.eye(3, dtype=np.float32)[y]]), y, theta)


def no_head() -> FakeBench:
    x, y, _ = informative()
    return fake_bench(x, y, classes=3)


def _twelve_rows() -> FakeBench:
    return bench_of(*informative(12))


HARD = [
    regression,
    one_class,
    _class_of_one_row,
    _class_without_rows,
    _fewer_rows_than_features,
    _constant_column,
    _constant_features,
    _zero_features,
    _duplicated_columns,
    _duplicated_rows,
    _far_from_the_origin,
    _separable,
    no_head,
    _twelve_rows,
]
