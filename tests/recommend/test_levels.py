"""The vanilla's level across families: known answers, odd evidence, and the published tables."""

import dataclasses
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

from headstart.recommend.levels import RESOLUTION, Level, Levels, fit_levels, lead, levels_of
from headstart.statistics import robust_spread
from tests.shared_data import MODEL_RECYCLING, needs_model_recycling

Z = 1.2815515655446004  # 90 % quantile of the normal


def expit(logit: np.ndarray) -> np.ndarray:
    return 100 / (1 + np.exp(-logit))


def drawn(
    seed: int,
    families: int = 12,
    targets: int = 60,
    share: float = 0.5,
    residual: float = 0.15,
    tails: bool = False,
) -> dict[str, np.ndarray]:
    """Levels drawn from the model, each measured with probability `share`; Gaussian or with tails."""
    rng = np.random.default_rng(seed)
    ease, strength = rng.normal(1.0, 0.9, targets), rng.normal(0, 0.5, families)
    beyond = residual * rng.normal(size=(families, targets))
    if tails:
        beyond /= np.sqrt(rng.gamma(3, 1 / 3, targets) * rng.gamma(3, 1 / 3, beyond.shape))
    true = expit(ease + strength[:, None] + beyond)
    stderr = np.full(true.shape, 0.4)
    level = np.where(rng.random(true.shape) < share, true + stderr * rng.normal(size=true.shape), np.nan)
    return {"ease": ease, "strength": strength, "true": true, "level": level, "stderr": stderr}


def fit_drawn(world: dict[str, np.ndarray]) -> Levels:
    return fit_levels(world["level"], world["stderr"])


def table(levels: Levels) -> Level:
    """All families x all known targets."""
    return Level(*levels.here[:, :, :-1])


def spread_of(found: Level) -> np.ndarray:
    return np.hypot(found.common, found.own)


def test_a_known_level_is_itself() -> None:
    world = drawn(0)
    world["level"][0, :3] = 0.0, 100.0, -7.25
    levels = fit_drawn(world)
    for t in range(60):
        found, known = levels.known(t), np.isfinite(world["level"][:, t])
        np.testing.assert_array_equal(found.mean[known], world["level"][known, t])
        np.testing.assert_array_equal(found.own[known], world["stderr"][known, t])
        assert not found.common[known].any()


def test_what_the_data_were_drawn_with_is_found() -> None:
    eases, strengths, spreads = [], [], []
    for seed in range(8):
        world = drawn(seed, tails=True)
        levels = fit_drawn(world)
        centre = levels.strength.mean() - world["strength"].mean()
        strengths.append(levels.strength - centre - world["strength"])
        eases.append((levels.ease[:-1] + centre - world["ease"]) / levels.ease_stderr[:-1])
        spreads.append(levels.spreads)
    assert np.sqrt(np.mean(np.square(strengths))) < 0.05
    assert np.sqrt(np.mean(np.square(eases))) < 1.2
    np.testing.assert_allclose(np.mean(spreads, axis=0), [0.9, 0.5, 0.15], rtol=0.15)


def test_one_level_leaves_what_the_priors_say() -> None:
    levels = fit_levels(expit(np.array([[1.0], [np.nan]])), np.full((2, 1), 0.5))
    # variances in squared logits: of the eases (0 + 2 * 1) / (1 + 2), of a strength 0.3^2, of a pair 0.2^2
    # in the normal with the 80 % interval of t_6 twice; half of the typical ease is 1 - b_0, half the prior's
    tau2, pair = 0.09, 0.04 * (1.4397557472652 / Z) ** 4
    ease_var = 2 / 3 * 1.5 + 0.25 * tau2
    total = np.array([ease_var - tau2 + tau2, ease_var + tau2]) + pair
    np.testing.assert_allclose(levels.ease, [1.0, 1.0])
    assert levels.ease_stderr[-1] ** 2 == pytest.approx(ease_var)
    np.testing.assert_allclose(levels.strength_stderr**2, tau2)
    found = levels.described(np.zeros(1))
    points = expit(1.0 + np.sqrt(total)[:, None] * np.random.default_rng(0).normal(size=400_000))
    np.testing.assert_allclose(found.mean, points.mean(axis=1), atol=0.1)
    np.testing.assert_allclose(spread_of(found), points.std(axis=1), rtol=0.01)
    np.testing.assert_allclose((found.common / spread_of(found)) ** 2, (ease_var - tau2 / 2) / total)


