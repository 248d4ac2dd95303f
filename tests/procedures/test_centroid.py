"""What the procedure `centroid` asks of a workbench, and which mixtures it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from headstart.failures import CheckpointNotFound
from headstart.procedures import PROCEDURES
from headstart.procedures.centroid import CENTROID, CentroidParams, Told, run
from headstart.workbench import Briefing
from tests.fake_bench import CHECKPOINT, FakeBench, FakeFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstart.entities import Checkpoint

THREE = {"family": "f", "name": "me/centroid", "candidates": (1, 2, 3, 4), "weights": (0.25, 0.25, 0.5)}


@dataclass
class MixingBench(FakeBench):
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def keep_mixture(
        self,
        name: str,
        members: Sequence[Checkpoint],
        weights: Sequence[float],
        vanilla: Checkpoint,
        card: dict[str, Any],
    ) -> dict[str, Any]:
        self.asked.append((name, [one.id for one in members], tuple(weights), vanilla.id, card))
        return {"name": name, "path": "/kept/me--centroid", "digest": "sha256:1"}


def bench(*ids: int) -> MixingBench:
    candidates = tuple(replace(CHECKPOINT, id=one, name=f"me/{one}", is_vanilla=one == 1) for one in ids)
    return MixingBench(found=FakeFeatures({}, None), briefing=Briefing(candidates=candidates))


def test_the_first_candidate_is_the_vanilla_and_the_others_are_mixed() -> None:
    made = bench(1, 2, 3, 4)
    told = Told(rule="region", region=2, target="films", left_out=("me/5: tuned on films",))
    result = run(made, CentroidParams(**THREE, told=told))
    ((name, members, weights, vanilla, card),) = made.asked
    assert (name, members, weights, vanilla) == ("me/centroid", [2, 3, 4], (0.25, 0.25, 0.5), 1)
    assert card == told.model_dump(mode="json")
    assert result["checkpoint"] == {"name": "me/centroid", "path": "/kept/me--centroid", "digest": "sha256:1"}
    assert result["members"][2] == {"id": 4, "name": "me/4", "weight": 0.5}
    assert (result["family"], result["region"], result["left_out"]) == ("f", 2, ("me/5: tuned on films",))


def test_a_member_that_has_gone_is_named() -> None:
    with pytest.raises(CheckpointNotFound, match="holds no checkpoint 3, which the mixture"):
        run(bench(1, 2, 4), CentroidParams(**THREE))


def test_a_mixture_may_lie_beyond_its_members_and_hold_the_vanilla() -> None:
    params = CentroidParams(**THREE | {"candidates": (1, 2, 1), "weights": (1.5, -0.5)})
    made = bench(1, 2)
    run(made, params)
    assert made.asked[0][1:4] == ([2, 1], (1.5, -0.5), 1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"weights": (0.5, 0.5)}, "There are 3 members and 2 weights"),
        ({"weights": (0.5, 0.25, 0.5)}, r"sum to 1\.25, not to 1"),
        ({"weights": (0.5, 0.5, 1e-5)}, "not to 1"),
        ({"weights": (1.0, 0.0, 0.0)}, "and there is 1: it would be a copy"),
        ({"candidates": (1, 2), "weights": (1.0,)}, "at least 2 members"),
        ({"candidates": (1,), "weights": ()}, "and there are 0"),
        ({"candidates": (1, 2, 3, 2)}, "Checkpoint 2 is named twice"),
        ({"weights": (200.0, -199.5, 0.5)}, "A weight is 200: at most 100"),
        ({"weights": (float("nan"), 0.5, 0.5)}, "finite number"),
        ({"name": "../up"}, "NAME or OWNER/NAME"),
        ({"told": {"why": "x"}}, "Extra inputs"),
    ],
)
def test_what_makes_no_mixture_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        CentroidParams(**THREE | changes)


def test_weights_that_were_rounded_will_do() -> None:
    assert CentroidParams(**THREE | {"weights": (1 / 3, 1 / 3, 1 / 3)}).members == (2, 3, 4)
    assert CentroidParams(**THREE | {"weights": (0.3333333, 0.3333333, 0.3333333)}).weights[0] == 0.3333333


def test_it_is_listed_and_needs_no_gpu_and_no_rows() -> None:
    assert PROCEDURES["centroid"] is CENTROID
    assert (CENTROID.queue, CENTROID.needs_rows) == ("cpu", False)
