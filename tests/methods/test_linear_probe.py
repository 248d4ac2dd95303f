"""The linear probe: known answers, what the choice of strength may not see, and what changes no value."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from headstart.failures import NonFinite, NotApplicable
from headstart.method import Measurement
from headstart.methods.linear_probe import METHOD, LinearProbeParams, run
from headstart.ranks import bootstrap_stderr, pearson, ranks, spearman
from tests.fake_bench import FakeRows, fake_bench


def two_gaussians(
    n: int = 6000, d: int = 4, apart: float = 2.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Two classes, as frequent, whose means are `apart` standard deviations apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    x = rng.standard_normal((n, d))
    x[:, 0] += apart * y
    return x.astype(np.float32), y


def on(x: np.ndarray, y: np.ndarray, classes: int | None, **params: object) -> Measurement:
    return run(fake_bench(x, y, classes=classes), LinearProbeParams(**params))


def line(n: int = 2000, d: int = 5, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    return x.astype(np.float32), x[:, 0] + noise * rng.standard_normal(n)


def test_gaussian_classes_are_told_apart_as_well_as_can_be() -> None:
    x, y = two_gaussians()
    found = on(x, y, 2)
    assert found.value == pytest.approx(0.8413, abs=3 * found.stderr)  # Phi(1)
    assert found.rows_tested == 900
    share = (900 * found.value + 2) / 904  # Agresti and Coull
    assert found.stderr == pytest.approx(np.sqrt(share * (1 - share) / 904))
    assert found.details["metric"] == "accuracy"
    assert found.details["converged"]
    assert found.details["matthews"] == pytest.approx(2 * found.value - 1, abs=0.02)
    assert found.details["macro_f1"] == pytest.approx(found.value, abs=0.02)
    assert found.details["null"]["mean"] == pytest.approx(0.5, abs=0.01)
    assert found.details["null"]["p"] == pytest.approx(1 / 201)


@pytest.mark.parametrize("right", [True, False])
def test_rows_that_are_all_right_or_all_wrong_leave_a_doubt(right: bool) -> None:
    x, y = two_gaussians(n=600, apart=40.0)
    bench = fake_bench(x, y, classes=2)
    if not right:
        bench.found.roles["test"].labels = 1 - bench.found.roles["test"].labels
    found = run(bench, LinearProbeParams())
    assert found.value == float(right)
    assert found.stderr == pytest.approx(np.sqrt(92 * 2 / 94**3))


def test_noise_stays_at_the_floor() -> None:
    rng = np.random.default_rng(3)
    y = (rng.random(3000) < 0.3).astype(np.int64)
    found = on(rng.standard_normal((3000, 50)).astype(np.float32), y, 2)
    assert found.value == pytest.approx(found.details["largest_class"], abs=0.02)
    assert found.details["matthews"] == pytest.approx(0, abs=0.1)


def test_many_features_and_few_rows_need_a_strong_penalty() -> None:
    x, y = two_gaussians(n=150, d=300, apart=3.0)
    found = on(x, y, 2)
    assert found.details["train_accuracy"] == 1.0
    assert found.details["l2"] >= 0.03
    assert found.value > 0.6


def test_test_labels_do_not_touch_the_choice() -> None:
    x, y = two_gaussians(n=600, d=40)
    bench = fake_bench(x, y, classes=2)
    honest = run(bench, LinearProbeParams())
    test = bench.found.roles["test"]
    test.labels = np.random.default_rng(5).permutation(test.labels)
    scrambled = run(bench, LinearProbeParams())
    for name in ("l2", "steps", "train_accuracy", "validation_accuracy"):
        assert scrambled.details[name] == honest.details[name]
    assert scrambled.value < honest.value - 0.1


def test_the_choice_at_an_end_is_told() -> None:
    x, y = two_gaussians(n=900, d=200)
    assert on(x, y, 2, l2=(1.0,)).details["l2_at_end"]
    inside = on(x, y, 2, l2=(1e4, 0.1, 1e-6))
    assert (inside.details["l2"], inside.details["l2_at_end"]) == (0.1, False)


@pytest.mark.parametrize("classes", [2, 6])
def test_names_of_classes_and_order_of_rows_change_nothing(classes: int) -> None:
    rng = np.random.default_rng(7)
    y = rng.integers(classes, size=1200)
    x = (rng.standard_normal((1200, 20)) + 0.8 * rng.standard_normal((classes, 20))[y]).astype(np.float32)
    plain = fake_bench(x, y, classes=classes)
    mixed = fake_bench(x, rng.permutation(classes)[y], classes=classes)
    for role, rows in mixed.found.roles.items():
        order = rng.permutation(len(rows.labels))
        mixed.found.roles[role] = FakeRows(rows.labels[order], {"last": rows.layers["last"][order]})
    first, second = (run(bench, LinearProbeParams()) for bench in (plain, mixed))
    assert first.value == second.value
    assert first.details["l2"] == second.details["l2"]
    assert first.details["macro_f1"] == pytest.approx(second.details["macro_f1"])


def test_the_same_seed_gives_the_same_bits() -> None:
    x, y = two_gaussians(n=600)
    assert on(x, y, 2) == on(x, y, 2)


def test_scale_and_shift_of_features_change_nothing() -> None:
    x, y = two_gaussians(n=900)
    moved = (x * np.float32([1e-3, 1e3, 5, 1]) + np.float32([1, 0, -9, 3])).astype(np.float32)
    assert on(x, y, 2).value == pytest.approx(on(moved, y, 2).value, abs=0.008)  # one row


def test_a_class_without_train_rows_is_never_predicted() -> None:
    x, y = two_gaussians(n=600)
    bench = fake_bench(x, y, classes=4)
    for role in ("validation", "test"):
        bench.found.roles[role].labels[:9] = 3
    found = run(bench, LinearProbeParams())
    assert found.details["rows_of_unseen_classes"] == 9
    assert 0.6 < found.value <= 1 - 9 / 90


def test_every_layer_is_told_and_the_first_gives_the_value() -> None:
    x, y = two_gaussians(n=600)
    bench = fake_bench(x, y, classes=2)
    for rows in bench.found.roles.values():
        rows.layers["mean"] = np.zeros_like(rows.layers["last"])
    found = run(bench, LinearProbeParams(layers=("last", "mean")))
    assert found.value == found.details["layers"]["last"]["value"]
    assert found.details["layers"]["mean"]["value"] < 0.6 < found.value
    assert bench.specs[0].layers == ("last", "mean")


def test_a_regression_is_scored_by_rank_correlation() -> None:
    x, y = line()
    found = on(x, np.exp(y), None)
    expected = 6 / np.pi * np.arcsin(np.sqrt(0.8) / 2)  # of a bivariate Gaussian with correlation sqrt(0.8)
    assert found.details["metric"] == "spearman"
    assert found.value == pytest.approx(expected, abs=3 * found.stderr)
    assert found.details["null"]["mean"] == pytest.approx(0, abs=0.02)


def test_a_regression_is_scored_by_the_metric_of_the_target() -> None:
    x, y = line()
    bench = fake_bench(x, y, classes=None)
    bench.target = dataclasses.replace(bench.target, metric="pearson")
    found = run(bench, LinearProbeParams())
    assert found.details["metric"] == "pearson"
    assert found.value == pytest.approx(np.sqrt(0.8), abs=3 * found.stderr)
    assert found.stderr == pytest.approx((1 - found.value**2) / np.sqrt(300), rel=0.25)


def test_ridge_is_the_least_penalised_square() -> None:
    x, y = line(n=100, d=3)
    bench = fake_bench(x, y, classes=None)
    bench.target = dataclasses.replace(bench.target, metric="pearson")
    train, test = (bench.found.roles[role].layers["last"].astype(float) for role in ("train", "test"))
    centre, spread = train.mean(axis=0), train.std(axis=0)
    z, held = (train - centre) / spread, (test - centre) / spread
    values = y[: len(z)] - y[: len(z)].mean()
    weights = np.linalg.solve(z.T @ z / len(z) + 0.3 * np.eye(3), z.T @ values / len(z))
    found = run(bench, LinearProbeParams(l2=(0.3,)))
    assert found.value == pytest.approx(pearson(held @ weights, bench.found.roles["test"].labels), abs=1e-5)


def test_one_label_only_is_not_applicable() -> None:
    x, _ = two_gaussians(n=100)
    with pytest.raises(NotApplicable, match="all 70 train rows read have the same"):
        on(x, np.zeros(100, np.int64), 2)
    values = np.arange(100.0)
    values[85:] = 1.0
    with pytest.raises(NotApplicable, match="all 15 test rows read have the same"):
        on(x, values, None)


def test_features_that_are_no_numbers_are_refused_in_every_role() -> None:
    for at in (3, 75, 95):
        x, y = two_gaussians(n=100)
        x[at, 1] = np.nan
        with pytest.raises(NonFinite):
            on(x, y, 2)


def test_features_that_do_not_vary_give_the_floor() -> None:
    y = np.arange(200) % 3
    y[y == 2] = 0
    found = on(np.ones((200, 5), np.float32), y, 2)
    assert found.value == found.details["largest_class"]


def test_memory_is_at_most_twice_that_of_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.arrays.BLOCK", 1 << 15)  # so that working memory does not blur it
    x, y = two_gaussians(n=10_000, d=128)
    bench = fake_bench(x, y, classes=2, share=(0.9, 0.95))
    tracemalloc.start()
    run(bench, LinearProbeParams(l2=(0.1,), permutations=1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.1 * 0.9 * x.nbytes + 2e6


def test_the_declared_range_holds_a_regression() -> None:
    assert METHOD.range == (-1.0, 1.0)
    assert METHOD.queue == "gpu"


@pytest.mark.parametrize("l2", [(), (0.0,), (-1.0,), (float("nan"),)])
def test_a_strength_is_above_nought(l2: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="l2"):
        LinearProbeParams(l2=l2)


def test_correlations_of_known_values() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 7.0])).tolist() == [2.5, 1.0, 2.5, 4.0]
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(a, np.exp(10 * a)) == pytest.approx(1.0)
    assert spearman(a, np.array([1.0, 2.0, 4.0, 3.0])) == pytest.approx(0.8)
    assert pearson(a * 1e-200, -a) == pytest.approx(-1.0)
    assert pearson(a, np.ones(4)) == 0.0


def test_the_bootstrap_knows_the_error_of_a_mean() -> None:
    a = np.random.default_rng(0).standard_normal(400)
    found = bootstrap_stderr(lambda rows, _: float(np.mean(rows)), a, a, np.random.default_rng(1), draws=800)
    assert found == pytest.approx(np.std(a) / 20, rel=0.1)
