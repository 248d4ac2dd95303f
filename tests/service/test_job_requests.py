from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from job_service import ASKED, finished, measuring, post, submitted

from headstart.entities import CheckpointDraft, ImportBatch, ImportReport
from headstart.store import Store, upgrade_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from live_service import Live


@pytest.fixture
def live(store: Store) -> Iterator[Live]:
    """A service over a store of its own."""
    with measuring(store) as live:
        yield live


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """For requests that are refused: they leave it as they find it, and that is looked at in the end."""
    url = f"sqlite:///{tmp_path_factory.mktemp('jobs')}/store.db"
    upgrade_schema(url)
    with closing(Store(url)) as store, measuring(store) as live:
        stored(
            store,
            CheckpointDraft(family="org/bert", name="twin"),
            CheckpointDraft(family="roberta-base", name="twin"),
            CheckpointDraft(family="roberta-base", name="moved", revision="1"),
            CheckpointDraft(family="roberta-base", name="moved", revision="2"),
        )
        yield live
        assert store.jobs().items == ()


def stored(store: Store, *checkpoints: CheckpointDraft) -> None:
    store.queue_import(store.create_import("table", "upload").id)
    item = store.claim_import(60)
    assert item is not None
    batch = ImportBatch(checkpoints=checkpoints, targets=(), scores=(), report=ImportReport())
    assert store.finish_import(item.id, item.attempt, batch) is not None


def errors(live: Live, *requests: dict[str, Any], status: int = 422) -> list[tuple[str, str]]:
    """(field, message) of what is wrong: with one request by itself, with several in a batch."""
    if len(requests) == 1:
        problem = live.problem("POST", "/jobs", status, json=requests[0])
    else:
        problem = live.problem("POST", "/jobs/batch", status, json={"jobs": requests})
    assert all(one["message"].endswith((".", "?")) for one in problem["errors"])
    return [(one["field"], one["message"]) for one in problem["errors"]]


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"checkpoint": "twin"}, "checkpoint", "org/bert, roberta-base"),
        ({"checkpoint": "moved", "family": "roberta-base"}, "checkpoint", "several revisions"),
        ({"checkpoint": "bob/bert-qa", "family": "roberta-base"}, "family", "but of org/bert"),
        ({"method": "survey"}, "method", "Scores of 'survey' are imported here, not measured"),
        ({"params": {"rows": 0}}, "params.rows", "greater than or equal to 1"),
        ({"params": {"row": 5}}, "params.row", "Did you mean 'rows'?"),
        ({"params": {"penalty": "much"}}, "params.penalty", '"much"'),
        ({"params": [1]}, "params", "dictionary"),
        ({"checkpont": "x"}, "checkpont", "Did you mean 'checkpoint'?"),
        ({"checkpoint": True}, "checkpoint", "should be a number"),
        ({"checkpoint": ""}, "checkpoint", "at least 1 character"),
        ({"target": None}, "target", "valid integer"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"seed": "1"}, "seed", "should be a number"),
        ({"priority": 101}, "priority", "less than or equal to 100"),
        ({"webhook": "ftp://example.org"}, "webhook", "ftp"),
        ({"webhook": "https://user:pw@example.org"}, "webhook", "password"),
    ],
)
def test_a_wrong_field_is_one_problem_that_names_it(
    shared: Live, changes: dict[str, Any], field: str, says: str
) -> None:
    ((found, message),) = errors(shared, ASKED | changes)
    assert found == field
    assert says in message


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"method": "guage"}, "method", "gauge"),
        ({"checkpoint": "roberta-bsae"}, "checkpoint", "Nearest known: roberta-base"),
        ({"checkpoint": "rob-mnli"}, "checkpoint", "Nearest known: alice/rob-mnli"),
        ({"checkpoint": "alcie/rob-mnli"}, "checkpoint", "Nearest known: alice/rob-mnli"),
        ({"target": "mnil"}, "target", "Nearest known: mnli"),
        ({"target": "zzzz"}, "target", "GET /targets"),
        ({"checkpoint": 999}, "checkpoint", "There is no checkpoint '999'"),
        ({"target": 2**53 - 1}, "target", str(2**53 - 1)),
    ],
)
def test_what_is_unknown_is_404_with_the_nearest(
    shared: Live, changes: dict[str, Any], field: str, says: str
) -> None:
    ((found, message),) = errors(shared, ASKED | changes, status=404)
    assert found == field
    assert says in message


