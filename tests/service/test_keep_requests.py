"""POST /jobs with `keep`: a finetune whose result is to become a checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from job_service import claimed
from race_service import racing
from structlog.testing import capture_logs
from typer.testing import CliRunner

from headstart.entities import CheckpointDraft, Lineage
from headstart.methods.finetune import FinetuneParams
from service.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from live_service import Live

    from headstart.store import Store

ASKED: dict[str, Any] = {
    "method": "finetune",
    "checkpoint": "org/c1",
    "target": "films",
    "params": {"epochs": 3},
    "seed": 1,
}
KEPT = ASKED | {"keep": "me/kept"}


@pytest.fixture
def live(store: Store, tmp_path: Path) -> Iterator[Live]:
    with capture_logs(), racing(store, tmp_path) as live:
        yield live


def accepted(live: Live, **changes: Any) -> dict[str, Any]:
    answer = live.http.post("/jobs", json=KEPT | changes)
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


def refused(live: Live, status: int, **changes: Any) -> str:
    problem = live.problem("POST", "/jobs", status, json=KEPT | changes)
    assert [one["field"] for one in problem["errors"]] == ["keep"]
    return str(problem["errors"][0]["message"])


def test_it_becomes_a_job_of_the_procedure_with_the_recipe_filled_in(live: Live) -> None:
    job = accepted(live, priority=5)["job"]
    assert (job["method"], job["checkpoint"], job["target"]) == ("keep", "org/c1", "films")
    assert (job["queue"], job["seed"], job["priority"]) == ("gpu", 1, 5)
    recipe = FinetuneParams(epochs=3).model_dump(mode="json")
    assert job["params"] == {"name": "me/kept", "finetune": recipe}
    assert accepted(live)["status"] == "joined"
    assert live.http.post("/jobs", json=ASKED).json()["status"] == "queued"  # by itself it is another job
    assert live.http.get("/jobs", params={"method": "keep"}).json()["items"][0]["id"] == job["id"]


def test_a_name_that_is_taken_is_a_conflict_before_anything_runs(live: Live) -> None:
    assert "is that of checkpoint" in refused(live, 409, keep="alice/rob-mnli")
    assert "is that of the family" in refused(live, 409, keep="FacebookAI/roberta-base")
    job = accepted(live)["job"]
    assert f"job {job['id']} keeps" in refused(live, 409, seed=2)
    assert f"job {job['id']} keeps" in refused(live, 409, params={})
    claimed(live.store)
    assert f"job {job['id']} keeps" in refused(live, 409, checkpoint="org/c2")
    made = CheckpointDraft(family="roberta-base", name="me/kept", revision="sha256:1")
    assert live.store.finish_job(job["id"], 1, None, seconds=1.0, result={}, registers=made)
    assert "is that of checkpoint" in refused(live, 409)


def test_of_a_base_that_is_not_of_the_family_nothing_is_kept(live: Live) -> None:
    base = live.store.checkpoints_named(["org/c1"])["org/c1"][0].id
    live.store.set_lineage(base, Lineage.CONTRADICTED, "It is of another pretraining.")
    assert f"PATCH /checkpoints/{base}" in refused(live, 409)
    assert live.http.post("/jobs", json=ASKED).json()["status"] == "queued"


def test_in_a_batch_a_name_is_given_once(live: Live) -> None:
    batch = {"jobs": [KEPT, KEPT | {"seed": 2}, KEPT | {"keep": "me/other"}, KEPT]}
    problem = live.problem("POST", "/jobs/batch", 409, json=batch)
    assert [one["field"] for one in problem["errors"]] == ["jobs.1.keep"]
    assert "another job of this request" in problem["errors"][0]["message"]
    assert live.store.jobs().items == ()
    del batch["jobs"][1]
    answer = live.http.post("/jobs/batch", json=batch).json()
    assert [one["status"] for one in answer["items"]] == ["queued", "queued", "joined"]


@pytest.mark.parametrize("name", ["../up", "/kept", "a/b/c", "12", "a b", "a/..", ".a", "a--b", "ä"])
def test_a_name_that_will_not_do_is_refused(live: Live, name: str) -> None:
    assert "NAME or OWNER/NAME" in refused(live, 422, keep=name)


def test_only_a_finetune_can_be_kept(live: Live) -> None:
    assert "Nothing of 'logme' can be kept" in refused(live, 422, method="logme", params={})


def test_everything_else_is_checked_as_for_any_finetune(live: Live) -> None:
    problem = live.problem("POST", "/jobs", 422, json=KEPT | {"params": {"epoch": 1}, "keep": "a b"})
    assert [one["field"] for one in problem["errors"]] == ["params.epoch", "keep"]
    problem = live.problem("POST", "/jobs", 409, json=KEPT | {"target": "rte"})
    assert [one["field"] for one in problem["errors"]] == ["target"]
    problem = live.problem("POST", "/jobs", 422, json=KEPT | {"method": "keep", "params": {}})
    assert problem["errors"][0]["field"] in ("method", "keep")
    live.problem("POST", "/jobs", 404, json=ASKED | {"method": "keep", "params": {}})


def test_a_dry_run_is_priced_as_the_finetune_that_it_is(live: Live) -> None:
    kept, plain = (live.http.post("/jobs", json=body | {"dry_run": True}).json() for body in (KEPT, ASKED))
    assert kept == plain
    assert kept["seconds"] > 0


def test_the_command_line_takes_it(live: Live) -> None:
    words = ("submit", "finetune", "--checkpoint", "org/c1", "--target", "films", "--keep", "me/kept")
    result = CliRunner().invoke(app, ("jobs", *words, "--json"), env={"HEADSTART_URL": live.url})
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["job"]["params"]["name"] == "me/kept"
