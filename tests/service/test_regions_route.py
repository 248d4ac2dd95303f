"""/families/{name}/regions: asked for, shown, drawn; and the lineage of checkpoints on the wire."""

from __future__ import annotations

import io
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from job_service import claimed
from race_service import stored
from region_service import (
    FAMILY,
    HUB,
    NAMELESS,
    PUBLISHED,
    STRANGER,
    TUNED,
    UNSEEN,
    end,
    found,
    id_of,
    path,
    regional,
    search,
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


def refused(live: Live, status: int, body: dict[str, Any], where: str = "") -> str:
    problem = live.problem("POST", where or path(), status, json=body)
    return str(problem["detail"])


def test_it_is_a_job_on_all_whose_weights_can_be_had_with_the_vanilla_first(live: Live) -> None:
    job = search(live, {"priority": 7, "seed": 3})
    wanted = [id_of(live, name) for name in (FAMILY, *TUNED, STRANGER)]
    assert job["params"] == {"family": FAMILY, "candidates": wanted, "clusters": None}
    assert (job["method"], job["checkpoint"], job["target_id"]) == ("regions", FAMILY, None)
    assert (job["queue"], job["priority"], job["seed"]) == ("cpu", 7, 3)


def test_an_equal_one_under_way_is_joined_and_an_ended_one_is_not(live: Live) -> None:
    first = search(live)
    answer = live.http.post(path(), json={}).json()
    assert (answer["status"], answer["job"]["id"]) == ("joined", first["id"])
    end(live)
    assert search(live)["id"] != first["id"]


def test_some_may_be_named_and_the_number_of_regions(live: Live) -> None:
    names = [TUNED[2], id_of(live, TUNED[0]), TUNED[4], FAMILY]
    job = search(live, {"checkpoints": names, "clusters": 2})
    assert job["params"]["candidates"] == [id_of(live, n) for n in (FAMILY, TUNED[2], TUNED[0], TUNED[4])]
    assert job["params"]["clusters"] == 2


def test_what_is_shown_is_the_newest_result_and_whether_others_came_since(fresh: Live) -> None:
    live = fresh
    shown = found(live)
    assert (shown["stale"], shown["registered_since"]) == (False, 0)
    assert [(one["number"], one["name"], len(one["members"])) for one in shown["regions"]] == [
        (1, "mnli", 3),
        (2, "rte", 2),
    ]
    assert shown["job_id"] == 1
    assert shown["finished_at"] is not None
    stored(live.store, checkpoints=(CheckpointDraft(family=FAMILY, name="me/new", details=HUB),))
    shown = live.http.get(path()).json()
    assert (shown["stale"], shown["registered_since"]) == (True, 1)
    again = found(live, regions=[], chosen_by="The weights show none.")
    assert (again["stale"], again["regions"], again["job_id"]) == (False, [], 2)
    search(live)
    failed = claimed(live.store)
    live.store.end_cancelled(failed.id, failed.attempt)
    assert live.http.get(path()).json()["job_id"] == 2


def test_a_name_that_scores_brought_is_missing_once_it_is_registered(fresh: Live) -> None:
    stored(fresh.store, checkpoints=(CheckpointDraft(family=FAMILY, name="me/newer", details=HUB),))
    assert found(fresh)["registered_since"] == 0
    stored(fresh.store, checkpoints=(CheckpointDraft(family=FAMILY, name=PUBLISHED, details=HUB),))
    assert id_of(fresh, PUBLISHED) < id_of(fresh, "me/newer")
    assert fresh.http.get(path()).json()["registered_since"] == 1


def test_before_anybody_has_looked_the_remedy_is_named(live: Live) -> None:
    for where in (path(family=UNSEEN), path("regions/map.png", UNSEEN)):
        problem = live.problem("GET", where, 404)
        assert f"POST /families/{UNSEEN}/regions" in problem["detail"]
    assert live.http.post(path(family=UNSEEN), json={}).status_code == 202
    live.problem("GET", path(family=UNSEEN), 404)
    assert "nearest" in live.problem("GET", path(family="org/mina"), 404)["detail"].lower()


def test_the_map_is_a_picture_of_them(live: Live) -> None:
    matplotlib = pytest.importorskip("matplotlib.image")
    found(live)
    answer = live.http.get(path("regions/map.png"))
    assert answer.headers["content-type"] == "image/png"
    pixels = matplotlib.imread(io.BytesIO(answer.content))
    assert pixels.shape[0] > 500
    assert pixels[..., :3].std() > 0.01


def test_without_matplotlib_the_picture_is_refused_with_the_remedy(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(live)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "headstart-advice[plot]" in live.problem("GET", path("regions/map.png"), 409)["detail"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"checkpoints": ["me/mnli-9", TUNED[0], TUNED[1]]}, 404, "checkpoints.0"),
        ({"checkpoints": [TUNED[0], 999, TUNED[1]]}, 404, "checkpoints.1"),
        ({"checkpoints": [TUNED[0], NAMELESS, TUNED[1]]}, 409, "no hub id"),
        ({"checkpoints": [TUNED[0], FAMILY, TUNED[1]]}, 409, "are 2 beside the vanilla"),
        ({"checkpoints": [TUNED[0], TUNED[0], TUNED[0]]}, 409, "are 1 beside the vanilla"),
        ({"clusters": 0}, 422, "clusters"),
        ({"clusters": 2.5}, 422, "clusters"),
        ({"checkpoints": "all"}, 422, "checkpoints"),
        ({"webhook": "ftp://x"}, 422, "webhook"),
        ({"cluster": 2}, 422, "Did you mean 'clusters'"),
    ],
)
def test_what_cannot_be_is_refused(live: Live, body: dict[str, Any], status: int, said: str) -> None:
    assert said in refused(live, status, body)
    assert live.store.jobs(state="queued").items == ()


