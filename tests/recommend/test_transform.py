"""The map between points and z: monotone, invertible, normal scores for many gains and asinh for few."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata

from headstart.recommend.transform import (
    CENTRE_VARIANCE,
    FEW,
    HALF,
    KNOTS,
    SCALE_SLOPE,
    SCALE_SPREAD,
    SMALLEST,
    STEEPEST,
    TYPICAL_BINOMIAL,
    TYPICAL_SCALE,
    Shape,
    Transform,
    fitted,
    plain,
    scales,
    typical_log_scale,
)

SHAPE = Shape(0.4, 1.7)
RNG = np.random.default_rng(0)
GAINS = {
    "none": np.zeros(0),
    "one": np.array([3.0]),
    "two": np.array([3.0, -1.0]),
    "all equal": np.full(30, 2.0),
    "ties": np.repeat([1.0, 2.0, 2.5, -4.0], [20, 3, 9, 1]),
    "nearly equal": 2.0 + 1e-12 * np.arange(5),
    "as many as knots": RNG.normal(size=KNOTS),
    "one more": RNG.normal(size=KNOTS + 1),
    "many": 3 * RNG.standard_t(3, 1000),
    "failed runs": np.append(RNG.normal(size=80), np.full(20, -45.0)),
    "huge": 1e9 * RNG.normal(size=20),
    "tiny": 1e-7 * RNG.normal(size=20),
}


@pytest.mark.parametrize("name", GAINS)
@pytest.mark.parametrize("shape", [SHAPE, Shape(-30.0, SMALLEST), Shape(0.0, 40.0)], ids=str)
def test_both_maps_rise_and_undo_each_other(name: str, shape: Shape) -> None:
    found = fitted(GAINS[name], shape)
    assert found.knots.shape == found.knots_z.shape == (KNOTS,)
    assert (np.diff(found.knots) > 0).all()
    assert (np.diff(found.knots_z) > 0).all()
    low, high = found.knots_z[[0, -1]]
    z = np.linspace(low - 5, high + 5, 401)
    assert (np.diff(found.gain(z)) > 0).all()
    np.testing.assert_allclose(found.z(found.gain(z)), z, rtol=1e-6, atol=1e-6)
    y = np.concatenate([GAINS[name], np.linspace(-90, 90, 181)])
    inside = np.abs(found.z(y)) < STEEPEST
    np.testing.assert_allclose(found.gain(found.z(y))[inside], y[inside], rtol=1e-6, atol=1e-6)
    assert (found.slope(z) > 0).all()


@settings(max_examples=60, deadline=None)
@given(
    gains=st.lists(st.floats(-100, 100), max_size=150),
    centre=st.floats(-20, 20),
    scale=st.floats(SMALLEST, 30),
)
def test_any_gains_make_a_transform(gains: list[float], centre: float, scale: float) -> None:
    found = fitted(np.array(gains), Shape(centre, scale))
    assert (np.diff(found.knots) > 0).all()
    assert (np.diff(found.knots_z) > 0).all()
    z = np.linspace(-8, 8, 65)
    assert np.isfinite(found.gain(z)).all()
    assert np.isfinite(found.z(np.linspace(-100, 100, 65))).all()
    assert (np.diff(found.z(np.linspace(-100, 100, 65))) > 0).all()


def test_before_any_gain_it_is_asinh() -> None:
    y = np.linspace(-30, 30, 301)
    for found in (fitted(np.zeros(0), SHAPE), plain(*SHAPE)):
        np.testing.assert_allclose(found.z(y), np.arcsinh((y - 0.4) / 1.7), atol=0.03)
        np.testing.assert_allclose(
            found.gain(np.array([-1.0, 0.0, 1.0])), 0.4 + 1.7 * np.sinh([-1, 0, 1]), atol=1e-2
        )


def test_few_gains_are_told_by_asinh_and_many_by_their_ranks() -> None:
    rng = np.random.default_rng(1)
    for n, closest in ((3, "asinh"), (20_000, "scores")):
        y = 0.4 + 1.7 * np.exp(rng.normal(size=n))  # skewed, so that they differ
        z, asinh = fitted(y, SHAPE).z(y), np.arcsinh((y - 0.4) / 1.7)
        scores = norm.ppf((rankdata(y) - 0.5) / n)
        weight = n / (n + HALF)
        middle = np.abs(scores) < 2  # 64 knots bend where there are few
        np.testing.assert_allclose(z[middle], (weight * scores + (1 - weight) * asinh)[middle], atol=0.05)
        far = {"asinh": np.abs(z - asinh)[middle].max(), "scores": np.abs(z - scores)[middle].max()}
        assert min(far, key=lambda name: far[name]) == closest
        assert far[closest] < 0.08


def test_tied_gains_share_their_middle_rank() -> None:
    y = np.repeat([-1.0, 0.0, 5.0], [30, 40, 30])
    z = fitted(y, Shape(0.0, 1.0)).z(np.array([-1.0, 0.0, 5.0]))
    asinh = np.arcsinh([-1.0, 0.0, 5.0])
    np.testing.assert_allclose(z, 0.5 * norm.ppf([0.15, 0.5, 0.85]) + 0.5 * asinh, atol=1e-12)


def test_few_gains_keep_what_they_say_of_the_level() -> None:
    """Else a checkpoint that loses on every target, the only one measured, would look like any other."""
    assert fitted(np.array([-10.0]), Shape(0.0, 2.0)).z(np.array([-10.0]))[0] < -2
    assert fitted(np.full(5000, -10.0), Shape(0.0, 2.0)).z(np.array([-10.0]))[0] > -0.1


def test_beyond_the_gains_it_grows_like_asinh_and_never_overflows() -> None:
    found = fitted(GAINS["many"], SHAPE)
    last, z = found.knots[-1], found.knots_z[-1]
    beyond = np.array([2.0, 10.0]) * last
    expected = z + np.arcsinh(beyond / 1.7) - np.arcsinh(last / 1.7)
    np.testing.assert_allclose(found.z(beyond), expected)
    assert np.isfinite(found.gain(np.array([-1e300, 1e300]))).all()
    assert found.gain(np.array([1e300]))[0] > last


@pytest.mark.parametrize("name", GAINS)
def test_the_order_of_the_gains_does_not_matter(name: str) -> None:
    one, two = (fitted(y, SHAPE) for y in (GAINS[name], GAINS[name][::-1]))
    np.testing.assert_array_equal(one.knots, two.knots)
    np.testing.assert_array_equal(one.knots_z, two.knots_z)


def test_units_cancel_where_the_shape_has_the_same() -> None:
    y = GAINS["two"]
    for n in (y, GAINS["many"]):
        one, ten = fitted(n, SHAPE), fitted(10 * n, Shape(4.0, 17.0))
        np.testing.assert_allclose(ten.z(10 * n), one.z(n), atol=1e-7)


def test_units_cancel_in_scales_but_for_the_lean_to_the_usual_scale() -> None:
    rng = np.random.default_rng(2)
    for n, tolerance in ((10, 0.7), (400, 0.1)):
        gains = [rng.normal(scale=c, size=n) for c in (1.0, 2.0, 4.0)]
        unknown = np.full(3, np.nan)
        one, ten = scales(gains, unknown), scales([10 * y for y in gains], unknown)
        ratio = np.array([b.scale / a.scale for a, b in zip(one.shapes, ten.shapes, strict=True)])
        assert (ratio < 10).all()
        np.testing.assert_allclose(ratio, 10, rtol=tolerance)


def test_a_scale_is_the_targets_own_where_it_has_many_gains() -> None:
    rng = np.random.default_rng(3)
    truth = np.array([0.5, 2.0, 8.0])
    found = scales([rng.normal(1.0, c, 2000) for c in truth], np.full(3, 1.5))
    np.testing.assert_allclose([one.scale for one in found.shapes], truth, rtol=0.06)
    np.testing.assert_allclose([one.centre for one in found.shapes], 1.0, atol=0.3)


def test_without_gains_a_target_is_as_the_line_says() -> None:
    binomial = np.array([0.5, 1.5, 6.0, np.nan, 0.0])
    found = scales([np.zeros(0)] * 5, binomial)
    told = np.array([one.scale for one in found.shapes])
    np.testing.assert_allclose(told[:3], TYPICAL_SCALE * (binomial[:3] / TYPICAL_BINOMIAL) ** SCALE_SLOPE)
    assert told[3] == pytest.approx(TYPICAL_SCALE)
    assert found.line[2] == pytest.approx(SCALE_SPREAD)
    np.testing.assert_allclose(found.centre, [0.0, CENTRE_VARIANCE])
    assert [one.centre for one in found.shapes] == [0.0] * 5
    np.testing.assert_allclose(typical_log_scale(found.line, binomial), np.log(told))


def test_the_line_is_learnt_from_the_targets() -> None:
    rng = np.random.default_rng(4)
    binomial = np.exp(rng.uniform(-1, 2, 200))
    truth = 3.0 * binomial**0.8 * np.exp(0.3 * rng.normal(size=200))
    found = scales([rng.normal(scale=c, size=400) for c in truth], binomial)
    a, b, spread = found.line
    assert b == pytest.approx(0.8, abs=0.06)
    assert a == pytest.approx(np.log(3.0), abs=0.06)
    assert spread == pytest.approx(0.3, abs=0.05)


def test_two_gains_have_no_scale_of_their_own_and_lean_to_the_others() -> None:
    rng = np.random.default_rng(5)
    others = [rng.normal(scale=5.0, size=300) for _ in range(10)]
    few = scales([*others, np.array([40.0, 41.0])], np.full(11, np.nan)).shapes[-1]
    assert few.scale == pytest.approx(5.0, rel=0.15)
    middle = scales([*others, rng.normal(scale=0.5, size=int(FEW))], np.full(11, np.nan)).shapes[-1]
    assert middle.scale == pytest.approx(np.sqrt(5.0 * 0.5), rel=0.3)


@pytest.mark.parametrize("name", GAINS)
def test_scales_are_finite_and_no_finer_than_the_smallest(name: str) -> None:
    for binomial in (np.nan, 0.0, 1e9):
        found = scales([GAINS[name], np.zeros(0)], np.array([binomial, 1.0]))
        assert np.isfinite(found.line).all()
        assert np.isfinite(found.centre).all()
        assert all(np.isfinite(one).all() and one.scale > 0.05 for one in found.shapes)


def test_no_targets_are_no_shapes() -> None:
    found = scales([], np.zeros(0))
    assert found.shapes == ()
    assert np.isfinite(found.line).all()


def test_a_scalar_is_mapped_too() -> None:
    one = Transform(*plain(0.0, 1.0))
    assert float(one.gain(one.z(np.array(2.0)))) == pytest.approx(2.0)
