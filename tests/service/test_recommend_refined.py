from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from job_service import post
from race_service import FAMILY, NAMELESS, films, id_of, racing
from test_auth import bearer, make, until

from headstart.store import Store, upgrade_schema
from service.advice_schemas import Advice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from live_service import Live

PLAIN: dict[str, Any] = {"family": FAMILY, "target": {"name": "films"}, "limit": 3}
REFINED = PLAIN | {"refine": "finetune", "budget_seconds": 600}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service that others could reach, asked with a key that may run jobs."""
    folder = tmp_path_factory.mktemp("refined")
    upgrade_schema(f"sqlite:///{folder}/store.db")
    with closing(Store(f"sqlite:///{folder}/store.db")) as store:
        token = make(store, "the one that runs", "run")
        with racing(store, folder, host="0.0.0.0") as live:
            live.http.headers.update(bearer(token))
            yield live


def refused(live: Live, status: int, **more: Any) -> dict[str, str]:
    before = len(live.store.jobs().items)
    found = live.problem("POST", "/recommend", status, json=REFINED | more)["errors"]
    assert len(live.store.jobs().items) == before
    return {one["field"]: one["message"] for one in found}


def test_the_answer_is_as_ever_and_carries_the_race(live: Live) -> None:
    plain = live.http.post("/recommend", json=PLAIN)
    answer = live.http.post("/recommend", json=REFINED)
    told = answer.json().pop("refine")
    assert answer.status_code == 200
    assert answer.content.startswith(plain.content[:-1])
    assert told == {"job": told["job"], "location": f"/jobs/{told['job']}", "status": "queued"}
    assert answer.headers["location"] == told["location"]
    assert Advice.model_validate(answer.json()).refine is not None
    job = live.http.get(told["location"]).json()
    assert (job["method"], job["target"], job["state"]) == ("race", "films", "queued")
    params = job["params"]
    assert (params["budget_seconds"], params["budget_runs"], params["worth"]) == (600, None, 0.5)
    equal = post(live, films(live), {"family": FAMILY, "budget_seconds": 600})
    assert (equal["status"], equal["job"]["id"]) == ("joined", job["id"])


def test_it_is_never_kept_and_never_a_304(live: Live) -> None:
    first = live.http.post("/recommend", json=REFINED | {"budget_runs": 3})
    headers = {"if-none-match": "*"}
    again = live.http.post("/recommend", json=REFINED | {"budget_runs": 3}, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert "etag" not in first.headers
    assert (first.json()["refine"]["status"], again.json()["refine"]["status"]) == ("queued", "joined")
    live.store.cancel_job(first.json()["refine"]["job"])
    anew = live.http.post("/recommend", json=REFINED | {"budget_runs": 3}).json()["refine"]
    assert (anew["status"], anew["job"] != first.json()["refine"]["job"]) == ("queued", True)


def test_filters_and_worth_are_those_of_the_question(live: Live) -> None:
    question = REFINED | {"exclude": ["org/c3"], "max_parameters": 10**7, "worth": 2.0}
    params = live.http.get(live.http.post("/recommend", json=question).headers["location"]).json()["params"]
    assert params["worth"] == 2.0
    assert params["candidates"][0] == id_of(live, FAMILY)  # it runs, whatever its size
    assert sorted(params["candidates"][1:]) == sorted(id_of(live, name) for name in ("org/c1", "org/c2"))
    assert "fewer filters" in refused(live, 409, max_parameters=5)["family"]


def test_a_key_that_may_only_read_starts_no_race(live: Live) -> None:
    before = len(live.store.jobs().items)
    reader = bearer(make(live.store, "the one that reads", "read"))
    until(lambda: live.http.post("/recommend", json=PLAIN, headers=reader).status_code == 200)
    problem = live.problem("POST", "/recommend", 403, json=REFINED, headers=reader)
    assert "scope 'run'" in problem["detail"]
    assert len(live.store.jobs().items) == before


def test_what_a_race_needs_is_told_at_once(live: Live) -> None:
    found = refused(live, 422, family=None, target=None, budget_seconds=None)
    assert set(found) == {"refine", "family", "target"}
    assert "budget_seconds or budget_runs" in found["refine"]
    assert set(refused(live, 422, target={"train_size": 100})) == {"target"}
    assert "refine" in refused(live, 422, refine=None)["refine"]
    assert "greater than 0" in refused(live, 422, budget_seconds=0)["budget_seconds"]
    assert set(refused(live, 422, refine="probe")) == {"refine"}


def test_what_cannot_be_raced_is_told(live: Live) -> None:
    assert "no rows of 'rte'" in refused(live, 409, target={"name": "rte"})["target"]
    assert (
        "no target 'film'"
        in live.problem("POST", "/recommend", 404, json=REFINED | {"target": {"name": "film"}})["detail"]
    )
    assert NAMELESS not in str(live.store.jobs().items)