def test_a_family_needs_a_vanilla_with_weights_and_three_others(fresh: Live) -> None:
    live = fresh
    some = [CheckpointDraft(family="f", name=f"me/f{k}") for k in range(4)]
    stored(live.store, checkpoints=tuple(some))
    assert "no vanilla yet" in refused(live, 409, {}, path(family="f"))
    stored(live.store, checkpoints=(CheckpointDraft(family="f", name="my base (2)", is_vanilla=True),))
    assert "no hub id" in refused(live, 409, {}, path(family="f"))
    few = [CheckpointDraft(family="g", name=f"me/g{k}", is_vanilla=k == 0, details=HUB) for k in range(3)]
    stored(live.store, checkpoints=tuple(few))
    assert "has 2 with registered weights beside the vanilla" in refused(live, 409, {}, path(family="g"))
    stored(live.store, checkpoints=(CheckpointDraft(family="h", name="me/h"),))
    assert "of the family 'g', but of 'h'" in refused(
        live, 422, {"checkpoints": [live.store.checkpoints_named(["me/h"])["me/h"][0].id]}, path(family="g")
    )


def test_names_that_scores_brought_are_looked_at_where_they_are_named(fresh: Live) -> None:
    published = id_of(fresh, PUBLISHED)
    assert published not in search(fresh)["params"]["candidates"]
    end(fresh)
    some = [published, *(id_of(fresh, name) for name in TUNED[:2])]
    assert set(some) <= set(search(fresh, {"checkpoints": some})["params"]["candidates"])


def test_who_is_contradicted_leaves_the_advice_and_a_person_may_take_it_back(fresh: Live) -> None:
    live = fresh
    found(live)
    stranger = f"/checkpoints/{id_of(live, STRANGER)}"
    shown = live.http.get(stranger).json()
    assert (shown["lineage"], shown["lineage_by"]) == ("contradicted", "job")
    assert shown["lineage_reason"] == "It lies 1.41 norms away."
    listed = live.http.get("/checkpoints", params={"search": "rte-0"}).json()["items"]
    assert listed[0]["lineage"] == "verified"
    assert id_of(live, STRANGER) in search(live)["params"]["candidates"]  # what a job said is looked at again
    end(live)
    overruled = live.http.patch(stranger, json={"lineage": None, "note": "Its log names the vanilla."})
    assert overruled.status_code == 200, overruled.text
    assert (overruled.json()["lineage"], overruled.json()["lineage_by"]) == (None, "person")
    found(live)
    assert live.http.get(stranger).json()["lineage"] is None
    live.http.patch(stranger, json={"lineage": "contradicted", "note": "It is of another pretraining."})
    assert id_of(live, STRANGER) not in search(live)["params"]["candidates"]


def test_lineages_that_cannot_be_are_refused(live: Live) -> None:
    vanilla = f"/checkpoints/{id_of(live, FAMILY)}"
    no = {"lineage": "contradicted", "note": "No."}
    assert "is the vanilla of its family" in live.problem("PATCH", vanilla, 409, json=no)["detail"]
    live.problem("PATCH", "/checkpoints/999", 404, json=no)
    for wrong in ({"lineage": "perhaps", "note": "x"}, {"lineage": None}, {"lineage": None, "note": ""}):
        live.problem("PATCH", vanilla, 422, json=wrong)


def test_who_is_contradicted_is_neither_probed_nor_raced_nor_ranked(fresh: Live) -> None:
    found(fresh)
    probed = fresh.http.post(path("probe"), json={"target": "rte"}).json()
    names = {fresh.store.job(one).checkpoint for one in probed["job_ids"]}
    assert STRANGER not in names
    assert {FAMILY, PUBLISHED, *TUNED} == names
    reasons = {one["checkpoint"]: one["reason"] for one in probed["first_skipped"]}
    assert "lies 1.41 norms away" in reasons[STRANGER]
    rte = fresh.store.target_named("rte").id
    race = fresh.http.post(f"/targets/{rte}/race", json={"family": FAMILY}).json()["job"]
    assert id_of(fresh, STRANGER) not in race["params"]["candidates"]
    asked = {"family": FAMILY, "candidates": [STRANGER]}
    assert "lies 1.41 norms" in fresh.problem("POST", f"/targets/{rte}/race", 409, json=asked)["detail"]
    refit_stale(fresh.store)
    until, listed = time.monotonic() + 10, {STRANGER}
    while STRANGER in listed and time.monotonic() < until:
        time.sleep(0.05)
        answer = fresh.http.post("/recommend", json={"family": FAMILY, "limit": 50}).json()
        listed = {one["checkpoint"]["name"] for one in answer["candidates"]}
    assert STRANGER not in listed
    assert set(TUNED) <= listed
