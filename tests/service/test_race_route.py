from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from job_service import claimed, post
from race_service import FAMILY, NAMELESS, RUNNABLE, films, id_of, measured, racing, result_of, stored
from structlog.testing import capture_logs

from headstart.entities import CheckpointDraft
from headstart.methods.finetune import FinetuneParams
from headstart.procedures import PROCEDURES
from headstart.store import Store, upgrade_schema
from service.race_schemas import LEAST_CHANCE, RacePrice, RaceResult

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from live_service import Live

ASKED: dict[str, Any] = {"family": FAMILY}


@pytest.fixture
def live(store: Store, tmp_path: Path) -> Iterator[Live]:
    with capture_logs(), racing(store, tmp_path) as live:
        yield live


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """For all that can stand beside each other."""
    folder = tmp_path_factory.mktemp("races")
    upgrade_schema(f"sqlite:///{folder}/store.db")
    with closing(Store(f"sqlite:///{folder}/store.db")) as store, racing(store, folder) as live:
        yield live


def raced(live: Live, **more: Any) -> dict[str, Any]:
    job: dict[str, Any] = post(live, films(live), ASKED | more)["job"]
    return job


def names(live: Live, job: dict[str, Any]) -> list[str]:
    return [live.store.checkpoint(one).name for one in job["params"]["candidates"]]


def refused(live: Live, status: int, body: dict[str, Any], path: str = "") -> list[tuple[str, str]]:
    problem = live.problem("POST", path or films(live), status, json=body)
    return [(one["field"], one["message"]) for one in problem["errors"]]


def test_a_race_is_a_job_with_everything_filled_in(shared: Live) -> None:
    body = ASKED | {"budget_seconds": 1200, "budget_runs": 6, "worth": 1, "seed": 3, "priority": 5}
    answer = shared.http.post(films(shared), json=body | {"finetune": {"tuning": "lora"}})
    job = answer.json()["job"]
    assert (answer.status_code, answer.headers["location"]) == (202, f"/jobs/{job['id']}")
    assert (answer.json()["status"], answer.json()["score"]) == ("queued", None)
    assert (job["method"], job["method_version"], job["queue"]) == ("race", PROCEDURES["race"].version, "gpu")
    assert (job["checkpoint"], job["checkpoint_id"], job["target"]) == (None, None, "films")
    assert (job["seed"], job["priority"]) == (3, 5)
    params = dict(job["params"])
    assert len(params.pop("candidates")) == 5
    assert params == {
        "family": FAMILY,
        "budget_seconds": 1200.0,
        "budget_runs": 6,
        "worth": 1.0,
        "least_chance": LEAST_CHANCE,
        "finetune": FinetuneParams(tuning="lora").model_dump(mode="json"),
    }
    assert shared.http.get(f"/jobs/{job['id']}").json() == job


def test_the_defaults_are_those_of_the_procedure() -> None:
    fields = PROCEDURES["race"].params.model_fields
    assert fields["least_chance"].default == LEAST_CHANCE


def test_candidates_are_the_first_of_the_ranking_that_can_be_run(shared: Live) -> None:
    ranking = shared.http.get(f"/families/{FAMILY}/ranking").json()["items"]
    ranked = [one["checkpoint"]["name"] for one in ranked_of(ranking)]
    assert ranked[0] == NAMELESS
    runnable = [name for name in ranked if name != NAMELESS]
    assert sorted(runnable) == sorted(RUNNABLE)
    assert names(shared, raced(shared)) == [FAMILY, *runnable]
    assert names(shared, raced(shared, most_candidates=2)) == [FAMILY, *runnable[:2]]


