"""What every method keeps that reads features: one suite over the table of methods."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from headstart.failures import NotApplicable
from headstart.methods import METHODS
from tests.fake_bench import FakeBench, fake_bench

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.method import Measurement

PROBES = [name for name, method in METHODS.items() if method.run is not None and "features" in method.needs]
LOOSE = {"linear_probe": 0.03, "knn": 0.03}  # shares of rows right, where one row on the edge may turn

probes = pytest.mark.parametrize("name", PROBES)


def measured(name: str, bench: FakeBench, **params: Any) -> Measurement:
    method = METHODS[name]
    assert method.run is not None
    found = method.run(bench, method.params(**params))
    assert np.isfinite(found.value)
    assert found.stderr is not None
    assert np.isfinite(found.stderr)
    assert found.stderr >= 0
    assert method.range[0] <= found.value <= method.range[1]
    json.dumps(found.details, allow_nan=False)
    return found


def same(name: str, value: float) -> Any:
    return pytest.approx(value, rel=1e-6, abs=LOOSE.get(name, 1e-9))


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


@probes
def test_informative_features_score_above_the_null(name: str) -> None:
    found = measured(name, bench_of(*informative()))
    null = found.details["null"]
    assert set(null) == {"mean", "high", "p", "draws"}
    assert found.value > null["high"] > null["mean"]
    assert null["p"] == pytest.approx(1 / (1 + null["draws"]))
    assert found.stderr is not None
    assert found.stderr > 0
    assert found.rows_tested
    assert found.details["device"] == "fake"


@probes
@pytest.mark.parametrize("seed", range(3))
def test_labels_without_meaning_score_within_the_null(name: str, seed: int) -> None:
    x, y, theta = informative()
    found = measured(name, bench_of(x, np.random.default_rng(seed).permutation(y), theta))
    null = found.details["null"]
    assert abs(found.value - null["mean"]) < 3 * (null["high"] - null["mean"])


@probes
def test_the_names_of_the_classes_do_not_matter(name: str) -> None:
    x, y, theta = informative()
    found = measured(name, bench_of(x, y, theta))
    renamed = measured(name, bench_of(x, np.array([2, 0, 1])[y], theta))
    assert renamed.value == same(name, found.value)
    assert renamed.stderr == same(name, found.stderr or 0.0)


@probes
def test_the_order_of_the_rows_does_not_matter(name: str) -> None:
    x, y, theta = informative()
    generator = np.random.default_rng(1)
    cuts = [int(share * len(x)) for share in (0.7, 0.85)]
    order = np.concatenate([generator.permutation(part) for part in np.split(np.arange(len(x)), cuts)])
    found = measured(name, bench_of(x, y, theta))
    shuffled = measured(name, bench_of(x[order], y[order], theta[order]))
    assert shuffled.value == same(name, found.value)
    assert shuffled.stderr == same(name, found.stderr or 0.0)


@probes
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    first, second = (measured(name, bench_of(*informative())) for _ in range(2))
    assert _without_times(first) == _without_times(second)


def _without_times(found: Measurement) -> dict[str, Any]:
    told = asdict(found)
    told["details"] = {key: value for key, value in told["details"].items() if not key.endswith("seconds")}
    return told


@pytest.mark.parametrize("name", [n for n in PROBES if "layers" in METHODS[n].params.model_fields])
def test_every_layer_asked_for_is_told(name: str) -> None:
    found = measured(name, bench_of(*informative()), layers=["mean", "last"])
    assert list(found.details["layers"]) == ["mean", "last"]
    assert found.details["layers"]["mean"]["value"] == found.value


def _regression() -> FakeBench:
    x, _, theta = informative()
    values = x[:, 0] + np.random.default_rng(2).normal(size=len(x))
    return bench_of(x, values.astype(np.float64), theta, classes=None)


def _one_class() -> FakeBench:
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


def _no_head() -> FakeBench:
    x, y, _ = informative()
    return fake_bench(x, y, classes=3)


def _twelve_rows() -> FakeBench:
    return bench_of(*informative(12))


HARD = [
    _regression,
    _one_class,
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
    _no_head,
    _twelve_rows,
]


@probes
@pytest.mark.parametrize("hard", HARD, ids=lambda case: case.__name__.strip("_"))
def test_a_hard_case_is_finite_or_not_applicable(name: str, hard: Callable[[], FakeBench]) -> None:
    try:
        measured(name, hard())
    except NotApplicable as outcome:
        sentence = outcome.sentence
    else:
        return
    assert sentence.endswith(".")
    assert len(sentence) > 30


@pytest.mark.parametrize("hard", [_one_class, _regression], ids=["one_class", "regression"])
@pytest.mark.parametrize("name", sorted({"hscore", "gbc", "transrate", "leep", "nce"} & set(PROBES)))
def test_what_compares_classes_says_so_without_them(name: str, hard: Callable[[], FakeBench]) -> None:
    with pytest.raises(NotApplicable, match="class"):
        measured(name, hard())


@pytest.mark.parametrize("name", ["leep", "nce"])
def test_what_reads_a_head_says_so_without_one(name: str) -> None:
    with pytest.raises(NotApplicable, match="classification head"):
        measured(name, _no_head())
