"""From nothing to advice: rows and checkpoints are registered, probed by real workers, and asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tiny_family import ROWS, ended, register
from typer.testing import CliRunner

from service.cli import app

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    from deployment import Deployment

METHODS = ("linear_probe", "logme", "hscore", "knn", "gbc", "transrate")


def test_a_command_probes_and_the_advice_shows_it(
    embedded: tuple[Deployment, httpx.Client], root: Path
) -> None:
    deployment, client = embedded
    target, ids = register(client, root)
    assert client.get(f"/targets/{target}").json()["profile"]["rows"]["train"] > 100
    said = CliRunner().invoke(
        app,
        [
            *("probe", "--checkpoint", str(root / "one"), "--target", "films", "--json"),
            *[word for name in (*METHODS, "leep") for word in ("--method", name)],
            *("--url", str(client.base_url)),
        ],
    )
    assert said.exit_code == 0, said.output + deployment.logs()
    items = {one["method"]: one for one in json.loads(said.stdout)["items"]}
    assert items["leep"]["job"]["failure"]["name"] == "NotApplicable"
    for name in METHODS:
        score = items[name]["score"]
        told = score["provenance"]
        assert score["checkpoint_id"] == ids["one"], "the folder is known under the name it was given"
        assert score["stderr"] > 0
        assert told["null"]["high"] < score["value"], f"{name} sees which words a text has"
        assert told["null"]["p"] < 0.1
        assert told["tokens"] > ROWS
        assert told["dtype"] in {"float32", "bfloat16"}
    passes = [name for name in METHODS if not items[name]["score"]["provenance"]["cached"]]
    assert passes == ["linear_probe"], "one pass for all"

    def advised() -> dict[str, Any] | None:
        question = {"family": "org/vanilla", "target": {"name": "films"}}
        answer = client.post("/recommend", json=question)
        if answer.status_code != 200:
            return None
        found = {one["checkpoint"]["name"]: one["evidence"] for one in answer.json()["candidates"]}
        return answer.json() if found.get("org/one", {}).get("probes_here") == len(METHODS) else None

    advice = deployment.wait(advised, 30)
    found = {one["checkpoint"]["name"]: one["evidence"]["probes_here"] for one in advice["candidates"]}
    assert found["org/one"] == len(METHODS)
    assert found["org/two"] == 0
    assert any("films" in note for note in advice["notes"])


def test_a_family_is_probed_by_two_workers_and_ranked(
    scaled: tuple[Deployment, httpx.Client], root: Path
) -> None:
    deployment, client = scaled
    deployment.wait_for_workers(2)
    register(client, root)
    answer = client.post("/families/org/vanilla/probe", json={"target": "films"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["counts"]["queued"] == 3
    jobs = ended(deployment, client, answer.json()["job_ids"])
    assert [job["state"] for job in jobs] == ["succeeded"] * 3, deployment.logs()
    again = client.post("/families/org/vanilla/probe", json={"target": "films"}).json()
    assert again["counts"] == {"queued": 0, "joined": 0, "scored": 3}
    probes = {job["checkpoint"]: client.get(f"/scores/{job['score_id']}").json() for job in jobs}
    better = max(("org/one", "org/two"), key=lambda name: probes[name]["value"])

    assert probes["org/one"]["value"] != probes["org/two"]["value"]

    def best_is_first() -> bool:
        page = client.get("/families/org/vanilla/ranking")
        items = page.json()["items"] if page.status_code == 200 else []
        return bool(items) and items[0]["checkpoint"]["name"] == better

    assert deployment.wait(best_is_first, 30)


def test_what_cannot_be_probed_ends_in_a_sentence_and_the_worker_lives(
    embedded: tuple[Deployment, httpx.Client], root: Path
) -> None:
    deployment, client = embedded
    target, ids = register(client, root)
    with (root / "two" / "model.safetensors").open("r+b") as weights:
        weights.truncate(1000)
    wanted = [
        {"method": "knn", "checkpoint": ids[name], "target": target, "params": {"layers": ["last"]}}
        for name in ("two", "one")
    ]
    absurd = {"method": "knn", "checkpoint": ids["one"], "target": target, "params": {"layers": ["99"]}}
    answer = client.post("/jobs/batch", json={"jobs": [*wanted, absurd]})
    assert answer.status_code == 202, answer.text
    broken, fine, no_layer = ended(deployment, client, [one["job"]["id"] for one in answer.json()["items"]])
    assert broken["failure"]["name"] == "CheckpointNotFound"
    assert "have changed since they were registered" in broken["failure"]["sentence"]
    assert fine["state"] == "succeeded"
    assert no_layer["failure"]["name"] == "NotApplicable"
    assert "There is no layer 99" in no_layer["failure"]["sentence"]
    refused = client.post("/jobs", json={"method": "knn", "checkpoint": ids["one"], "target": "rte"})
    assert refused.status_code == 409
    assert "POST /targets" in refused.json()["detail"]