def test_intervals_cover_levels_and_differences() -> None:
    covered, differences, orders = [], [], []
    for seed in range(8):
        world = drawn(seed, share=0.4)
        found, unknown = table(fit_drawn(world)), np.isnan(world["level"])
        error = world["true"] - found.mean
        covered.append((np.abs(error) < Z * spread_of(found))[unknown])
        for f in range(11):
            gap = error[f] - error[f + 1]
            shared = found.common[f] - found.common[f + 1]
            spread = np.sqrt(found.own[f] ** 2 + found.own[f + 1] ** 2 + shared**2)
            differences.append((np.abs(gap) < Z * spread)[unknown[f] & unknown[f + 1]])
        orders.append(np.corrcoef(found.mean[unknown], world["true"][unknown])[0, 1])
    assert 0.77 < np.concatenate(covered).mean() < 0.88
    assert 0.77 < np.concatenate(differences).mean() < 0.88
    assert min(orders) > 0.97


def test_a_described_target_covers_and_tells_families_apart() -> None:
    covered, differences, widths = [], [], []
    for seed in range(40):
        world = drawn(seed, families=6, targets=30)
        hidden = {name: one[..., 5:] if one.ndim > 1 else one for name, one in world.items()}
        found = fit_levels(hidden["level"], hidden["stderr"]).described(np.ones(25))
        error = world["true"][:, :5] - found.mean[:, None]
        covered.append(np.abs(error) < Z * spread_of(found)[:, None])
        gap = error[0] - error[1]
        spread = np.sqrt(found.own[0] ** 2 + found.own[1] ** 2 + (found.common[0] - found.common[1]) ** 2)
        differences.append(np.abs(gap) < Z * spread)
        widths.append(found.own / found.common)
    assert 0.72 < np.mean(covered) < 0.9
    assert 0.74 < np.mean(differences) < 0.9
    assert np.max(widths) < 0.6, "how easy the target is tells no families apart"


def test_a_family_measured_on_hard_targets_is_not_put_below_its_equal() -> None:
    ease = np.linspace(-1.5, 2.5, 21)
    level = np.tile(expit(ease), (3, 1))  # three equals: on hard, on easy, and on middling targets
    level[0, 11:] = np.nan
    level[1, :10] = np.nan
    level[2, :6] = level[2, 15:] = np.nan
    levels = fit_levels(level, np.full(level.shape, 0.3))
    assert np.nanmean(level[1]) - np.nanmean(level[0]) > 30
    np.testing.assert_allclose(levels.strength, 0, atol=0.02)
    found = levels.described(np.ones(21))
    assert np.ptp(found.mean) < 0.5
    np.testing.assert_allclose(levels.known(20).mean, level[1, 20], atol=2.0)


def test_families_that_share_no_target_are_not_told_apart() -> None:
    rng = np.random.default_rng(0)
    level = np.full((3, 36), np.nan)
    for f in range(3):
        level[f, 12 * f : 12 * (f + 1)] = expit(rng.normal(1.2 * f, 0.3, 12))
    levels = fit_levels(level, np.full(level.shape, 0.3))
    np.testing.assert_allclose(levels.strength, 0, atol=1e-9)
    assert (levels.strength_stderr > 0.25).all()
    found = levels.described(np.ones(36))
    assert np.ptp(found.mean) < 0.5
    assert (found.own > 4).all()


