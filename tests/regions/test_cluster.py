"""Regions: what was planted is found, and nothing where nothing was."""

from __future__ import annotations

import numpy as np
import pytest
from planted import DIMS, planted, recovered

from headstart.failures import NonFinite
from headstart.regions.cluster import find_regions, regions_of
from headstart.regions.cosine import block_grams, cosine_matrix, cosine_of, summed


def found(sketches: np.ndarray, **asked: object):
    return find_regions(cosine_matrix(sketches), dims=sketches.shape[1], draws=2, **asked)


FAMILIES = {
    "five sources of three seeds": {"sizes": [3] * 5},
    "unequal, with lone ones": {"sizes": [20, 3, 7, 12, 4], "lone": 9},
    "tight": {"sizes": [5, 8, 3], "within": 0.6},
    "loose": {"sizes": [12, 9, 15], "within": 0.06, "lone": 4, "dims": 65_536},
    "one region": {"sizes": [10]},
    "one region, uneven": {"sizes": [15], "uneven": 0.6},
    "one region among lone ones": {"sizes": [6], "lone": 12},
    "two regions": {"sizes": [10, 10]},
    "two regions, uneven": {"sizes": [8, 12], "uneven": 0.6},
    "related tasks": {"sizes": [4] * 6, "tasks": [0, 0, 0, 1, 1, 1], "across": 0.03},
    "closely related": {"sizes": [15, 15], "tasks": [0, 0], "across": 0.1},
    "a drift that all share": {"sizes": [4, 4, 4], "lone": 4, "drift": 0.1},
    "a strong drift": {"sizes": [5, 5, 5], "within": 0.4, "drift": 0.3},
    "pairs": {"sizes": [2, 2, 2], "lone": 5},
    "twenty": {"sizes": [5] * 20, "lone": 10},
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_regions_are_recovered_and_lone_members_are_in_none(family: dict, seed: int) -> None:
    sketches, truth = planted(**family, seed=seed)
    assert recovered(found(sketches).labels, truth)


@pytest.mark.parametrize("count", [2, 3, 5, 15, 60, 200])
@pytest.mark.parametrize("dims", [1024, DIMS])
def test_noise_has_no_regions(count: int, dims: int) -> None:
    for seed in range(5):
        sketches, _ = planted([], lone=count, dims=dims, seed=seed)
        regions = found(sketches)
        assert regions.regions == ()
        assert (regions.labels == -1).all()
        assert regions.chosen_by.sentence.startswith("No region")


@pytest.mark.parametrize("clusters", [100, 500])
def test_far_too_many_that_are_asked_for_do_not_hide_those_there_are(clusters: int) -> None:
    sketches, truth = planted([50] * 4)
    assert recovered(found(sketches, clusters=clusters).labels, truth)


@pytest.mark.parametrize("clusters", [None, 1, 3, 40])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 6])
def test_sketches_of_zeros_are_in_no_region(count: int, clusters: int | None) -> None:
    made = regions_of(np.zeros((count, 64), np.float32), clusters=clusters, draws=2)
    assert (made.regions, made.coordinates.tolist()) == ((), [[0.0, 0.0]] * count)
    equal = regions_of(np.ones((count, 64), np.float32), clusters=clusters, draws=2)
    assert [len(one.members) for one in equal.regions] == [count] * (count > 1)


def test_cosines_that_are_wider_than_the_sketchs_error_are_no_regions() -> None:
    """Real task vectors move in few directions: unrelated ones are more alike than their sketches' error."""
    sketches, _ = planted([], lone=40, dims=1024)
    assert found(np.repeat(sketches, 16, axis=1)).regions == ()  # dims says 16 times as many


def test_a_lone_relative_of_a_region_is_not_in_it() -> None:
    sketches, truth = planted([6, 1], tasks=[0, 0], across=0.04, lone=5, seed=3)
    assert recovered(found(sketches).labels, np.where(truth == 1, -1, truth))


def test_the_paper_s_affinity_and_an_eigengap_would_not_have_told_the_number() -> None:
    """0.5 (M + 1) is nearly flat: the largest gap of its normalised Laplacian says one group."""
    sketches, truth = planted([6] * 5)
    cosine = cosine_matrix(sketches)
    affinity = 0.5 * (cosine + 1)
    scale = 1 / np.sqrt(affinity.sum(axis=1))
    values = np.linalg.eigvalsh(affinity * scale * scale[:, None])[::-1]
    assert np.argmax(values[:-1] - values[1:]) == 0
    assert recovered(find_regions(cosine, dims=DIMS, draws=1).labels, truth)


