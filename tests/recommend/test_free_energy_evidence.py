"""Free energy as evidence: a covariate within its family, and a probe on its own target."""

from __future__ import annotations

import dataclasses
import io
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.stats import spearmanr

from headstart.recommend import decide
from headstart.recommend.covariates import FREE_ENERGY, PROBE_COLUMN, covariates
from headstart.recommend.evidence import LOWER_IS_BETTER, ONE_PASS, PROBES
from headstart.recommend.explain import explain
from headstart.recommend.fit import fit
from headstart.recommend.posterior import Posterior, from_bytes, to_bytes
from headstart.recommend.probes import ENOUGH, FARTHEST, FEWEST, energy_covariate, reference
from tests.recommend.evidence_of import evidence_of, probed, world

if TYPE_CHECKING:
    from headstart.recommend.evidence import FamilyEvidence

CHECKPOINTS, MEASURED, TARGETS = 140, 60, 8
ELSEWHERE = TARGETS  # a target that nobody was finetuned on
NAN = np.nan
NATS = 5_000.0  # of a usual free energy


def energies(
    evidence: FamilyEvidence, goodness: np.ndarray, *, target: int = 0, protocol: int = 0, error: float = NAN
) -> FamilyEvidence:
    """With a free energy of each checkpoint that falls by 37 nats per unit of goodness; NaN: none."""
    values = np.append(NATS - 20, NATS - 37.0 * goodness)
    return probed(evidence, values, target=target, method="free_energy", protocol=protocol, stderr=error)


@cache
def patchy(seed: int) -> tuple[FamilyEvidence, dict[str, np.ndarray]]:
    """Half of the gains of the first MEASURED, none of the others, and a target that nobody was run on."""
    drawn = world(seed, checkpoints=CHECKPOINTS, targets=TARGETS)
    hidden = np.random.default_rng(seed).random((CHECKPOINTS, TARGETS)) < 0.5
    hidden[MEASURED:] = True
    gains = np.where(hidden, NAN, drawn["gains"])
    return evidence_of(np.column_stack([gains, np.full(CHECKPOINTS, NAN)]), probe=drawn["probe"]), drawn


@cache
def without(seed: int) -> Posterior:
    return fit(patchy(seed)[0])


def unexplained(drawn: dict[str, np.ndarray]) -> np.ndarray:
    """The part of quality that the linear probe does not tell, of variance 1."""
    return np.asarray(drawn["quality"] - 0.8 * (drawn["probe"][1:] - 0.5) / 0.05)


def order(fitted: Posterior, drawn: dict[str, np.ndarray]) -> float:
    """Spearman of the quality of checkpoints that nobody finetuned with the truth."""
    return float(spearmanr(fitted.quality[MEASURED + 1 :], drawn["quality"][MEASURED:])[0])


def columns(fitted: Posterior, *names: str) -> list[np.ndarray]:
    return [np.asarray(getattr(fitted, name)) for name in names]


# -- as a covariate


def test_it_is_declared_as_a_probe_whose_less_is_better() -> None:
    assert "free_energy" in PROBES
    assert "free_energy" in LOWER_IS_BETTER
    assert "free_energy" not in ONE_PASS, "its cost is not that of a linear probe"
    assert PROBES[: len(ONE_PASS)] == ONE_PASS == tuple(sorted(ONE_PASS)), "the order of columns is as ever"


def test_planted_it_earns_a_weight_of_the_right_sign_and_orders_what_nobody_measured() -> None:
    for seed in range(3):
        evidence, drawn = patchy(seed)
        noise = np.random.default_rng(seed + 9).normal(size=CHECKPOINTS)
        goodness = 0.7 * unexplained(drawn) + np.sqrt(1 - 0.7**2) * noise
        right = fit(energies(evidence, goodness, target=ELSEWHERE, error=1.0))
        assert right.static_weight[1] > 2 * right.static_weight_stderr[1]
        assert order(right, drawn) > order(without(seed), drawn) + 0.08
        wrong = fit(energies(evidence, -goodness, target=ELSEWHERE, error=1.0))
        np.testing.assert_allclose(wrong.static_weight[1], -right.static_weight[1], rtol=1e-6)
        np.testing.assert_allclose(wrong.quality[1:], right.quality[1:], atol=1e-5)


