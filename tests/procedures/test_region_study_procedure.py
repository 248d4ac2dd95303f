"""A region study on planted losses: points, draws, comparisons, and what a second attempt finds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError

from headstart.failures import CheckpointNotFound, NonFinite, NotApplicable, Refused
from headstart.generalised_loss import generalised_loss, log_losses
from headstart.methods.linear_probe import LinearProbeParams
from headstart.methods.linear_probe import run as probe
from headstart.procedures import PROCEDURES
from headstart.procedures.region_study import (
    FILE,
    REGION_STUDY,
    RegionStudyParams,
    hull_weights,
    line_pairs,
    run,
)
from headstart.workbench import Briefing, Cancelled
from tests.fake_bench import CHECKPOINT, FakeBench, FakeFeatures, fake_bench

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from headstart.entities import Checkpoint
    from headstart.workbench import FeatureSpec

INSIDE, OUTSIDE = (2, 3, 4), (5, 6)
STUDY: dict[str, Any] = {
    "family": "f",
    "candidates": (1, *INSIDE, *OUTSIDE),
    "inside": INSIDE,
    "hull_samples": 6,
    "pairs": 2,
    "line_points": (0.5, 1.5),
    "l2": (0.1, 0.01),
}
# a plane of weights in which the target's best place lies amid those inside
PLACES = {1: (3.0, 3.0), 2: (1.0, 0.0), 3: (-1.0, 0.0), 4: (0.0, 1.0), 5: (-2.5, -2.5), 6: (4.0, -1.0)}


def seen_from(place: np.ndarray) -> FakeFeatures:
    """Features that tell the classes worse the further the place is from the best one."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, 2, 300)
    x = draw.normal(size=(300, 3)) * 0.7
    x[:, 0] += (2 * y - 1) * np.exp(-0.5 * float(place @ place))
    return fake_bench(x, y, classes=2).found


@dataclass
class PlaneBench(FakeBench):
    """Checkpoints are places of a plane, and mixtures the weighted sums of places."""

    at: np.ndarray = field(default_factory=lambda: np.zeros(2))
    passes: list[tuple[float, ...]] = field(default_factory=list)
    mixtures: list[dict[int, float]] = field(default_factory=list)
    broken: dict[int, Exception] = field(default_factory=dict)
    most: int = 10_000

    def features(self, spec: FeatureSpec) -> FakeFeatures:
        if self.checkpoint.id in self.broken:
            raise self.broken[self.checkpoint.id]
        if len(self.passes) >= self.most:
            raise Cancelled
        self.passes.append(tuple(self.at))
        return seen_from(self.at)

    def on(self, checkpoint: Checkpoint, *, seed: int, **_: Any) -> PlaneBench:
        return replace(self, checkpoint=checkpoint, at=np.array(PLACES[checkpoint.id]))

    def mixed(
        self, members: Sequence[Checkpoint], weights: Sequence[float], vanilla: Checkpoint
    ) -> PlaneBench:
        assert vanilla.id == 1
        ids = [one.id for one in members]
        self.mixtures.append(dict(zip(ids, weights, strict=True)))
        folder = self.folder / f"mixed-{len(self.mixtures)}"
        folder.mkdir()
        at = np.asarray(weights) @ np.array([PLACES[one] for one in ids])
        return replace(self, checkpoint=replace(CHECKPOINT, id=0), at=at, folder=folder)


def bench(folder: Path, **changes: Any) -> PlaneBench:
    ids = (1, *INSIDE, *OUTSIDE)
    candidates = tuple(replace(CHECKPOINT, id=one, name=f"me/{one}") for one in ids)
    briefing = Briefing(candidates=candidates)
    return PlaneBench(found=FakeFeatures({}, None), folder=folder, briefing=briefing, **{"seed": 3} | changes)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], PlaneBench]:
    made = bench(tmp_path_factory.mktemp("study"))
    return run(made, RegionStudyParams(**STUDY)), made


