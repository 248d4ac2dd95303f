"""A lone job is started at once, not by the upkeep that rings again for forgotten ones every 5 seconds."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import httpx

from tests.drill import METHOD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deployment import Deployment

LONE = 15
APART_SECONDS = 0.3
BOUND_SECONDS = 2.0  # generous: it tells a doorbell that works from one that does not, and no more


def median_wait(deployment: Deployment, job_ids: Sequence[int]) -> float:
    """Seconds from submit to start, by the store's clock."""
    jobs = deployment.census(job_ids)
    return statistics.median(
        (job.started_at - job.created_at).total_seconds() for job in jobs if job.started_at is not None
    )


def test_the_doorbell_wakes_an_idle_celery_worker_before_upkeep_would(scaled_out: Deployment) -> None:
    scaled_out.celery()
    address = scaled_out.api()
    scaled_out.wait_for_workers(1)
    job_ids = []
    with httpx.Client(base_url=address, trust_env=False) as client:
        for number in range(LONE):
            wanted = {"method": METHOD.name, "checkpoint": "roberta-base", "target": "rte"}
            answer = client.post("/jobs", json=wanted | {"params": {"number": number}}).raise_for_status()
            job_ids.append(answer.json()["job"]["id"])
            time.sleep(APART_SECONDS)
    assert median_wait(scaled_out, job_ids) < BOUND_SECONDS
    assert scaled_out.logged("rung_again") == 0


def test_an_idle_worker_without_a_broker_finds_a_job_by_itself(on_one_machine: Deployment) -> None:
    on_one_machine.embedded()
    on_one_machine.wait_for_workers(1)
    job_ids = []
    for _ in range(LONE):
        job_ids += on_one_machine.submit(on_one_machine.drafts(1))
        time.sleep(APART_SECONDS)
    assert median_wait(on_one_machine, job_ids) < BOUND_SECONDS
