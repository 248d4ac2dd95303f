"""`python -m worker`: runs jobs, imports and refits from the store until told to stop, without a broker.

Any number may run beside each other, beside Celery workers and beside the service; the claims in the store
decide who works. SIGTERM and Ctrl-C give the jobs in hand back to the line.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import structlog

from headstart.errors import HeadstartError
from headstart.evidence.ingest import IMPORTERS, ImportLimits, run_next
from headstart.logs import configure_logs
from headstart.methods import known_methods
from headstart.queue import QUEUES, open_queue
from headstart.refit import refit_stale
from headstart.store import Store
from worker.crew import Crew
from worker.entry import entry_settings
from worker.hub import hub_importers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstart.settings import Settings

log = structlog.get_logger("worker")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker and return its exit status: 0, or 1 when it cannot begin."""
    options = _options(arguments)
    configure_logs(json_lines=not options.quiet)
    settings = entry_settings()
    store = Store(settings.store.get_secret_value())
    try:
        known_methods(settings.methods)
        if options.check:
            store.ping()
        elif options.once:
            store.ping()
            _once(store, settings, options.queues)
        else:
            _until_told(store, settings, options)
    except HeadstartError as e:
        print(e.message, file=sys.stderr)
        return 1
    finally:
        store.close()
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--once", action="store_true", help="do what waits and exit")
    mode.add_argument("--check", action="store_true", help="tell whether the store can be used, and exit")
    parser.add_argument(
        "--queues",
        type=_queues,
        default=QUEUES,
        help="which jobs to run, separated by ',' (default: cpu,gpu)",
    )
    parser.add_argument(
        "--until-eof", action="store_true", help="stop when standard input ends: whoever started it is gone"
    )
    parser.add_argument("--quiet", action="store_true", help="log warnings only, in words")
    return parser.parse_args(arguments)


def _queues(given: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in given.split(","))
    if unknown := set(names) - set(QUEUES):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(QUEUES)}")
    return names


def _until_told(store: Store, settings: Settings, options: argparse.Namespace) -> None:
    queues: Sequence[str] = options.queues
    crew = Crew(store, settings, open_queue(settings.broker.get_secret_value()), log)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: crew.stop())
    if options.until_eof:
        threading.Thread(target=_stop_at_eof, args=(crew,), name="until-eof", daemon=True).start()
    crew.start()
    log.info("worker_started", runners=crew.size, queues=list(queues))
    try:
        crew.drain(queues)
    finally:
        crew.close()
    log.info("worker_stopped")


def _stop_at_eof(crew: Crew) -> None:
    while os.read(sys.stdin.fileno(), 4096):  # unbuffered: a daemon thread may not hold a lock at exit
        pass
    crew.stop()


def _once(store: Store, settings: Settings, queues: Sequence[str]) -> None:
    """Run every waiting import and job, and refit what they made stale."""
    crew = Crew(store, settings, open_queue(""), log)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: crew.stop())
    limits = ImportLimits.from_settings(settings)
    try:
        while run_next(store, limits, {**IMPORTERS, **hub_importers()}):
            log.info("import_done")
        while crew.run_next(queues):
            pass
        if refitted := refit_stale(store):
            log.info("refitted", families=refitted)
    finally:
        crew.close()


if __name__ == "__main__":
    threading.current_thread().name = "worker"
    sys.exit(main())
