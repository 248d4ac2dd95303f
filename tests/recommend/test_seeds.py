"""Gains seed by seed: runs shared with the vanilla, duplicates, protocols, test sizes, told errors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from headstart.evidence.model_recycling import read_results
from headstart.evidence.source import FolderSource
from headstart.recommend.gains import Cells, Vanilla, compare, gain_cells, vanilla_levels
from tests.recommend.evidence_of import evidence_of
from tests.shared_data import MODEL_RECYCLING, needs_model_recycling

if TYPE_CHECKING:
    from headstart.recommend.evidence import FamilyEvidence

NAN = float("nan")
COLUMNS = ("checkpoint", "target", "protocol", "seed", "value", "stderr", "rows_tested", "created")


def evidence(runs: list[tuple[float, ...]], *, targets: int = 1, rows: float = NAN) -> FamilyEvidence:
    """Runs as (checkpoint, target, protocol, seed, points[, stderr in points[, rows tested]])."""
    table = np.array([(*run, *(NAN, NAN)[len(run) - 5 :]) for run in runs]).reshape(-1, 7)
    checkpoints = 1 + int(table[:, 0].max(initial=0))
    empty = evidence_of(np.full((checkpoints - 1, targets), NAN), vanilla_runs=0, rows_tested=rows)
    return dataclasses.replace(
        empty,
        **{name: table[:, i].astype(int) for i, name in enumerate(COLUMNS[:4])},
        value=table[:, 4] / 100,
        stderr=table[:, 5] / 100,
        rows_tested=table[:, 6],
        created=np.zeros(len(table)),
    )


def vanilla_runs(*points: float, protocol: int = 0, first: int = 0) -> list[tuple[float, ...]]:
    return [(0, 0, protocol, first + k, value) for k, value in enumerate(points)]


def candidate(*points: float, protocol: int = 0, first: int = 0) -> list[tuple[float, ...]]:
    return [(1, 0, protocol, first + k, value) for k, value in enumerate(points)]


TWENTY = tuple(70 + 0.4 * np.random.default_rng(5).normal(size=20))


def drawn(
    kappa: float, ours: range, theirs: range, seed: int, *, checkpoints: int = 12, targets: int = 24
) -> tuple[FamilyEvidence, np.ndarray]:
    """Runs of a family whose runs at one seed correlate by `kappa`, and the true gains."""
    rng = np.random.default_rng(seed)
    gains = 2 * rng.normal(size=(checkpoints + 1, targets))
    gains[0] = 0
    shared = np.sqrt(kappa) * rng.normal(size=(targets, 40))
    runs = []
    for c in range(checkpoints + 1):
        for t in range(targets):
            for s in ours if c else theirs:
                noise = shared[t, s] + np.sqrt(1 - kappa) * rng.normal()
                runs.append((c, t, 0, s, 70 + gains[c, t] + 0.5 * noise))
    return evidence(runs, targets=targets), gains


def errors(kappa: float, ours: range, theirs: range) -> tuple[float, float, float]:
    """Mean squared error, that of mean - median of all runs, and coverage of the 80 % interval."""
    paired, plain, covered = [], [], []
    for seed in range(6):
        family, gains = drawn(kappa, ours, theirs, seed)
        vanilla, cells = compare(family)
        truth = gains[cells.checkpoint, cells.target]
        variance = vanilla.noise**2 / 1.0
        stderr = np.sqrt(variance[cells.target] / cells.effective + vanilla.level_stderr[cells.target] ** 2)
        table = np.full(gains.shape, 0.0)
        np.add.at(table, (family.checkpoint, family.target), 100 * family.value / len(ours))
        paired.append((cells.gain - truth) ** 2)
        plain.append((table[cells.checkpoint, cells.target] - vanilla.level[cells.target] - truth) ** 2)
        covered.append(np.abs(cells.gain - truth) <= 1.2816 * stderr)
    return tuple(float(np.concatenate(found).mean()) for found in (paired, plain, covered))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(range(5), range(5)), (range(3), range(20)), (range(6), range(3)), (range(5), range(2, 8))],
    ids=["same seeds", "few of the vanilla's", "more than the vanilla's", "some of each"],
)
def test_a_shared_seed_takes_its_noise_out_and_costs_nothing_where_it_means_nothing(
    ours: range, theirs: range
) -> None:
    paired, plain, covered = errors(0.8, ours, theirs)
    assert paired < 0.6 * plain
    assert covered > 0.75
    paired, plain, covered = errors(0.0, ours, theirs)
    assert paired < 1.01 * plain
    assert covered == pytest.approx(0.8, abs=0.06)


def test_what_gains_have_in_common_is_told_apart_from_what_they_have_not() -> None:
    """Candidates at the same seeds share the seeds' noise, with the vanilla or without."""
    for ours, theirs in ((range(5), range(5)), (range(3), range(20))):
        own, common, told_own, told_common = [], [], [], []
        for seed in range(6):
            family, gains = drawn(0.8, ours, theirs, seed)
            vanilla, cells = compare(family)
            error = np.full(gains.shape, np.nan)
            error[cells.checkpoint, cells.target] = cells.gain - gains[cells.checkpoint, cells.target]
            own.append(error[1:].var(axis=0, ddof=1).mean())
            common.append((error[1:].mean(axis=0) ** 2).mean())
            told_own.append(np.mean(vanilla.noise[cells.target] ** 2 / cells.effective))
            told_common.append(np.mean(vanilla.level_stderr**2))
        assert 0.9 < np.mean(told_own) / np.mean(own) < 1.8
        assert 0.7 < np.mean(told_common) / np.mean(common) < 1.6