def test_noise_earns_next_to_nothing_and_does_no_harm() -> None:
    weights, losses = [], []
    for seed in range(4):
        evidence, drawn = patchy(seed)
        noise = np.random.default_rng(seed + 50).normal(size=CHECKPOINTS)
        fitted = fit(energies(evidence, noise, target=ELSEWHERE, error=1.0))
        weights.append(fitted.static_weight[1])
        losses.append(order(without(seed), drawn) - order(fitted, drawn))
        assert abs(fitted.static_weight[1]) < 3 * fitted.static_weight_stderr[1]
    assert np.abs(weights).mean() < 0.06
    assert np.mean(losses) < 0.01
    assert max(losses) < 0.03


def test_its_weight_is_learnt_by_and_by() -> None:
    evidence, drawn = patchy(1)
    goodness, found = unexplained(drawn), []
    for measured in (3, 12, MEASURED):
        some = dataclasses.replace(
            evidence,
            **{
                name: getattr(evidence, name)[evidence.checkpoint <= measured]
                for name in ("checkpoint", "target", "protocol", "seed", "value", "stderr", "rows_tested")
            },
            created=evidence.created[evidence.checkpoint <= measured],
        )
        found.append(float(fit(energies(some, goodness, target=ELSEWHERE)).static_weight[1]))
    assert 0 < found[0] < found[1] < found[2]
    assert found[0] < 0.1, "three finetuned checkpoints are no ground for the paper's claim"


