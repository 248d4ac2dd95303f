"""POST /families/{name}/centroids: who is averaged, how much each counts, and what is refused."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import pytest
from job_service import claimed
from race_service import stored
from region_service import (
    FAMILY,
    HUB,
    NAMELESS,
    STRANGER,
    UNSEEN,
    found,
    id_of,
    path,
    regional,
    result_of,
    shared_region,
    without_jobs,
)

from headstart.entities import CheckpointDraft
from headstart.refit import refit_stale

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from live_service import Live

    from headstart.store import Store

MNLI = ("me/mnli-0", "me/mnli-1", "me/mnli-2")
RTE = ("me/rte-0", "me/rte-1")
ASKED: dict[str, Any] = {"name": "me/centre", "members": list(MNLI)}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with shared_region(tmp_path_factory.mktemp("regions")) as live:
        yield live


@pytest.fixture
def live(shared: Live) -> Live:
    return without_jobs(shared)


@pytest.fixture
def fresh(store: Store, tmp_path: Path) -> Iterator[Live]:
    """One to leave changed."""
    with regional(store, tmp_path) as live:
        yield live


def accepted(live: Live, **changes: Any) -> dict[str, Any]:
    answer = live.http.post(path("centroids"), json=_asked(changes))
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()["job"]
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    return job


def refused(live: Live, status: int, field: str, **changes: Any) -> str:
    problem = live.problem("POST", path("centroids"), status, json=_asked(changes))
    assert [one["field"] for one in problem["errors"]] == [field], problem
    return str(problem["errors"][0]["message"])


def _asked(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (ASKED | changes).items() if value is not None}


def members_of(live: Live, job: dict[str, Any]) -> list[str]:
    vanilla, *members = job["params"]["candidates"]
    assert vanilla == id_of(live, FAMILY)
    return [live.store.checkpoint(one).name for one in members]


def test_a_list_is_averaged_evenly_and_in_its_order(live: Live) -> None:
    job = accepted(live, members=[MNLI[2], id_of(live, MNLI[0]), "me/sst2-0"], priority=3)
    assert (job["method"], job["checkpoint"], job["target"]) == ("centroid", FAMILY, None)
    assert (job["queue"], job["priority"]) == ("cpu", 3)
    assert members_of(live, job) == [MNLI[2], MNLI[0], "me/sst2-0"]
    assert job["params"]["weights"] == [1 / 3] * 3
    assert job["params"]["name"] == "me/centre"
    assert job["params"]["told"]["rule"] == "list"


def test_the_members_of_a_region(live: Live) -> None:
    found(live)
    job = accepted(live, members=None, region=1)
    assert members_of(live, job) == list(MNLI)
    assert (job["params"]["told"]["rule"], job["params"]["told"]["region"]) == ("region", 1)
    assert "no region 7" in refused(live, 404, "region", members=None, region=7)
    found(without_jobs(live), regions=[])
    assert "show none" in refused(live, 404, "region", members=None, region=1)


def test_means_that_lie_in_a_region_are_no_members_of_its_centroid(fresh: Live) -> None:
    live = fresh
    details = HUB | {"centroid_of": [id_of(live, name) for name in MNLI]}
    stored(live.store, checkpoints=(CheckpointDraft(family=FAMILY, name="me/mean", details=details),))
    mean = id_of(live, "me/mean")
    regions = result_of(live)["regions"]
    regions[0]["members"].append(mean)
    regions[1]["members"] = [mean, id_of(live, RTE[0])]
    found(live, regions=regions)
    job = accepted(live, members=None, region=1, target="rte")
    assert members_of(live, job) == list(MNLI)
    assert job["params"]["told"]["left_out"] == ["me/mean: a mean of others"]
    assert "no means of others" in refused(live, 409, "members", name="me/c", members=None, region=2)
    by_name = accepted(live, name="me/named", members=["me/mean", RTE[0]])
    assert members_of(live, by_name) == ["me/mean", RTE[0]]


def test_a_region_of_a_family_that_nobody_has_looked_at(live: Live) -> None:
    problem = live.problem("POST", path("centroids", UNSEEN), 404, json={"name": "me/c", "region": 1})
    assert f"POST /families/{UNSEEN}/regions" in problem["detail"]


def test_all_that_were_finetuned_on_a_source(live: Live) -> None:
    job = accepted(live, members=None, rule={"source": ["rte", "mnli"]})
    assert members_of(live, job) == [*RTE, *MNLI]
    assert job["params"]["told"]["rule"] == "source"
    wrong = refused(live, 404, "rule.source.1", members=None, rule={"source": ["rte", "mnlu"]})
    assert "Known sources: mnli" in wrong
    assert "alone is meant" in refused(live, 409, "members", members=None, rule={"source": ["sst2"]})


def test_members_tuned_on_the_target_are_left_out_and_named(live: Live) -> None:
    job = accepted(live, members=[*RTE, *MNLI], target="rte")
    assert members_of(live, job) == list(MNLI)
    assert job["params"]["told"]["target"] == "rte"
    assert job["params"]["told"]["left_out"] == [f"{name}: tuned on rte" for name in RTE]
    rte = live.store.target_named("rte").id
    kept = accepted(live, name="me/with", members=[*RTE, *MNLI], target=rte, include_target_members=True)
    assert members_of(live, kept) == [*RTE, *MNLI]


def test_a_centroid_for_a_target_that_all_were_tuned_on_is_refused(live: Live) -> None:
    said = refused(live, 409, "target", members=list(RTE), target="rte")
    assert "None is left" in said
    assert "me/rte-0, me/rte-1" in said
    said = refused(live, 409, "target", members=[*RTE, MNLI[0]], target="rte")
    assert "'me/mnli-0' alone is left" in said


def test_what_was_made_of_a_checkpoint_tuned_on_the_target_is_tuned_on_it(live: Live) -> None:
    mean = {"centroid_of": [id_of(live, MNLI[0]), id_of(live, RTE[0])]}
    stored(live.store, checkpoints=(CheckpointDraft(family=FAMILY, name="me/mean", details=mean),))
    child = {"base_id": id_of(live, "me/mean"), "finetuned_on": "wic"}
    stored(live.store, checkpoints=(CheckpointDraft(family=FAMILY, name="me/child", details=child),))
    card = CheckpointDraft(family=FAMILY, name="me/card", details={"datasets": ["RTE"]})
    stored(live.store, checkpoints=(card,))
    job = accepted(live, members=["me/mean", "me/child", "me/card", *MNLI], target="rte")
    assert members_of(live, job) == list(MNLI)


def test_weights_may_be_given(live: Live) -> None:
    job = accepted(live, members=list(MNLI[:2]), weights=[1.5, -0.5])
    assert job["params"]["weights"] == [1.5, -0.5]
    assert job["params"]["told"]["weights"] == "given"


def test_weights_by_the_posterior_count_those_more_that_gain_more(live: Live) -> None:
    names = [*RTE, *MNLI]
    job = accepted(live, members=names, weights="posterior")
    weights = dict(zip(names, job["params"]["weights"], strict=True))
    assert sum(weights.values()) == pytest.approx(1.0)
    assert sorted(names, key=weights.__getitem__) == names  # as their scores rise
    assert weights[MNLI[2]] > 1.2 * weights[RTE[0]]


def test_who_the_posterior_does_not_know_yet_cannot_be_weighed_by_it(live: Live) -> None:
    stored(live.store, checkpoints=(CheckpointDraft(family=FAMILY, name="me/new"),))
    said = refused(live, 409, "weights", members=[*MNLI, "me/new"], weights="posterior")
    assert "does not know me/new yet" in said


@pytest.mark.parametrize(
    ("changes", "status", "field", "said"),
    [
        ({"members": ["me/mnli-0"]}, 409, "members", "alone is meant"),
        ({"members": ["me/mnli-0", "me/mnli-0"]}, 422, "members.1", "twice"),
        ({"members": ["me/mnli-0", "me/mnli-8"]}, 404, "members.1", "Nearest known"),
        ({"members": ["me/mnli-0", 999]}, 404, "members.1", "999"),
        ({"members": ["me/mnli-0", NAMELESS]}, 409, "members.1", "no hub id"),
        ({"members": []}, 422, "members", "at least 1"),
        ({"region": 1}, 422, "body", "one of region, members and rule"),
        ({"members": None}, 422, "body", "one of region, members and rule"),
        ({"weights": [0.5, 0.6, 0.1]}, 422, "weights", "sum to 1.2"),
        ({"weights": [0.5, 0.5]}, 422, "weights", "There are 2 for 3 members"),
        ({"weights": "best"}, 422, "weights", "uniform"),
        ({"weights": [0.5, "0.5", 0.0]}, 422, "weights.1", "number"),
        ({"weights": [1.0, 0.0, 0.0]}, 422, "weights", "at least 2"),
        ({"weights": [200.0, -199.5, 0.5]}, 422, "weights", "at most 100"),
        ({"members": [*MNLI, RTE[0]], "weights": [0.25] * 4, "target": "rte"}, 422, "weights", "me/rte-0"),
        ({"target": "rtee"}, 404, "target", "Nearest known: rte"),
        ({"name": "no name"}, 422, "name", "NAME or OWNER/NAME"),
        ({"name": "me/rte-0"}, 409, "name", "is that of checkpoint"),
        ({"name": "Mini"}, 409, "name", "that of the family"),
        ({"webhook": "ftp://x"}, 422, "webhook", "ftp"),
        ({"member": 1}, 422, "member", "Did you mean 'members'"),
    ],
)
def test_what_cannot_be_is_refused(
    live: Live, changes: dict[str, Any], status: int, field: str, said: str
) -> None:
    if changes.get("name") == "Mini":
        changes = {"name": FAMILY.upper()}
    assert said in refused(live, status, field, **changes)
    assert live.store.jobs(state="queued").items == ()


def test_a_contradicted_checkpoint_is_no_member(live: Live) -> None:
    found(live)
    assert "lies 1.41 norms" in refused(live, 409, "members.3", members=[*MNLI, STRANGER])


def test_a_checkpoint_of_another_family_is_no_member(live: Live) -> None:
    stored(live.store, checkpoints=(CheckpointDraft(family="g", name="me/other"),))
    said = refused(live, 422, "members.3", members=[*MNLI, id_of(live, "me/other")])
    assert "not of the family" in said


def test_a_name_that_a_job_under_way_will_give_is_taken_and_an_equal_request_joins(live: Live) -> None:
    first = accepted(live)
    assert accepted(live)["id"] == first["id"]
    said = refused(live, 409, "name", members=list(MNLI[:2]))
    assert f"job {first['id']} keeps" in said
    finetune = {"method": "finetune", "checkpoint": MNLI[0], "target": "rte", "keep": "me/centre"}
    assert "will be that" in live.problem("POST", "/jobs", 409, json=finetune)["detail"]
    job = claimed(live.store)
    assert live.store.end_cancelled(job.id, job.attempt)
    assert accepted(live, members=list(MNLI[:2]))["id"] != first["id"]


def test_once_registered_it_is_ranked_beside_its_members(fresh: Live) -> None:
    live = fresh
    accepted(live)
    job = claimed(live.store)
    details = {"source": "folder", "path": "/kept/c", "revision": "sha256:1", "centroid_of": [3, 4, 5]}
    made = CheckpointDraft(family=FAMILY, name="me/centre", revision="sha256:1", details=details)
    assert live.store.finish_job(
        job.id, job.attempt, None, seconds=1.0, result={"members": []}, registers=dataclasses.replace(made)
    )
    refit_stale(live.store)
    until = time.monotonic() + 10
    names: list[str] = []
    while "me/centre" not in names and time.monotonic() < until:
        time.sleep(0.05)
        asked = {"family": FAMILY, "target": {"name": "rte"}, "limit": 50}
        answer = live.http.post("/recommend", json=asked).json()
        names = [one["checkpoint"]["name"] for one in answer["candidates"]]
    assert {"me/centre", *MNLI} <= set(names)
    probed = live.http.post(path("probe"), json={"target": "rte"}).json()
    measured = {live.store.job(one).checkpoint for one in probed["job_ids"]}
    assert "me/centre" in measured
    assert "is that of checkpoint" in refused(live, 409, "name")