def test_every_point_is_told_with_its_weights(studied: tuple[dict[str, Any], PlaneBench]) -> None:
    result, made = studied
    kinds = [one["kind"] for one in result["points"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "vanilla": 1,
        "inside": 3,
        "outside": 2,
        "centroid": 1,
        "hull": 6,
        "line": 8,
    }
    assert len(made.passes) == 1 + 3 + 2 + 1 + 6 + 2 * 2  # the ends of lines were measured before
    for one in result["points"]:
        assert sum(one["weights"]) == pytest.approx(1.0)
        assert one["loss"] > 0
        assert one["stderr"] > 0
        assert one["rows"] == 45
        assert 0.4 <= one["score"] <= 1
    (centroid,) = (one for one in result["points"] if one["kind"] == "centroid")
    assert (centroid["ids"], centroid["weights"]) == ([2, 3, 4], [1 / 3] * 3)
    assert list(made.folder.glob("mixed-*")) == []
    json.dumps(result)


def test_planted_losses_are_found(studied: tuple[dict[str, Any], PlaneBench]) -> None:
    result, _ = studied
    better = {(one["a"], one["b"]): one for one in result["better"]}
    assert better["hull", "outside"]["value"] == 1.0
    assert better["inside", "vanilla"]["value"] == 1.0
    assert better["hull", "inside"]["value"] > 0.8
    assert better["centroid", "inside"]["value"] == 1.0
    for one in better.values():
        assert 0.0 <= one["low"] <= one["value"] <= one["high"] <= 1.0
        assert one["low"] < 1.0  # of so few models nothing is certain
    curve = result["curve"]
    assert curve["positions"] == (0.0, 0.5, 1.0, 1.5)
    assert curve["excess"][1]["value"] < 0 < curve["excess"][3]["value"]
    assert [line["loss"][1] < min(line["loss"][0], line["loss"][2]) for line in result["lines"]] == [True] * 2
    assert result["left_out"] == []
    assert result["names"]["5"] == "me/5"


def test_the_same_seed_gives_the_same_study_and_another_other_points(
    studied: tuple[dict[str, Any], PlaneBench], tmp_path: Path
) -> None:
    def lasting(result: dict[str, Any]) -> dict[str, Any]:
        points = [{k: v for k, v in one.items() if k != "seconds"} for one in result["points"]]
        return result | {"points": points}

    again = run(bench(tmp_path), RegionStudyParams(**STUDY))
    assert lasting(again) == lasting(studied[0])
    (tmp_path / "other").mkdir()
    other = run(bench(tmp_path / "other", seed=4), RegionStudyParams(**STUDY))
    hulls = [[one["weights"] for one in each["points"] if one["kind"] == "hull"] for each in (again, other)]
    assert hulls[0] != hulls[1]


def test_a_second_attempt_measures_only_what_the_first_had_not(
    studied: tuple[dict[str, Any], PlaneBench], tmp_path: Path
) -> None:
    with pytest.raises(Cancelled):
        run(bench(tmp_path, most=9), RegionStudyParams(**STUDY))
    assert len(json.loads((tmp_path / FILE).read_text())["known"]) == 9
    for left in tmp_path.glob("mixed-*"):
        left.rmdir()
    second = bench(tmp_path)
    result = run(second, RegionStudyParams(**STUDY))
    assert len(second.passes) == len(studied[1].passes) - 9
    assert [one["loss"] for one in result["points"]] == [one["loss"] for one in studied[0]["points"]]


def test_a_file_that_broke_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    result = run(bench(tmp_path), RegionStudyParams(**STUDY | {"hull_samples": 0, "pairs": 0}))
    assert (result["curve"], result["lines"]) == (None, [])
    assert "hull" not in {one["a"] for one in result["better"]}


def test_who_cannot_be_measured_is_left_out_and_told(tmp_path: Path) -> None:
    made = bench(tmp_path, broken={3: Refused("It is cut short."), 6: CheckpointNotFound("It has gone.")})
    result = run(made, RegionStudyParams(**STUDY))
    assert [(one["ids"], one["failure"]) for one in result["left_out"]] == [
        ([3], "Refused"),
        ([6], "CheckpointNotFound"),
    ]
    assert all(set(mixture) <= {2, 4} for mixture in made.mixtures)
    assert len(result["lines"]) == 1


def test_a_mixture_that_cannot_be_measured_leaves_its_place_empty(tmp_path: Path) -> None:
    result = run(bench(tmp_path, broken={0: NonFinite("It is NaN.")}), RegionStudyParams(**STUDY))
    assert {one["kind"] for one in result["left_out"]} == {"centroid", "hull", "line"}
    assert result["lines"][0]["loss"][1] is None
    assert result["curve"]["left_out"] == 2
    assert not list(tmp_path.glob("mixed-*"))
    json.dumps(result)


def test_the_vanilla_has_to_be_measured(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cut short"):
        run(bench(tmp_path, broken={1: Refused("It is cut short.")}), RegionStudyParams(**STUDY))


def test_a_region_of_one_has_no_inside(tmp_path: Path) -> None:
    broken = {one: Refused("It is cut short.") for one in (2, 3)}
    with pytest.raises(NotApplicable, match="Of the 3 members of the region 1 can be measured"):
        run(bench(tmp_path, broken=broken), RegionStudyParams(**STUDY))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"inside": (2,)}, "A region of 1 has no inside"),
        ({"inside": (2, 2)}, "A region of 1 has no inside"),
        ({"inside": (2, 9)}, "Checkpoint 9 is inside and no candidate"),
        ({"inside": (1, 2)}, "Checkpoint 1 is inside and no candidate behind the vanilla"),
        ({"candidates": (1, 2, 2)}, "named twice"),
        ({"line_points": (1000.0,)}, "at 1000 is too far out"),
        ({"hull_samples": 500, "pairs": 100, "line_points": tuple(n / 50 for n in range(50))}, "over 2000"),
        ({"hull_samples": -1}, "greater than or equal to 0"),
    ],
)
def test_what_makes_no_study_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RegionStudyParams(**STUDY | changes)


