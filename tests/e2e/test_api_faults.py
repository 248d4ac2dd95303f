"""Faults of the service: what it has committed is measured, once, whether or not it lived to say so."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
from drills import JOBS

from headstart.entities import JobState
from tests.drill import METHOD

if TYPE_CHECKING:
    from deployment import Deployment

BATCH = {
    "jobs": [
        {"method": METHOD.name, "checkpoint": "roberta-base", "target": "rte", "params": {"number": number}}
        for number in range(JOBS)
    ]
}
KEYED = {"Idempotency-Key": "nightly"}
DIES = """
import os, signal
from headstart.queue import CeleryQueue
from headstart.store import Store
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
{step} = die
from service.cli import main
main()
"""


def post(address: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{address}/jobs/batch", json=BATCH, headers=headers, trust_env=False, timeout=30)


def job_ids(deployment: Deployment) -> list[int]:
    found, token = [], None
    while True:
        page = deployment.store.jobs(page_size=100, page_token=token)
        found += [job.id for job in page.items]
        token = page.next_token
        if token is None:
            return found


def killed_at(deployment: Deployment, step: str) -> None:
    """Post the batch to a service that dies there, by SIGKILL."""
    address = deployment.api("-c", DIES.format(step=step), "serve")
    service = deployment.processes[-1]
    with suppress(httpx.TransportError):  # the answer may come before the end
        post(address, **KEYED)
    assert service.wait(10) == -9
    assert deployment.store.job_counts().by_state[JobState.QUEUED] == JOBS  # committed, and nobody rung for


def scored_once(deployment: Deployment, address: str) -> None:
    """All are measured, and whoever asks again is answered by the scores."""
    deployment.census(job_ids(deployment))
    answer = post(address)
    assert answer.status_code == 202
    assert answer.json()["counts"] == {"queued": 0, "joined": 0, "scored": JOBS}
    assert len(job_ids(deployment)) == JOBS
    assert deployment.logged("job_started") == JOBS


def test_killed_between_the_commit_and_the_ring(scaled_out: Deployment) -> None:
    scaled_out.celery()
    scaled_out.celery()
    scaled_out.wait_for_workers(2)
    killed_at(scaled_out, "CeleryQueue.ring")
    healthy = scaled_out.api()
    # The answer was recorded before the ring: the same key brings it back, and nothing is done.
    replay = post(healthy, **KEYED)
    assert replay.status_code == 202
    assert replay.headers["Idempotent-Replayed"] == "true"
    assert replay.json()["counts"] == {"queued": JOBS, "joined": 0, "scored": 0}
    scored_once(scaled_out, healthy)


def test_killed_between_the_commit_and_the_answer(scaled_out: Deployment) -> None:
    scaled_out.celery()
    scaled_out.celery()
    scaled_out.wait_for_workers(2)
    killed_at(scaled_out, "Store.record_response")
    healthy = scaled_out.api()
    # Nobody can tell whether the first one still runs: the key is not given to another so soon.
    refused = post(healthy, **KEYED)
    assert refused.status_code == 409
    assert "still running" in refused.json()["detail"]
    scored_once(scaled_out, healthy)
