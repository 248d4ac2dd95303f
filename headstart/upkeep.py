"""Upkeep: what has to happen beside the jobs, by whichever process is there to do it.

Imports, refits, jobs whose worker was lost, jobs nobody was woken for, webhooks. Every chore is a thread of
its own that looks at the store again and again, so that a slow import delays no webhook. Any number of
processes may keep up the same store: each step claims what it does, and doing it twice is harmless.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headstart.errors import StoreUnavailable
from headstart.queue import MOST_KNOCKS, QUEUES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headstart.queue import Queue
    from headstart.settings import Settings
    from headstart.store import Store

REFIT_SECONDS = (
    2.0  # between the starts of two refits, by whichever process: scores that come together share one
)
RING_AGAIN_SECONDS = 5.0  # after which a waiting job is rung for again
SENDERS = 4  # of webhooks: a receiver that does not answer holds one of them up
STOP_SECONDS = 2.0  # how long a stop waits; a claim it leaves behind runs out and is taken again


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to do again and again. Where `step` says that it did something it is called again at once."""

    name: str
    seconds: float  # between two looks, when there was nothing to do
    step: Callable[[], bool]


class Upkeep:
    """Runs chores, each in a daemon thread; an error is logged and never ends one.

    `log` is a structlog logger, or anything with its `info`, `warning` and `exception`.
    """

    def __init__(self, chores: Sequence[Chore], log: Any) -> None:
        self._log = log
        self._stopping = threading.Event()
        self._wakes = [threading.Event() for _ in chores]
        self._threads = [
            threading.Thread(target=self._run, args=(chore, wake), name=f"upkeep-{chore.name}", daemon=True)
            for chore, wake in zip(chores, self._wakes, strict=True)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """There is something to do: look now."""
        for wake in self._wakes:
            wake.set()

    def stop(self) -> None:
        """Ask the threads to end and wait for them a little."""
        self._stopping.set()
        self.wake()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(STOP_SECONDS)

    def _run(self, chore: Chore, wake: threading.Event) -> None:
        while not self._stopping.is_set():
            wake.clear()
            if not self._guarded(chore):
                wake.wait(chore.seconds)

    def _guarded(self, chore: Chore) -> bool:
        """Do a step; an error counts as nothing done, so that the next try waits."""
        try:
            return chore.step()
        except StoreUnavailable as error:
            if not self._stopping.is_set():
                self._log.warning("chore_waits_for_the_store", chore=chore.name, reason=error.message)
        except Exception:
            if not self._stopping.is_set():
                self._log.exception("chore_failed", chore=chore.name)
        return False


def chores_of(store: Store, settings: Settings, queue: Queue, log: Any) -> tuple[Chore, ...]:
    """Everything that keeps this store up."""
    return (
        Chore("imports", 1.0, lambda: import_next(store, settings, log)),
        Chore("refit", 0.5, lambda: refit(store, log)),
        Chore("jobs", 1.0, lambda: requeue(store, queue, log)),
        *(Chore(f"webhooks-{k}", 1.0, webhooks(store, settings)) for k in range(SENDERS)),
    )


def starter_chore(store: Store, starter: str) -> Chore:
    """Queue the import of the starter evidence, once, as soon as the store answers."""
    begun = threading.Event()

    def step() -> bool:
        from headstart.evidence.ingest import begin_starter  # noqa: PLC0415 - heavy, and off the start

        if not begun.is_set():
            begin_starter(store, starter)
            begun.set()
        return False

    return Chore("starter", 2.0, step)


def import_next(store: Store, settings: Settings, log: Any) -> bool:
    """Run the oldest import that waits."""
    from headstart.evidence.ingest import ImportLimits, run_next  # noqa: PLC0415 - heavy, and off the start

    ran = run_next(store, ImportLimits.from_settings(settings))
    if ran:
        log.info("import_done")
    return ran


def refit(store: Store, log: Any) -> bool:
    """Refit what the evidence has outgrown, at most every REFIT_SECONDS over all processes."""
    from headstart.refit import is_stale, refit_stale  # noqa: PLC0415 - heavy, and off the start

    if not is_stale(store) or not store.take_turn("refit", REFIT_SECONDS):
        return False
    fitted = refit_stale(store)
    log.info("refitted", families=fitted)
    return False  # the next one waits its turn


def requeue(store: Store, queue: Queue, log: Any) -> bool:
    """Put jobs of lost workers back in line, and wake workers for jobs that nobody was woken for."""
    lost = store.requeue_stale()
    for job_id in lost:
        log.warning("worker_lost", job_id=job_id)
    for name in QUEUES:
        sent = queue.depth(name)
        if sent is None:
            continue  # no broker, or it does not answer
        missing = min(MOST_KNOCKS, store.count_due(name)) - sent
        if missing > 0 and (unrung := store.take_unrung(name, RING_AGAIN_SECONDS, missing)):
            queue.ring((job_id, name) for job_id in unrung)
            log.info("rung_again", queue=name, jobs=len(unrung))
    return False


def webhooks(store: Store, settings: Settings) -> Callable[[], bool]:
    """The step that sends the webhook that is due."""

    def step() -> bool:
        from headstart.webhooks import WebhookOptions, deliver_next  # noqa: PLC0415 - httpx, off the start

        options = WebhookOptions(
            secret=settings.webhook_secret.get_secret_value(), allow_private=settings.allow_private_urls
        )
        return deliver_next(store, options, random.Random())  # noqa: S311 - jitter

    return step
