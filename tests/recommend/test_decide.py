"""Order, probability and verdict."""

import dataclasses

import numpy as np
import pytest

from headstart.recommend import decide
from headstart.recommend.decide import Verdict, judge
from headstart.recommend.posterior import Posterior, fit
from headstart.recommend.sentence import sentence
from tests.recommend.evidence_of import evidence_of, world


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    return world()


@pytest.fixture(scope="module")
def fitted(drawn: dict[str, np.ndarray]) -> Posterior:
    seen = drawn["gains"].copy()
    seen[:150, 5] = np.nan
    seen[:, 6] = np.nan
    return fit(evidence_of(seen, probe=drawn["probe"], seed_noise=0.4))


def test_a_mixture_of_one_target_is_that_target(fitted: Posterior) -> None:
    weights = np.zeros(24)
    weights[3] = 1.0
    rows = np.arange(20, 40)
    mixed = decide.predict(fitted, decide.unseen_view(fitted, weights), rows)
    unmeasured = decide.known_view(fitted, 3)
    alone = decide.predict(
        fitted,
        decide.View(**{f: getattr(unmeasured, f) for f in unmeasured.__slots__} | {"target": None}),
        rows,
    )
    for name in ("gain", "low", "high", "p_beats"):
        np.testing.assert_allclose(getattr(mixed, name), getattr(alone, name), rtol=1e-5, atol=1e-6)


def test_the_quantiles_of_a_mixture_hold_their_share(fitted: Posterior) -> None:
    view = decide.unseen_view(fitted, np.ones(24))
    found = decide.predict(fitted, view, np.array([10]))
    below = [
        1 - decide.p_exceeds(view, found.mean[0], found.spread[0], float(q[0]))
        for q in (found.low, found.high)
    ]
    np.testing.assert_allclose(below, [0.1, 0.9], atol=1e-4)


def test_measuring_here_narrows_and_pulls(fitted: Posterior, drawn: dict[str, np.ndarray]) -> None:
    view = decide.known_view(fitted, 5)
    rows = np.arange(1, 301)
    found = decide.predict(fitted, view, rows)
    cold, warm = slice(0, 150), slice(150, 300)
    assert found.runs_here[cold].sum() == 0
    assert (found.runs_here[warm] == 1).all()
    assert np.median((found.high - found.low)[warm]) < np.median((found.high - found.low)[cold])
    truth = drawn["true_gains"][:, 5]
    assert np.corrcoef(found.gain[warm], truth[warm])[0, 1] > np.corrcoef(found.gain[cold], truth[cold])[0, 1]


def test_the_pick_is_reported_without_the_winners_curse() -> None:
    optimism, honest = [], []
    for seed in range(12):
        drawn = world(seed, checkpoints=120, targets=12, noise=1.0)
        fitted = fit(evidence_of(drawn["gains"], probe=drawn["probe"], seed_noise=0.5))
        for t in range(12):
            rows = np.arange(1, 121)
            found = decide.predict(fitted, decide.known_view(fitted, t), rows)
            best = int(np.argmax(found.gain))
            measured_best = int(np.argmax(drawn["gains"][:, t]))
            scale = drawn["scale"][t]
            honest.append((found.gain[best] - drawn["true_gains"][best, t]) / scale)
            optimism.append(
                (drawn["gains"][measured_best, t] - drawn["true_gains"][measured_best, t]) / scale
            )
    assert abs(np.mean(honest)) < 0.5 * abs(np.mean(optimism))


def test_the_head_of_a_cold_target_follows_the_static_order(fitted: Posterior) -> None:
    order = decide.static_order(fitted)
    assert 0 not in order
    assert len(order) == 300
    ranked = decide.head(fitted, decide.known_view(fitted, 6), order, 300)
    position = np.empty(301)
    position[order] = np.arange(300)
    assert np.abs(position[ranked] - np.arange(300)).max() < 30  # variances differ a little
    assert decide.predict(fitted, decide.known_view(fitted, 6), ranked[:10]).runs_here.sum() == 0