def test_intervals_cover_without_a_seed_in_common() -> None:
    for kappa in (0.0, 0.8):
        paired, plain, covered = errors(kappa, range(4), range(10, 30))
        assert paired == pytest.approx(plain)
        assert covered == pytest.approx(0.8, abs=0.06)


def test_the_same_seeds_give_the_mean_pairwise_difference_whatever_kappa() -> None:
    ours, theirs = np.array([71.0, 72.1, 70.8]), np.array([70.0, 70.9, 69.5])
    family = evidence(vanilla_runs(*theirs) + candidate(*ours))
    vanilla = vanilla_levels(family)
    for kappa in (0.0, 0.4, 0.9):
        cells = gain_cells(family, dataclasses.replace(vanilla, seed_correlation=kappa))
        assert cells.gain == pytest.approx([(ours - theirs).mean()])
        assert cells.effective == pytest.approx([3 / (1 - kappa)])


@pytest.mark.parametrize("theirs", [(66.0, 66.6), (66.0, 66.6, 65.5)])
def test_the_same_seeds_of_one_protocol_count_though_another_has_more_of_the_vanillas_runs(
    theirs: tuple[float, ...],
) -> None:
    ours = (67.0, 67.0, 66.9)[: len(theirs)]
    family = evidence(vanilla_runs(*TWENTY, protocol=1) + vanilla_runs(*theirs) + candidate(*ours))
    vanilla, cells = compare(family)
    assert cells.gain == pytest.approx([np.mean(ours) - np.mean(theirs)])
    assert vanilla.level[0] == pytest.approx(np.median(TWENTY + theirs))


def test_one_run_of_either_protocol_is_compared_with_its_own() -> None:
    runs = vanilla_runs(66.0) + vanilla_runs(70.0, protocol=1) + candidate(67.0)
    assert compare(evidence(runs))[1].gain == pytest.approx([1.0])


def test_a_shift_between_protocols_is_no_seed_noise() -> None:
    shifted = vanilla_runs(*TWENTY) + vanilla_runs(*(value - 5 for value in TWENTY), protocol=1)
    alone = compare(evidence(vanilla_runs(*TWENTY)))[0].noise[0]
    assert compare(evidence(shifted))[0].noise[0] == pytest.approx(alone, rel=0.05)


