"""Races that are killed and cancelled on their way: what was measured by then stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiny_family import ended, register

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    from deployment import Deployment

RECIPE = {
    "epochs": 12,
    "batch_rows": 8,
    "learning_rate": 2e-3,
    "max_tokens": 32,
    "precision": "fp32",
    "patience": 1000,
}
FAMILY = "org/vanilla"


def begun(client: httpx.Client, target: int, **more: Any) -> int:
    # so little is worth it, and so small a chance enough, that both candidates run
    asked = {"family": FAMILY, "finetune": RECIPE, "worth": 0.0, "least_chance": 0.0}
    answer = client.post(f"/targets/{target}/race", json=asked | more)
    assert answer.status_code == 202, answer.text
    return int(answer.json()["job"]["id"])


def scores(client: httpx.Client) -> list[dict[str, Any]]:
    return list(client.get("/scores", params={"method": "finetune"}).json()["items"])


def until_the_second_run(deployment: Deployment, client: httpx.Client, job: int) -> list[dict[str, Any]]:
    """Wait until one run is scored and another one trains; return the scores."""

    def there() -> list[dict[str, Any]] | None:
        said = client.get(f"/jobs/{job}").json()["progress"]
        return scores(client) if "run 2" in said["message"] and said["stage"] == "training" else None

    return list(deployment.wait(there, 90))


def test_a_race_whose_worker_is_killed_goes_on_where_it_was(
    embedded: tuple[Deployment, httpx.Client], root: Path
) -> None:
    deployment, client = embedded
    target, ids = register(client, root)
    job = begun(client, target)
    (first,) = until_the_second_run(deployment, client, job)
    assert first["checkpoint_id"] == ids["vanilla"]
    worker = deployment.processes[0]
    worker.kill()
    worker.wait()
    places = {"HEADSTART_ROOTS": str(root), "HEADSTART_CACHE": str(deployment.folder / "cache")}
    deployment.embedded(**places, OMP_NUM_THREADS="1")
    (race,) = ended(deployment, client, [job])
    assert (race["state"], race["attempt"]) == ("succeeded", 2), deployment.logs()
    found = scores(client)
    keys = [(one["checkpoint_id"], one["seed"]) for one in found]
    assert len(set(keys)) == len(keys) >= 2
    assert found[0] == first  # the vanilla did not run again
    assert {one["provenance"]["attempt"] for one in found[1:]} == {2}
    assert {one["quarantine"] for one in found} == {None}


def test_a_race_that_is_cancelled_leaves_its_scores(
    embedded: tuple[Deployment, httpx.Client], root: Path
) -> None:
    deployment, client = embedded
    target, ids = register(client, root)
    job = begun(client, target)
    before = until_the_second_run(deployment, client, job)
    assert client.post(f"/jobs/{job}/cancel").status_code == 202
    (race,) = ended(deployment, client, [job])
    assert (race["state"], race["result"], race["score_id"]) == ("cancelled", None, None)
    assert scores(client) == before
    body = {"method": "finetune", "checkpoint": ids["vanilla"], "target": target, "params": RECIPE}
    answer = client.post("/jobs", json=body).json()
    assert (answer["status"], answer["score"]["id"]) == ("scored", before[0]["id"])
