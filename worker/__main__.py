"""`python -m worker`: drains the store of imports and stale posteriors until it is told to stop.

Any number may run beside each other and beside the service; the claim in the store decides who works.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from typing import TYPE_CHECKING

import structlog

from headstart.errors import StoreUnavailable
from headstart.evidence.ingest import ImportLimits, begin_starter, run_next
from headstart.refit import refit_stale
from headstart.settings import Settings
from headstart.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

POLL_SECONDS = 1.0
RETRY_SECONDS = 5.0  # while the store does not answer

log = structlog.get_logger("worker")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker and return its exit status: 0, or 1 when the store cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--once", action="store_true", help="drain the store and exit")
    mode.add_argument("--check", action="store_true", help="tell whether the store can be used, and exit")
    options = parser.parse_args(arguments)

    settings = Settings()
    limits = ImportLimits.from_settings(settings)
    store = Store(settings.store.get_secret_value())
    try:
        if options.check or options.once:
            store.ping()
        if options.once:
            drain(store, limits, threading.Event())
        elif not options.check:
            work(store, limits, _stopped_by_signal())
    except StoreUnavailable as e:
        print(e.message, file=sys.stderr)
        return 1
    finally:
        store.close()
    return 0


def work(store: Store, limits: ImportLimits, stop: threading.Event) -> None:
    """Drain the store again and again until `stop` is set; what fails is logged and does not end it."""
    log.info("worker started")
    while not stop.is_set():
        pause = POLL_SECONDS
        try:
            store.ping()
            begin_starter(store, limits.starter)
            drain(store, limits, stop)
        except StoreUnavailable as e:
            log.warning("store unavailable", reason=e.message, retry_seconds=RETRY_SECONDS)
            pause = RETRY_SECONDS
        except Exception:
            log.exception("work failed")
        stop.wait(pause)
    log.info("worker stopped")


def drain(store: Store, limits: ImportLimits, stop: threading.Event) -> None:
    """Run every waiting import and refit what they made stale, or return early when `stop` is set."""
    while not stop.is_set() and run_next(store, limits):
        log.info("import done")
    if not stop.is_set() and (refitted := refit_stale(store)):
        log.info("refitted", families=refitted)


def _stopped_by_signal() -> threading.Event:
    """An event that SIGTERM or SIGINT sets; work in progress is finished first."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


if __name__ == "__main__":
    sys.exit(main())