def test_a_short_head_finds_the_same_best(fitted: Posterior) -> None:
    order = decide.static_order(fitted)
    for t in range(24):
        view = decide.known_view(fitted, t)
        assert (
            decide.head(fitted, view, order, 40)[:3].tolist()
            == decide.head(fitted, view, order, 300)[:3].tolist()
        )


def test_likeness_weighs_size_and_classes_and_forgives_the_unknown() -> None:
    sizes, classes = np.array([100.0, 1000.0, np.nan]), np.array([2.0, 2.0, 50.0])
    near = decide.likeness(sizes, classes, 1000, None)
    assert near[1] > near[0]
    assert near[2] == 1.0
    assert (decide.likeness(sizes, classes, None, None) == 1).all()
    assert decide.likeness(sizes, classes, 1000, 50)[2] > 1.0 > decide.likeness(sizes, classes, 1000, 50)[0]
    assert (decide.likeness(sizes, classes, 10**9, 2) > 0).all()


@pytest.mark.parametrize(
    ("gain", "p_beats", "p_worth", "verdict"),
    [
        (2.0, 0.9, 0.8, Verdict.START_FROM),
        (0.4, 0.9, 0.4, Verdict.MEASURE_FIRST),
        (2.0, 0.7, 0.6, Verdict.MEASURE_FIRST),
        (0.1, 0.6, 0.1, Verdict.STAY_WITH_VANILLA),
        (-3.0, 0.05, 0.01, Verdict.STAY_WITH_VANILLA),
    ],
)
def test_the_verdict(gain: float, p_beats: float, p_worth: float, verdict: Verdict) -> None:
    assert judge(gain, p_beats, p_worth, worth=0.5) is verdict


@pytest.mark.parametrize("verdict", Verdict)
def test_a_sentence_names_what_to_do(verdict: Verdict) -> None:
    said = sentence(
        verdict, checkpoint="hub/m", vanilla="base", target="rte",
        gain=2.345, low=-0.5, high=5.0, p_beats=0.87, p_worth=0.66, worth=0.5,
    )  # fmt: skip
    assert {
        "start_from": "Start from hub/m",
        "stay_with_vanilla": "Stay with base",
        "measure_first": "Measure",
    }[verdict] in said
    assert "rte" in said
    assert said.endswith(".")


def test_the_chance_of_the_usual_worth_is_that_of_any_worth(fitted: Posterior) -> None:
    for view in (decide.known_view(fitted, 2), decide.unseen_view(fitted, np.ones(24))):
        found = decide.predict(fitted, view, np.arange(1, 30))
        each = [
            decide.p_exceeds(view, m, s, decide.WORTH) for m, s in zip(found.mean, found.spread, strict=True)
        ]
        np.testing.assert_allclose(found.p_worth, each, rtol=1e-12)


@pytest.mark.parametrize("times", [-10, 1, 10])
def test_an_expected_score_stays_between_nothing_and_all(fitted: Posterior, times: float) -> None:
    wild = dataclasses.replace(fitted, quality=times * fitted.quality)
    rows = np.arange(1, 301)
    for view in (decide.known_view(wild, 2), decide.unseen_view(wild, np.ones(24))):
        found = decide.predict(wild, view, rows)
        score = view.level + found.gain
        assert score.min() >= 0
        assert score.max() <= 100
        assert ((found.low <= found.gain) & (found.gain <= found.high)).all()
        uncut = decide.predict(wild, dataclasses.replace(view, level=float("nan")), rows)
        assert (uncut.gain.max() > 100) == (abs(times) > 1)
        inside = (view.level + uncut.gain >= 0) & (view.level + uncut.gain <= 100)
        np.testing.assert_array_equal(found.gain[inside], uncut.gain[inside])


def test_a_level_below_nothing_forces_no_gain(fitted: Posterior) -> None:
    view = dataclasses.replace(decide.known_view(fitted, 2), level=-5.0)  # of a rank correlation
    found = decide.predict(fitted, view, np.arange(1, 301))
    assert found.gain.min() == 0
