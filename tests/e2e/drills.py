"""Faults that every kind of worker has to come through, with hundreds of short jobs under way."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from deployment import drilling_child

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from deployment import Deployment

    StartWorker = Callable[[], subprocess.Popen[bytes]]

JOBS = 250


def kill_workers_in_turn(deployment: Deployment, start: StartWorker) -> None:
    """Of two workers kill one, start another in its place, and do so again."""
    job_ids = deployment.submit(deployment.drafts(JOBS, seconds=0.02))
    victims = [start(), start()]
    for kills in (1, 2):
        deployment.wait(lambda kills=kills: deployment.done() >= kills * 40)
        victim = victims.pop(0)
        child = drilling_child(victim.pid)
        victim.kill()
        victim.wait()
        assert child is not None
        deployment.wait(lambda child=child: not os.path.exists(f"/proc/{child}"), 10)  # no orphan goes on
        victims.append(start())
    jobs = deployment.census(job_ids)
    assert any(job.attempt > 1 for job in jobs)


def kill_children(deployment: Deployment, start: StartWorker) -> None:
    """Kill the child of one worker five times; the worker goes on."""
    job_ids = deployment.submit(deployment.drafts(JOBS, seconds=0.02))
    worker = start()
    killed = set()
    for _ in range(5):
        done = deployment.done()
        deployment.wait(lambda done=done: deployment.done() >= done + 20)
        child = deployment.wait(lambda: drilling_child(worker.pid))
        os.kill(child, signal.SIGKILL)
        killed.add(child)
    deployment.census(job_ids)
    assert worker.poll() is None
    assert len(killed) == 5


def crash_again_and_again(deployment: Deployment, start: StartWorker) -> None:
    """Jobs that kill their process, first in line: they fail, with a reason, and the others go ahead."""
    crashing = deployment.submit(deployment.drafts(10, end="kill"))
    good = deployment.submit(deployment.drafts(JOBS))
    start()
    jobs = deployment.census([*crashing, *good], failed=crashing)
    for job in jobs[: len(crashing)]:
        assert job.attempt == job.last_attempt == 3
        assert job.failure is not None
        assert job.failure.name == "Killed"
        assert "SIGKILL" in job.failure.sentence
        assert job.failure.remedy
    # Most of the good ones went ahead while the crashing ones waited for their next try.
    last_crash = max(job.finished_at for job in jobs[: len(crashing)] if job.finished_at)
    ahead = sum(job.finished_at < last_crash for job in jobs[len(crashing) :] if job.finished_at)
    assert ahead > 20