def test_pairs_are_spread_over_the_members() -> None:
    members = list(range(6))
    pairs = line_pairs(members, 3, seed=0)
    assert sorted(one for pair in pairs for one in pair) == members
    assert sorted(line_pairs(members, 99, seed=1)) == list(combinations(members, 2))
    assert line_pairs(members, 3, seed=0) == pairs != line_pairs(members, 3, seed=1)


def test_hull_weights_are_of_the_simplex() -> None:
    drawn = np.array(hull_weights(4, 2000, seed=0))
    assert drawn.shape == (2000, 4)
    assert np.all(drawn > 0)
    np.testing.assert_allclose(drawn.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(drawn.var(axis=0), 3 / 80, rtol=0.15)  # of Dirichlet(1): (k - 1) / k^2 (k + 1)
    assert hull_weights(4, 0, seed=0) == []


def test_the_loss_is_that_of_the_linear_probe_of_the_same_strengths() -> None:
    found = seen_from(np.zeros(2))
    made = generalised_loss(found, "accuracy", [1.0, 0.1])
    scored = probe(FakeBench(found), LinearProbeParams(l2=(1.0, 0.1), permutations=1))
    assert (made.score, made.l2, made.rows) == (scored.value, scored.details["l2"], scored.rows_tested)


def test_features_that_say_nothing_have_the_loss_of_the_shares_of_the_classes() -> None:
    draw = np.random.default_rng(1)
    y = draw.integers(0, 4, 4000)
    found = fake_bench(draw.normal(size=(4000, 5)), y, classes=4).found
    made = generalised_loss(found, "accuracy", [1.0, 0.1])
    assert made.loss == pytest.approx(np.log(4), abs=0.02)
    assert made.stderr < 0.02


def test_a_regression_is_told_as_a_share_of_the_variance() -> None:
    draw = np.random.default_rng(2)
    x = draw.normal(size=(20_000, 4))
    y = x[:, 0] + draw.normal(size=20_000)
    made = generalised_loss(fake_bench(x, y, classes=None).found, "pearson", [0.1, 0.001])
    assert made.loss == pytest.approx(0.5, abs=0.06)
    assert made.score == pytest.approx(np.sqrt(0.5), abs=0.05)
    noise = generalised_loss(fake_bench(x, draw.normal(size=20_000), classes=None).found, "pearson", [0.1])
    assert noise.loss == pytest.approx(1.0, abs=0.03)


def test_test_rows_of_a_class_without_train_rows_count_as_wrong_and_not_in_the_loss() -> None:
    draw = np.random.default_rng(3)
    y = draw.integers(0, 2, 1000)
    x = draw.normal(size=(1000, 2))
    x[:, 0] += 6 * y
    y[-50:] = 2
    made = generalised_loss(fake_bench(x, y, classes=3).found, "accuracy", [0.001])
    assert made.loss < 0.1
    assert made.score == pytest.approx(2 / 3, abs=0.05)


def test_labels_that_are_all_the_same_are_not_applicable() -> None:
    x = np.random.default_rng(0).normal(size=(100, 2))
    with pytest.raises(NotApplicable, match="all 70 train rows read have the same"):
        generalised_loss(fake_bench(x, np.zeros(100, dtype=int), classes=2).found, "accuracy", [1.0])


def test_values_whose_squares_overflow_are_told_by_name() -> None:
    draw = np.random.default_rng(4)
    made = fake_bench(draw.normal(size=(100, 2)), 1e200 * draw.normal(size=100), classes=None)
    with pytest.raises(NonFinite, match="The generalised loss is not finite"):
        generalised_loss(made.found, "pearson", [1.0])


def test_log_losses_do_not_overflow() -> None:
    losses = log_losses(np.array([[1000.0, 0.0], [0.0, 1000.0], [0.0, 0.0]]), np.array([0, 0, 1]))
    np.testing.assert_allclose(losses, [0.0, 1000.0, np.log(2)])


def test_it_is_listed_and_waits_with_what_needs_features() -> None:
    assert PROCEDURES["region_study"] is REGION_STUDY
    assert (REGION_STUDY.queue, REGION_STUDY.needs_rows) == ("gpu", True)
