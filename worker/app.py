"""The Celery worker: `celery --app worker.app worker --queues cpu,gpu`.

One task, `run_job`. Its message is a knock: the job first in line of that queue is run, which is the one
named unless a more urgent one came, or another worker was faster; then the next one, for SLICE_SECONDS, and
if the line is not empty by then, the knock is passed on. So a broker's round trip is paid once for many short
jobs, and no job waits for a message of its own. Stopping the worker (SIGTERM) gives the job in hand back.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import Any

import structlog
from celery.signals import worker_init, worker_shutdown, worker_shutting_down

from headstart.errors import HeadstartError, StoreUnavailable
from headstart.logs import configure_logs
from headstart.methods import known_methods
from headstart.queue import QUEUES, RUN_JOB, celery_app, open_queue
from headstart.store import Store
from worker.crew import Crew, size_of
from worker.entry import entry_settings

SLICE_SECONDS = (
    1.0  # of short jobs for one knock, before other queues and the worker's own stop have their turn
)

settings = entry_settings()
doorbell = open_queue(settings.broker.get_secret_value())
app = celery_app(settings.broker.get_secret_value(), settings.job_seconds)
app.conf.worker_concurrency = size_of(settings, os.environ)  # read before any signal is sent
log = structlog.get_logger("worker")
_crew: Crew | None = None


@app.task(name=RUN_JOB, bind=True)  # type: ignore[untyped-decorator]
def run_job(task: Any, job_id: int) -> None:
    """Somebody knocked for this job: run those first in line on its queue, and pass the knock on."""
    if _crew is None:
        raise RuntimeError("The worker has not begun.")
    queue = (task.request.delivery_info or {}).get("routing_key")
    queues = (queue,) if queue in QUEUES else QUEUES
    until = time.monotonic() + SLICE_SECONDS
    try:
        while _crew.run_next(queues):
            if time.monotonic() > until:
                doorbell.ring([(job_id, queues[0])])
                break
    except StoreUnavailable as error:  # the job waits; it will be rung for again
        log.warning("store_unavailable", reason=error.message, job_id=job_id)


@worker_init.connect  # type: ignore[untyped-decorator]
def _begin(**_: Any) -> None:
    global _crew  # noqa: PLW0603 - Celery's signals have no other place to hand state on
    if not settings.broker.get_secret_value():
        raise SystemExit("HEADSTART_BROKER is empty: set it, or run `python -m worker`, which needs none.")
    configure_logs(json_lines=True)
    try:
        known_methods(settings.methods)
        store = Store(settings.store.get_secret_value())
    except HeadstartError as error:
        raise SystemExit(error.message) from None
    _crew = Crew(store, settings, doorbell, log)
    atexit.register(_crew.close)  # a cold shutdown sends no signal, and children left behind would hold it up
    _crew.start()
    threading.Thread(target=_crew.stand_in, args=(doorbell, QUEUES), name="stand-in", daemon=True).start()
    log.info("worker_started", runners=_crew.size)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    if _crew is not None:
        _crew.stop()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _end(**_: Any) -> None:
    if _crew is not None:
        _crew.close()
        log.info("worker_stopped")
