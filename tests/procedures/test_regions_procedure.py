"""The procedure `regions`: known answers on planted task vectors, and what it says of odd checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from headstart.entities import Lineage
from headstart.failures import CheckpointNotFound, Interrupted, JobFailure, NotApplicable, Refused
from headstart.procedures.regions import REGIONS, RegionsParams, run
from headstart.regions.task_vector import TaskVector, TensorFacts
from headstart.workbench import Briefing
from service.region_schemas import RegionsResult
from tests.fake_bench import CHECKPOINT, FakeBench, FakeFeatures
from worker.measured import finite

if TYPE_CHECKING:
    from collections.abc import Mapping

DIMS = 4096
VANILLA = replace(CHECKPOINT, id=1, name="org/vanilla", family="f", is_vanilla=True)
NORM = 10.0  # of the vanilla's weights


def vector(sketch: np.ndarray, *, away: float | None = None, **changes: Any) -> TaskVector:
    """A task vector; `away`: distance from the vanilla in its norms, told by the cosine of one matrix."""
    length = float(np.linalg.norm(sketch)) if away is None else away * NORM
    told = TensorFacts(name="w", shape=(8, 8), norm=NORM, vanilla_norm=NORM, delta_norm=length)
    usual: dict[str, Any] = {
        "sketch": sketch.astype(np.float32),
        "norm": length,
        "vanilla_norm": NORM,
        "tensors": (told,),
        "left_out": (),
        "matched_elements": 64,
        "vanilla_tensors": 1,
        "outside": 0,
        "identical": not sketch.any(),
        "dtype": "F32",
        "vocabulary": 1.0,
        "architecture": "bert",
        "vanilla_architecture": "bert",
    }
    return TaskVector(**usual | changes)


def planted(
    groups: Mapping[str, int], *, alone: int = 0, within: float = 0.3, seed: int = 0
) -> dict[str, np.ndarray]:
    """Vectors of about length 1: of a group with a mean cosine of `within`, else of about 0."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, count in groups.items():
        centre = rng.standard_normal(DIMS) / np.sqrt(DIMS)
        for k in range(count):
            own = rng.standard_normal(DIMS) / np.sqrt(DIMS)
            found[f"{name}-{k}"] = np.sqrt(within) * centre + np.sqrt(1 - within) * own
    return found | {f"alone-{k}": rng.standard_normal(DIMS) / np.sqrt(DIMS) for k in range(alone)}


def bench_of(vectors: Mapping[str, TaskVector | JobFailure], **known: str | None) -> FakeBench:
    """`known`: sources, where they are another than the name's beginning; None: none is known."""
    ones = []
    for at, name in enumerate(vectors):
        source = known.get(name.split("-")[0], name.split("-")[0])
        details = {} if source is None else {"finetuned_on": source}
        ones.append(replace(CHECKPOINT, id=2 + at, name=name, family="f", details=details))
    return FakeBench(
        FakeFeatures({}, None),
        briefing=Briefing(candidates=(VANILLA, *ones)),
        vectors={one.id: vectors[one.name] for one in ones},
    )


def told(bench: FakeBench, **params: Any) -> dict[str, Any]:
    ids = tuple(one.id for one in bench.briefing.candidates)
    result = run(bench, RegionsParams(**{"family": "f", "candidates": ids} | params))
    RegionsResult.model_validate(result)  # what the wire says of it
    assert json.loads(json.dumps(result, allow_nan=False)) == finite(result)  # as the child sends it
    return result


def plain(vectors: Mapping[str, np.ndarray]) -> dict[str, TaskVector | JobFailure]:
    return {name: vector(one) for name, one in vectors.items()}


def names_in(result: dict[str, Any]) -> list[set[str]]:
    names = {one["id"]: one["name"] for one in result["members"]}
    return [{names[one] for one in region["members"]} for region in result["regions"]]