def test_the_vanillas_own_counts_for_nothing_in_the_weight() -> None:
    evidence, drawn = patchy(0)
    goodness = np.where(np.arange(CHECKPOINTS) < ENOUGH // 2, unexplained(drawn), NAN)
    with_it = fit(energies(evidence, goodness, target=ELSEWHERE))
    values = np.append(NAN, NATS - 37.0 * goodness)
    without_it = fit(probed(evidence, values, target=ELSEWHERE, method="free_energy"))
    np.testing.assert_array_equal(with_it.static_weight, without_it.static_weight)
    np.testing.assert_array_equal(with_it.static_weight_stderr, without_it.static_weight_stderr)


NOT_LEARNT_FROM = {
    "nobody finetuned": np.where(np.arange(CHECKPOINTS) < MEASURED, NAN, np.arange(CHECKPOINTS) % 7),
    "two finetuned": np.where(np.arange(CHECKPOINTS) < MEASURED - 2, NAN, np.arange(CHECKPOINTS) % 7),
    "one": np.where(np.arange(CHECKPOINTS) == 3, 1.0, NAN),
    "two": np.where(np.arange(CHECKPOINTS) < 2, np.arange(CHECKPOINTS), NAN),
    "none but the vanilla": np.full(CHECKPOINTS, NAN),
    "all equal": np.zeros(CHECKPOINTS),
    "equal but for rounding": 1e-12 * np.arange(CHECKPOINTS),
}


@pytest.mark.parametrize("name", NOT_LEARNT_FROM)
def test_where_no_weight_can_be_learnt_every_answer_is_the_same_to_the_bit(name: str) -> None:
    evidence, _ = patchy(0)
    one, two = without(0), fit(energies(evidence, NOT_LEARNT_FROM[name], target=ELSEWHERE))
    assert np.isnan(two.static_weight[1])
    assert not two.probe_weight.any()
    told = {"newest", "probe_methods", "probe_weight", "probe_weight_stderr", "probe_cells", "probe_counts"}
    told |= {"probe_known", "pair_checkpoint", "pair_target", "pair_methods", "pair_shift", "pair_doubt"}
    for field in dataclasses.fields(Posterior):
        if field.name not in told:
            np.testing.assert_array_equal(*(getattr(p, field.name) for p in (one, two)), err_msg=field.name)
    rows = np.arange(1, CHECKPOINTS + 1)
    for view in (lambda p: decide.known_view(p, 2), lambda p: decide.unseen_view(p, np.ones(TARGETS + 1))):
        ours, theirs = (decide.predict(p, view(p), rows) for p in (one, two))
        np.testing.assert_array_equal(ours.gain, theirs.gain)
        np.testing.assert_array_equal(ours.low, theirs.low)


def test_without_one_there_is_no_column_for_it() -> None:
    evidence, _ = patchy(0)
    rows, probe = np.arange(1, MEASURED + 1), np.zeros(CHECKPOINTS + 1)
    plain = covariates([evidence], [probe], [rows])
    same = covariates([evidence], [probe], [rows], energy_covariate(evidence))
    assert FREE_ENERGY not in same.group
    np.testing.assert_array_equal(same.matrices[0].toarray(), plain.matrices[0].toarray())
    energy = np.where(np.arange(CHECKPOINTS + 1) % 2, NAN, 0.5)
    more = covariates([evidence], [probe], [rows], energy)
    np.testing.assert_array_equal(more.matrices[0].toarray()[:, :-1], plain.matrices[0].toarray())
    np.testing.assert_array_equal(more.matrices[0].toarray()[:, -1], np.nan_to_num(energy))
    assert more.group.tolist() == [*plain.group.tolist(), FREE_ENERGY]
    assert more.group[PROBE_COLUMN] != FREE_ENERGY


def test_those_of_another_family_say_nothing() -> None:
    drawn = world(3, checkpoints=12, targets=4)
    own = evidence_of(drawn["gains"])
    other = dataclasses.replace(evidence_of(world(4, checkpoints=40, targets=4)["gains"]), family="other")
    goodness = np.random.default_rng(0).normal(size=40)
    assert to_bytes(fit(own, [energies(other, goodness, target=1)])) == to_bytes(fit(own, [other]))
    mine = energies(own, unexplained(drawn), target=1)
    with_theirs = fit(mine, [energies(other, goodness, target=1)])
    assert to_bytes(with_theirs) == to_bytes(fit(mine, [other]))
    assert np.isfinite(with_theirs.static_weight[1])


def test_its_part_of_an_answer_stands_in_the_static_prior() -> None:
    evidence, drawn = patchy(2)
    fitted = fit(energies(evidence, unexplained(drawn), target=ELSEWHERE))
    rows = np.arange(1, CHECKPOINTS + 1)
    plain, told = (explain(p, decide.known_view(p, 1), rows) for p in (without(2), fitted))
    for one in told:
        parts = (one.target, one.prior, one.finetunes, one.probes, one.here)
        assert sum(parts) == pytest.approx(one.gain, abs=1e-9)
        assert one.probes == 0
    moved = np.array([b.prior - a.prior for a, b in zip(plain, told, strict=True)])
    assert spearmanr(moved, unexplained(drawn))[0] > 0.9


def test_weights_survive_the_store_and_older_rows_are_read_without_them() -> None:
    evidence, drawn = patchy(0)
    fitted = fit(energies(evidence, unexplained(drawn), target=ELSEWHERE))
    assert np.isfinite(fitted.static_weight).all()
    np.testing.assert_array_equal(from_bytes(to_bytes(fitted)).static_weight, fitted.static_weight)
    with np.load(io.BytesIO(to_bytes(fitted))) as arrays:
        older = {name: arrays[name] for name in arrays if not name.startswith("static_weight")}
    buffer = io.BytesIO()
    np.savez(buffer, **older)
    read = from_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read.quality, fitted.quality)
    assert np.isnan(read.static_weight).all()


# -- the covariate itself


def covariate(goodness: np.ndarray, **given: float) -> np.ndarray:
    """Of a family that has nothing else."""
    plain = evidence_of(np.full((len(goodness), 2), NAN))
    return energy_covariate(energies(plain, goodness, **given))  # type: ignore[arg-type]


def test_it_is_told_in_robust_deviations_below_the_usual_one() -> None:
    goodness = np.random.default_rng(0).normal(size=300)
    goodness[:3] = NAN, 1e6, -1e6
    found = covariate(goodness)
    assert np.isnan(found[1])
    assert (found[2], found[3]) == (FARTHEST, -FARTHEST)
    assert np.median(found[2:]) == 0
    np.testing.assert_allclose(found[4:], goodness[3:], atol=0.3)
    assert np.isfinite(found[0]), "the vanilla's, which has no part in centre and scale"
    assert covariate(goodness)[0] == pytest.approx((20 - 37 * np.nanmedian(goodness)) / 37, abs=0.1)


