"""What a job costs apart from its work: submit, claim, run in the child, finish, with every step committed.

    python -m bench.jobs [--jobs 10000] [--json]

No-op jobs through the store, on SQLite with one embedded worker, and on PostgreSQL with a broker and one or
two Celery workers; in the same run, beside as many no-op tasks of bare Celery with the Redis result backend,
whose results live in memory and are committed nowhere. Then how long 1,000 jobs in one call take, and a lone
job from submit to start with an idle worker. Targets: 0.25 of bare Celery; 1,000 in one call under 1 s; start
under 100 ms with a broker and 500 ms without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bench.noop import METHOD, NoopParams
from headstart.entities import JobDraft, JobState
from headstart.queue import Queue, open_queue
from headstart.store import Store, upgrade_schema
from tests.e2e.servers import Postgres, Valkey
from tests.one_pair import import_one_pair

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BATCH = 1000
LONE = 30
CELERY = ("-m", "celery", "--app", "worker.app", "worker", "--queues", "cpu,gpu", "--loglevel", "ERROR")
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")
BARE = ("-m", "celery", "--app", "bench.noop:bare", "worker", "--concurrency", "1", "--loglevel", "ERROR")


@contextmanager
def processes(commands: Sequence[Sequence[str]], **environment: str) -> Iterator[None]:
    """Worker processes that live as long as the context."""
    given = os.environ | environment | {"PYTHONWARNINGS": "ignore"}
    started = [
        subprocess.Popen(
            [sys.executable, *command], env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for command in commands
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)


def through_the_store(url: str, broker: str, commands: Sequence[Sequence[str]], jobs: int) -> dict[str, Any]:
    """Jobs per second, seconds of the largest batch, and milliseconds from submit to start."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = {
            "HEADSTART_STORE": url,
            "HEADSTART_BROKER": broker,
            "HEADSTART_METHODS": "bench.noop",
            "HEADSTART_STARTER": "",
            "HEADSTART_SCRATCH": scratch,
        }
        store, queue = Store(url), open_queue(broker)
        drafts = _drafts(store, jobs + BATCH + LONE)
        with processes(commands, **environment):
            _submit(store, queue, drafts[:BATCH])  # every worker is warm when these are done
            _wait(store, BATCH)
            started = time.perf_counter()
            for first in range(BATCH, BATCH + jobs, BATCH):
                _submit(store, queue, drafts[first : min(first + BATCH, BATCH + jobs)])
            _wait(store, BATCH + jobs)
            seconds = time.perf_counter() - started
            starts = [_start_ms(store, queue, draft) for draft in drafts[BATCH + jobs :]]
        store.close()
    return {"jobs_per_second": jobs / seconds, "start_ms": statistics.median(starts)}


def bare_celery(broker: str, workers: int, jobs: int) -> float:
    """Tasks per second of Celery alone, from the first send to the last result read."""
    os.environ["BENCH_BROKER"] = broker
    from bench.noop import bare, noop  # noqa: PLC0415

    bare.conf.update(broker_url=broker, result_backend=broker)
    names = [("--hostname", f"bare{k}@bench") for k in range(workers)]
    with processes([(*BARE, *QUIET, *name) for name in names], BENCH_BROKER=broker):
        for result in [noop.delay(number) for number in range(BATCH)]:
            result.get(timeout=60)
        started = time.perf_counter()
        for result in [noop.delay(number) for number in range(jobs)]:
            result.get(timeout=300)
        return jobs / (time.perf_counter() - started)


def batch_seconds(url: str) -> float:
    """Seconds of one call that submits as many jobs as one call may."""
    store = Store(url)
    drafts = _drafts(store, BATCH)
    started = time.perf_counter()
    store.submit_jobs(drafts)
    seconds = time.perf_counter() - started
    store.close()
    return seconds


def _submit(store: Store, queue: Queue, drafts: Sequence[JobDraft]) -> None:
    answers = store.submit_jobs(drafts)
    queue.ring((answer.job.id, answer.job.queue) for answer in answers if answer.job is not None)


def _wait(store: Store, jobs: int) -> None:
    while store.job_counts().by_state[JobState.SUCCEEDED] < jobs:
        time.sleep(0.3)


def _start_ms(store: Store, queue: Queue, draft: JobDraft) -> float:
    time.sleep(0.3)
    (answer,) = store.submit_jobs([draft])
    assert answer.job is not None
    queue.ring([(answer.job.id, answer.job.queue)])
    while (job := store.job(answer.job.id)).finished_at is None:
        time.sleep(0.01)
    assert job.started_at is not None
    return (job.started_at - job.created_at).total_seconds() * 1e3


def _drafts(store: Store, count: int) -> list[JobDraft]:
    checkpoint_id, target_id = import_one_pair(store)
    first = store.job_counts().by_state[JobState.SUCCEEDED]
    return [
        JobDraft(
            method=METHOD.name,
            method_version=METHOD.version,
            checkpoint_id=checkpoint_id,
            target_id=target_id,
            params=NoopParams(number=number).model_dump(mode="json"),
        )
        for number in range(first, first + count)
    ]


def measure(jobs: int) -> dict[str, Any]:
    """Everything, in one run."""
    found: dict[str, Any] = {}
    postgres, valkey = Postgres(), Valkey()
    try:
        with tempfile.TemporaryDirectory() as name:
            url = f"sqlite:///{Path(name) / 'store.db'}"
            upgrade_schema(url)
            found["SQLite, 1 worker"] = through_the_store(url, "", [("-m", "worker", "--quiet")], jobs)
            found["SQLite, 1 worker"]["batch_seconds"] = batch_seconds(url)
        for workers in (1, 2):
            valkey.flush()
            bare = bare_celery(valkey.url, workers, jobs)
            valkey.flush()
            names = [("--hostname", f"w{k}@bench") for k in range(workers)]
            url = postgres.database()
            one = through_the_store(url, valkey.url, [(*CELERY, *QUIET, *name) for name in names], jobs)
            one |= {"bare_per_second": bare, "of_bare": one["jobs_per_second"] / bare}
            one["batch_seconds"] = batch_seconds(url)
            found[f"PostgreSQL + Redis, {workers} worker{'s' if workers > 1 else ''}"] = one
    finally:
        valkey.close()
        postgres.close()
    return found


def show(found: dict[str, Any]) -> None:
    """Print rates, ratios and waits."""
    shown = Table(title="What a job costs apart from its work")
    columns = ("", "jobs/s", "bare Celery, tasks/s", "ratio", "1,000 in one call, s", "submit to start, ms")
    for name in columns:
        shown.add_column(name, justify="right" if name else "left")
    for where, one in found.items():
        shown.add_row(
            where,
            f"{one['jobs_per_second']:.0f}",
            f"{one['bare_per_second']:.0f}" if "bare_per_second" in one else "–",
            f"{one['of_bare']:.2f}" if "of_bare" in one else "–",
            f"{one['batch_seconds']:.2f}",
            f"{one['start_ms']:.0f}",
        )
    Console(width=110).print(shown)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000, help="how many no-op jobs (default: 10000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = measure(options.jobs)
    print(json.dumps(found, indent=2)) if options.json else show(found)


if __name__ == "__main__":
    main()
