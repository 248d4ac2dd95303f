"""The robust vanilla, seed noise, and cells."""

import dataclasses

import numpy as np
import pytest

from headstart.recommend.gains import gain_cells, probe_covariate, seed_noise, vanilla_levels
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


def test_the_probe_counts_from_the_vanilla() -> None:
    probe = np.array([0.55, 0.50, 0.55, 0.60, np.nan])
    found = probe_covariate(evidence_of(np.zeros((4, 1)), probe=probe))
    assert found[0] == 0
    assert found[1] == pytest.approx(-found[3])
    assert found[2] == 0
    assert np.isnan(found[4])


def test_an_unprobed_vanilla_is_replaced_by_the_median_probe() -> None:
    probe = np.array([np.nan, 0.50, 0.55, 0.60])
    found = probe_covariate(evidence_of(np.zeros((3, 1)), probe=probe))
    assert found[2] == 0
    assert np.isnan(probe_covariate(evidence_of(np.zeros((3, 1))))).all()
