"""A race from a command to a decision by a real worker, and the advice that rests on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tiny_family import ended, register
from typer.testing import CliRunner

from service.cli import app
from service.race_schemas import RaceResult

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    import pytest
    from deployment import Deployment

RECIPE = {"epochs": 6, "batch_rows": 16, "learning_rate": 2e-3, "max_tokens": 32, "precision": "fp32"}
FAMILY = "org/vanilla"


def scores(client: httpx.Client) -> list[dict[str, Any]]:
    return list(client.get("/scores", params={"method": "finetune"}).json()["items"])


def test_a_race_comes_to_a_decision_and_the_advice_rests_on_it(
    embedded: tuple[Deployment, httpx.Client], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, client = embedded
    target, ids = register(client, root)
    monkeypatch.setenv("HEADSTART_URL", str(client.base_url))
    recipe = [part for key, value in RECIPE.items() for part in ("--param", f"{key}={value}")]
    asked = ["race", "--target", "films", "--family", FAMILY, "--budget", "5m", *recipe, "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output + deployment.logs()
    told = json.loads(done.stdout)
    job, result = told["job"], told["job"]["result"]
    assert (job["state"], job["attempt"], job["score_id"]) == ("succeeded", 1, None)
    assert RaceResult.model_validate(result).model_dump(mode="json") == result
    assert result["verdict"] in ("start_from", "stay_with_vanilla")
    assert result["pick"]["id"] in ids.values()
    assert [one["id"] for one in result["candidates"]] == job["params"]["candidates"]
    assert result["candidates"][0]["id"] == ids["vanilla"]
    assert abs(sum(one["p_best"] for one in result["candidates"]) - 1) < 1e-3

    # every finetune that came to its end is a score, under the key that an ordinary job of it has
    finished = {
        (one["id"], run["seed"]) for one in result["candidates"] for run in one["runs"] if run["finished"]
    }
    assert (ids["vanilla"], 0) in finished
    assert len(finished) >= 2
    assert {(one["checkpoint_id"], one["seed"]) for one in scores(client)} == finished
    body = {"method": "finetune", "checkpoint": ids["vanilla"], "target": target, "params": RECIPE}
    assert client.post("/jobs", json=body).json()["status"] == "scored"

    # and the advice counts them
    here = {one["checkpoint"]["id"]: one["evidence"]["measured_here"] for one in told["advice"]["candidates"]}
    measured = {one: n for one, n in here.items() if n}
    assert measured
    assert set(measured) == {one for one, _ in finished} - {ids["vanilla"]}
    assert told["advice"]["families"][0]["vanilla_basis"] == "measured"

    # a second race goes on from what is known: whoever has run to the end does not run again
    question = {"family": FAMILY, "target": {"id": target}, "refine": "finetune", "budget_runs": 1}
    refined = client.post("/recommend", json=question).json()["refine"]
    assert refined["status"] == "queued"
    same = client.post(
        f"/targets/{target}/race", json={"family": FAMILY, "finetune": RECIPE, "budget_runs": 1}
    )
    first, again = ended(deployment, client, [refined["job"], same.json()["job"]["id"]])
    assert (first["state"], again["state"]) == ("succeeded", "succeeded"), deployment.logs()
    assert first["result"]["ended"] == "budget"  # by another recipe, of which nothing is known
    assert first["result"]["runs"] == 1
    known = {
        (one["id"], run["seed"])
        for one in again["result"]["candidates"]
        for run in one["runs"]
        if run["known"]
    }
    assert known == finished
