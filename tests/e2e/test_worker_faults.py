"""Faults of workers, each with hundreds of short jobs under way, on PostgreSQL with Celery and a broker."""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

from deployment import CELERY, QUIET
from drills import JOBS, crash_again_and_again, kill_children, kill_workers_in_turn

from headstart.entities import JobState
from headstart.errors import Conflict

if TYPE_CHECKING:
    from deployment import Deployment

SKEWED = """
import sys
from datetime import timedelta
from headstart.store import transactions
right = transactions.machine_clock
transactions.machine_clock = lambda: right() + timedelta(seconds={seconds})
from celery.__main__ import main
sys.argv[0] = "celery"
main()
"""


def test_workers_killed_in_the_middle_of_their_jobs(scaled_out: Deployment) -> None:
    kill_workers_in_turn(scaled_out, scaled_out.celery)


def test_children_killed(scaled_out: Deployment) -> None:
    kill_children(scaled_out, scaled_out.celery)


def test_a_crash_loop_ends_as_failed_and_blocks_nobody(scaled_out: Deployment) -> None:
    crash_again_and_again(scaled_out, scaled_out.celery)


def test_cancels_that_race_with_the_end(scaled_out: Deployment) -> None:
    job_ids = scaled_out.submit(scaled_out.drafts(JOBS, seconds=0.01))
    scaled_out.celery("one")
    scaled_out.celery("two")
    scaled_out.wait(lambda: scaled_out.done() > 10)
    refused = 0
    for job_id in job_ids[::2]:
        try:
            scaled_out.store.cancel_job(job_id)
        except Conflict:  # it was faster
            refused += 1
        time.sleep(0.005)
    scaled_out.wait(scaled_out.settled)
    jobs = [scaled_out.store.job(job_id) for job_id in job_ids]
    states = Counter(job.state for job in jobs)
    assert set(states) == {JobState.SUCCEEDED, JobState.CANCELLED}
    assert states[JobState.CANCELLED] > 20
    assert refused > 5
    assert all(job.state is JobState.SUCCEEDED for job in jobs[1::2])
    assert all(job.score_id is None for job in jobs if job.state is JobState.CANCELLED)
    scaled_out.check_scores([job for job in jobs if job.state is JobState.SUCCEEDED])


def test_a_worker_told_to_stop_gives_its_job_back(scaled_out: Deployment) -> None:
    short = scaled_out.drafts(JOBS)
    (long_one,) = scaled_out.submit(scaled_out.drafts(1, seconds=4))
    first = scaled_out.celery("one")
    scaled_out.wait(lambda: scaled_out.store.job(long_one).state is JobState.RUNNING)
    job_ids = scaled_out.submit(short)
    first.send_signal(signal.SIGTERM)
    assert first.wait(15) == 0
    given_back = scaled_out.store.job(long_one)
    assert (given_back.state, given_back.attempt, given_back.last_attempt) == (JobState.QUEUED, 1, 4)
    scaled_out.celery("two")
    scaled_out.census([long_one, *job_ids])


def test_workers_whose_clocks_are_minutes_apart(scaled_out: Deployment) -> None:
    job_ids = scaled_out.submit(scaled_out.drafts(JOBS, seconds=0.02), ring=2)
    slow = scaled_out.submit(scaled_out.drafts(2, seconds=5))
    for name, seconds in (("ahead", 60), ("behind", -60)):
        scaled_out.start(
            "-c", SKEWED.format(seconds=seconds), *CELERY[2:], *QUIET, "--hostname", f"{name}@test"
        )
    jobs = scaled_out.census([*job_ids, *slow])
    # Leases are the database's time: nobody takes a living worker's job, however long it runs.
    assert {job.attempt for job in jobs} == {1}
