"""Finetunes by real workers: the score, what becomes of it, and a run that was killed."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

from deployment import children_of
from tiny_family import ended, imported, register

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    from deployment import Deployment

RECIPE = {"epochs": 6, "batch_rows": 16, "learning_rate": 2e-3, "max_tokens": 32, "precision": "fp32"}


def submit(client: httpx.Client, checkpoint: int, target: int, **more: Any) -> int:
    body = {"method": "finetune", "checkpoint": checkpoint, "target": target, "params": RECIPE} | more
    answer = client.post("/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return int(answer.json()["job"]["id"])


def test_finetunes_become_evidence_and_the_advice_rests_on_them(
    embedded: tuple[Deployment, httpx.Client], root: Path
) -> None:
    deployment, client = embedded
    target, ids = register(client, root)
    jobs = ended(deployment, client, [submit(client, one, target) for one in ids.values()])
    assert [job["state"] for job in jobs] == ["succeeded"] * 3, deployment.logs()
    scores = {job["checkpoint"]: client.get(f"/scores/{job['score_id']}").json() for job in jobs}
    for score in scores.values():
        told = score["provenance"]
        assert score["rows_tested"] == told["rows"]["test"]
        assert (
            abs(score["value"] * score["rows_tested"] - round(score["value"] * score["rows_tested"])) < 1e-6
        )
        assert score["stderr"] > 0
        assert told["collapsed"] is False
        assert [point["step"] for point in told["curve"]] == sorted(point["step"] for point in told["curve"])
        assert told["tokens"] > 0 < told["peak_memory_bytes"]
        assert {"accuracy", "macro_f1", "matthews"} == set(told["metrics"])

    def advised() -> dict[str, Any] | None:
        answer = client.post("/recommend", json={"family": "org/vanilla", "target": {"name": "films"}}).json()
        here = [one["evidence"]["measured_here"] for one in answer.get("candidates", [])]
        return answer if here == [1, 1] else None

    answer = deployment.wait(advised, 30)
    vanilla = scores["org/vanilla"]["value"]
    for one in answer["candidates"]:
        gain = 100 * (scores[one["checkpoint"]["name"]]["value"] - vanilla)
        assert min(0.0, gain) - 5 < one["expected_gain"] < max(0.0, gain) + 5


def test_a_collapsed_finetune_is_kept_and_is_no_evidence(
    embedded: tuple[Deployment, httpx.Client], root: Path
) -> None:
    deployment, client = embedded
    target, ids = register(client, root)
    params = RECIPE | {"learning_rate": 1.0, "max_gradient": 1e9}
    (job,) = ended(deployment, client, [submit(client, ids["one"], target, params=params)])
    assert job["state"] == "succeeded", deployment.logs()
    score = client.get(f"/scores/{job['score_id']}").json()
    assert score["quarantine"] == "collapsed"
    assert "2 runs" in score["quarantine_note"]
    assert [one["collapsed"] for one in score["provenance"]["runs"]] == [True, True]
    assert client.get("/scores", params={"quarantined": False}).json()["items"] == []


def test_a_killed_finetune_gives_the_score_of_one_that_was_not(
    embedded: tuple[Deployment, httpx.Client], root: Path
) -> None:
    deployment, client = embedded
    target, ids = register(client, root)
    shutil.copytree(root / "one", root / "copy")
    body = {"path": str(root / "copy"), "name": "org/copy", "family": "org/vanilla"}
    copy = imported(client, "/checkpoints", body)["checkpoint_id"]
    long = RECIPE | {"epochs": 60, "patience": 1000}
    job = submit(client, ids["one"], target, params=long)

    def training() -> bool:
        progress = client.get(f"/jobs/{job}").json()["progress"]
        return progress["stage"] == "training" and progress["fraction"] > 0.2

    deployment.wait(training, 60)
    for child in children_of(deployment.processes[0].pid):
        os.kill(child, signal.SIGKILL)
    killed, whole = ended(deployment, client, [job, submit(client, copy, target, params=long)])
    assert (killed["state"], whole["state"]) == ("succeeded", "succeeded"), deployment.logs()
    assert (killed["attempt"], whole["attempt"]) == (2, 1)
    one, other = (client.get(f"/scores/{each['score_id']}").json() for each in (killed, whole))
    assert one["provenance"]["resumed_at_step"] > 0
    assert one["value"] == other["value"]
    steps = [
        [(p["step"], p["validation"], p["loss"]) for p in each["provenance"]["curve"]]
        for each in (one, other)
    ]
    assert steps[0] == steps[1]
