"""Order, probability and verdict in whole families, odd ones among them."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from headstart.recommend import decide
from headstart.recommend.decide import Verdict, judge
from headstart.recommend.fit import fit
from headstart.recommend.posterior import Posterior
from tests.recommend.evidence_of import evidence_of, world
from tests.recommend.model_world import targets_of, world_of
from tests.recommend.posterior_of import posterior_of

LEVELS = np.array([0.01, 0.1, 0.5, 0.9, 0.99])
FIELDS = tuple(decide.Prediction.__slots__)


# ---------------------------------------------------------------- what holds of a fitted family


def test_the_quantiles_of_a_mixture_hold_their_share(fitted: Posterior) -> None:
    view = decide.unseen_view(fitted, np.ones(24))
    for row in (10, 100, 200):
        found = decide.predict(fitted, view, np.array([row]))
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
    optimism, honest, inside = [], [], []
    rows = np.arange(1, 121)
    for seed in range(12):
        drawn = world(seed, checkpoints=120, targets=12)
        gains, truth = (drawn[name] / drawn["scale"] for name in ("gains", "true_gains"))
        fitted = fit(evidence_of(gains, probe=drawn["probe"], seed_noise=0.33, vanilla_level=0.5))
        for t in range(12):
            found = decide.predict(fitted, decide.known_view(fitted, t), rows)
            best, measured_best = int(np.argmax(found.gain)), int(np.argmax(gains[:, t]))
            honest.append(found.gain[best] - truth[best, t])
            optimism.append(gains[measured_best, t] - truth[measured_best, t])
            inside.append((found.low <= truth[:, t]) & (truth[:, t] <= found.high))
    assert np.mean(optimism) > 1.5
    assert abs(np.mean(honest)) < 0.25 * np.mean(optimism)
    assert 0.74 < np.mean(inside) < 0.86


@pytest.mark.parametrize("repeatable", [0.25, 0.5, 0.7])
def test_intervals_hold_true_gains_whatever_belongs_to_the_pair(repeatable: float) -> None:
    """Drawn from the model: what is left to doubt is nearly normal where little is the pair's own."""
    inside: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for seed in range(8):
        targets = dataclasses.replace(targets_of(seed, 12), repeatable=repeatable)
        drawn = world_of(targets, seed, checkpoints=150)
        seen = np.random.default_rng(seed).random(drawn.run.shape) < 0.5
        fitted = fit(drawn.evidence(seen))
        for t in range(12):
            found = decide.predict(fitted, decide.known_view(fitted, t), np.arange(1, 151))
            true = np.clip(drawn.true[:, t], -70, 30)
            held = (found.low <= true) & (true <= found.high)
            for measured, one in inside.items():
                one.append(held[seen[:, t] == measured])
    for one in inside.values():
        assert 0.77 < np.mean(np.concatenate(one)) < 0.82


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


def test_a_head_looks_along_the_views_own_direction(small: Posterior) -> None:
    factors = small.factors.copy()
    factors[9:] = [[0, 0, 3], [0, 0, 0], [1, 0, 0]]
    factors[0, 2] = 9.0  # the vanilla is no candidate, however good
    loadings = small.loadings.copy()
    loadings[2] = [0.1, 0.0, 1.0]
    one = dataclasses.replace(
        small, factors=factors, loadings=loadings, quality=factors @ small.direction.astype(np.float32)
    )
    order = decide.static_order(one)
    assert 9 not in order[:3], "deep in the static order"
    view = decide.known_view(one, 2)
    short = decide.head(one, view, order, 3)
    assert short[0] == 9
    assert 0 not in short
    assert set(one.cell_checkpoint[one.cell_target == 2]) <= set(short.tolist()), "all measured here"
    assert set(order[:3]) <= set(short.tolist())
    gain = decide.predict(one, view, short).gain
    assert (np.diff(gain) <= 0).all()
    assert 10 in decide.head(one, decide.known_view(one, 0), order, 1), "a probe lifts it"
    first = decide.head(one, decide.unseen_view(one, np.ones(5)), order, 3)
    assert sorted(first) == sorted(order[:3]), "a cold target costs no more than its head"


def test_equal_gains_go_by_row(small: Posterior) -> None:
    alike = dataclasses.replace(
        small, factors=np.zeros_like(small.factors), quality=np.zeros(12), doubt=np.ones(12),
        covariance=np.tile(np.eye(3), (8, 1, 1)),
    )  # fmt: skip
    order = decide.static_order(alike)
    assert decide.head(alike, decide.unseen_view(alike, np.ones(5)), order, 11).tolist() == [*range(1, 12)]


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


@pytest.mark.parametrize("worth", [decide.WORTH, -3.0, 0.0, 25.0])
def test_the_chance_of_any_worth_is_that_of_one_checkpoint_among_many(
    fitted: Posterior, worth: float
) -> None:
    for view in (decide.known_view(fitted, 2), decide.unseen_view(fitted, np.ones(24))):
        found = decide.predict(fitted, view, np.arange(1, 30))
        each = [decide.p_exceeds(view, m, s, worth) for m, s in zip(found.mean, found.spread, strict=True)]
        above = 1 - decide.Forecast(view=view, mean=found.mean, spread=found.spread).cdf(worth)
        np.testing.assert_allclose(above, each, rtol=1e-9)
        if worth == decide.WORTH:
            np.testing.assert_allclose(found.p_worth, each, rtol=1e-9)