def test_few_count_less() -> None:
    for count in (FEWEST, 10, ENOUGH, 200):
        found = covariate(np.linspace(-1, 1, count))
        spread = np.linspace(-1, 1, count)[-1] / (found[-1] / min(1, count / ENOUGH))
        assert 0.4 < spread < 1, "of the values themselves"
    assert np.isnan(covariate(np.linspace(-1, 1, FEWEST - 1))).all()


def test_no_spread_is_below_the_chains_own_error() -> None:
    goodness = 0.01 * np.random.default_rng(0).normal(size=50)  # 0.37 nats
    assert np.abs(covariate(goodness)[1:]).max() > 1
    assert np.abs(covariate(goodness, error=20.0)[1:]).max() < 0.1


def test_protocols_and_targets_of_other_scales_are_never_mixed() -> None:
    goodness, rest = np.full(40, NAN), np.full(40, NAN)
    goodness[:25], rest[20:] = np.arange(25), -1e9 * np.arange(20, 40)
    plain = energies(evidence_of(np.full((40, 3), NAN)), goodness, target=1, protocol=2)
    contradicted = energies(energies(plain, rest, target=1, protocol=3), rest, target=2, protocol=2)
    assert reference(contradicted, "free_energy") == (1, 2)
    np.testing.assert_array_equal(energy_covariate(contradicted), energy_covariate(plain))
    assert np.isnan(energy_covariate(plain)[26:]).all()


def test_a_linear_probe_is_no_free_energy_and_the_other_way_round() -> None:
    evidence, _ = patchy(0)
    both = energies(evidence, np.arange(float(CHECKPOINTS)), target=1)
    assert reference(both) == reference(evidence) == (0, 0)
    assert reference(both, "free_energy") == (1, 0)
    assert reference(evidence, "free_energy") is None
    assert np.isnan(energy_covariate(evidence)).all()


@pytest.mark.parametrize("value", [1e30, -1e30, 1e-300, 0.0])
def test_odd_values_give_finite_answers(value: float) -> None:
    goodness = np.random.default_rng(0).normal(size=CHECKPOINTS)
    goodness[5] = value
    evidence, _ = patchy(0)
    for target in (0, ELSEWHERE):
        fitted = fit(energies(evidence, goodness, target=target))
        assert all(np.isfinite(one).all() for one in columns(fitted, "quality", "doubt", "pair_shift"))


# -- on the asked target


def test_on_the_asked_target_it_is_a_probe_whose_weight_is_learnt() -> None:
    for seed in range(2):
        drawn = world(seed, checkpoints=100, targets=6)
        hidden = np.random.default_rng(seed).random((100, 6)) > 0.4
        evidence = evidence_of(np.where(hidden, NAN, drawn["gains"]), probe=drawn["probe"], seed_noise=0.4)
        plain, noise = fit(evidence), np.random.default_rng(seed + 7).normal(size=(100, 6))
        goodness = drawn["quality"][:, None] + drawn["beyond"] / drawn["beyond"].std() + 0.7 * noise
        for target in range(6):
            evidence = energies(evidence, goodness[:, target], target=target, error=1.0)
        fitted = fit(evidence)
        assert fitted.probe_methods == ("free_energy",)
        assert fitted.probe_weight[0] > 5 * fitted.probe_weight_stderr[0]
        before, after = (
            np.mean([_order_here(p, drawn, hidden, target) for target in range(6)]) for p in (plain, fitted)
        )
        assert after > before + 0.04


def _order_here(fitted: Posterior, drawn: dict[str, np.ndarray], hidden: np.ndarray, target: int) -> float:
    rows = np.flatnonzero(hidden[:, target])
    found = decide.predict(fitted, decide.known_view(fitted, target), rows + 1)
    return float(spearmanr(found.gain, drawn["true_gains"][rows, target])[0])