def test_the_order_of_checkpoints_and_the_scale_of_task_vectors_have_no_say() -> None:
    sketches, _ = planted([9, 6, 3], lone=4, tasks=[0, 0, 1], across=0.03)
    order = np.random.default_rng(0).permutation(len(sketches))
    scale = np.geomspace(1e-12, 1e12, len(sketches), dtype=np.float32)[:, None]
    first, second = found(sketches), found(sketches[order] * scale)
    assert np.array_equal(first.labels[order], second.labels)
    np.testing.assert_allclose(
        [region.tightness for region in first.regions],
        [region.tightness for region in second.regions],
        atol=1e-6,
    )


def test_the_same_again_to_the_bit() -> None:
    sketches, _ = planted([5, 4], lone=3)
    first, second = regions_of(sketches, draws=5), regions_of(sketches, draws=5)
    assert first.regions == second.regions
    assert first.chosen_by == second.chosen_by
    assert np.array_equal(first.coordinates, second.coordinates)


def test_a_region_says_who_is_in_it_how_tight_it_is_and_how_far_from_others() -> None:
    sketches, truth = planted([8, 5], within=0.3, tasks=[0, 0], across=0.06, dims=65_536)
    regions = found(sketches)
    large, small = regions.regions
    assert (large.number, small.number) == (0, 1)
    assert large.members == tuple(np.flatnonzero(truth == 0).tolist())
    assert small.members == tuple(np.flatnonzero(truth == 1).tolist())
    for region in regions.regions:
        assert region.tightness == pytest.approx(0.3, abs=0.01)
        assert region.separation == pytest.approx(0.06, abs=0.01)
    assert regions.within == pytest.approx(0.3, abs=0.01)
    assert regions.between == pytest.approx(0.06, abs=0.01)


def test_the_choice_is_explained() -> None:
    sketches, _ = planted([5, 5, 5], lone=3)
    why = found(sketches).chosen_by
    assert why.sentence.startswith("3 regions: ")
    assert "In none, being like no others: 3 of the 18 checkpoints" in why.sentence
    assert why.noise == pytest.approx(1 / np.sqrt(DIMS))
    assert sum(value > why.edge for value in why.eigenvalues) == 3
    assert any(start.regions == 3 and start.placed == 15 for start in why.starts)


def test_a_number_that_is_told_is_kept() -> None:
    sketches, truth = planted([5] * 4, tasks=[0, 0, 1, 1], across=0.1)
    task = found(sketches, clusters=2)
    assert recovered(task.labels, truth // 2)
    assert "2 were asked for" in task.chosen_by.sentence
    assert recovered(found(sketches, clusters=4).labels, truth)


def test_more_than_can_be_had_are_not_made_up() -> None:
    sketches, truth = planted([3, 3])
    assert len(found(sketches, clusters=50).regions) <= 3
    assert recovered(found(sketches, clusters=1).labels, np.zeros_like(truth))


ODD = {
    "none": np.zeros((0, 0)),
    "one": np.ones((1, 1)),
    "one that did not move": np.zeros((1, 1)),
    "two unlike": np.eye(2),
    "all unmoved": np.zeros((4, 4)),
    "opposite": 2 * np.eye(3) - 1,
}


@pytest.mark.parametrize("cosine", ODD.values(), ids=ODD)
def test_odd_families_have_no_regions_and_a_map(cosine: np.ndarray) -> None:
    regions = find_regions(cosine)
    assert regions.regions == ()
    assert regions.coordinates.shape == (len(cosine), 2)
    assert np.isfinite(regions.coordinates).all()


def test_copies_are_a_region() -> None:
    regions = find_regions(np.ones((4, 4)))
    (only,) = regions.regions
    assert (only.tightness, only.separation, only.stability) == (pytest.approx(1.0), 0.0, 1.0)


def test_the_cosine_is_that_of_the_sketches() -> None:
    rng = np.random.default_rng(0)
    sketches = (rng.normal(size=(7, 20_000)) + 0.3).astype(np.float32)
    unit = sketches.astype(np.float64) / np.linalg.norm(sketches.astype(np.float64), axis=1)[:, None]
    cosine = cosine_matrix(sketches)
    np.testing.assert_allclose(cosine, unit @ unit.T, atol=1e-6)
    assert np.array_equal(cosine, cosine.T)
    assert (np.diag(cosine) == 1).all()
    np.testing.assert_allclose(cosine_of(summed(block_grams(sketches))), cosine, atol=1e-6)


def test_a_task_vector_of_zeros_is_like_nothing_and_hurts_nobody() -> None:
    sketches, truth = planted([4, 4])
    with_zeros = np.vstack([sketches, np.zeros((2, DIMS), dtype=np.float32)])
    assert (cosine_matrix(with_zeros)[8:] == 0).all()
    assert recovered(regions_of(with_zeros, draws=2).labels, np.append(truth, [-1, -1]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_is_refused_by_row(value: float) -> None:
    sketches, _ = planted([3])
    sketches[1, 5] = value
    with pytest.raises(NonFinite, match="rows 1"):
        cosine_matrix(sketches)
