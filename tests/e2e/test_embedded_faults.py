"""Faults of workers that look into the store by themselves: alone on SQLite, and beside Celery's."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import httpx
from deployment import children_of, drilling_child
from drills import JOBS, crash_again_and_again, kill_children, kill_workers_in_turn

from tests.drill import METHOD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deployment import Deployment

    from headstart.entities import Job


def test_workers_killed_in_the_middle_of_their_jobs(on_one_machine: Deployment) -> None:
    kill_workers_in_turn(on_one_machine, on_one_machine.embedded)


def test_children_killed(on_one_machine: Deployment) -> None:
    kill_children(on_one_machine, on_one_machine.embedded)


def test_a_crash_loop_ends_as_failed_and_blocks_nobody(on_one_machine: Deployment) -> None:
    crash_again_and_again(on_one_machine, on_one_machine.embedded)


def children_that_scored(deployment: Deployment, jobs: Sequence[Job]) -> set[int]:
    return {deployment.store.score(job.score_id or 0).provenance["pid"] for job in jobs}


def test_a_celery_worker_and_one_that_polls_share_a_store(scaled_out: Deployment) -> None:
    workers = [scaled_out.celery(), scaled_out.embedded()]
    scaled_out.wait_for_workers(2)
    job_ids = scaled_out.submit(scaled_out.drafts(JOBS, seconds=0.02))
    jobs = scaled_out.census(job_ids)
    assert {job.attempt for job in jobs} == {1}
    assert scaled_out.logged("job_started") == JOBS
    assert children_that_scored(scaled_out, jobs) == {drilling_child(worker.pid) for worker in workers}


def test_six_workers_after_the_same_jobs(scaled_out: Deployment) -> None:
    """Four poll and two are knocked for four times over: every job is claimed by one of them, once."""
    workers = [scaled_out.celery(), scaled_out.celery(), *(scaled_out.embedded() for _ in range(4))]
    scaled_out.wait_for_workers(len(workers))
    jobs = scaled_out.census(scaled_out.submit(scaled_out.drafts(JOBS), ring=4))
    assert {job.attempt for job in jobs} == {1}
    assert scaled_out.logged("job_started") == JOBS
    assert len(children_that_scored(scaled_out, jobs)) > 1


def test_a_service_with_its_worker_runs_jobs_and_stops_with_it(on_one_machine: Deployment) -> None:
    address = on_one_machine.api("-m", "service", "serve", "--worker", "--logs")
    (service,) = on_one_machine.processes
    wanted = [
        {"method": METHOD.name, "checkpoint": "roberta-base", "target": "rte", "params": {"number": number}}
        for number in range(20)
    ]
    answer = httpx.post(f"{address}/jobs/batch", json={"jobs": wanted}, trust_env=False).raise_for_status()
    on_one_machine.census([one["job"]["id"] for one in answer.json()["items"]])
    family = children_of(service.pid)
    family += [child for worker in family for child in children_of(worker)]
    assert len(family) >= 2  # the worker and its child
    service.send_signal(signal.SIGTERM)
    assert service.wait(15) == 0, on_one_machine.logs()
    assert on_one_machine.logged("worker_stopped") == 1
    assert "Fatal Python error" not in on_one_machine.logs()
    on_one_machine.wait(lambda: not [pid for pid in family if os.path.exists(f"/proc/{pid}")], 10)
