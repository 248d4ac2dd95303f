"""Sketches against exact inner products, on vectors whose cosines are known."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.regions.sketch import DIMS, Projection, fold, sketch_of

SMALL = 512  # dims
SHAPES = {"embeddings": (500, 16), "layer.weight": (64, 64), "layer.bias": (64,)}
SEEDS = range(120)


def drawn(rng: np.random.Generator, kind: str = "normal") -> dict[str, np.ndarray]:
    if kind == "heavy tails":
        return {name: rng.standard_t(2.5, shape) for name, shape in SHAPES.items()}
    found = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    if kind == "few rows moved":
        found["embeddings"][rng.random(500) > 0.1] = 0.0
    if kind == "rank one":
        found = {name: np.multiply.outer(x[:, 0], x[0]) if x.ndim == 2 else x for name, x in found.items()}
    return found


def mixed(one: dict, other: dict, cosine: float) -> dict[str, np.ndarray]:
    return {name: cosine * one[name] + np.sqrt(1 - cosine**2) * other[name] for name in one}


def cosine_of(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def flat(tensors: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "few rows moved", "rank one"])
@pytest.mark.parametrize("cosine", [0.0, 0.02, 0.3, 0.9])
def test_cosines_are_right_and_their_errors_those_that_the_dimension_gives(kind: str, cosine: float) -> None:
    rng = np.random.default_rng(7)
    one, other = drawn(rng, kind), drawn(rng, kind)
    other = mixed(one, other, cosine)
    exact = cosine_of(flat(one), flat(other))
    errors = np.array(
        [
            cosine_of(sketch_of(one, seed=s, dims=SMALL), sketch_of(other, seed=s, dims=SMALL)) - exact
            for s in SEEDS
        ]
    )
    promised = 1 / np.sqrt(SMALL)
    assert abs(errors.mean()) < 4 * promised / np.sqrt(len(SEEDS))
    assert np.quantile(np.abs(errors), 0.95) < 0.01 * np.sqrt(DIMS / SMALL)
    assert errors.std() < 1.2 * promised
    if cosine == 0.9:
        assert errors.std() < 0.4 * promised


def test_at_the_size_used_the_error_is_below_a_hundredth() -> None:
    rng = np.random.default_rng(0)
    one = {"w": rng.standard_normal(1_000_000)}
    other = mixed(one, {"w": rng.standard_normal(1_000_000)}, 0.02)
    exact = cosine_of(one["w"], other["w"])
    errors = [cosine_of(sketch_of(one, seed=s), sketch_of(other, seed=s)) - exact for s in range(10)]
    assert sketch_of(one).shape == (DIMS,)
    assert np.quantile(np.abs(errors), 0.95) < 0.01


def test_numbers_of_one_row_never_meet() -> None:
    rng = np.random.default_rng(1)
    one, other = ({"bias": rng.standard_normal(SMALL)} for _ in range(2))
    found = [sketch_of(x, seed=3, dims=SMALL) for x in (one, other)]
    assert cosine_of(*found) == pytest.approx(cosine_of(one["bias"], other["bias"]), abs=1e-6)
    np.testing.assert_array_equal(np.sort(np.abs(found[0])), np.sort(np.abs(one["bias"].astype(np.float32))))


def test_sketches_add_up() -> None:
    rng = np.random.default_rng(2)
    one, other = drawn(rng), drawn(rng)
    total = sketch_of({name: one[name] - 3 * other[name] for name in one}, dims=SMALL)
    parts = sketch_of(one, dims=SMALL) - 3 * sketch_of(other, dims=SMALL)
    np.testing.assert_allclose(total, parts, atol=1e-4)


def test_a_tensor_that_is_lacking_changes_nothing_of_the_others() -> None:
    tensors = drawn(np.random.default_rng(3))
    alone = [sketch_of({name: values}, dims=SMALL) for name, values in tensors.items()]
    np.testing.assert_allclose(sum(alone), sketch_of(tensors, dims=SMALL), atol=1e-4)
    longer = {"embeddings": np.concatenate([tensors["embeddings"], np.zeros((40, 16))])}
    np.testing.assert_array_equal(sketch_of(longer, dims=SMALL), alone[0])


def test_the_order_of_tensors_changes_no_bit() -> None:
    tensors = drawn(np.random.default_rng(4))
    np.testing.assert_array_equal(
        sketch_of(tensors, dims=SMALL), sketch_of(dict(reversed(tensors.items())), dims=SMALL)
    )


def test_the_draws_of_a_seed_stay_what_they_are() -> None:
    projection = Projection.of(5, 100)
    assert projection.columns[:8].tolist() == [1, -1, 1, -1, 1, -1, -1, 1]
    assert list(projection.rows("encoder.layer.0.weight", 250)) == [(23, -1), (86, -1), (45, 1)]
    assert list(projection.rows("encoder.layer.0.weight", 0)) == []
    assert list(projection.rows("other", 250)) != list(projection.rows("encoder.layer.0.weight", 250))
    assert (Projection.of(6, 100).columns != projection.columns).any()


def test_a_row_is_turned_and_signed() -> None:
    projection = Projection(0, 4, np.array([1, -1, 1, 1], np.float32))
    into = np.zeros(4, np.float32)
    fold(projection, np.array([1, 2, 3], np.float32), 2, -1, into)
    assert into.tolist() == [-3, 0, -1, 2]
    fold(projection, np.array([10], np.float32), 0, 1, into)
    assert into.tolist() == [7, 0, -1, 2]