def test_a_lone_run_does_not_outvote_several_of_another_protocol() -> None:
    family = evidence(vanilla_runs(*TWENTY, protocol=1) + vanilla_runs(66.0) + candidate(71.0))
    vanilla, cells = compare(family)
    assert cells.gain == pytest.approx([71.0 - np.median((*TWENTY, 66.0))])
    assert cells.effective == pytest.approx([1.0])
    assert vanilla.level_stderr[0] ** 2 == pytest.approx(np.pi / 2 * vanilla.noise[0] ** 2 / 21)


def test_a_protocol_that_the_vanilla_never_ran_is_compared_with_all_its_runs() -> None:
    cells = compare(evidence(vanilla_runs(*TWENTY) + candidate(71.0, 71.4, protocol=7)))[1]
    assert cells.gain == pytest.approx([71.2 - np.median(TWENTY)])
    assert cells.effective == pytest.approx([2.0])


def test_a_failed_run_of_the_vanilla_is_no_partner_and_takes_the_candidates_along() -> None:
    healthy = evidence(vanilla_runs(70.0, 70.4, 69.8, 70.2) + candidate(72.0, 72.1, 71.8, 72.4))
    failed = evidence(vanilla_runs(70.0, 70.4, 69.8, 44.0) + candidate(72.0, 72.1, 71.8, 45.0))
    spared = evidence(vanilla_runs(70.0, 70.4, 69.8, 44.0) + candidate(72.0, 72.1, 71.8, 72.4))
    one_seed = evidence(vanilla_runs(70.0, 70.4, 69.8, 44.0) + candidate(72.0, first=3))
    assert compare(healthy)[1].gain == pytest.approx([2.0], abs=0.1)
    for family in (failed, spared):
        cells = compare(family)[1]
        assert cells.gain == pytest.approx([(72.0 + 72.1 + 71.8 - 70.0 - 70.4 - 69.8) / 3])
        assert (cells.runs.tolist(), cells.effective.tolist()) == ([4], pytest.approx([3.0], rel=0.1))
    sharing = dataclasses.replace(vanilla_levels(one_seed), seed_correlation=0.9)
    assert gain_cells(one_seed, sharing).gain == pytest.approx([72.0 - 69.9])


def test_a_repeated_run_adds_nothing_and_another_seed_does() -> None:
    base = vanilla_runs(*TWENTY)
    once = compare(evidence(base + candidate(71.0)))[1]
    again = compare(evidence(base + candidate(71.0) * 2))[1]
    nearly = compare(evidence(base + candidate(71.0) + candidate(71.1)))[1]
    other = compare(evidence(base + candidate(71.0, 71.0)))[1]
    elsewhere = compare(evidence(base + candidate(71.0) + candidate(71.0, protocol=3)))[1]
    assert once.effective == pytest.approx([1.0])
    for repeated in (again, nearly, elsewhere):
        assert repeated.effective == pytest.approx([1.0])
        assert repeated.runs.tolist() == [1]
    assert again.gain == pytest.approx(once.gain)
    assert nearly.gain == pytest.approx(once.gain + 0.05)
    assert other.effective == pytest.approx([2.0])


def test_a_repetition_that_contradicts_widens() -> None:
    for other in (candidate(61.0), candidate(61.0, protocol=3)):
        vanilla, cells = compare(evidence(vanilla_runs(*TWENTY) + candidate(71.0) + other))
        assert cells.gain == pytest.approx([66.0 - np.median(TWENTY)])
        stderr = vanilla.noise[0] / np.sqrt(cells.effective[0])
        assert stderr == pytest.approx(5.0), "either of the two may be the right one"


def test_a_contradiction_does_not_spoil_the_other_seeds() -> None:
    family = evidence(vanilla_runs(*TWENTY) + candidate(71.0, 71.1, 70.9) + candidate(51.0))
    cells = compare(family)[1]
    assert cells.gain == pytest.approx([71.0 - np.median(TWENTY)], abs=0.2)
    assert 1.5 < cells.effective[0] < 2.1


def test_seeds_that_disagree_widen() -> None:
    vanilla, cells = compare(evidence(vanilla_runs(*TWENTY) + candidate(76.0, 66.0, first=30)))
    assert vanilla.noise[0] / np.sqrt(cells.effective[0]) == pytest.approx(5 / np.sqrt(2))


