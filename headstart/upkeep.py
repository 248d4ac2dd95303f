"""Upkeep: what has to happen beside the jobs, by whichever process is there to do it.

Imports, refits, jobs whose worker was lost, jobs nobody was woken for, webhooks. Every chore is a thread of
its own that looks at the store again and again, so that a slow import delays no webhook. Any number of
processes may keep up the same store: each step claims what it does, and doing it twice is harmless.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headstart.errors import StoreUnavailable
from headstart.queue import MOST_KNOCKS, QUEUES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headstart.evidence.ingest import Importer
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


def chores_of(
    store: Store,
    settings: Settings,
    queue: Queue,
    log: Any,
    importers: Callable[[], Mapping[str, Importer]] = dict,
) -> tuple[Chore, ...]:
    """Everything that keeps this store up. `importers` are those that this process has beside the usual."""
    return (
        Chore("imports", 1.0, lambda: import_next(store, settings, log, importers)),
        Chore("refit", 0.5, refitting(store, log)),
        Chore("jobs", 1.0, Requeue(store, queue, settings.lease_seconds, log)),
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


def import_next(
    store: Store,
    settings: Settings,
    log: Any,
    importers: Callable[[], Mapping[str, Importer]] = dict,
) -> bool:
    """Run the oldest import that waits."""
    from headstart.evidence.ingest import IMPORTERS, ImportLimits, run_next  # noqa: PLC0415 - off the start

    ran = run_next(store, ImportLimits.from_settings(settings), {**IMPORTERS, **importers()})
    if ran:
        log.info("import_done")
    return ran


def refitting(store: Store, log: Any) -> Callable[[], bool]:
    """The step that refits what the evidence has outgrown, at most every REFIT_SECONDS over all processes.

    Where a fit takes long the turn is held longer, so that no other process begins the same one meanwhile.
    """
    longest = 0.0

    def step() -> bool:
        from headstart.refit import is_stale, refit_stale  # noqa: PLC0415 - heavy, and off the start

        nonlocal longest
        if not is_stale(store) or not store.take_turn("refit", max(REFIT_SECONDS, 2 * longest)):
            return False
        begun = time.monotonic()
        log.info("refitted", families=refit_stale(store))
        longest = time.monotonic() - begun
        return False  # the next one waits its turn

    return step


class Requeue:
    """Puts jobs of lost workers back in line, and wakes workers for jobs that nobody was woken for.

    A lease runs out when its worker is gone, and also when the store is: then everybody's does. So after a
    time in which the store did not answer, and at the start, living workers get one lease to say so.
    """

    def __init__(
        self,
        store: Store,
        queue: Queue,
        lease_seconds: float,
        log: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._queue = queue
        self._lease = lease_seconds
        self._log = log
        self._clock = clock
        self._answered = clock()
        self._patient_until = clock() + lease_seconds

    def __call__(self) -> bool:
        """Look once."""
        waiting = {name: self._store.count_due(name) for name in QUEUES}
        now = self._clock()
        if now - self._answered > self._lease / 2:
            self._patient_until = now + self._lease
        self._answered = now
        if now >= self._patient_until:
            for job_id in self._store.requeue_stale():
                self._log.warning("worker_lost", job_id=job_id)
        for name, due in waiting.items():
            self._ring(name, due)
        return False

    def _ring(self, name: str, due: int) -> None:
        sent = self._queue.depth(name)
        if sent is None:
            return  # no broker, or it does not answer
        missing = min(MOST_KNOCKS, due) - sent
        if missing > 0 and (unrung := self._store.take_unrung(name, RING_AGAIN_SECONDS, missing)):
            self._queue.ring((job_id, name) for job_id in unrung)
            self._log.info("rung_again", queue=name, jobs=len(unrung))


def webhooks(store: Store, settings: Settings) -> Callable[[], bool]:
    """The step that sends the webhook that is due."""

    def step() -> bool:
        from headstart.webhooks import WebhookOptions, deliver_next  # noqa: PLC0415 - httpx, off the start

        options = WebhookOptions(
            secret=settings.webhook_secret.get_secret_value(), allow_private=settings.allow_private_urls
        )
        return deliver_next(store, options, random.Random())  # noqa: S311 - jitter

    return step
