"""k-nearest neighbours: known answers, ties, copies, and what changes no value."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.failures import NonFinite, NotApplicable
from headstart.method import Measurement
from headstart.methods.knn import (
    GROUPED,
    KnnParams,
    Neighbours,
    find_neighbours,
    nearest_others,
    neighbour_means,
    rightness,
    run,
    smallest,
)
from headstart.ranks import pearson
from tests.fake_bench import fake_bench


def clouds(n: int = 400, d: int = 8, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=n)
    x = rng.standard_normal((n, d)) + 1.2 * rng.standard_normal((classes, d))[y]
    return x.astype(np.float32), y


def on(x: np.ndarray, y: np.ndarray, classes: int | None, **params: object) -> Measurement:
    """All rows in the train role: it is the only one that is looked at."""
    return run(fake_bench(x, y, classes=classes, share=(1.0, 1.0)), KnnParams(**params))


def nearest_by_hand(x: np.ndarray, k: int) -> np.ndarray:
    apart = ((x[:, None, :].astype(np.float64) - x[None]) ** 2).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    return np.argsort(apart, axis=1, kind="stable")[:, :k]


def votes_by_hand(labels: np.ndarray) -> np.ndarray:
    """The class with the most votes, the nearer one in a tie: labels (n, k), nearest first."""
    same = (labels[:, :, None] == labels[:, None, :]).sum(axis=2)
    return labels[np.arange(len(labels)), same.argmax(axis=1)]


def points(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def right(x: np.ndarray, y: list[int], k: int) -> list[float]:
    return rightness(find_neighbours(x, k), np.array(y), max(y) + 1).tolist()


@pytest.mark.parametrize("k", [1, 2, 3, 5, 10])
def test_it_is_the_vote_of_the_nearest(k: int) -> None:
    x, y = clouds()
    said = votes_by_hand(y[nearest_by_hand(x, k)])
    found = on(x, y, 4, k=k)
    assert found.value == pytest.approx(np.mean(said == y), abs=1e-12)
    assert found.rows_tested == 400
    share = (400 * found.value + 2) / 404  # Agresti and Coull
    assert found.stderr == pytest.approx(np.sqrt(share * (1 - share) / 404), rel=1e-6)


def test_cosine_looks_at_directions_only() -> None:
    x, y = clouds()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    said = votes_by_hand(y[nearest_by_hand(unit, 3)])
    stretched = x * np.random.default_rng(1).uniform(0.1, 10, (400, 1)).astype(np.float32)
    assert on(stretched, y, 4, distance="cosine").value == pytest.approx(np.mean(said == y), abs=1e-12)
    assert on(stretched, y, 4).value != on(x, y, 4).value


def test_a_row_of_zeros_has_neighbours_too() -> None:
    x, y = clouds(n=50)
    x[3] = 0
    assert 0 <= on(x, y, 4, distance="cosine").value <= 1


def test_chance_is_what_the_null_says() -> None:
    x, _ = clouds(n=1000)
    y = (np.random.default_rng(2).random(1000) < 0.3).astype(np.int64)
    found = on(x, y, 2)
    # three voters of chance 0.3 and the own class: 0.7 * 0.784 + 0.3 * 0.216
    assert found.details["null"]["mean"] == pytest.approx(0.6136, abs=0.01)
    assert found.value == pytest.approx(0.6136, abs=0.06)
    assert found.details["largest_class"] == pytest.approx(0.7, abs=0.04)


def test_a_tie_goes_to_the_nearer_class() -> None:
    # 0 sees 1 (class 1) before 3 (class 0); 1 sees 0 before 3; 3 sees 1 before 0
    assert right(points(0, 1, 3), [0, 1, 0], k=2) == [0.0, 0.0, 0.0]
    assert right(points(0, 1, 3), [1, 1, 0], k=2) == [1.0, 1.0, 0.0]


def test_copies_that_disagree_share_the_vote() -> None:
    x = points(0, 0, 0, 9)
    assert right(x, [0, 1, 0, 1], k=1) == [0.5, 0.0, 0.5, 0.0]
    assert right(x, [0, 1, 1, 1], k=1) == [0.0, 0.5, 0.5, 1.0]


def test_all_copies_at_the_last_place_vote() -> None:
    # the row at 0 has 1 nearest and then three at 2: k = 2 would have to choose among them
    assert right(points(0, 1, 2, 2, 2), [0, 0, 1, 1, 0], k=2)[0] == 1.0
    assert right(points(0, 1, 2, 2, 2), [0, 0, 1, 1, 1], k=2)[0] == 0.0


def test_copies_are_told() -> None:
    x, y = clouds(n=200)
    x[:20], y[:20] = x[20:40], y[20:40]
    x[:10] += np.float32(1e-4)
    found = on(x, y, 4)
    assert found.details["near_copies"] == pytest.approx(0.2)
    assert found.details["value_without_copies"] < found.value
    assert on(np.ones((9, 2), np.float32), np.arange(9) % 2, 2).details["value_without_copies"] is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_names_of_classes_and_order_of_rows_change_nothing(data: st.DataObject) -> None:
    """On a grid, where ties and copies abound."""
    n = data.draw(st.integers(6, 40))
    k = data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    x = rng.integers(3, size=(n, 2)).astype(np.float32)
    y = rng.integers(3, size=n)
    order, names = rng.permutation(n), rng.permutation(3)
    plain = rightness(find_neighbours(x, k), y, 3)
    mixed = rightness(find_neighbours(x[order], k), names[y][order], 3)
    assert plain[order].tolist() == mixed.tolist()
    values = y.astype(np.float64)
    means = neighbour_means(find_neighbours(x, k), values)
    assert means[order].tolist() == neighbour_means(find_neighbours(x[order], k), values[order]).tolist()


def test_the_same_seed_gives_the_same_bits() -> None:
    x, y = clouds()
    assert on(x, y, 4) == on(x, y, 4)


@pytest.mark.parametrize("rows", [2, 17, 300])
def test_neighbours_do_not_depend_on_how_rows_are_cut(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = clouds(n=rows)
    k = min(5, rows - 1)
    nearest, least = nearest_others(x, k)
    assert nearest.tolist() == nearest_by_hand(x, k).tolist()
    assert least == pytest.approx(np.linalg.norm(x - x[nearest[:, 0]], axis=1), rel=1e-5)
    monkeypatch.setattr("headstart.arrays.BLOCK", 500)
    assert nearest_others(x, k)[0].tolist() == nearest.tolist()


def test_a_large_mean_does_not_drown_the_differences() -> None:
    x, _ = clouds()
    assert (
        nearest_others(x + np.float32(1000), 1)[0].tolist()
        == nearest_by_hand(x + np.float32(1000), 1).tolist()
    )


@pytest.mark.parametrize("big", [1e4, 1e5])
def test_a_feature_of_two_far_values_does_not_drown_the_others(big: float) -> None:
    """In fp32 products, whose candidates then are as good as drawn at random."""
    x, _ = clouds(n=500, d=32)
    either = np.where(np.random.default_rng(3).random(500) < 0.5, big, -big).astype(np.float32)
    x = np.column_stack([x, either])
    assert nearest_others(x, 3)[0].tolist() == nearest_by_hand(x, 3).tolist()


def test_rows_that_are_all_right_leave_a_doubt() -> None:
    x, y = clouds(n=100)
    x[:, 0] += 100 * y
    found = on(x, y, 4)
    assert found.value == 1.0
    assert found.stderr == pytest.approx(np.sqrt(102 * 2 / 104**3))


@pytest.mark.parametrize("k", [1, 4, 30])
def test_the_smallest_are_found(k: int) -> None:
    values = np.random.default_rng(k).standard_normal((7, 20 * GROUPED)).astype(np.float32)
    assert (
        np.sort(smallest(values, k), axis=1).tolist() == np.sort(np.argsort(values)[:, :k], axis=1).tolist()
    )


def test_a_regression_is_scored_by_the_mean_of_the_nearest() -> None:
    x, _ = clouds(n=500, d=3)
    y = x[:, 0] + 0.1 * np.random.default_rng(1).standard_normal(500)
    bench = fake_bench(x, y, classes=None, share=(1.0, 1.0))
    bench.target = dataclasses.replace(bench.target, metric="pearson")
    found = run(bench, KnnParams())
    assert found.value == pytest.approx(pearson(y[nearest_by_hand(x, 3)].mean(axis=1), y), abs=1e-9)
    assert found.details["metric"] == "pearson"
    assert found.details["null"]["mean"] == pytest.approx(0, abs=0.05)
    assert 0 < found.stderr < 0.05
    assert on(x, np.exp(9 * x[:, 0].astype(float)), None).details["metric"] == "spearman"


def test_values_of_copies_are_averaged() -> None:
    at = find_neighbours(points(0, 0, 0, 5), 2)
    assert isinstance(at, Neighbours)
    assert neighbour_means(at, np.array([1.0, 3.0, 5.0, 9.0])).tolist() == [4.0, 3.0, 2.0, 3.0]


def test_what_it_does_not_apply_to() -> None:
    x, y = clouds(n=20)
    with pytest.raises(NotApplicable, match="3 train rows are too few for 3 neighbours"):
        on(x[:3], y[:3], 4)
    with pytest.raises(NotApplicable, match="all 20 rows read have the same"):
        on(x, np.full(20, 2), 4)
    x[4, 1] = np.inf
    with pytest.raises(NonFinite):
        on(x, y, 4)