def test_a_test_split_of_its_own_changes_what_a_run_is_worth() -> None:
    def worth(rows: float, usual: float = 1000.0) -> float:
        family = evidence([*vanilla_runs(*TWENTY), (1, 0, 0, 30, 71.0, NAN, rows)], rows=usual)
        return float(compare(family)[1].effective[0])

    assert worth(NAN) == worth(1000) == pytest.approx(1)
    assert worth(250) == pytest.approx(0.25)
    assert worth(2000) == pytest.approx(2)
    assert worth(10**9) == pytest.approx(4), "training adds noise that no test split takes away"
    assert worth(1) == pytest.approx(1 / 400)
    assert worth(250, usual=NAN) == pytest.approx(1)
    mixed = [(1, 0, 0, 30, 75.0, NAN, 10), (1, 0, 0, 31, 71.0, NAN, 1000)]
    cells = compare(evidence(vanilla_runs(*TWENTY) + mixed, rows=1000.0))[1]
    assert cells.gain == pytest.approx([71 - np.median(TWENTY)], abs=0.1)


def test_the_usual_split_is_the_vanillas() -> None:
    theirs = [(*run, NAN, 500) for run in vanilla_runs(*TWENTY)]
    cells = compare(evidence([*theirs, (1, 0, 0, 30, 71.0, NAN, 500)], rows=4000.0))[1]
    assert cells.effective == pytest.approx([1.0])


def test_a_told_error_is_the_cells_and_a_half_told_one_counts_in_the_effective_runs() -> None:
    base = vanilla_runs(*TWENTY)
    told = evidence([*base, (1, 0, 0, 30, 71.0, 1.0), (1, 0, 0, 31, 71.0, 1.0)])
    vanilla, cells = compare(told)
    assert cells.stderr == pytest.approx([1 / np.sqrt(2)])
    assert vanilla.noise[0] / np.sqrt(cells.effective) == pytest.approx(cells.stderr)
    again = evidence([*base, (1, 0, 0, 30, 71.0, 1.0), (1, 0, 0, 30, 71.0, 1.0)])
    assert compare(again)[1].stderr == pytest.approx([1.0])
    apart = evidence([*base, (1, 0, 0, 30, 71.0, 1.0), (1, 0, 0, 30, 61.0, 1.0)])
    assert compare(apart)[1].stderr == pytest.approx([5.0])
    half = compare(evidence([*base, (1, 0, 0, 30, 71.0, 1.0), (1, 0, 0, 31, 71.0)]))[1]
    assert np.isnan(half.stderr).all()
    assert half.effective == pytest.approx([1 + vanilla.noise[0] ** 2])


def test_the_order_of_rows_changes_nothing() -> None:
    family, _ = drawn(0.6, range(4), range(1, 6), 3)
    order = np.random.default_rng(0).permutation(len(family.value))
    shuffled = dataclasses.replace(family, **{name: getattr(family, name)[order] for name in COLUMNS})
    for one, two in zip(compare(family), compare(shuffled), strict=True):
        for name in ("gain", "effective", "checkpoint", "level", "noise", "level_stderr"):
            if hasattr(one, name):
                np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-9)


def test_kappa_is_found_and_nothing_is_made_of_few_seeds() -> None:
    for kappa in (0.0, 0.5, 0.9):
        found = [compare(drawn(kappa, range(5), range(5), seed)[0])[0].seed_correlation for seed in range(4)]
        assert np.mean(found) == pytest.approx(kappa, abs=0.12)
    one_pair = evidence(vanilla_runs(70.0, 71.0) + candidate(72.0, 73.0))
    assert compare(one_pair)[0].seed_correlation < 0.2
    single = evidence(vanilla_runs(*TWENTY) + candidate(72.0))
    assert compare(single)[0].seed_correlation == 0