def test_a_better_family_is_better_where_it_was_never_run() -> None:
    ease = np.linspace(-1, 2, 12)
    level = np.stack([expit(ease), expit(ease + 0.5)])
    level[1, 8:] = np.nan
    levels = fit_levels(level, np.full(level.shape, 0.3))
    for t in range(8, 12):
        found = levels.known(t)
        assert found.mean[1] == pytest.approx(expit(ease[t] + 0.5), abs=2.5)
        assert found.mean[1] - found.mean[0] > Z * found.own[1]
    worse, better = levels.described(np.ones(12)).mean
    assert better > worse + 4


def test_a_collapsed_vanilla_spoils_neither_its_family_nor_its_target() -> None:
    world = drawn(3, families=8, targets=40, share=0.9)
    before = fit_drawn(world)
    collapsed = world["level"].copy()
    hit = [(0, 4), (0, 9), (2, 4), (5, 20)]
    for f, t in hit:
        collapsed[f, t] = 3.0
    after = fit_levels(collapsed, world["stderr"])
    np.testing.assert_allclose(after.strength, before.strength, atol=0.06)
    for _, t in hit:
        assert abs(after.ease[t] - before.ease[t]) < 0.3


def test_a_target_where_families_differ_is_foretold_with_wider_errors() -> None:
    world = drawn(1, families=6, targets=30, share=1.0, residual=0.1)
    world["level"][:5, 0] = expit(1.0 + np.array([-1.0, 0.8, -0.4, 1.0, -0.6]))
    world["level"][5, :2] = np.nan
    levels = fit_drawn(world)
    wild, calm = levels.known(0), levels.known(1)
    assert wild.own[5] > 11, "the others differ by 16 points, and tell how easy it is to 8"
    assert calm.own[5] < 3


def test_order_and_names_change_nothing() -> None:
    world = drawn(5, families=7, targets=25, share=0.4)
    world["level"][:, 3] = np.nan
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(7), rng.permutation(25)
    weights = rng.random(25)
    one = fit_drawn(world)
    two = fit_levels(
        world["level"][rows][:, columns],
        world["stderr"][rows][:, columns],
        families=[f"f{f}" for f in rows],
        target_ids=100 + 7 * columns,
    )
    assert two.families == tuple(f"f{f}" for f in rows)
    for t in range(25):
        for ours, theirs in zip(one.known(t), two.known(100 + 7 * t), strict=True):
            np.testing.assert_allclose(theirs, ours[rows], rtol=1e-7, atol=1e-9)
    for ours, theirs in zip(one.described(weights), two.described(weights[columns]), strict=True):
        np.testing.assert_allclose(theirs, ours[rows], rtol=1e-7, atol=1e-9)
    for ours, theirs in zip(one.described(weights), one.described(1e-200 * weights), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-9)


def test_the_likelier_guide_weighs_more() -> None:
    world = drawn(2, share=0.8)
    levels = fit_drawn(world)
    hard, easy = np.argsort(world["ease"])[[0, -1]]
    weights = np.full(60, 1e-3)
    weights[hard] = 1.0
    like_hard = levels.described(weights)
    weights[[hard, easy]] = 1e-3, 1.0
    like_easy = levels.described(weights)
    assert (like_hard.mean < levels.described(np.ones(60)).mean).all()
    assert (like_easy.mean > levels.described(np.ones(60)).mean).all()
    assert (like_hard.common > 5).all(), "one guide leaves half a chance that the target is like none"


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 5), (4, 1), (2, 3)])
def test_no_level_at_all_is_answered_with_wide_errors(shape: tuple[int, int]) -> None:
    nothing = np.full(shape, np.nan)
    levels = fit_levels(nothing, nothing)
    for found in (levels.known(0), levels.known(99), levels.described(np.ones(shape[1]))):
        assert all(one.shape == shape[:1] for one in found)
        assert ((found.mean > 55) & (found.mean < 80)).all()
        assert (spread_of(found) > 15).all()