# ---------------------------------------------------------------- odd input


@pytest.mark.parametrize("times", [-20, 1, 20])
def test_an_expected_score_stays_between_nothing_and_all(fitted: Posterior, times: float) -> None:
    wild = dataclasses.replace(fitted, factors=times * fitted.factors)
    rows = np.arange(1, 301)
    for view in (
        decide.known_view(wild, 2),
        decide.known_view(wild, 6),
        decide.unseen_view(wild, np.ones(24)),
    ):
        found = decide.predict(wild, view, rows)
        for points in (found.gain, found.low, found.high):
            score = view.level + points
            assert score.min() >= -1e-9
            assert score.max() <= 100 + 1e-9
        assert ((found.low <= found.gain) & (found.gain <= found.high)).all()
        blind = decide.predict(wild, dataclasses.replace(view, level=float("nan")), rows)
        assert np.abs([blind.gain, blind.low, blind.high]).max() <= 100
        if view.target != 2:  # where all were measured, which holds them
            assert (blind.gain.max() > 100 - view.level) == (abs(times) > 1)


def test_a_level_below_nothing_forces_no_gain(fitted: Posterior) -> None:
    view = dataclasses.replace(decide.known_view(fitted, 2), level=-5.0)  # of a rank correlation
    found = decide.predict(fitted, view, np.arange(1, 301))
    assert found.gain.min() >= 0
    assert found.gain.min() < 0.1


def nothing(targets: int) -> Posterior:
    """The vanilla alone, on the first targets of the small posterior."""
    small = posterior_of()
    of_targets = (
        "target_ids level level_runs level_stderr noise binomial knots knots_z tail mean loadings uncertainty"
        " residual repeatable probe_counts probe_known explained"
    )
    cut = {name: getattr(small, name)[:targets] for name in of_targets.split()}
    cut |= {
        name: getattr(small, name)[:1]
        for name in ("checkpoint_ids", "factors", "doubt", "quality", "finetuned", "probed", "newest")
    }
    cut |= {
        name: getattr(small, name)[:0]
        for name in Posterior.__slots__
        if name.startswith(("cell_", "pair_")) or name in ("rows", "covariance", "prior")
    }
    return dataclasses.replace(small, measured=np.zeros(targets, dtype=np.int64), **cut)


EMPTY = np.full((6, 3), np.nan)
ONE = np.where(np.arange(18).reshape(6, 3) == 7, 3.0, np.nan)
EXACT = np.random.default_rng(0).normal(size=(30, 4))
CERTAIN = {
    "residual": np.zeros(5),
    "typical_var": np.zeros(4),
    "level_stderr": np.zeros(5),
    "uncertainty": np.zeros((5, 4, 4)),
    "covariance": np.zeros((8, 3, 3)),
    "cell_noise": np.zeros(22),
    "doubt": np.zeros(12),
}
ODD: dict[str, Callable[[], Posterior]] = {
    "nothing at all": lambda: nothing(0),
    "the vanilla alone": lambda: nothing(4),
    "no vanilla": lambda: posterior_of(vanilla=-1),
    "no cell": lambda: fit(evidence_of(EMPTY)),
    "no level": lambda: fit(evidence_of(EMPTY, vanilla_runs=0)),
    "one cell": lambda: fit(evidence_of(ONE)),
    "one cell and one run": lambda: fit(evidence_of(ONE, vanilla_runs=1)),
    "all alike": lambda: fit(evidence_of(np.zeros((6, 3)))),
    "no noise": lambda: fit(evidence_of(EXACT, seed_noise=1e-9, rows_tested=1e12)),
    "no points": lambda: fit(evidence_of(1e6 * EXACT)),
    "no doubt": lambda: posterior_of(**CERTAIN),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_families_are_answered(name: str) -> None:
    posterior = ODD[name]()
    targets, order = len(posterior.target_ids), decide.static_order(posterior)
    assert len(order) == len(posterior.checkpoint_ids) - (posterior.vanilla >= 0)
    views = [decide.unseen_view(posterior, weight * np.ones(targets)) for weight in (0, 1)]
    views += [decide.known_view(posterior, t) for t in np.flatnonzero(np.isfinite(posterior.level)).tolist()]
    for view in views:
        rows = decide.head(posterior, view, order, 4)
        assert len(rows) >= min(4, len(order))
        found, new = decide.predict(posterior, view, rows), decide.forecast(posterior, view, rows)
        for field in FIELDS:
            assert np.isfinite(getattr(found, field)).all(), field
        assert (found.spread > 0).all()
        assert ((found.low <= found.gain) & (found.gain <= found.high)).all()
        assert np.isfinite(new.quantile(LEVELS)).all()
        assert (np.diff(new.quantile(LEVELS)) >= 0).all()
        assert np.isfinite(new.cdf(1.0)).all()
        assert decide.probed_here(posterior, view) >= 0


def test_no_score_leaves_0_to_100(small: Posterior) -> None:
    view = dataclasses.replace(decide.known_view(small, 0), level=100.0)
    found = decide.predict(small, view, np.arange(1, 5))
    assert (found.p_beats == 0).all(), "nothing beats a vanilla that is always right"
    high = dataclasses.replace(view, level=99.8)
    assert decide.p_exceeds(high, found.mean[0], found.spread[0], 0.5) == 0
    assert decide.p_exceeds(high, found.mean[0], found.spread[0], 0.1) > 0
