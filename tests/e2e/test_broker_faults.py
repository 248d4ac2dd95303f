"""Faults of the broker: a lost, late or repeated message changes nothing, since the store is the truth."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deployment import Deployment
    from servers import Valkey

JOBS = 250


def test_the_broker_is_flushed_killed_and_started_again(scaled_out: Deployment, valkey: Valkey) -> None:
    job_ids = scaled_out.submit(scaled_out.drafts(JOBS, seconds=0.02))
    scaled_out.celery("one")
    scaled_out.celery("two")
    scaled_out.wait(lambda: scaled_out.done() >= 30)
    valkey.flush()
    scaled_out.wait(lambda: scaled_out.done() >= 60)
    valkey.kill()
    time.sleep(2)
    valkey.start()
    job_ids += scaled_out.submit(scaled_out.drafts(50))
    scaled_out.census(job_ids)


def test_jobs_submitted_while_there_is_no_broker(scaled_out: Deployment, valkey: Valkey) -> None:
    valkey.kill()
    try:
        started = time.monotonic()
        job_ids = scaled_out.submit(scaled_out.drafts(JOBS))
        assert time.monotonic() - started < 10  # whoever submits does not wait for a dead broker
        scaled_out.celery()
        time.sleep(2)
    finally:
        valkey.start()
    scaled_out.census(job_ids)


def test_every_message_arrives_twice_at_two_workers(scaled_out: Deployment) -> None:
    job_ids = scaled_out.submit(scaled_out.drafts(JOBS, seconds=0.005), ring=2)
    scaled_out.celery("one")
    scaled_out.celery("two")
    jobs = scaled_out.census(job_ids)
    assert {job.attempt for job in jobs} == {1}
