"""From a finished job to the answers of every API process: refit and snapshot follow within seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from deployment import Deployment

SECONDS = 5.0  # from the end of a job until every process answers from it


def version_of(address: str) -> int:
    answer = httpx.get(f"{address}/readyz", trust_env=False)
    return int(answer.json()["evidence_version"]) if answer.is_success else 0


def test_every_api_process_answers_from_a_new_score_within_seconds(scaled_out: Deployment) -> None:
    addresses = [scaled_out.api(), scaled_out.api()]
    scaled_out.celery()
    scaled_out.submit(scaled_out.drafts(1))
    scaled_out.wait(lambda: all(version_of(at) == scaled_out.version + 1 for at in addresses))
    waits = []
    for _ in range(4):
        version = scaled_out.store.evidence_version()
        scaled_out.submit(scaled_out.drafts(3, seconds=0.2))
        scaled_out.wait(scaled_out.settled)
        ended = time.monotonic()
        scaled_out.wait(lambda version=version: all(version_of(at) == version + 3 for at in addresses))
        waits.append(time.monotonic() - ended)
    assert max(waits) < SECONDS, waits


def test_scores_that_come_together_share_a_refit(scaled_out: Deployment) -> None:
    scaled_out.celery()
    job_ids = scaled_out.submit(scaled_out.drafts(200, seconds=0.005))
    started = time.monotonic()
    scaled_out.census(job_ids)
    scaled_out.wait(lambda: scaled_out.newest_posterior() == scaled_out.version + 200)
    refits = scaled_out.logged("refitted")
    assert 1 <= refits <= (time.monotonic() - started) / 2 + 2
