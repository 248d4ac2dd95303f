"""A family of three tiny checkpoints and a target of their own, registered with a deployment that serves."""

from __future__ import annotations

import csv
import random
import time
from typing import TYPE_CHECKING, Any

import httpx

from tests.worker.tiny_checkpoints import WORDS, make_tiny

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployment import Deployment

ROWS = 240


def make_root(root: Path) -> Path:
    """What may be read: a vanilla and two of its kind, and a target whose words tell its label."""
    for seed, name in enumerate(("vanilla", "one", "two")):
        make_tiny("bert", root / name, seed=seed)
    for name in ("one", "two"):
        (root / name / "README.md").write_text("---\nbase_model: org/vanilla\nlicense: mit\n---\n")
    draw = random.Random(0)
    with (root / "films.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for row in range(ROWS):
            label = ("good", "bad")[row % 2]
            words = [*draw.choices(WORDS, k=draw.randint(3, 20)), label, label]
            table.writerow([" ".join(draw.sample(words, len(words))) + f" {row}", label])
    return root


def serving(deployment: Deployment, root: Path, *, celery: bool) -> Iterator[tuple[Deployment, httpx.Client]]:
    places = {
        "HEADSTART_ROOTS": str(root),
        "HEADSTART_CACHE": str(deployment.folder / "cache"),
        "HEADSTART_SAVE_SECONDS": "0.2",  # so that a finetune of seconds has a state to go on from
    }
    for _ in range(2 if celery else 1):
        (deployment.celery if celery else deployment.embedded)(**places, OMP_NUM_THREADS="1")
    with httpx.Client(base_url=deployment.api(**places), trust_env=False, timeout=30) as client:
        yield deployment, client


def imported(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    accepted = client.post(path, json=body)
    assert accepted.status_code == 202, accepted.text
    for _ in range(600):
        found = client.get(accepted.headers["Location"]).json()
        if found["finished_at"] is not None:
            assert found["state"] == "succeeded", found["error"]
            return dict(found["report"])
        time.sleep(0.05)
    raise AssertionError(found)


def ended(deployment: Deployment, client: httpx.Client, job_ids: list[int]) -> list[dict[str, Any]]:
    def all_ended() -> list[dict[str, Any]] | None:
        jobs = [client.get(f"/jobs/{one}").json() for one in job_ids]
        return jobs if all(job["finished_at"] is not None for job in jobs) else None

    return list(deployment.wait(all_ended, 120))


def register(client: httpx.Client, root: Path) -> tuple[int, dict[str, int]]:
    """The target's id, and the checkpoints' by name."""
    target = imported(client, "/targets", {"name": "films", "path": str(root / "films.csv")})["target_id"]
    ids = {}
    for name in ("vanilla", "one", "two"):
        body = {"path": str(root / name), "name": f"org/{name}", "family": "org/vanilla"}
        ids[name] = imported(client, "/checkpoints", body | {"is_vanilla": name == "vanilla"})[
            "checkpoint_id"
        ]
    return int(target), ids
