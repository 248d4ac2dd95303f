"""A deployment on one machine: a store, perhaps a broker, real worker processes, and a census at the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.entities import JobDraft, JobState
from headstart.queue import open_queue
from headstart.recommend.posterior import FORMAT
from headstart.store import Store
from tests.drill import METHOD, DrillParams
from tests.one_pair import import_one_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headstart.entities import Job, Submission

ROOT = Path(__file__).parents[2]
CELERY = ("-m", "celery", "--app", "worker.app", "worker", "--loglevel", "WARNING", "--queues", "cpu,gpu")
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")


class Deployment:
    def __init__(self, url: str, broker: str, folder: Path) -> None:
        self.url = url
        self.broker = broker
        self.folder = folder
        self.store = Store(url)
        self.queue = open_queue(broker)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.checkpoint_id, self.target_id = import_one_pair(self.store)
        self.version = self.store.evidence_version()  # before any score
        self._numbers = 0

    # -- workers

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "HEADSTART_STORE": self.url,
            "HEADSTART_BROKER": self.broker,
            "HEADSTART_STARTER": "",
            "HEADSTART_METHODS": "tests.drill",
            "HEADSTART_LEASE_SECONDS": "3",
            "HEADSTART_RETRY_SECONDS": "0.2",
            "HEADSTART_SCRATCH": str(self.folder / "scratch"),
            "HEADSTART_KEPT": str(self.folder / "kept"),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            **more,
        }

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a Python process of the deployment; its log is kept in the test's folder."""
        log = (self.folder / f"process-{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=self.environment(**environment),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its children can be told from ours
        )
        log.close()
        self.processes.append(process)
        return process

    def celery(self, name: str = "", **environment: str) -> subprocess.Popen[bytes]:
        name = name or f"worker-{len(self.processes)}"
        return self.start(*CELERY, *QUIET, "--hostname", f"{name}@test", **environment)

    def embedded(self, **environment: str) -> subprocess.Popen[bytes]:
        return self.start("-m", "worker", **environment)

    def api(self, *command: str, **environment: str) -> str:
        """Start a service, by `command` if it is a special one, and return its address."""
        log = self.folder / f"process-{len(self.processes)}.log"
        what = command or ("-m", "service", "serve")
        self.start(*what, "--port", "0", **{"HEADSTART_EMBEDDED_WORKER": "false"} | environment)
        found = self.wait(lambda: re.search(r"serves on (http://\S+)", log.read_text()))
        return str(found[1])

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many workers have begun, since the start of the test."""
        self.wait(lambda: self.logged("worker_started") >= count)

    def logged(self, event: str) -> int:
        """How often the processes have logged this event."""
        return self.logs().count(f'"event": "{event}"')

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.store.close()

    # -- jobs

    def drafts(self, count: int, **params: Any) -> list[JobDraft]:
        """So many jobs that differ from all others of this deployment."""
        first, self._numbers = self._numbers, self._numbers + count
        return [
            JobDraft(
                method=METHOD.name,
                method_version=METHOD.version,
                checkpoint_id=self.checkpoint_id,
                target_id=self.target_id,
                params=DrillParams(number=number, **params).model_dump(mode="json"),
            )
            for number in range(first, first + count)
        ]

    def submit(self, drafts: Sequence[JobDraft], *, ring: int = 1) -> list[int]:
        """Submit as the service does, and ring so many times for each new job."""
        answers = self.store.submit_jobs(drafts)
        found = [job_of(answer) for answer in answers]
        for _ in range(ring):
            self.queue.ring((job.id, job.queue) for job in found)
        return [job.id for job in found]

    def wait(self, seen: Callable[[], Any], seconds: float = 60) -> Any:
        """Wait until something is seen; fail with the logs of the workers."""
        until = time.monotonic() + seconds
        while not (found := seen()):
            if time.monotonic() > until:
                raise AssertionError(f"{self.store.job_counts()}\n{self.logs()[-20_000:]}")
            time.sleep(0.05)
        return found

    def done(self) -> int:
        return self.store.job_counts().by_state[JobState.SUCCEEDED]

    def newest_posterior(self) -> int:
        """The evidence version of the oldest of the families' newest posteriors."""
        newest = self.store.newest_posteriors(FORMAT)
        return min((version for _, version in newest.values()), default=0)

    def settled(self) -> bool:
        counts = self.store.job_counts().by_state
        return counts[JobState.QUEUED] + counts[JobState.RUNNING] == 0

    def census(self, job_ids: Sequence[int], *, failed: Sequence[int] = (), seconds: float = 90) -> list[Job]:
        """Wait until nothing is under way; then: none lost, none scored twice, none stuck."""
        self.wait(self.settled, seconds)
        jobs = [self.store.job(job_id) for job_id in job_ids]
        ended = Counter(job.state for job in jobs if job.id not in set(failed))
        assert ended == {JobState.SUCCEEDED: len(job_ids) - len(failed)}, self.logs()[-20_000:]
        assert all(self.store.job(job_id).state is JobState.FAILED for job_id in failed)
        self.check_scores([job for job in jobs if job.state is JobState.SUCCEEDED])
        return jobs

    def check_scores(self, succeeded: Sequence[Job]) -> None:
        """Each succeeded job has its own one score, and nothing else was stored."""
        scores, token = [], None
        while True:
            page = self.store.scores(method=METHOD.name, page_size=500, page_token=token)
            scores += page.items
            token = page.next_token
            if token is None:
                break
        assert sorted(score.id for score in scores) == sorted(job.score_id or 0 for job in succeeded)
        by_id = {score.id: score for score in scores}
        for job in succeeded:
            score = by_id[job.score_id or 0]
            assert score.value == job.params["number"] / 1000
            assert (score.provenance["job"], score.provenance["attempt"]) == (job.id, job.attempt)
            assert score.quarantine is None
        # The version rises by one with every score: a second one, even if thrown away later, would show.
        assert self.store.evidence_version() == self.version + len(scores)


def job_of(answer: Submission) -> Job:
    assert answer.job is not None
    return answer.job


def children_of(pid: int) -> list[int]:
    """The process ids of the children of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found


def drilling_child(pid: int) -> int | None:
    """The child of a worker that runs jobs, not multiprocessing's resource tracker."""
    for child in children_of(pid):
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
    return None