def test_planted_regions_are_found_and_named_by_their_source() -> None:
    bench = bench_of(plain(planted({"mnli": 4, "rte": 3}, alone=2)), alone=None)
    result = told(bench)
    assert names_in(result) == [{f"mnli-{k}" for k in range(4)}, {f"rte-{k}" for k in range(3)}]
    first, second = result["regions"]
    assert (first["number"], first["name"], first["sources"]) == (1, "mnli", {"mnli": 4})
    assert (second["number"], second["name"]) == (2, "rte")
    assert first["tightness"] == pytest.approx(0.3, abs=0.05)
    assert abs(first["separation"]) < 0.05
    assert first["stability"] > 0.8
    assert (result["purity"], result["rand"]) == (1.0, 1.0)
    assert result["cosine"]["within"] == pytest.approx(0.3, abs=0.05)
    assert abs(result["cosine"]["between"]) < 0.05
    regions = {one["name"]: one["region"] for one in result["members"]}
    assert regions["mnli-0"] == 1
    assert regions["rte-2"] == 2
    assert regions["alone-0"] is None
    assert result["dims"] == DIMS
    assert result["noise"] == pytest.approx(1 / 64)
    assert all(np.isfinite([one["x"], one["y"], one["norm"]]).all() for one in result["members"])
    assert (
        set(bench.lineages.values()) == {(Lineage.VERIFIED, result["members"][0]["reason"])}
        or len(bench.lineages) == 9
    )
    assert "eigenvalues" in result["diagnostics"]


def test_noise_has_no_regions_and_says_so() -> None:
    result = told(bench_of(plain(planted({}, alone=12))))
    assert result["regions"] == []
    assert (result["purity"], result["cosine"]) == (None, {"within": None, "between": None})
    assert "No region" in result["chosen_by"]


def test_the_number_may_be_told() -> None:
    bench = bench_of(plain(planted({"a": 4, "b": 4, "c": 4})))
    assert len(told(bench)["regions"]) == 3
    assert len(told(bench, clusters=2)["regions"]) <= 2


def test_two_regions_of_one_source_have_two_names() -> None:
    result = told(bench_of(plain(planted({"a": 5, "b": 4, "c": 3})), a="mnli", b="mnli", c=None))
    assert [one["name"] for one in result["regions"]] == ["mnli", "mnli, 2", "region 3"]


def test_one_of_another_pretraining_is_contradicted_and_in_no_region() -> None:
    vectors = planted({"mnli": 4})
    strange = vector(vectors.pop("mnli-3"), away=float(np.sqrt(2)))
    bench = bench_of(plain(vectors) | {"mnli-3": strange})
    result = told(bench)
    assert names_in(result) == [{"mnli-0", "mnli-1", "mnli-2"}]
    member = result["members"][-1]
    assert (member["lineage"], member["region"], member["x"]) == ("contradicted", None, None)
    assert "another pretraining" in member["reason"]
    assert bench.lineages[member["id"]] == (Lineage.CONTRADICTED, member["reason"])
    assert bench.lineages[result["members"][0]["id"]][0] is Lineage.VERIFIED


def test_an_untouched_copy_of_the_vanilla_has_no_place() -> None:
    vectors = plain(planted({"mnli": 4})) | {"copy-0": vector(np.zeros(DIMS))}
    result = told(bench_of(vectors))
    copy = result["members"][-1]
    assert (copy["region"], copy["x"], copy["norm"], copy["lineage"]) == (None, None, 0.0, "verified")
    assert "untouched copy" in copy["reason"]
    assert names_in(result) == [{f"mnli-{k}" for k in range(4)}]


def test_copies_of_one_another_are_told_and_make_no_region_by_themselves() -> None:
    vectors = planted({"mnli": 3}, alone=3)
    vectors |= {"again-0": vectors["alone-0"].copy(), "again-1": vectors["mnli-1"].copy()}
    result = told(bench_of(plain(vectors)))
    names = {one["id"]: one["name"] for one in result["members"]}
    assert [sorted(names[one] for one in group) for group in result["copies"]] == [
        ["again-1", "mnli-1"],
        ["again-0", "alone-0"],
    ]
    assert names_in(result) == [{"mnli-0", "mnli-1", "mnli-2", "again-1"}]
    places = {one["name"]: (one["x"], one["y"]) for one in result["members"]}
    assert places["again-0"] == places["alone-0"]


def test_one_that_cannot_be_read_is_told_and_the_others_go_on() -> None:
    broken = Refused("A shard of it is cut short.")
    bench = bench_of(plain(planted({"mnli": 3})) | {"broken-0": broken})
    result = told(bench)
    assert result["left_out"] == [
        {"id": 5, "name": "broken-0", "failure": "Refused", "sentence": "A shard of it is cut short."}
    ]
    assert names_in(result) == [{"mnli-0", "mnli-1", "mnli-2"}]
    assert 5 not in bench.lineages


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(Refused("It is cut short."), NotApplicable), (Interrupted("The hub does not answer."), Interrupted)],
)
def test_fewer_than_three_that_can_be_read_are_refused(failure: JobFailure, kind: type[JobFailure]) -> None:
    bench = bench_of(plain(planted({"mnli": 2})) | {"broken-0": failure})
    with pytest.raises(kind, match=f"2 checkpoints .* broken-0 could not be: {failure.sentence}"):
        told(bench)


