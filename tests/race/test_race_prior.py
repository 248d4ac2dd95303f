"""What is known of candidates before a race, and that nothing of the asked target's test rows is in it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from headstart.race.prior import (
    ON_TRAIN_ROWS,
    UNKNOWN_NOISE,
    UNKNOWN_SPREAD,
    Prior,
    ignorant,
    prior_of,
    without_target,
)
from headstart.recommend.evidence import PROBES
from tests.recommend.evidence_of import evidence_of, probed
from tests.recommend.model_world import targets_of, world_of

WORLD = world_of(targets_of(0, 12), 0, checkpoints=80)
EVIDENCE = WORLD.evidence()
ASKED = 503  # the fourth target
IDS = [100, *range(101, 113)]  # the vanilla first


@pytest.fixture(scope="module")
def prior() -> Prior:
    return prior_of(EVIDENCE, (), ASKED, IDS)


def test_it_knows_who_is_good_and_that_they_stand_or_fall_together(prior: Prior) -> None:
    assert prior.checkpoint_ids == tuple(IDS)
    assert prior.gain[0] == 0
    assert not prior.covariance[0].any()
    true = WORLD.true[:12, 3]
    assert np.corrcoef(prior.gain[1:], true)[0, 1] > 0.5
    error = (true - prior.gain[1:]) / np.sqrt(np.diag(prior.covariance)[1:])
    assert 0.3 < np.sqrt(np.mean(error**2)) < 2
    assert np.linalg.eigvalsh(prior.covariance).min() > -1e-9
    assert 0.1 < prior.noise < 5


def test_the_asked_targets_own_scores_change_nothing(prior: Prior) -> None:
    rng = np.random.default_rng(0)
    scrambled = EVIDENCE.value.copy()
    here = EVIDENCE.target == 3
    scrambled[here] = rng.random(here.sum())
    again = prior_of(replace(EVIDENCE, value=scrambled), (), ASKED, IDS)
    np.testing.assert_array_equal(prior.gain, again.gain)
    np.testing.assert_array_equal(prior.covariance, again.covariance)
    assert prior.noise == again.noise


def test_probes_of_the_target_stay_where_they_read_train_rows_alone() -> None:
    told = probed(probed(EVIDENCE, np.ones(81), target=3), np.ones(81), target=3, method="linear_probe")
    left = without_target(told, ASKED)
    assert not (left.target == 3).any()
    methods = np.array(told.probe_methods)[left.probe_method[left.probed_target == 3]]
    assert set(methods.tolist()) == {"logme"}
    assert {"free_energy", "linear_probe"} == set(PROBES) - ON_TRAIN_ROWS


def test_likeness_weighs_the_targets() -> None:
    sizes = np.full(12, 1000.0)
    sizes[:3] = 1e6
    classes = np.full(12, np.nan)
    small = prior_of(EVIDENCE, (), ASKED, IDS, sizes, classes)
    sizes[3] = 1e6
    large = prior_of(EVIDENCE, (), ASKED, IDS, sizes, classes)
    assert not np.allclose(small.gain, large.gain)


def test_odd_questions_get_an_answer_of_honest_width(prior: Prior) -> None:
    unknown_target = prior_of(EVIDENCE, (), 999, IDS)
    assert np.isfinite(unknown_target.covariance).all()
    strange = prior_of(EVIDENCE, (), ASKED, [100, 101, 5])
    np.testing.assert_allclose(strange.gain[:2], prior.gain[:2])
    assert strange.gain[2] == 0
    assert strange.covariance[2].tolist() == [0, 0, UNKNOWN_SPREAD**2]
    nothing = prior_of(evidence_of(np.full((3, 4), np.nan), vanilla_runs=0), (), 500, [100, 101, 102])
    assert np.isfinite(nothing.gain).all()
    assert nothing.covariance[1, 1] > 0
    assert nothing.noise == UNKNOWN_NOISE
    vanilla_only = prior_of(evidence_of(np.full((3, 4), np.nan)), (), 500, [100, 101])
    assert np.isfinite(vanilla_only.covariance).all()
    only_here = np.full((5, 4), np.nan)
    only_here[:, 0] = np.arange(5)
    dropped = prior_of(evidence_of(only_here), (), 500, [100, 101, 102])
    np.testing.assert_allclose(dropped.gain[1], dropped.gain[2])


def test_json_and_back(prior: Prior) -> None:
    again = Prior.from_dict(json.loads(json.dumps(prior.as_dict(), allow_nan=False)))
    assert again.checkpoint_ids == prior.checkpoint_ids
    np.testing.assert_array_equal(again.covariance, prior.covariance)
    assert (again.noise, again.noise_share) == (prior.noise, prior.noise_share)


def test_among_others() -> None:
    told = Prior(checkpoint_ids=(7, 8), gain=np.array([1.0, 2.0]), covariance=np.eye(2), noise=0.4)
    found = told.among([8, 9])
    assert found.gain.tolist() == [2.0, 0.0]
    assert np.diag(found.covariance).tolist() == [1.0, UNKNOWN_SPREAD**2]
    assert found.noise == 0.4
    assert ignorant([1]).gain.tolist() == [0.0]
    assert found.covariance[0, 1] == found.covariance[1, 0] == 0.0
