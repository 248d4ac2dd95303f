"""How well static scores foretell gain: known answers, intervals, and what cannot be told."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from headstart.ranks import pearson, spearman
from headstart.recommend import predictors as page
from headstart.recommend.evidence import EnergyParts
from headstart.recommend.fit import fit
from headstart.recommend.predictors import (
    FEWEST,
    NAMES,
    Predictor,
    Where,
    correlations,
    from_bytes,
    mean_gains,
    predictors,
    to_bytes,
)
from tests.recommend.evidence_of import evidence_of, probed, world
from tests.recommend.posterior_of import posterior_of
from tests.recommend.test_odd_evidence import GAINS, ODD

if TYPE_CHECKING:
    from headstart.recommend.evidence import FamilyEvidence

NAN = np.nan
COUNT, TARGETS = 60, 6
DRAWN = world(0, checkpoints=COUNT, targets=TARGETS)
QUALITY = DRAWN["quality"]


def family(**parts: np.ndarray) -> FamilyEvidence:
    """COUNT checkpoints, finetuned on all targets, probed on target 0, and with free energies on target 1.

    `free_energy`, `loss`, `trace`, `llc`: of each checkpoint, the vanilla apart, which has the worst of all.
    """
    evidence = dataclasses.replace(
        evidence_of(DRAWN["gains"], probe=DRAWN["probe"]),
        parameters=np.append(1e9, 1e8 + 1e6 * QUALITY),
        probe_protocols=(("1", "aa"), ("2", "bb")),
    )
    energy = parts.pop("free_energy", None)
    if energy is None:
        return evidence
    evidence = probed(evidence, np.append(1e6, energy), target=1, method="free_energy", protocol=1)
    rows = np.arange(COUNT + 1)
    told = {name: np.append(1e6, parts.get(name, np.full(COUNT, NAN))) for name in ("loss", "trace", "llc")}
    where = {"target": np.ones_like(rows), "protocol": np.ones_like(rows)}
    return dataclasses.replace(evidence, energy_parts=EnergyParts(checkpoint=rows, **where, **told))


def told(evidence: FamilyEvidence) -> dict[str, Predictor]:
    found = predictors(evidence, fit(evidence))
    assert tuple(one.name for one in found) == NAMES
    return {one.name: one for one in found}


# -- mean gains


def cells_of(z: np.ndarray) -> Any:
    """A posterior whose cells are these, checkpoint x target; NaN: not measured."""
    row, column = np.nonzero(np.isfinite(z))
    size, targets = z.shape
    return posterior_of(
        cell_checkpoint=row,
        cell_target=column,
        cell_z=z[row, column],
        checkpoint_ids=np.arange(size),
        target_ids=np.arange(targets),
    )


def test_a_mean_gain_is_told_less_the_effect_of_the_targets_it_was_measured_on() -> None:
    rng = np.random.default_rng(0)
    quality, effect = 0.4 * rng.normal(size=30), np.linspace(-1.5, 1.5, 7)
    z = quality[:, None] + effect
    found = mean_gains(cells_of(z))
    np.testing.assert_allclose(found - found.mean(), quality - quality.mean(), atol=1e-5)
    z[rng.random(z.shape) < 0.5] = NAN
    z[:15, 5:], z[15:, :2] = NAN, NAN  # the one half on the hard targets, the other on the easy ones
    z[4] = NAN
    found = mean_gains(cells_of(z))
    assert np.isnan(found[4])
    known = np.isfinite(found)
    np.testing.assert_allclose(
        found[known] - found[known].mean(), quality[known] - quality[known].mean(), atol=1e-3
    )


def test_a_failed_run_does_not_decide_and_a_target_of_two_tells_nothing() -> None:
    z = np.tile(np.linspace(-1, 1, 9)[:, None], (1, 4))
    plain = mean_gains(cells_of(z))
    z[8, 0] = -1e6
    assert mean_gains(cells_of(z))[8] > plain[0]
    lonely = np.full((9, 5), NAN)
    lonely[:, :4] = z
    lonely[0, :4], lonely[:2, 4] = NAN, 5.0
    assert np.isnan(mean_gains(cells_of(lonely))[0])


def test_without_a_cell_there_is_none() -> None:
    assert np.isnan(mean_gains(cells_of(np.full((4, 3), NAN)))).all()
    assert mean_gains(fit(evidence_of(np.zeros((0, 0))))).tolist() == pytest.approx([NAN], nan_ok=True)


# -- correlations and their intervals


@pytest.mark.parametrize("ties", [False, True])
def test_intervals_are_those_of_drawing_checkpoints_one_by_one(
    ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 40)) if not ties else rng.integers(0, 4, size=(2, 40)).astype(float)
    y = y + 0.5 * x if not ties else y
    monkeypatch.setattr(page, "DRAWS", 300)
    found = correlations(x, y)
    order, again = np.argsort(x, kind="stable"), np.random.default_rng(page.SEED)
    rows = order[again.integers(40, size=(300, 40))]
    for one, statistic in zip(found, (spearman, pearson), strict=True):
        draws = [statistic(x[at], y[at]) for at in rows]
        assert one.value == pytest.approx(statistic(x, y), abs=1e-4)
        assert (one.low, one.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=1e-4)


def test_the_intervals_hold_what_is_true() -> None:
    rng, held = np.random.default_rng(0), []
    for _ in range(60):
        x, noise = rng.normal(size=(2, 50))
        y = 0.5 * x + np.sqrt(0.75) * noise
        _, found = correlations(x, y)
        held.append(found.low <= 0.5 <= found.high)
    assert 0.85 <= np.mean(held) <= 1


def test_draws_in_which_nothing_differs_count_as_none_and_scales_do_not_matter() -> None:
    y = np.linspace(0, 1, 12)
    one_apart = np.where(np.arange(12) == 11, 1.0, 0.0)
    for found in correlations(one_apart, y):
        assert found.value > 0.3
        assert found.low == 0
    x = np.random.default_rng(0).normal(size=12)
    for factor, offset in ((1e30, 0.0), (1e-12, 0.0), (1.0, 1e6)):
        for here, there in zip(correlations(factor * x + offset, y), correlations(x, y), strict=True):
            assert here == pytest.approx(there, abs=2e-4)


def test_many_checkpoints_are_drawn_less_often() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 20_000))
    _, found = correlations(x, y + 0.1 * x)
    assert found.high - found.low == pytest.approx(4 / np.sqrt(20_000), rel=0.25)


# -- the page


def test_the_better_score_and_more_gain_go_together_whatever_the_unit() -> None:
    rng = np.random.default_rng(1)
    found = told(
        family(
            free_energy=4000 - 10 * QUALITY,
            loss=2 + np.exp(QUALITY),
            trace=rng.normal(size=COUNT),
            llc=-QUALITY + rng.normal(size=COUNT),
        )
    )
    assert found["free_energy"].spearman == pytest.approx((0.95, 0.9, 0.99), abs=0.06)
    assert found["free_energy"].pearson == found["size"].pearson, "less of the one, more of the other"
    assert found["loss"].spearman == pytest.approx((-0.95, -0.99, -0.9), abs=0.06)
    assert found["loss"].pearson != found["loss"].spearman
    assert found["trace"].spearman.low < 0 < found["trace"].spearman.high, "told, and tells nothing"
    assert 0.3 < found["llc"].pearson.low < found["llc"].pearson.value < found["llc"].pearson.high < 0.9
    assert found["linear_probe"].spearman.value > 0.4
    assert {one.checkpoints for one in found.values()} == {COUNT}, "the vanilla is none of them"
    assert not any(one.reason for one in found.values())


def test_where_each_is_read_and_what_it_counts_in_the_prior() -> None:
    found = told(family(free_energy=-QUALITY))
    assert found["linear_probe"].reference == Where(500, "t0", "1", "aa")
    assert found["free_energy"].reference == found["llc"].reference == Where(501, "t1", "2", "bb")
    assert found["size"].reference is None
    for name in ("linear_probe", "free_energy"):
        assert found[name].weight.value > 2 * found[name].weight.stderr > 0
    assert found["size"].weight is found["llc"].weight is None
    assert told(family())["free_energy"].weight is None


def test_a_mean_is_taken_over_seeds_and_other_protocols_are_left_out() -> None:
    noise = np.random.default_rng(0).normal(size=COUNT)
    energy, parts = -QUALITY + noise, {"loss": -QUALITY + noise}
    plain = family(free_energy=-QUALITY, loss=-QUALITY)
    evidence = family(free_energy=energy, **parts)
    again = EnergyParts(
        checkpoint=np.tile(evidence.energy_parts.checkpoint, 3),
        target=np.repeat([1, 1, 2], COUNT + 1),
        protocol=np.repeat([1, 1, 0], COUNT + 1),
        **{
            name: np.concatenate(
                [
                    getattr(evidence.energy_parts, name),
                    getattr(plain.energy_parts, name) * 2,
                    np.ones(COUNT + 1),
                ]
            )
            for name in ("loss", "trace", "llc")
        },
    )
    again.loss[COUNT + 1 : 2 * (COUNT + 1)][1:] -= noise
    seeds = probed(evidence, np.append(1e6, -QUALITY - noise), target=1, method="free_energy", protocol=1)
    odd = probed(
        seeds, np.where(np.arange(COUNT + 1) < 9, 1e9, NAN), target=2, method="free_energy", protocol=0
    )
    found, pure = told(dataclasses.replace(odd, energy_parts=again)), told(plain)
    assert found["free_energy"].spearman == pure["free_energy"].spearman
    assert found["loss"].checkpoints == COUNT


def test_what_cannot_be_told_says_why() -> None:
    few = np.where(np.arange(COUNT) < FEWEST - 1, QUALITY, NAN)
    found = told(family(free_energy=few, loss=few, trace=np.full(COUNT, 3.0)))
    assert found["free_energy"].reason == "4 checkpoints have both this score and a gain; 5 are needed."
    assert found["llc"].reason == "No checkpoint has this score."
    one = told(family(free_energy=np.where(np.arange(COUNT) < 1, QUALITY, NAN)))["free_energy"]
    assert one.reason == "1 checkpoint has both this score and a gain; 5 are needed."
    assert "of all 60 checkpoints that have a gain is the same" in str(found["trace"].reason)
    equal = evidence_of(np.zeros((9, 3)), probe=np.append(0.5, np.linspace(0, 1, 9)))
    assert "mean gain of all 9" in str(told(equal)["linear_probe"].reason)
    for one in (found["free_energy"], found["llc"], found["trace"], told(equal)["linear_probe"]):
        assert one.spearman is one.pearson is None
    plain = told(evidence_of(np.full((9, 3), NAN)))
    assert {one.reason for one in plain.values()} == {"No checkpoint has this score."}


def test_it_is_stored_as_text_and_the_same_each_time() -> None:
    evidence = family(free_energy=-QUALITY, llc=QUALITY)
    found = predictors(evidence, fit(evidence))
    assert from_bytes(to_bytes(found)) == found
    assert to_bytes(predictors(evidence, fit(evidence))) == to_bytes(found)
    assert from_bytes(to_bytes(page.UNFITTED)) == page.UNFITTED


@pytest.mark.parametrize("name", [*GAINS, *ODD])
def test_odd_evidence_makes_no_odd_page(name: str) -> None:
    evidence = ODD[name]() if name in ODD else evidence_of(GAINS[name])
    size = len(evidence.checkpoint_ids)
    if len(evidence.target_ids):
        values = np.append(NAN, 1e30 * np.random.default_rng(0).normal(size=size - 1))
        evidence = probed(evidence, values, target=0, method="free_energy")
    found = predictors(evidence, fit(evidence))
    assert from_bytes(to_bytes(found)) == found
    for one in found:
        assert (one.reason is None) == (one.spearman is not None) == (one.pearson is not None)
        for told_of in (one.spearman, one.pearson):
            assert told_of is None or -1 <= told_of.low <= told_of.high <= 1