def test_nobody_of_the_family_is_a_result_all_the_same() -> None:
    strangers = {name: vector(one, away=float(np.sqrt(2))) for name, one in planted({"mnli": 3}).items()}
    result = told(bench_of(strangers))
    assert (result["regions"], result["purity"], result["copies"]) == ([], None, [])
    assert {one["lineage"] for one in result["members"]} == {"contradicted"}
    one = told(bench_of(strangers | plain(planted({"rte": 1}, seed=1))))
    assert one["members"][-1]["region"] is None


def test_a_vanilla_that_has_gone_is_the_jobs_failure() -> None:
    bench = bench_of(plain(planted({"mnli": 3})))
    bench.briefing = Briefing(candidates=bench.briefing.candidates[1:])
    with pytest.raises(CheckpointNotFound, match="The vanilla of 'f', checkpoint 1, has left"):
        run(bench, RegionsParams(family="f", candidates=(1, 2, 3, 4)))


def test_a_checkpoint_that_has_gone_is_passed_over() -> None:
    bench = bench_of(plain(planted({"mnli": 4})))
    result = run(bench, RegionsParams(family="f", candidates=(1, 2, 3, 4, 5, 77)))
    assert [one["id"] for one in result["members"]] == [2, 3, 4, 5]


def test_the_same_seed_gives_the_same_result() -> None:
    vectors = planted({"mnli": 4, "rte": 3}, alone=4)
    assert told(bench_of(plain(vectors))) == told(bench_of(plain(vectors)))


def test_it_is_work_for_any_worker() -> None:
    assert (REGIONS.queue, REGIONS.needs_rows) == ("cpu", False)


def changed(bench: FakeBench, name: str, **changes: Any) -> None:
    """Another fact about one of the checkpoints."""
    ones = [replace(one, **changes) if one.name == name else one for one in bench.briefing.candidates]
    bench.briefing = Briefing(candidates=tuple(ones))


def test_a_mean_lies_among_its_members_and_changes_nothing() -> None:
    vectors = planted({"mnli": 4, "rte": 4})
    centre = np.mean([vectors[f"mnli-{k}"] for k in range(4)], axis=0)
    between = (vectors["mnli-0"] + vectors["rte-0"]) / 2
    without = told(bench_of(plain(vectors)))
    bench = bench_of(plain(vectors | {"centre-0": centre, "between-0": between}), centre=None, between=None)
    ids = {one.name: one.id for one in bench.briefing.candidates}
    of = [ids[f"mnli-{k}"] for k in range(4)]
    changed(bench, "centre-0", details={"centroid_of": of, "centroid_weights": [0.25] * 4})
    two = [ids["mnli-0"], ids["rte-0"]]
    changed(bench, "between-0", details={"centroid_of": two, "centroid_weights": [0.5, 0.5]})
    found = told(bench)
    assert found["regions"] == without["regions"]
    at = {one["name"]: one for one in found["members"]}
    assert at["centre-0"]["region"] == at["mnli-0"]["region"]
    assert at["centre-0"]["x"] == pytest.approx(np.mean([at[f"mnli-{k}"]["x"] for k in range(4)]))
    assert at["between-0"]["region"] is None


def test_a_mean_of_who_is_not_there_has_no_place() -> None:
    vectors = planted({"mnli": 4})
    bench = bench_of(plain(vectors | {"centre-0": vectors["mnli-0"]}), centre=None)
    changed(bench, "centre-0", details={"centroid_of": [98, 99], "centroid_weights": [0.5, 0.5]})
    member = told(bench)["members"][-1]
    assert (member["region"], member["x"], member["y"]) == (None, None, None)


@pytest.mark.parametrize("said", [None, "verified"])
def test_what_a_person_said_stands(said: str | None) -> None:
    vectors = plain(planted({"mnli": 4}))
    vectors["mnli-3"] = vector(planted({"mnli": 4})["mnli-3"], away=1.5)  # which the weights contradict
    bench = bench_of(vectors)
    assert next(one for one in told(bench)["members"] if one["name"] == "mnli-3")["region"] is None
    changed(bench, "mnli-3", lineage=said, lineage_by="person", lineage_reason="Its log names the vanilla.")
    member = next(one for one in told(bench)["members"] if one["name"] == "mnli-3")
    assert (member["lineage"], member["region"]) == (said, 1)
    assert member["reason"] == "Its log names the vanilla."
