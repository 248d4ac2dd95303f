"""A finetune that is kept: a checkpoint like any other, from the command to the advice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from test_finetune_jobs import submit
from tiny_family import ended, imported, register

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    from deployment import Deployment


def test_a_kept_finetune_is_probed_finetuned_and_advised_as_any_checkpoint(
    embedded: tuple[Deployment, httpx.Client], root: Path
) -> None:
    deployment, client = embedded
    target, ids = register(client, root)
    plain, job = ended(
        deployment,
        client,
        [submit(client, ids["one"], target), submit(client, ids["one"], target, keep="me/films-one")],
    )
    assert (plain["state"], job["state"]) == ("succeeded", "succeeded"), deployment.logs()
    made = client.get(f"/checkpoints/{job['result']['checkpoint']['id']}").json()
    base = client.get(f"/checkpoints/{ids['one']}").json()
    assert made["name"] == job["result"]["checkpoint"]["name"] == "me/films-one"
    assert (made["family"], made["license"], made["is_vanilla"]) == ("org/vanilla", "mit", False)
    assert made["parameters"] == base["parameters"]
    assert made["details"]["finetuned_on"] == "films"
    assert made["details"]["labels"] == ["bad", "good"]
    (score,) = client.get("/scores", params={"checkpoint_id": ids["one"]}).json()["items"]
    assert score["id"] == plain["score_id"]  # one key, and one value to the bit
    assert job["result"]["score"]["value"] == score["value"]
    taken = {"method": "finetune", "checkpoint": ids["two"], "target": target, "keep": "me/films-one"}
    assert client.post("/jobs", json=taken).status_code == 409

    probe = {"method": "linear_probe", "checkpoint": "me/films-one", "target": target}
    probed = client.post("/jobs", json=probe).json()["job"]["id"]
    further = [submit(client, one, target, seed=1) for one in (made["id"], ids["vanilla"])]
    jobs = ended(deployment, client, [probed, *further])
    assert [one["state"] for one in jobs] == ["succeeded"] * 3, deployment.logs()
    assert client.get(f"/scores/{jobs[0]['score_id']}").json()["value"] > 0.8  # it has seen the target

    def advised() -> dict[str, Any] | None:
        answer = client.post("/recommend", json={"family": "org/vanilla", "target": {"name": "films"}}).json()
        listed = {one["checkpoint"]["name"]: one["evidence"] for one in answer.get("candidates", [])}
        return answer if listed.get("me/films-one", {}).get("measured_here") == 1 else None

    deployment.wait(advised, 30)
    path = made["details"]["path"]  # not under HEADSTART_ROOTS
    assert imported(client, "/checkpoints", {"path": path})["checkpoint_id"] == made["id"]


def test_where_it_cannot_be_written_the_score_is_not_lost(
    embedded: tuple[Deployment, httpx.Client], root: Path
) -> None:
    deployment, client = embedded
    target, ids = register(client, root)
    deployment.folder.joinpath("kept").write_text("no folder")
    (job,) = ended(deployment, client, [submit(client, ids["one"], target, keep="me/films-one")])
    assert (job["state"], job["failure"]["name"]) == ("failed", "Interrupted"), deployment.logs()
    assert "could not be written" in job["failure"]["sentence"]
    (score,) = client.get("/scores", params={"quarantined": False}).json()["items"]
    assert score["checkpoint_id"] == ids["one"]
    deployment.folder.joinpath("kept").unlink()
    client.post(f"/jobs/{job['id']}/retry")
    (job,) = ended(deployment, client, [job["id"]])
    assert job["state"] == "succeeded", deployment.logs()