def ranked_of(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(items, key=lambda one: int(one["rank"]))


def test_scores_on_the_target_itself_choose_nobody(store: Store, tmp_path: Path) -> None:
    """They are of its test rows."""
    values = {FAMILY: 0.5, "org/c1": 0.95, "org/c2": 0.5, "org/c3": 0.5}
    here = [measured(name, "films", value, seed) for name, value in values.items() for seed in range(5)]
    with capture_logs(), racing(store, tmp_path, *here) as live:
        asked = {"family": FAMILY, "target": {"name": "films"}, "exclude": [NAMELESS]}
        advised = live.http.post("/recommend", json=asked).json()["candidates"]
        assert advised[0]["checkpoint"]["name"] == "org/c1"
        assert names(live, raced(live, most_candidates=1)) == [FAMILY, "org/c3"]


def test_checkpoints_newer_than_the_ranking_come_after_it(live: Live) -> None:
    stored(live.store, checkpoints=(CheckpointDraft(family=FAMILY, name="org/new"),))
    assert names(live, raced(live))[-1] == "org/new"


def test_candidates_are_named_or_numbered_and_the_vanilla_runs_first(shared: Live) -> None:
    asked = ["org/c2", id_of(shared, "org/c1"), FAMILY, "org/c2"]
    assert names(shared, raced(shared, candidates=asked)) == [FAMILY, "org/c2", "org/c1"]


def test_an_equal_race_is_joined_and_a_key_answers_once(shared: Live) -> None:
    first = raced(shared, seed=2)
    again = post(shared, films(shared), ASKED | {"seed": 2, "priority": 7})
    assert (again["status"], again["job"]["id"]) == ("joined", first["id"])
    assert raced(shared, seed=1)["id"] != first["id"]
    one, two = (
        shared.http.post(films(shared), json=ASKED | {"seed": 9}, headers={"idempotency-key": "k"})
        for _ in range(2)
    )
    assert (two.content, two.headers["idempotent-replayed"]) == (one.content, "true")


def test_a_webhook_is_told(shared: Live) -> None:
    job = raced(shared, seed=8, webhook="https://example.org/hook")
    (delivery,) = shared.store.deliveries(job_id=job["id"]).items
    assert delivery.url == "https://example.org/hook"


def test_its_result_is_as_documented(shared: Live) -> None:
    asked = raced(shared, priority=100, seed=7)
    job, result = claimed(shared.store), result_of(shared, asked)
    assert shared.store.finish_job(job.id, job.attempt, None, seconds=150.0, result=result)
    ended = shared.http.get(f"/jobs/{job.id}").json()
    assert (ended["state"], ended["score_id"], ended["result"]) == ("succeeded", None, result)
    assert RaceResult.model_validate(result).model_dump(mode="json") == result
    document = shared.http.get("/openapi.json").json()
    assert set(document["components"]["schemas"]["RaceResult"]["required"]) == set(result)


def test_it_is_no_method(shared: Live) -> None:
    assert "race" not in [one["name"] for one in shared.http.get("/methods").json()["items"]]
    body = {"method": "race", "checkpoint": FAMILY, "target": "films"}
    assert "no method 'race'" in refused(shared, 404, body, "/jobs")[0][1]


# -- what it costs


def priced(live: Live, **more: Any) -> dict[str, Any]:
    before = live.store.jobs(page_size=500).items
    price = post(live, films(live), ASKED | {"dry_run": True} | more, 200)
    assert live.store.jobs(page_size=500).items == before
    assert RacePrice.model_validate(price).model_dump(mode="json") == price
    return price


def test_a_dry_run_tells_the_price_and_queues_nothing(shared: Live) -> None:
    price = priced(shared)
    each = price["candidates"]
    assert [one["name"] for one in each] == names(shared, raced(shared))
    assert [one["vanilla"] for one in each] == [True] + 4 * [False]
    assert (price["dry_run"], price["basis"]) == (True, "assumed")
    assert price["seconds"] == price["seconds_of_all"] == pytest.approx(sum(one["seconds"] for one in each))
    assert price["interval"][0] < price["seconds"] < price["interval"][1]
    assert max(one["seconds"] for one in each) == each[0]["seconds"]  # 124 million parameters against one
    assert each[1]["interval"][0] < each[1]["seconds"] < each[1]["interval"][1]


def test_a_budget_is_the_most_it_costs(shared: Live) -> None:
    price = priced(shared, budget_seconds=5)
    assert (price["seconds"], price["interval"]) == (5, [5, 5])
    assert price["seconds_of_all"] == priced(shared)["seconds"]
    assert priced(shared, budget_seconds=1e8)["seconds"] == price["seconds_of_all"]
    each = [one["seconds"] for one in price["candidates"]]
    assert priced(shared, budget_runs=1)["seconds"] == each[0]
    assert priced(shared, budget_runs=2)["seconds"] == pytest.approx(each[0] + max(each[1:]))


def test_a_dry_run_is_checked_as_a_race_is(shared: Live) -> None:
    assert refused(shared, 422, ASKED | {"dry_run": True, "budget_runs": 0})[0][0] == "budget_runs"
    assert refused(shared, 404, {"family": "none", "dry_run": True})[0][0] == "family"


# -- what is wrong


@pytest.mark.parametrize("field", ["budget_seconds", "budget_runs", "most_candidates"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_budget_of_nothing_is_refused(shared: Live, field: str, value: int) -> None:
    ((place, message),) = refused(shared, 422, ASKED | {field: value})
    assert place == field
    assert f"but is {value}" in message


def test_the_recipe_is_checked(shared: Live) -> None:
    found = refused(shared, 422, ASKED | {"finetune": {"epoch": 3, "batch_rows": 0}})
    assert [field for field, _ in found] == ["finetune.batch_rows", "finetune.epoch"]
    assert "'epochs'" in found[1][1]


def test_all_that_is_wrong_is_told_at_once(shared: Live) -> None:
    rte = f"/targets/{shared.store.target_named('rte').id}/race"
    body = ASKED | {
        "candidates": ["org/c1", "alice/rob-mnl", 999, "bob/bert-qa", NAMELESS],
        "webhook": "ftp://example.org",
        "finetune": {"epochs": 0},
    }
    found = dict(refused(shared, 422, body, rte))
    assert set(found) == {"target", "webhook", "finetune.epochs", *(f"candidates.{n}" for n in (1, 2, 3, 4))}
    assert "no rows of 'rte'" in found["target"]
    assert "Nearest known: alice/rob-mnli" in found["candidates.1"]
    assert "999" in found["candidates.2"]
    assert "org/bert" in found["candidates.3"]
    assert "no hub id" in found["candidates.4"]


def test_unknown_names_are_404_with_the_nearest(shared: Live) -> None:
    assert refused(shared, 404, {"family": "roberta-bas"})[0][0] == "family"
    assert "roberta-base" in refused(shared, 404, {"family": "roberta-bas"})[0][1]
    ((field, message),) = refused(shared, 404, ASKED | {"candidates": ["alice/rob-mnl"]})
    assert (field, "alice/rob-mnli" in message) == ("candidates.0", True)
    assert (
        "There is no target '999'" in shared.problem("POST", "/targets/999/race", 404, json=ASKED)["detail"]
    )


def test_a_target_without_rows_is_409(shared: Live) -> None:
    rte = f"/targets/{shared.store.target_named('rte').id}/race"
    ((field, message),) = refused(shared, 409, ASKED, rte)
    assert (field, "headstart targets add" in message) == ("target", True)


def test_a_family_without_a_vanilla_or_candidates_is_409(shared: Live) -> None:
    stored(
        shared.store,
        checkpoints=(
            CheckpointDraft(family="orphans", name="org/orphan"),
            CheckpointDraft(family="org/lone", name="org/lone", is_vanilla=True),
            CheckpointDraft(family="a secret", name="a secret", is_vanilla=True),
            CheckpointDraft(family="a secret", name="org/of-secret"),
        ),
    )
    assert "no vanilla yet" in refused(shared, 409, {"family": "orphans"})[0][1]
    assert "no checkpoint but its vanilla" in refused(shared, 409, {"family": "org/lone"})[0][1]
    assert "is needed, since" in refused(shared, 409, {"family": "a secret"})[0][1]
    ((field, message),) = refused(shared, 422, ASKED | {"candidates": [FAMILY]})
    assert (field, "alone" in message) == ("candidates", True)
