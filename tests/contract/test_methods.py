"""What every method keeps that reads features: one suite over the table of methods."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from headstart.failures import NotApplicable
from headstart.methods import METHODS
from tests.hard_benches import HARD, bench_of, informative, no_head, one_class, regression

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.method import Measurement
    from tests.fake_bench import FakeBench

PROBES = [  # those that sample chains have a suite of their own: tests/methods/test_free_energy.py
    name
    for name, method in METHODS.items()
    if method.run is not None and "features" in method.needs and "loss_chains" not in method.needs
]
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


@pytest.mark.parametrize("hard", [one_class, regression], ids=["one_class", "regression"])
@pytest.mark.parametrize("name", sorted({"hscore", "gbc", "transrate", "leep", "nce"} & set(PROBES)))
def test_what_compares_classes_says_so_without_them(name: str, hard: Callable[[], FakeBench]) -> None:
    with pytest.raises(NotApplicable, match="class"):
        measured(name, hard())


@pytest.mark.parametrize("name", ["leep", "nce"])
def test_what_reads_a_head_says_so_without_one(name: str) -> None:
    with pytest.raises(NotApplicable, match="classification head"):
        measured(name, no_head())
