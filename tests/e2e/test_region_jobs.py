"""Regions and a centroid of them: from weights on disk to the advice."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tiny_family import ended, imported

from tests.worker.tiny_checkpoints import make_tiny

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    from deployment import Deployment

FAMILY = "org/vanilla"
GROUPS = {"films": 3, "news": 3}
REGIONS = f"/families/{FAMILY}/regions"


def tuned(root: Path, name: str, direction: int, own: int) -> None:
    """A folder like the vanilla's, moved in a direction that others of its group share."""
    shutil.copytree(root / "vanilla", root / name)
    file = root / name / "model.safetensors"
    weights = load_file(file)
    shared, alone = np.random.default_rng((1, direction)), np.random.default_rng((2, own))
    for key in sorted(weights):
        moved = shared.standard_normal(weights[key].shape) + alone.standard_normal(weights[key].shape)
        if weights[key].dtype == np.float32:
            weights[key] = weights[key] + np.float32(1e-3) * moved.astype(np.float32)
    save_file(weights, file, {"format": "pt"})


def register(client: httpx.Client, root: Path, name: str, *, vanilla: bool = False) -> int:
    body = {"path": str(root / name), "name": f"org/{name}", "family": FAMILY, "is_vanilla": vanilla}
    return int(imported(client, "/checkpoints", body)["checkpoint_id"])


def looked_for(deployment: Deployment, client: httpx.Client) -> dict[str, Any]:
    accepted = client.post(REGIONS, json={})
    assert accepted.status_code == 202, accepted.text
    (job,) = ended(deployment, client, [accepted.json()["job"]["id"]])
    assert job["state"] == "succeeded", (job["failure"], deployment.logs())
    shown = client.get(REGIONS).json()
    assert shown["job_id"] == job["id"]
    return dict(shown)


def test_regions_are_found_and_a_centroid_of_one_is_probed_and_advised(
    embedded: tuple[Deployment, httpx.Client], root: Path
) -> None:
    deployment, client = embedded
    target = imported(client, "/targets", {"name": "films", "path": str(root / "films.csv")})["target_id"]
    ids = {"vanilla": register(client, root, "vanilla", vanilla=True)}
    for at, (group, count) in enumerate(GROUPS.items()):
        for k in range(count):
            tuned(root, f"{group}-{k}", at, 10 * at + k)
            ids[f"{group}-{k}"] = register(client, root, f"{group}-{k}")
    make_tiny("bert", root / "stranger", seed=9)
    ids["stranger"] = register(client, root, "stranger")
    file = root / "news-2" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])

    found = looked_for(deployment, client)
    names = {one["id"]: one["name"] for one in found["members"]}
    assert [sorted(names[one] for one in region["members"]) for region in found["regions"]] == [
        ["org/films-0", "org/films-1", "org/films-2"],
        ["org/news-0", "org/news-1"],
    ]
    assert [(one["name"], one["failure"]) for one in found["left_out"]] == [
        ("org/news-2", "CheckpointNotFound")
    ]
    assert 0.3 < found["cosine"]["within"] < 0.7
    stranger = client.get(f"/checkpoints/{ids['stranger']}").json()
    assert (stranger["lineage"], stranger["lineage_by"]) == ("contradicted", "job")
    assert client.get(f"/checkpoints/{ids['news-0']}").json()["lineage"] == "verified"
    assert client.get(f"{REGIONS}/map.png").content.startswith(b"\x89PNG")

    asked = {"name": "me/centre", "region": 1}
    accepted = client.post(f"/families/{FAMILY}/centroids", json=asked)
    (job,) = ended(deployment, client, [accepted.json()["job"]["id"]])
    assert job["state"] == "succeeded", (job["failure"], deployment.logs())
    made = client.get(f"/checkpoints/{job['result']['checkpoint']['id']}").json()
    assert (made["name"], made["family"]) == ("me/centre", FAMILY)
    assert sorted(made["details"]["centroid_of"]) == sorted(found["regions"][0]["members"])
    assert client.get(REGIONS).json()["registered_since"] == 1

    probe = {"method": "linear_probe", "target": target}
    asked_of = [made["id"], ids["vanilla"]]
    probed = [client.post("/jobs", json=probe | {"checkpoint": one}).json()["job"]["id"] for one in asked_of]
    assert [one["state"] for one in ended(deployment, client, probed)] == ["succeeded"] * 2, deployment.logs()

    def advised() -> set[str] | None:
        answer = client.post(
            "/recommend", json={"family": FAMILY, "target": {"id": target}, "limit": 50}
        ).json()
        listed = {one["checkpoint"]["name"] for one in answer.get("candidates", [])}
        return listed if "me/centre" in listed else None

    listed = deployment.wait(advised, 30)
    assert listed >= {"me/centre", "org/films-0", "org/films-1", "org/films-2"}
    assert "org/stranger" not in listed  # its scores are no evidence of this family

    again = looked_for(
        deployment, client
    )  # what was read once is not read again; the centroid lies among its own
    places = {one["name"]: one["region"] for one in again["members"]}
    assert places["me/centre"] == places["org/films-0"]
