"""What is held out is out, and nothing else is."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from headstart.recommend.backtest.baselines import mean_gain, standardised_gain
from headstart.recommend.backtest.material import (
    CATALOGUE,
    FINETUNES,
    PATCHES,
    PROBED,
    author,
    authors,
    cut,
    material_of,
    patchy,
    well_measured,
    without_authors,
    without_cells,
    without_target,
)
from tests.recommend.backtest_world import world


def test_every_column_of_the_evidence_is_known_by_what_its_rows_are() -> None:
    evidence = world().material.evidence
    alike = {name: len(getattr(evidence, name)) for name in (*CATALOGUE, *FINETUNES, *PROBED)}
    assert {alike[name] for name in CATALOGUE} == {41}
    assert {alike[name] for name in FINETUNES} == {20 * 8 + 40 * 8}
    assert {alike[name] for name in PROBED} == {41}
    arrays = {one.name for one in fields(evidence) if isinstance(getattr(evidence, one.name), np.ndarray)}
    assert arrays == {*alike, "target_ids", "target_rows"}


def test_a_target_left_out_has_no_gains_and_keeps_its_vanilla() -> None:
    material = world().material
    left = material_of(without_target(material.evidence, "t3"))
    assert not left.measured[:, 3].any()
    assert left.noise[3] == pytest.approx(material.noise[3])
    others = np.delete(np.arange(8), 3)
    np.testing.assert_array_equal(left.gains[:, others], material.gains[:, others])
    same = without_target(material.evidence, "no such target")
    assert len(same.value) == len(material.evidence.value)


def test_hidden_cells_are_gone_and_the_others_are_not() -> None:
    material = world().material
    hidden = np.random.default_rng(1).random(material.gains.shape) < 0.3
    seen = material_of(without_cells(material.evidence, hidden)).gains
    np.testing.assert_array_equal(seen, np.where(hidden, np.nan, material.gains))


def test_an_authors_checkpoints_are_hidden_together() -> None:
    material = world().material
    names = authors(material.evidence)
    assert names[:3] == ("base", "author0", "author1")
    assert author("no-slash") == "no-slash"
    left = material_of(without_authors(material.evidence, {"author0"}))
    assert not left.measured[[name == "author0" for name in names]].any()
    assert left.measured.sum() == material.measured.sum() * 3 / 4


def test_patchy_keeps_as_many_as_the_patches_say() -> None:
    measured = np.ones((2000, 40), dtype=bool)
    measured[0] = False
    kept = (measured & ~patchy(measured, np.random.default_rng(0))).sum(axis=1)[1:]
    assert set(kept) == set(PATCHES)
    assert np.mean(kept == 0) == pytest.approx(0.3, abs=0.03)
    assert not patchy(np.zeros((3, 2), dtype=bool), np.random.default_rng(0)).any()


def test_a_cut_family_keeps_its_scores() -> None:
    material = world().material
    small = cut(material, 10, np.random.default_rng(0))
    names = small.evidence.checkpoint_names
    assert len(names) == 11
    assert names[small.evidence.vanilla or 0] == "base"
    at = [material.evidence.checkpoint_names.index(name) for name in names]
    np.testing.assert_allclose(small.gains, material.gains[at])
    assert np.isfinite(small.probe).all()
    whole = cut(material, 1000, np.random.default_rng(0))
    np.testing.assert_array_equal(whole.gains, material.gains)


def test_half_of_few_targets_is_well_measured() -> None:
    gains = np.full((3, 7), np.nan)
    gains[1, :4] = gains[2, :3] = 1.0
    gains[0, 4] = 1.0
    assert well_measured(gains).tolist() == [1, 2]
    assert well_measured(np.full((3, 7), np.nan)).tolist() == []


def test_baselines_by_hand() -> None:
    gains = np.array([[np.nan, np.nan], [1.0, np.nan], [3.0, 2.0]])
    assert mean_gain(gains).tolist() == [0.0, 1.0, 2.5]
    assert standardised_gain(gains).tolist() == [0.0, -1.0, 0.5]  # the second column has no spread
