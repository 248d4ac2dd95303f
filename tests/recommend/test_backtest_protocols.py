"""The protocols with engines that know everything, nothing, or what a forecast should be."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from headstart.recommend.backtest.assemble import report
from headstart.recommend.backtest.cold_checkpoint import Fold
from headstart.recommend.backtest.cold_target import best_of_random, cold_target
from headstart.recommend.backtest.held_out import held_out_cells, reliability
from headstart.recommend.backtest.material import authors, material_of, without_cells
from headstart.recommend.backtest.sequence import drawn_worlds, normal_maximum, sequence, walk
from headstart.recommend.backtest.study import done, lacking, prepared, tasks
from headstart.recommend.backtest.warm_target import warm_target
from tests.recommend.backtest_world import NOISE, Fixed, FixedFit, world

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstart.recommend.backtest.material import Material
    from headstart.recommend.backtest.report import Place, Report
    from headstart.recommend.backtest.study import Study
    from headstart.recommend.evidence import FamilyEvidence

CANDIDATES = np.arange(1, 41)


def reported(study: Study) -> Report:
    return report(study, [(task, done(study, task)) for task in tasks(study)])


def value(found: Report, protocol: str, method: str, at: int = 0, step: int | None = None) -> float:
    asked = [one for one in found.comparisons if one.protocol == protocol and one.step == step]
    line = next(line for line in asked[at].lines if line.method == method)
    assert line.overall is not None
    return line.overall.value


def test_an_oracle_orders_a_cold_target_perfectly_and_its_opposite_the_other_way() -> None:
    material = world().material
    gains = np.nan_to_num(material.gains)
    rng = np.random.default_rng(0)
    for sign in (1, -1):
        fitted = Fixed(sign * gains).fit(material.evidence, ())
        found = cold_target(material, fitted, material.gains, CANDIDATES, 2, rng)
        assert found["order"]["headstart"] == pytest.approx(sign)
        ends = gains[1:, 2].max() if sign == 1 else gains[1:, 2].min()
        assert found["top 1"]["headstart"] == ends
        promised = 0.0 if sign == 1 else 2 * np.mean(np.sort(-gains[1:, 2])[-10:])
        assert found["promise"]["headstart"] == pytest.approx(promised)
    assert found["top 1"]["random"] == pytest.approx(gains[1:, 2].mean())


def test_an_engine_that_guesses_orders_nothing() -> None:
    material = world(checkpoints=200).material
    guess = Fixed(np.random.default_rng(5).normal(size=material.gains.shape))
    found = reported(prepared([material], guess, protocols=("p1", "p2")))
    assert value(found, "p1", "headstart") == pytest.approx(0.0, abs=0.06)
    assert value(found, "p2", "headstart") == pytest.approx(0.0, abs=0.2)
    assert value(found, "p1", "linear probe") > 0.4  # while the probe tells half


def test_an_oracle_is_perfect_in_every_order() -> None:
    material = world().material
    found = reported(prepared([material], Fixed(np.nan_to_num(material.gains)), protocols=("p1", "p2", "p3")))
    assert value(found, "p1", "headstart") == pytest.approx(1.0)
    assert value(found, "p1", "headstart", at=4) == pytest.approx(1.0)  # patchy
    assert value(found, "p2", "headstart") == pytest.approx(1.0)
    assert value(found, "p3", "headstart") > 0.95  # which looks at all targets, and the truth at the others
    assert value(found, "p1", "size") == 0.0  # unknown for all


class Drifting(Fixed):
    """An oracle whose every fit has a level and a scale of its own."""

    def fit(self, evidence: FamilyEvidence, others: Sequence[FamilyEvidence]) -> FixedFit:
        left = int(np.isfinite(material_of(evidence).gains).sum())
        return FixedFit(Fixed(self.gains * (1 + left % 5) + 10 * (left % 7)), evidence, tuple(others))


@pytest.mark.parametrize("protocol", ["p2", "p3"])
def test_the_level_of_a_fit_is_no_merit_of_what_it_leaves_out(protocol: str) -> None:
    material = world().material
    oracle, drifting = (
        reported(prepared([material], engine(np.nan_to_num(material.gains)), protocols=(protocol,)))
        for engine in (Fixed, Drifting)
    )
    for at in (0, 1):
        assert value(drifting, protocol, "headstart", at) == value(oracle, protocol, "headstart", at)
        assert value(drifting, protocol, "headstart", at) > 0.95


@dataclass
class Spy:
    """Keeps the evidence of every fit."""

    engine: Fixed
    fits: list[tuple[Material, list[Material]]] = field(default_factory=list)

    def fit(self, evidence: FamilyEvidence, others: Sequence[FamilyEvidence]) -> FixedFit:
        self.fits.append((material_of(evidence), [material_of(one) for one in others]))
        return self.engine.fit(evidence, others)


def spied(protocol: str) -> tuple[Study, Spy]:
    materials = [world(seed).material for seed in range(2)]
    spy = Spy(Fixed(np.nan_to_num(materials[0].gains)))
    return prepared(materials, spy, protocols=(protocol,)), spy


@pytest.mark.parametrize("protocol", ["p1", "p4", "p6"])
def test_a_left_out_target_is_seen_in_no_family(protocol: str) -> None:
    study, spy = spied(protocol)
    task = next(one for one in tasks(study) if one.part == 3)
    spy.fits.clear()  # of p6, the fit that worlds are drawn from
    assert done(study, task).found
    assert spy.fits
    for own, others in spy.fits:
        assert not own.measured[:, 3].any()
        assert own.measured.any()
        assert [one.measured[:, 3].any() for one in others] == [False]
        assert np.isfinite(own.noise[3])


@pytest.mark.parametrize(("protocol", "kept"), [("p2", 0), ("p3", 3)])
def test_a_left_out_checkpoint_keeps_what_the_protocol_says(protocol: str, kept: int) -> None:
    study, spy = spied(protocol)
    seen = np.zeros(41, dtype=int)
    for task in tasks(study):
        if task.family == 0 and task.by_author:
            found = done(study, task).found
            if not isinstance(found, Fold):  # more folds than authors
                continue
            own, (other,) = spy.fits.pop()
            assert set(own.measured.sum(axis=1)[found.rows]) == {kept}
            (gone,) = {own.evidence.checkpoint_names[row].split("/")[0] for row in found.rows}
            theirs = [name.split("/")[0] == gone for name in other.evidence.checkpoint_names]
            assert not other.measured[theirs].any()
            assert np.isfinite(own.probe[found.rows]).all()
            seen[found.rows] += 1
    assert seen.tolist() == [0, *[1] * 40]


@pytest.mark.parametrize(("protocol", "kept"), [("p2", 0), ("p3", 3)])
def test_an_author_held_out_is_gone_with_what_was_hardly_measured(protocol: str, kept: int) -> None:
    whole = world().material
    sparse = np.zeros(whole.gains.shape, dtype=bool)
    sparse[1:13, 2:] = True  # three checkpoints of each author keep two targets of eight
    material = material_of(without_cells(whole.evidence, sparse))
    spy = Spy(Fixed(np.nan_to_num(whole.gains)))
    study = prepared([material], spy, protocols=(protocol,))
    names, judged = authors(material.evidence), set()
    for task in tasks(study):
        found = done(study, task).found
        if not isinstance(found, Fold):
            continue
        own, _ = spy.fits.pop()
        theirs = np.array([name in {names[row] for row in found.rows} for name in names])
        others = np.setdiff1d(np.flatnonzero(theirs), found.rows)
        left = own.measured.sum(axis=1)
        assert set(left[found.rows]) == {kept}
        if task.by_author:
            judged |= set(found.rows.tolist())
            assert set(others) == {row for row in range(1, 13) if theirs[row]}
            assert not left[others].any()
            np.testing.assert_array_equal(own.gains[~theirs], material.gains[~theirs])
        else:
            assert left[1:13].tolist() == [2] * 12
    assert judged == set(range(13, 41))


def test_every_cell_is_held_out_once() -> None:
    study, spy = spied("p5")
    times = np.zeros((41, 8), dtype=int)
    for task in tasks(study):
        if task.family == 0:
            assert done(study, task).found is not None
            times += study.materials[0].measured & ~spy.fits.pop()[0].measured
    assert times[1:].min() == times.max() == 1


def test_a_correct_forecast_covers_and_scores_as_it_should() -> None:
    drawn = world(checkpoints=500, targets=10)
    material, half = drawn.material, np.repeat((np.arange(501) > 250)[:, None], 10, axis=1)
    cells = held_out_cells(Fixed(drawn.true, NOISE), material, (), half)
    shown = reliability(cells, "")
    assert shown.covers_80 == pytest.approx(0.8, abs=0.025)
    assert shown.covers_95 == pytest.approx(0.95, abs=0.015)
    assert cells.crps.mean() == pytest.approx(NOISE / np.sqrt(np.pi), rel=0.04)
    assert max(abs(one.level - one.share) for one in shown.levels) < 0.03
    assert max(abs(one.forecast - one.rate) for one in shown.beats) < 0.08
    assert cells.crps.mean() < cells.crps_normal.mean()
    sure = held_out_cells(Fixed(drawn.true, NOISE / 3), material, (), half)
    assert reliability(sure, "").covers_80 < 0.4


def test_what_is_expected_too_much_of_is_seen_at_its_place() -> None:
    drawn = world(checkpoints=500, targets=10)
    material, half = drawn.material, np.repeat((np.arange(501) > 250)[:, None], 10, axis=1)

    def places(expected: np.ndarray) -> dict[str, Place]:
        cells = held_out_cells(Fixed(expected, NOISE), material, (), half)
        return {one.name: one for one in reliability(cells, "").places}

    honest = places(drawn.true)
    assert honest["the first"].cells == 10
    assert sum(one.cells for name, one in honest.items() if not name.startswith("the first")) == 2500
    for one in honest.values():
        assert abs(one.measured - one.expected) < 4 * max(one.error_stderr, 0.05)
    top = np.quantile(drawn.true, 0.95)
    cursed = places(np.where(drawn.true > top, drawn.true + 2 * NOISE, drawn.true))
    assert cursed["the first"].measured - cursed["the first"].expected < -NOISE
    assert cursed["the first three"].covers_80 < 0.5 < cursed["second to fifth"].covers_80
    assert abs(cursed["last tenth"].measured - cursed["last tenth"].expected) < 0.3 * NOISE


def test_the_best_of_random_draws_is_exact() -> None:
    values = np.array([3.0, -1.0, 7.0, 0.5, 2.0])
    for count in range(1, 6):
        brute = np.mean([max(some) for some in combinations(values, count)])
        assert best_of_random(values, count) == pytest.approx(brute)
    assert best_of_random(values, 9) == 7.0


def test_the_best_of_normal_draws_is_the_tables() -> None:
    assert normal_maximum(1) == 0.0
    assert normal_maximum(2) == pytest.approx(1 / np.sqrt(np.pi), abs=1e-6)
    assert normal_maximum(10) == pytest.approx(1.53875, abs=1e-4)


def test_a_policy_that_knows_finds_the_best_at_once() -> None:
    material = world().material
    gains = np.nan_to_num(material.gains)
    fitted = Fixed(gains).fit(material.evidence, ())
    found = sequence(material, fitted, material.gains, CANDIDATES, 1, np.random.default_rng(0))
    assert found["found 1"]["headstart"] == gains[1:, 1].max()
    assert found["found 10"]["headstart, the one it keeps"] == gains[1:, 1].max()
    assert found["found 10"]["vanilla again"] == pytest.approx(1.53875 * material.noise[1], abs=1e-3)
    assert found["found 1"]["random"] == pytest.approx(gains[1:, 1].mean())
    ours = walk(fitted, 1, CANDIDATES, gains[1:, 1])
    assert len(set(ours.tried.tolist())) == 10
    assert sequence(material, fitted, material.gains, CANDIDATES[:10], 1, np.random.default_rng(0)) == {}


def test_the_best_measured_overstates_what_it_truly_gains() -> None:
    drawn = world()
    fitted = Fixed(drawn.true, sd=3.0).fit(drawn.material.evidence, ())
    found = drawn_worlds(fitted, fitted, CANDIDATES, 1, np.random.default_rng(0))
    assert found["optimism 10"]["posterior mean of the pick"] == pytest.approx(0.0)
    assert found["optimism 10"]["best measured"] > 1.0
    assert found["true 10"]["posterior mean of the pick"] == pytest.approx(drawn.true[:, 1].max())


def test_a_warm_order_of_what_is_known_already_gains_nothing() -> None:
    material = world().material
    fitted = Fixed(np.nan_to_num(material.gains)).fit(material.evidence, ())
    found = warm_target(material, fitted, CANDIDATES, 1, np.random.default_rng(0))
    assert len(found) == 4
    for values in found.values():
        assert list(values.values()) == pytest.approx([1.0, 1.0])
    assert warm_target(material, fitted, CANDIDATES[:7], 1, np.random.default_rng(0)) == {}


def test_nothing_depends_on_the_order_of_the_tasks() -> None:
    materials = [world(seed).material for seed in range(2)]
    study = prepared(materials, Fixed(np.nan_to_num(materials[0].gains)))
    todo = tasks(study)
    results = [(task, done(study, task)) for task in todo]
    again = [(task, done(study, task)) for task in reversed(todo)]
    one, two = report(study, results), report(study, again)
    assert one.comparisons == two.comparisons
    assert one.reliability == two.reliability
    assert {asked.protocol for asked in one.comparisons} == set(study.protocols)
    assert set(one.seconds) == {"fit", *study.protocols}


def test_another_seed_draws_otherwise() -> None:
    material = world().material
    engine = Fixed(np.nan_to_num(material.gains))
    one, two = (reported(prepared([material], engine, protocols=("p3",), seed=seed)) for seed in (0, 1))
    assert one.comparisons != two.comparisons


def test_evidence_too_small_is_said_and_not_measured() -> None:
    small = world(checkpoints=6, targets=4).material
    assert set(lacking(small)) == {"p2", "p3", "p4", "p5", "p6"}
    found = reported(prepared([small], Fixed(np.nan_to_num(small.gains))))
    assert {one.protocol for one in found.comparisons} == {"p1"}
    (note,) = found.notes
    assert note.startswith("base is too small: for p4 it has 6 finetuned checkpoints on a target at most (")
    assert "; for p2, p3 it has 6 checkpoints with a mean gain to be trusted (10 are needed); for p5 " in note
    none = material_of(world(checkpoints=1, targets=1).material.evidence)
    assert lacking(none)["p5"].startswith("1 measured gain (")
    assert lacking(none)["p2"].startswith("1 checkpoint with ")
    assert set(lacking(none)) == {"p1", "p2", "p3", "p4", "p5", "p6"}
    empty = reported(prepared([none], Fixed(np.nan_to_num(none.gains))))
    assert empty.comparisons == ()


def test_only_the_families_asked_for_are_measured() -> None:
    materials = [world(seed).material for seed in range(2)]
    engine = Fixed(np.nan_to_num(materials[0].gains))
    assert prepared(materials, engine, families=("base",), protocols=("p1",)).families == (0, 1)
    assert prepared(materials, engine, families=("other",), protocols=("p1",)).families == ()
