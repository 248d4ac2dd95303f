"""Probes on a target: what they tell beyond quality, what that is worth, and what it does to an answer."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import spearmanr

from headstart.recommend import decide
from headstart.recommend.evidence import FamilyEvidence
from headstart.recommend.fit import fit
from headstart.recommend.posterior import Posterior, from_bytes, to_bytes
from headstart.recommend.probes import reference
from headstart.recommend.sentence import probes_in_words
from headstart.recommend.surprises import Surprises, surprises
from headstart.recommend.weights import PRIOR, Weights, learn
from tests.recommend.evidence_of import evidence_of, probed, world

CHECKPOINTS, TARGETS = 100, 10
LOGME, KNN = 1, 2


def gains_and_probes(seed: int, told: float) -> tuple[FamilyEvidence, FamilyEvidence, dict[str, np.ndarray]]:
    """A third of all gains measured, without and with a probe of every pair.

    The probe sees quality, noise, and the pair's own part of the gain with a correlation of `told`.
    """
    drawn = world(seed, checkpoints=CHECKPOINTS, targets=TARGETS)
    rng = np.random.default_rng(seed + 100)
    drawn["hidden"] = rng.random(drawn["gains"].shape) > 0.35
    plain = evidence_of(
        np.where(drawn["hidden"], np.nan, drawn["gains"]), probe=drawn["probe"], seed_noise=0.4
    )
    own = drawn["beyond"] / drawn["beyond"].std()
    noise = rng.normal(size=own.shape)
    values = drawn["quality"][:, None] + told * own + np.sqrt(1 - told**2) * noise
    evidence = plain
    for t in range(TARGETS):
        evidence = probed(evidence, np.append(0.0, values[:, t]), target=t)
    return plain, evidence, drawn


def crps_and_order(fitted: Posterior, drawn: dict[str, np.ndarray]) -> tuple[float, float, float]:
    """Of the true gains that were hidden: loss by draws, rank correlation, coverage of the 80 % interval."""
    losses, orders, covered = [], [], []
    t6 = np.random.default_rng(0).standard_t(6, 400)
    for t in range(TARGETS):
        rows = np.flatnonzero(drawn["hidden"][:, t])
        view = decide.known_view(fitted, t)
        found = decide.predict(fitted, view, rows + 1)
        truth = drawn["true_gains"][rows, t]
        draws = np.sort(view.transforms[0].gain(found.mean + found.spread * t6), axis=1)
        between = draws @ (2 * np.arange(1, 401) - 401) / 400**2
        losses.append((np.abs(draws - truth[:, None]).mean(axis=1) - between) / drawn["scale"][t])
        orders.append(spearmanr(found.gain, truth)[0])
        covered.append((found.low <= truth) & (truth <= found.high))
    return (
        float(np.concatenate(losses).mean()),
        float(np.mean(orders)),
        float(np.concatenate(covered).mean()),
    )


def test_a_probe_that_knows_more_than_quality_earns_a_weight_and_betters_the_answer() -> None:
    covered = []
    for seed in range(3):
        plain, evidence, drawn = gains_and_probes(seed, told=0.6)
        before, after = fit(plain), fit(evidence)
        assert after.probe_methods == ("logme",)
        assert after.probe_weight[0] > 5 * after.probe_weight_stderr[0]
        assert after.probe_cells[0] == (~drawn["hidden"]).sum()
        loss, order, _ = crps_and_order(before, drawn)
        lower, higher, share = crps_and_order(after, drawn)
        assert lower < 0.92 * loss
        assert higher > order + 0.05
        covered.append(share)
    assert 0.74 < np.mean(covered) < 0.88


def test_noise_earns_next_to_nothing() -> None:
    weights = []
    for seed in range(3):
        plain, _, drawn = gains_and_probes(seed, told=0.0)
        evidence = plain
        for t in range(TARGETS):
            noise = np.random.default_rng(50 * seed + t).normal(size=CHECKPOINTS + 1)
            evidence = probed(evidence, noise, target=t)
        fitted = fit(evidence)
        weights.append(fitted.probe_weight[0])
        loss, order, _ = crps_and_order(fit(plain), drawn)
        same_loss, same_order, _ = crps_and_order(fitted, drawn)
        assert same_loss == pytest.approx(loss, rel=0.02)
        assert same_order == pytest.approx(order, abs=0.02)
    assert np.mean(weights) < 0.04


def test_what_quality_tells_already_is_not_counted_again() -> None:
    drawn = world(checkpoints=CHECKPOINTS, targets=TARGETS, noise=0.3)
    evidence = evidence_of(drawn["gains"], probe=drawn["probe"])
    for t in range(TARGETS):
        evidence = probed(evidence, np.append(0.0, 3 * drawn["quality"]), target=t)
    fitted = fit(evidence)
    pairs = fitted.loadings[fitted.pair_target], fitted.factors[fitted.pair_checkpoint]
    by_quality = np.einsum("pk,pk->p", *pairs)
    assert fitted.pair_shift.std() < 0.1 * by_quality.std()


def test_a_probe_that_misleads_is_held_at_zero() -> None:
    plain, evidence, _ = gains_and_probes(0, told=0.6)
    turned = fit(dataclasses.replace(evidence, probe_value=evidence.probe_value * _minus_logme(evidence)))
    assert turned.probe_weight[0] == 0
    assert turned.probe_cells[0] > 0
    rows = np.arange(1, CHECKPOINTS + 1)
    ours, plainly = (decide.predict(f, decide.known_view(f, 2), rows) for f in (turned, fit(plain)))
    np.testing.assert_array_equal(ours.gain, plainly.gain)
    np.testing.assert_array_equal(ours.low, plainly.low)


def _minus_logme(evidence: FamilyEvidence) -> np.ndarray:
    return np.where(evidence.probe_method == LOGME, -1.0, 1.0)


@pytest.mark.parametrize(("factor", "offset"), [(1000.0, 0.0), (1e-6, 0.0), (3.0, -40.0)])
def test_units_do_not_matter(factor: float, offset: float) -> None:
    _, evidence, _ = gains_and_probes(1, told=0.6)
    logme = evidence.probe_method == LOGME
    value = np.where(logme, factor * evidence.probe_value + offset, evidence.probe_value)
    one, two = fit(evidence), fit(dataclasses.replace(evidence, probe_value=value))
    for field in dataclasses.fields(one):
        here, there = np.asarray(getattr(one, field.name)), np.asarray(getattr(two, field.name))
        if here.dtype.kind == "f":
            np.testing.assert_allclose(there, here, rtol=1e-6, atol=1e-9, err_msg=field.name)


def test_without_a_finetune_on_a_probed_target_the_answer_is_the_same_to_the_bit() -> None:
    drawn = world(checkpoints=60, targets=6)
    gains = drawn["gains"].copy()
    gains[:, 5] = np.nan
    plain = evidence_of(gains, probe=drawn["probe"])
    values = np.append(0.0, np.random.default_rng(0).normal(size=60))
    evidence = probed(probed(plain, values, target=5), values, target=5, method="knn")
    one, two = fit(plain), fit(evidence)
    assert two.probe_methods == ("logme", "knn")
    assert two.probe_cells.tolist() == [0, 0]
    assert two.probe_weight.tolist() == [0, 0]
    for view_of in (
        lambda f: decide.known_view(f, 5),
        lambda f: decide.unseen_view(f, np.ones(6), probed=5),
        lambda f: decide.known_view(f, 1),
    ):
        a, b = view_of(one), view_of(two)
        rows = decide.head(one, a, decide.static_order(one), 20)
        np.testing.assert_array_equal(decide.head(two, b, decide.static_order(two), 20), rows)
        before, after = decide.predict(one, a, rows), decide.predict(two, b, rows)
        for name in ("gain", "low", "high", "p_beats", "p_worth", "mean", "spread"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert decide.predict(two, decide.known_view(two, 5), rows).probes_here.tolist() == [2] * len(rows)
    assert decide.probed_here(two, decide.known_view(two, 5)) == 60


def test_a_weight_learnt_elsewhere_reorders_a_target_nobody_finetuned_on() -> None:
    _, evidence, drawn = gains_and_probes(2, told=0.8)
    keep = evidence.target != 4
    names = ("checkpoint", "target", "protocol", "seed", "value", "stderr", "rows_tested", "created")
    evidence = dataclasses.replace(evidence, **{n: getattr(evidence, n)[keep] for n in names})
    fitted = fit(evidence)
    assert np.isnan(fitted.level[4])
    order = decide.static_order(fitted)
    rows = np.arange(1, CHECKPOINTS + 1)
    cold, warm = (decide.unseen_view(fitted, np.ones(TARGETS), probed=p) for p in (None, 4))
    assert np.isnan(warm.level) == np.isnan(cold.level)
    truth = drawn["true_gains"][:, 4]
    without, within = (spearmanr(decide.predict(fitted, v, rows).gain, truth)[0] for v in (cold, warm))
    assert within > without + 0.05
    full = decide.head(fitted, warm, order, CHECKPOINTS)
    assert decide.head(fitted, warm, order, 8)[:3].tolist() == full[:3].tolist()
    assert full[:5].tolist() != order[:5].tolist()


def test_the_head_stays_small_however_many_were_probed() -> None:
    _, evidence, _ = gains_and_probes(0, told=0.8)
    fitted = fit(evidence)
    view = decide.unseen_view(fitted, np.ones(TARGETS), probed=3)
    assert len(decide.head(fitted, view, decide.static_order(fitted), 10)) <= 20


def surprises_of(evidence: FamilyEvidence, quality: np.ndarray) -> tuple[Surprises, np.ndarray]:
    found = surprises(evidence, reference(evidence), quality)
    return found, found.given(np.arange(len(found.target)), quality[found.checkpoint])


def test_a_surprise_is_what_is_left_over_quality_in_deviations_of_its_group() -> None:
    rng = np.random.default_rng(0)
    quality, own = rng.normal(size=(2, 401))
    values = 7 + 0.5 * (2 * quality + own)
    values[0] = 1e6  # the vanilla's level cancels
    evidence = probed(evidence_of(np.full((400, 2), np.nan)), values, target=1)
    found, surprise = surprises_of(evidence, quality)
    assert found.checkpoint.tolist() == list(range(1, 401))
    assert set(found.target) == {1}
    expected = (own[1:] - own[1:].mean()) / np.std(2 * quality + own)
    np.testing.assert_allclose(surprise[:, LOGME], expected, atol=0.15)
    assert np.corrcoef(surprise[:, LOGME], expected)[0, 1] > 0.99
    assert abs(np.corrcoef(surprise[:, LOGME], quality[1:])[0, 1]) < 0.05
    assert not surprise[:, KNN].any()


def test_protocols_are_compared_within_themselves_only() -> None:
    rng = np.random.default_rng(1)
    one, two = rng.normal(size=(2, 81))
    two[0] = np.nan
    first, second = np.where(np.arange(81) < 40, one, np.nan), np.where(np.arange(81) < 40, np.nan, one)
    plain = evidence_of(np.full((80, 1), np.nan))
    apart = probed(probed(plain, first, target=0), 500 + 9 * second, target=0, protocol=1)
    quality = np.zeros(81)
    _, alone = surprises_of(probed(plain, first, target=0), quality)
    _, surprise = surprises_of(apart, quality)
    np.testing.assert_allclose(surprise[:39], alone)
    assert abs(surprise[:39, LOGME].mean() - surprise[39:, LOGME].mean()) < 1e-9
    both = probed(probed(plain, one, target=0), two, target=0, protocol=1)
    each = [surprises_of(probed(plain, v, target=0), quality)[1] for v in (one, two)]
    np.testing.assert_allclose(surprises_of(both, quality)[1], (each[0] + each[1]) / 2)


def test_seeds_are_averaged_and_the_reference_is_left_out() -> None:
    rng = np.random.default_rng(2)
    quality, linear, logme = rng.normal(size=(3, 31))
    plain = evidence_of(np.full((30, 2), np.nan), probe=linear)  # the reference: linear probes of target 0
    noise = rng.normal(size=31)
    twice = probed(probed(plain, logme + noise, target=0), logme - noise, target=0)
    again = probed(twice, linear + 0.1 * noise, target=0, method="linear_probe", protocol=3)
    found, surprise = surprises_of(again, quality)
    assert found.ran[:, LOGME].all()
    assert not found.ran[:, 0].any(), "a linear probe of the reference target is in the quality already"
    np.testing.assert_allclose(surprise, surprises_of(probed(plain, logme, target=0), quality)[1])
    newcomers = np.where(np.arange(31) > 20, linear, np.nan)
    late = evidence_of(np.full((30, 2), np.nan), probe=np.where(np.arange(31) > 20, np.nan, linear))
    late = probed(late, newcomers, target=0, method="linear_probe", protocol=3)
    found, _ = surprises_of(late, quality)
    assert found.checkpoint[found.known[:, 0]].tolist() == list(range(21, 31)), (
        "they are not in the reference"
    )
    elsewhere, _ = surprises_of(probed(plain, linear, target=1, method="linear_probe"), quality)
    assert elsewhere.known[:, 0].all()


@pytest.mark.parametrize("values", [[0.1, 0.2, np.nan, np.nan], [0.3] * 4], ids=["two", "all alike"])
def test_a_group_that_cannot_be_compared_says_nothing(values: list[float]) -> None:
    evidence = probed(evidence_of(np.full((4, 1), np.nan)), np.array([0.5, *values]), target=0)
    found, surprise = surprises_of(evidence, np.zeros(5))
    assert not surprise.any()
    assert not found.known.any()
    assert found.ran[:, LOGME].all()


@pytest.mark.parametrize(
    "values", [[1e100, -1e100, 0, 5], [0, 0, 0, 1e-300], [1, np.nan, np.nan, np.nan]], ids=str
)
@pytest.mark.parametrize("vanilla_runs", [0, 1, 20])
def test_poor_probes_never_make_a_nan(values: list[float], vanilla_runs: int) -> None:
    gains = np.array([[2.0, np.nan], [np.nan, 3.0], [1.0, -1.0], [0.0, 0.5]])
    evidence = evidence_of(gains, vanilla_runs=vanilla_runs)
    for t in range(2):
        evidence = probed(evidence, np.array([np.nan, *values]), target=t)
    fitted = fit(evidence)
    views = [decide.unseen_view(fitted, np.ones(2), probed=p) for p in (1, None)]
    views += [decide.known_view(fitted, 1)] if vanilla_runs else []
    for view in views:
        found = decide.predict(fitted, view, np.arange(1, 5))
        assert np.isfinite(found.gain).all()
        assert (found.low < found.high).all()


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ([("logme", 9, 0.0, 0), ("knn", 9, 0.0, 0)], "logme, knn have no weight yet"),
        ([("logme", 9, 0.0, 40)], "logme has no weight: 40 finetunes"),
        ([("logme", 0, 0.2, 40)], "logme says nothing here: it takes 3 checkpoints probed alike"),
        ([("logme", 9, 0.2, 40)], "logme has a weight of 0.20, learnt from 40 finetunes"),
    ],
)
def test_the_worth_of_probes_in_words(methods: list[tuple[str, int, float, int]], said: str) -> None:
    sentence = probes_in_words(9, "base", "rte", methods, reference=False)
    assert sentence.startswith(f"9 checkpoints were probed on rte in base; {said}")
    assert sentence.endswith(".")


def test_methods_that_repeat_each_other_cost_the_same_twenty_cells_together() -> None:
    error, variance, surprise = 0.3 * np.ones(20), np.full(20, 0.5), np.ones((20, 5))
    known = np.ones((20, 5), dtype=bool)
    known[:, 4] = False  # a method without a pair changes nothing for the others
    surprise[:, 4] = 0
    one, four = (learn(error, variance, surprise[:, at], known[:, at]) for at in (slice(1), slice(5)))
    assert one.prior == PRIOR
    assert four.weight.sum() == pytest.approx(one.weight[0], rel=1e-9)
    assert four.shift(surprise) == pytest.approx(one.shift(surprise[:, :1]))
    untaught = Weights(np.full(5, 0.1), four.prior * np.eye(5), known.sum(axis=0), four.prior)
    assert untaught.doubt(surprise) == pytest.approx(0, abs=1e-12)


def test_weights_are_recovered_and_cost_twenty_cells_to_be_believed() -> None:
    rng = np.random.default_rng(0)
    surprise = rng.normal(size=(4000, 2))
    error = surprise @ [0.3, 0.0] + np.sqrt(0.5 / 1.5) * rng.standard_t(6, 4000)
    known = np.ones((4000, 2), dtype=bool)
    many = learn(error, np.full(4000, 0.5), surprise, known)
    np.testing.assert_allclose(many.weight, [0.3, 0.0], atol=0.03)
    exact = learn(0.3 * np.ones(20), np.full(20, 0.5), np.ones((20, 1)), known[:20, :1])
    assert exact.weight[0] == pytest.approx(0.15, rel=0.2)  # as many cells as the prior is worth
    assert learn(error[:0], error[:0], surprise[:0], known[:0]).weight.tolist() == [0, 0]


def test_doubt_about_a_weight_comes_and_goes_with_the_evidence() -> None:
    surprise = np.array([[2.0]])
    doubts = [
        float(Weights(np.array([0.2]), np.array([[c]]), np.array([1])).doubt(surprise)[0])
        for c in (PRIOR, 0.5 * PRIOR, 1e-4 * PRIOR)
    ]
    assert doubts[0] == pytest.approx(0, abs=1e-12)
    assert doubts[1] == pytest.approx(PRIOR)
    assert doubts[2] < 1e-3


def test_checkpoints_probed_under_a_protocol_each_are_told_apart_by_none() -> None:
    _, evidence, _ = gains_and_probes(0, told=0.6)
    evidence = dataclasses.replace(
        evidence,
        target_ids=np.append(evidence.target_ids, 900),
        target_names=(*evidence.target_names, "x"),
        target_rows=np.append(evidence.target_rows, np.nan),
    )
    for k in range(3):
        values = np.full(CHECKPOINTS + 1, np.nan)
        values[5 + k] = k
        evidence = probed(evidence, values, target=TARGETS, protocol=1 + k)
    fitted = fit(evidence)
    assert fitted.probe_counts[TARGETS].tolist() == [3]
    assert fitted.probe_known[TARGETS].tolist() == [0]
    assert fitted.probe_known[0].tolist() == fitted.probe_counts[0].tolist() == [CHECKPOINTS]
    assert not fitted.pair_shift[fitted.pair_target == TARGETS].any()


def test_a_posterior_with_probes_survives_the_store() -> None:
    _, evidence, _ = gains_and_probes(0, told=0.5)
    fitted = fit(evidence)
    read = from_bytes(to_bytes(fitted))
    assert read.probe_methods == ("logme",)
    assert read.reference == fitted.reference == 0
    np.testing.assert_array_equal(read.pair_shift, fitted.pair_shift)