def test_all_that_is_wrong_with_a_job_is_told_at_once(shared: Live) -> None:
    wrong = {"method": "gauge", "checkpoint": "nobody", "target": 999, "params": {"rows": 0, "x": 1}}
    assert [field for field, _ in errors(shared, wrong)] == [
        "checkpoint",
        "params.rows",
        "params.x",
        "target",
    ]


def test_all_unknown_is_404_and_names_each(shared: Live) -> None:
    unknown = {"method": "gauge", "checkpoint": "nobody", "target": 999}
    assert [field for field, _ in errors(shared, unknown, status=404)] == ["checkpoint", "target"]


def test_a_webhook_without_a_secret_says_which_setting_is_missing(store: Store) -> None:
    with measuring(store, webhook_secret="") as live:
        ((field, message),) = errors(live, ASKED | {"webhook": "https://example.org"})
        assert field == "webhook"
        assert "HEADSTART_WEBHOOK_SECRET" in message


# -- batches


def test_a_batch_is_answered_in_its_order(live: Live) -> None:
    submitted(live, seed=1)
    finished(live.store)
    waiting = submitted(live, seed=2)
    wanted = [ASKED | {"seed": seed} for seed in (4, 1, 3, 2, 4)]
    answer = post(live, "/jobs/batch", {"jobs": wanted})
    assert [one["status"] for one in answer["items"]] == ["queued", "scored", "queued", "joined", "joined"]
    assert answer["counts"] == {"queued": 2, "joined": 2, "scored": 1}
    jobs = [one["job"] for one in answer["items"]]
    assert [job and job["seed"] for job in jobs] == [4, None, 3, 2, 4]
    assert jobs[3]["id"] == waiting["id"]
    assert jobs[0]["id"] == jobs[4]["id"] < jobs[2]["id"]


def test_one_wrong_job_keeps_the_whole_batch_out(shared: Live) -> None:
    wanted = [ASKED, ASKED | {"checkpoint": 999}, ASKED | {"params": {"rows": 0}}, {"method": "gauge"}]
    found = errors(shared, *wanted)
    assert [field for field, _ in found] == ["jobs.3.checkpoint", "jobs.3.target"]
    found = errors(shared, *wanted[:3], ASKED | {"target": "nowhere", "webhook": "x"})
    assert {field for field, _ in found} == {
        "jobs.1.checkpoint",
        "jobs.2.params.rows",
        "jobs.3.target",
        "jobs.3.webhook",
    }
    ((field, _),) = errors(shared, ASKED, ASKED | {"target": "nowhere"}, status=404)
    assert field == "jobs.1.target"


def test_the_first_fifty_problems_of_a_batch_are_told(shared: Live) -> None:
    problem = shared.problem(
        "POST", "/jobs/batch", 404, json={"jobs": [ASKED | {"target": f"t{n}"} for n in range(80)]}
    )
    assert "And 79 more" in problem["detail"]
    assert [one["field"] for one in problem["errors"]] == [f"jobs.{n}.target" for n in range(50)]


def test_a_thousand_are_taken_and_one_more_is_refused(live: Live) -> None:
    small = {"method": "gauge", "checkpoint": 1, "target": 1}
    wanted = [small | {"seed": seed} for seed in range(1001)]
    problem = live.problem("POST", "/jobs/batch", 422, json={"jobs": wanted})
    assert problem["errors"][0]["field"] == "jobs"
    assert "1000" in problem["detail"]
    assert live.problem("POST", "/jobs/batch", 422, json={"jobs": []})["errors"][0]["field"] == "jobs"
    answer = post(live, "/jobs/batch", {"jobs": wanted[:1000]})
    assert answer["counts"] == {"queued": 1000, "joined": 0, "scored": 0}
    assert [one["job"]["seed"] for one in answer["items"]] == list(range(1000))


def test_a_job_that_is_not_there(shared: Live) -> None:
    for verb, path in (
        ("GET", "/jobs/7"),
        ("GET", "/jobs/7/events"),
        ("POST", "/jobs/7/cancel"),
        ("POST", "/jobs/7/retry"),
    ):
        assert "There is no job '7'" in shared.problem(verb, path, 404)["detail"]
        shared.problem(verb, path.replace("7", "0"), 422)
    shared.problem("GET", "/jobs/x", 404)
    assert "allowed: POST" in shared.problem("GET", "/jobs/batch", 405)["detail"]
