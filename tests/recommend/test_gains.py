"""The robust vanilla, seed noise, and cells."""

import dataclasses

import numpy as np
import pytest

from headstart.recommend.gains import gain_cells, robust_scale, seed_noise, vanilla_levels
from tests.recommend.evidence_of import evidence_of


def test_the_level_is_the_median_and_shrugs_off_failed_runs() -> None:
    evidence = evidence_of(np.zeros((1, 2)))
    values = evidence.value.copy()
    failed = np.flatnonzero((evidence.checkpoint == 0) & (evidence.target == 1))[:3]
    values[failed] = 0.2
    found = vanilla_levels(dataclasses.replace(evidence, value=values))
    assert found.level[0] == pytest.approx(70)
    assert found.level[1] == pytest.approx(70, abs=0.2)
    assert found.noise[1] < 0.6
    assert found.runs.tolist() == [20, 20]


def test_seed_noise_is_shrunk_to_the_binomial() -> None:
    runs = np.full(20, 80.0)
    binomial = 100 * np.sqrt(0.8 * 0.2 / 277)
    assert seed_noise(runs, 277.0) == pytest.approx(np.sqrt(4 / 23) * binomial)
    assert seed_noise(runs[:1], 277.0) == pytest.approx(binomial)
    assert np.isnan(seed_noise(runs[:1], np.nan))


def test_cells_average_the_runs() -> None:
    evidence = evidence_of(np.array([[2.0, np.nan], [-1.0, 4.0]]), seeds=3)
    vanilla = vanilla_levels(evidence)
    cells = gain_cells(evidence, vanilla)
    assert list(zip(cells.checkpoint, cells.target, cells.runs, strict=True)) == [
        (1, 0, 3),
        (2, 0, 3),
        (2, 1, 3),
    ]
    np.testing.assert_allclose(cells.gain, [2.0, -1.0, 4.0], atol=1e-9)
    assert np.isnan(cells.stderr).all()


def test_a_told_standard_error_is_honoured() -> None:
    evidence = evidence_of(np.array([[2.0]]), seeds=4)
    stderr = np.where(evidence.checkpoint == 1, 0.01, np.nan)
    evidence = dataclasses.replace(evidence, stderr=stderr)
    cells = gain_cells(evidence, vanilla_levels(evidence))
    np.testing.assert_allclose(cells.stderr, [0.5])


def test_no_run_is_exact_whatever_it_tells() -> None:
    evidence = evidence_of(np.array([[2.0]]))
    evidence = dataclasses.replace(evidence, stderr=np.where(evidence.checkpoint == 1, 0.0, np.nan))
    vanilla = vanilla_levels(evidence)
    np.testing.assert_allclose(gain_cells(evidence, vanilla).stderr, vanilla.noise / 10)


def test_a_target_without_a_vanilla_run_has_no_gains() -> None:
    evidence = evidence_of(np.array([[2.0, 3.0]]))
    keep = ~((evidence.checkpoint == 0) & (evidence.target == 1))
    cut = {
        name: getattr(evidence, name)[keep]
        for name in ("checkpoint", "target", "protocol", "seed", "value", "stderr", "rows_tested", "created")
    }
    evidence = dataclasses.replace(evidence, **cut)
    vanilla = vanilla_levels(evidence)
    assert np.isnan(vanilla.level).tolist() == [False, True]
    assert gain_cells(evidence, vanilla).target.tolist() == [0]


def test_the_robust_scale_is_the_standard_deviation_and_forgives_a_wild_value() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 20_000)
    assert robust_scale(values) == pytest.approx(2.0, rel=0.03)
    assert robust_scale(np.append(values, 1e9)) == pytest.approx(2.0, rel=0.03)
    assert robust_scale(np.full(5, 7.0)) == 0
