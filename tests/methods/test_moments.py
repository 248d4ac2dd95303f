"""Streamed sums equal sums over all rows at once, and hold no rows."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from headstart.failures import NonFinite, NotApplicable
from headstart.linalg import cholesky, ledoit_wolf, spectrum
from headstart.methods import METHODS, gbc, hscore, logme
from headstart.moments import Stream, indicators, moments
from headstart.probe import permuted
from tests.fake_bench import fake_bench
from tests.methods.drawn import drawn, stream_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headstart.probe import Estimate


def test_sums_over_blocks_are_sums_over_all_rows() -> None:
    x, y = drawn(9000, 6, 3)
    codes = np.stack([y, y[::-1]])
    found = moments(stream_of(x, y), indicators(codes, 3), 6)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(found.total, exact.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.gram, exact.T @ exact, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(exact.T, bias=True), rtol=1e-10)
    for draw, labels in enumerate(codes):
        for k in range(3):
            np.testing.assert_allclose(found.cross[3 * draw + k], exact[labels == k].sum(axis=0), rtol=1e-12)
    centred = exact - exact.mean(axis=0)
    assert found.quartic == pytest.approx(np.sum((centred**2).sum(axis=1) ** 2), rel=1e-10)


def test_sums_of_a_centred_stream_keep_their_digits_far_from_the_origin() -> None:
    x, y = drawn(9000, 6, 3)
    x = (x.astype(np.float64) + 1e4).astype(np.float32)
    exact = x.astype(np.float64)
    found = moments(stream_of(x, y).centred(), indicators(y[None], 3), 3)
    centred = exact - exact.mean(axis=0)
    assert found.quartic == pytest.approx(np.sum((centred**2).sum(axis=1) ** 2), rel=1e-9)
    assert found.power == pytest.approx(np.mean((exact**2).sum(axis=1)), rel=1e-12)
    np.testing.assert_allclose(found.covariance, centred.T @ centred / 9000, rtol=1e-9, atol=1e-12)


def test_fewer_rows_than_features_are_turned_and_keep_their_inner_products() -> None:
    x, y = drawn(20, 50, 2)
    stream = stream_of(x, y)
    [(part, block)] = list(stream)
    assert (part, block.shape, stream.width, stream.features) == (slice(0, 20), (20, 20), 20, 50)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(block @ block.T, exact @ exact.T, rtol=1e-10)


@pytest.mark.parametrize("shape", [(40, 5), (5, 40)])
def test_features_that_are_no_numbers_are_refused(shape: tuple[int, int]) -> None:
    x = np.ones(shape, dtype=np.float32)
    x[3, 2] = np.nan
    with pytest.raises(NonFinite, match="NaN or infinite"):
        logme.estimate_classes(stream_of(x, np.arange(len(x)) % 2), np.arange(len(x)) % 2, 1, 0)


def test_infinite_features_are_refused_by_a_centred_stream() -> None:
    x = np.ones((40, 5), dtype=np.float32)
    x[3, 2], x[4, 2] = np.inf, -np.inf
    with pytest.raises(NonFinite, match="NaN or infinite"):
        stream_of(x, np.arange(40) % 2).centred()


def test_features_that_are_all_zero_are_refused() -> None:
    y = np.arange(30) % 2
    with pytest.raises(NotApplicable, match="are 0"):
        logme.estimate_classes(stream_of(np.zeros((30, 4), dtype=np.float32), y), y, 1, 0)


def test_the_spectrum_leaves_out_rounding() -> None:
    x, _ = drawn(200, 5, 2)
    twice = np.hstack([x, x]).astype(np.float64)
    values, vectors = spectrum(twice.T @ twice)
    assert len(values) == 5
    assert (np.diff(values) < 0).all()
    np.testing.assert_allclose(vectors * values @ vectors.T, twice.T @ twice, atol=1e-9 * values[0])
    np.testing.assert_allclose(spectrum(twice.T @ twice, 2)[0], values[:2], rtol=1e-12)
    assert len(spectrum(np.zeros((3, 3)))[0]) == 0


def test_shrinkage_is_that_of_the_definition() -> None:
    x, _ = drawn(40, 8, 2)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    s = centred.T @ centred / 40
    mu = np.trace(s) / 8
    error = np.mean([np.sum((np.outer(row, row) - s) ** 2) for row in centred]) / 40
    quartic = float(np.sum((centred**2).sum(axis=1) ** 2))
    amount, variance = ledoit_wolf(s, quartic, 40, 8)
    assert amount == pytest.approx(error / np.sum((s - mu * np.eye(8)) ** 2))
    assert variance == pytest.approx(mu)


def test_a_singular_matrix_has_no_factor() -> None:
    assert cholesky(np.ones((2, 2))) is None
    assert cholesky(-np.eye(2)) is None
    np.testing.assert_allclose(cholesky(4 * np.eye(2)), 2 * np.eye(2))


def test_labellings_take_no_more_room_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.probe.HELD", 1000)
    y = np.arange(30) % 3
    assert len(permuted(y, 20, 0)) == 21
    assert len(permuted(y, 200, 0)) == 1000 // 30
    assert len(permuted(y, 20, 0, each=100)) == 10
    assert len(permuted(y, 20, 0, each=10**6)) == 2
    np.testing.assert_array_equal(permuted(y, 20, 0)[:10], permuted(y, 20, 0, each=100))


@pytest.mark.parametrize("name", ["logme", "hscore", "gbc", "leep"])
def test_a_null_of_fewer_draws_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = drawn(400, 12, 50)
    monkeypatch.setattr("headstart.probe.HELD", 10 * 50 * 12)
    bench = fake_bench(x, y, classes=50, share=(1.0, 1.0), source=np.full((400, 12), 1 / 12))
    method = METHODS[name]
    assert method.run is not None
    assert method.run(bench, method.params()).details["null"]["draws"] == 9


@dataclass
class MadeRows:
    """Rows that exist in blocks only."""

    labels: np.ndarray
    width: int

    def blocks(self, layer: str, size: int = 1024) -> Iterator[np.ndarray]:
        for start in range(0, len(self.labels), size):
            y = self.labels[start : start + size]
            generator = np.random.default_rng(start)
            yield (generator.normal(size=(len(y), self.width)) + y[:, None]).astype(np.float32)


@pytest.mark.parametrize(
    "estimate",
    [
        lambda stream, y: logme.estimate_classes(stream, y, 20, 0),
        lambda stream, y: hscore.estimate(stream, y, "ledoit-wolf", 20, 0),
        lambda stream, y: gbc.estimate(stream, y, 16, "spherical", 20, 0),
    ],
    ids=["logme", "hscore", "gbc"],
)
def test_memory_grows_by_labels_and_not_by_features(
    estimate: Callable[[Stream, np.ndarray], Estimate],
) -> None:
    width, peaks = 200, []
    for n in (10_000, 40_000):
        y = np.arange(n) % 4
        tracemalloc.start()
        estimate(Stream(MadeRows(y, width), "last", width), y)  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 30_000 < 100  # bytes a row, of 800 that its features take