@pytest.mark.parametrize(
    "level",
    [
        [[80.0]],
        [[80.0], [np.nan]],
        [[80.0], [70.0]],
        [[80.0, np.nan]],
        [[80.0, np.nan], [np.nan, 30.0]],
        [[50.0, 50.0, 50.0], [50.0, 50.0, 50.0], [50.0, 50.0, np.nan]],
        [[0.0, 100.0, -30.0], [100.0, 0.0, 140.0], [np.nan, np.inf, -np.inf]],
        [[np.nan, 60.0], [np.nan, np.nan]],
    ],
)
@pytest.mark.parametrize("error", [0.0, 0.4, 60.0, np.nan])
@pytest.mark.parametrize("weight", [0.0, 1.0, 1e-300])
def test_odd_evidence_is_answered_with_finite_numbers(
    level: list[list[float]], error: float, weight: float
) -> None:
    known = np.array(level)
    levels = fit_levels(known, np.full(known.shape, error))
    targets = known.shape[1]
    for found in (*map(levels.known, range(targets)), levels.described(np.full(targets, weight))):
        for one in found:
            assert np.isfinite(one).all()
        assert (found.common >= 0).all()
        assert (found.own >= 0).all()
    for f, t in zip(*np.nonzero(~np.isfinite(known)), strict=True):
        assert levels.known(int(t)).own[f] > RESOLUTION / 2
    told = levels.described(np.full(targets, weight))
    assert ((told.mean > 0) & (told.mean < 100)).all()
    assert (spread_of(told) > 3).all()


def test_one_family_and_one_target_leave_the_next_one_open() -> None:
    levels = fit_levels(np.array([[92.0], [np.nan]]), np.array([[0.5], [np.nan]]))
    found = levels.known(0)
    assert found.mean[0] == 92.0
    assert 86 < found.mean[1] < 93
    assert 2 < found.own[1] < 10
    unseen = levels.described(np.ones(1))
    assert ((unseen.mean > 75) & (unseen.mean < 92)).all()
    assert (unseen.common > 8).all()
    assert 2 < unseen.own[0] < unseen.own[1]


def test_without_weight_an_unseen_target_is_the_typical_one() -> None:
    levels = fit_drawn(drawn(4))
    for ours, typical in zip(levels.described(np.zeros(60)), levels.known(12_345), strict=True):
        np.testing.assert_allclose(ours, typical)


def test_a_new_family_is_as_open_as_families_differ() -> None:
    world = drawn(6)
    world["level"][3] = np.nan
    found = fit_drawn(world).described(np.ones(60))
    others = np.delete(found.own, 3)
    assert found.own[3] > 1.5 * others.max()
    assert found.mean[3] == pytest.approx(np.delete(found.mean, 3).mean(), abs=2.0)


def test_a_better_measured_level_weighs_more() -> None:
    level = np.array([[80.0, 60.0, 70.0], [60.0, 60.0, 70.0], [np.nan, 60.0, 70.0]])
    stderr = np.full(level.shape, 0.3)
    blurred = stderr.copy()
    blurred[0, 0] = 20.0
    even, leaning = (fit_levels(level, one).known(0).mean[2] for one in (stderr, blurred))
    assert even == pytest.approx(70.5, abs=2.0)
    assert leaning < even - 4


