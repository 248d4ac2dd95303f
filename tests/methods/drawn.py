"""Rows whose classes differ in their means, and resampling done the slow way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.moments import Stream
from tests.fake_bench import FakeRows

if TYPE_CHECKING:
    from collections.abc import Callable


def drawn(n: int, d: int, k: int, *, apart: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features away from the origin, and k classes of about the same size."""
    generator = np.random.default_rng(seed)
    y = generator.integers(k, size=n)
    mixing = generator.normal(size=(d, d)) / np.sqrt(d)
    means = apart * generator.normal(size=(k, d))
    x = (generator.normal(size=(n, d)) + means[y]) @ mixing + generator.normal(size=d)
    return x.astype(np.float32), y


def stream_of(x: np.ndarray, y: np.ndarray) -> Stream:
    return Stream(FakeRows(y, {"last": x}), "last", x.shape[1])


def bootstrap(value: Callable[[np.ndarray], float], n: int, draws: int = 150) -> float:
    """The standard deviation of a value over rows drawn with replacement."""
    generator = np.random.default_rng(1)
    return float(np.std([value(generator.integers(n, size=n)) for _ in range(draws)]))