@pytest.mark.parametrize(
    "runs",
    [
        [],
        vanilla_runs(70.0),
        candidate(70.0),
        vanilla_runs(70.0) + candidate(71.0),
        vanilla_runs(70.0, 70.0, 70.0) + candidate(70.0, 70.0, 70.0),
        vanilla_runs(0.0, 0.0) + candidate(100.0),
        vanilla_runs(-10.0, -9.0) + candidate(105.0),
        vanilla_runs(70.0, protocol=3) + candidate(71.0, protocol=2),
        vanilla_runs(70.0) + candidate(NAN, 71.0),
        [(0, 0, 0, 2**62, 70.0), (1, 0, 0, -5, 71.0, 0.0, 0.0), (1, 0, 0, 2**62, 71.0, np.inf, NAN)],
        vanilla_runs(*TWENTY) + candidate(*np.tile(TWENTY, 200)),
    ],
    ids=str,
)
@pytest.mark.parametrize("rows", [NAN, 0.0, 1.0, 500.0])
def test_odd_input_gives_numbers(runs: list[tuple[float, ...]], rows: float) -> None:
    family = evidence(runs, targets=2, rows=rows)
    for found in (family, dataclasses.replace(family, vanilla=None)):
        vanilla, cells = compare(found)
        _sane(vanilla, cells)
        _sane(vanilla_levels(found), gain_cells(found, vanilla))


@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_of_runs_gives_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 400))
    runs = np.column_stack(
        [
            rng.integers(0, 4, count),
            rng.integers(0, 3, count),
            rng.integers(0, 3, count),
            rng.integers(0, 6, count),
            rng.choice([0.0, 50.0, 70.0, 70.5, 71.0, 100.0, 130.0], count),
            rng.choice([NAN, 0.0, 0.1, 3.0, 1e300], count),
            rng.choice([NAN, 0.0, 1.0, 100.0, 1e9], count),
        ]
    )
    family = evidence([tuple(run) for run in runs], targets=3, rows=float(rng.choice([NAN, 100.0])))
    vanilla = vanilla_levels(family)
    _sane(*compare(family))
    for kappa in (0.0, 0.5, 0.95):
        _sane(vanilla, gain_cells(family, dataclasses.replace(vanilla, seed_correlation=kappa)))


@needs_model_recycling
def test_published_gains_are_single_runs_over_the_median_of_all_vanilla_runs() -> None:
    source = FolderSource(MODEL_RECYCLING, 1 << 30)
    batch = read_results(source, max_rows=1_000_000, progress=lambda *_: None)
    family = "bert-base-cased"
    row = {family: 0}
    column = {t.name: i for i, t in enumerate(batch.targets)}
    runs = [
        (
            row.setdefault(s.checkpoint, len(row)),
            column[s.target],
            int(s.params["table"] == "pretrain"),
            s.seed,
            100 * s.value,
        )
        for s in batch.scores
        if s.family == family and s.method == "finetune" and s.quarantine is None
    ]
    vanilla, cells = compare(evidence(runs, targets=len(column)))
    medians = np.array(
        [np.median([run[4] for run in runs if run[0] == 0 and run[1] == t]) for t in column.values()]
    )
    np.testing.assert_allclose(vanilla.level, medians)
    expected = {(run[0], run[1]): run[4] - medians[run[1]] for run in runs if run[0] > 0}
    assert len(expected) == len(cells.gain) > 8000
    found = zip(cells.checkpoint.tolist(), cells.target.tolist(), strict=True)
    np.testing.assert_allclose(cells.gain, [expected[pair] for pair in found], atol=1e-9)
    np.testing.assert_allclose(cells.effective, 1)
    assert vanilla.seed_correlation == 0


def _sane(vanilla: Vanilla, cells: Cells) -> None:
    run = vanilla.runs > 0
    assert (np.isfinite(vanilla.level) == run).all()
    assert (vanilla.noise[run] > 0).all()
    assert (vanilla.level_stderr[run] > 0).all()
    assert np.isnan(vanilla.level_stderr[~run]).all()
    assert np.isfinite(cells.gain).all()
    assert (cells.effective > 0).all()
    assert np.isfinite(cells.effective).all()
    assert (cells.runs > 0).all()