def test_posteriors_are_gathered_by_target_id() -> None:
    one = SimpleNamespace(
        target_ids=np.array([7, 3]),
        level=np.array([70.0, np.nan]),
        level_stderr=np.array([1.25, np.nan]),
    )
    two = SimpleNamespace(
        target_ids=np.array([3, 9]),
        level=np.array([50.0, 90.0]),
        level_stderr=np.array([1.0, 0.25]),
    )
    levels = levels_of({"a": one, "b": two})
    assert levels.families == ("a", "b")
    assert levels.target_ids.tolist() == [3, 7, 9]
    assert levels.known(7).mean[0] == 70.0
    assert levels.known(7).own[0] == pytest.approx(1.25)
    np.testing.assert_array_equal(levels.known(9).mean[1:], [90.0])
    assert levels.known(9).own[1] == pytest.approx(0.25)
    assert levels.known(3).own[1] == pytest.approx(1.0)
    assert levels.known(3).own[0] > 1.0
    assert levels_of({}).described(np.zeros(0)).mean.shape == (0,)


def test_the_same_levels_give_the_same_bits() -> None:
    one, two = (fit_drawn(drawn(7)) for _ in range(2))
    for field in dataclasses.fields(one):
        assert np.array_equal(getattr(one, field.name), getattr(two, field.name))


@needs_model_recycling
def test_on_published_families_a_hidden_level_is_foretold_better_than_by_means() -> None:
    level, stderr = published()
    families, targets = level.shape
    errors, means, covered, right, right_by_mean = [], [], [], [], []
    for f in range(families):
        for t in range(targets):
            seen = level.copy()
            seen[f, t] = np.nan
            found, others = fit_levels(seen, stderr).known(t), np.delete(level[:, t], f)
            errors.append(abs(found.mean[f] - level[f, t]))
            means.append(abs(others.mean() - level[f, t]))
            spread = np.sqrt(found.own[f] ** 2 + found.common[f] ** 2 + stderr[f, t] ** 2)
            covered.append(errors[-1] < Z * spread)
            above = others != level[f, t]
            right.extend(((found.mean[f] > others) == (level[f, t] > others))[above])
            right_by_mean.extend(((others.mean() > others) == (level[f, t] > others))[above])
    assert np.mean(errors) < 0.95 * np.mean(means)
    assert 0.74 < np.mean(covered) < 0.9
    assert np.mean(right) > np.mean(right_by_mean) + 0.06


def published() -> tuple[np.ndarray, np.ndarray]:
    """Median and standard error of the vanillas' runs in the published tables, families x targets."""
    from headstart.evidence.model_recycling import read_results
    from headstart.evidence.source import FolderSource

    source = FolderSource(MODEL_RECYCLING, 1 << 30)
    batch = read_results(source, max_rows=1_000_000, progress=lambda *_: None)
    families = sorted({c.family for c in batch.checkpoints})
    runs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for s in batch.scores:
        if s.method == "finetune" and s.checkpoint == s.family and s.quarantine is None:
            runs[s.family, s.target].append(100 * s.value)
    table = [[np.array(runs[f, t.name]) for t in batch.targets] for f in families]
    level = [[np.median(one) for one in row] for row in table]
    stderr = [[1.25 * robust_spread(one) / np.sqrt(len(one)) for one in row] for row in table]
    return np.array(level), np.array(stderr)


def test_the_lead_over_the_vanilla_of_another_family() -> None:
    """Errors that both share fall out: 3, 4 and 12 make 13."""
    found = lead(73.0, 3.0, (70.0, 5.0, 4.0), (72.0, 5.0, 12.0), 2.0)
    assert found.gain == 1.0
    assert (found.low, found.high) == pytest.approx((1 - 13 * norm.ppf(0.9), 1 + 13 * norm.ppf(0.9)))
    assert found.p_beats == pytest.approx(norm.cdf(1 / 13))
    assert found.p_worth == pytest.approx(norm.sf(1 / 13))
    sure = lead(73.0, 0.0, (70.0, 1.0, 0.0), (72.0, 1.0, 0.0), 1.0)
    assert (sure.gain, sure.p_beats) == (1.0, 1.0)
    wider = lead(73.0, 0.0, (70.0, 1.0, 0.0), (72.0, 3.0, 0.0), 1.0)
    assert wider.p_beats == pytest.approx(norm.cdf(1 / 2)), "a harder target costs one family more"
