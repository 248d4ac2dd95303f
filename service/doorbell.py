"""The doorbell of the service: rings for new jobs after the answer is sent, and tells how the broker is.

A broker that is gone takes seconds to say so. Nobody waits for that: one thread at a time finds out, and
while the broker is known to be gone nothing is rung. The jobs are stored, and rung for again from there.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Literal

import structlog

from headstart.queue import QUEUES, NullQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headstart.queue import Queue

BrokerState = Literal["none", "ok", "unreachable"]

FRESH_SECONDS = 5.0  # how long what is known of the broker is taken for true
PATIENCE_SECONDS = 0.5  # how long a question about the broker waits for its answer
_log = structlog.get_logger("headstart.service")


class Doorbell:
    """See the module. One in a process, for all its requests."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._silent = isinstance(queue, NullQueue)
        self._reached = True
        self._known_at = -FRESH_SECONDS
        self._ringing = asyncio.Lock()
        self._asking = threading.Lock()
        self._asker: threading.Thread | None = None

    async def ring(self, jobs: Sequence[tuple[int, str]]) -> None:
        """Wake a worker for each (job id, queue), unless the broker is known to be gone."""
        if self._silent:
            return
        async with self._ringing:
            if self._reached or not self._fresh():
                await asyncio.to_thread(self._try, lambda: self._queue.ring(jobs))

    def broker(self) -> BrokerState:
        """How the broker was within the last seconds; blocks for half a second at most."""
        if self._silent:
            return "none"
        with self._asking:
            if not self._fresh() and (self._asker is None or not self._asker.is_alive()):
                self._asker = threading.Thread(target=self._ask, name="broker-check", daemon=True)
                self._asker.start()
            asker = self._asker
        if asker is not None:
            asker.join(PATIENCE_SECONDS)
            if asker.is_alive():  # it may answer yet; so far it does not
                return "unreachable"
        return "ok" if self._reached else "unreachable"

    def _ask(self) -> None:
        self._try(lambda: self._queue.depth(QUEUES[0]) is not None)

    def _try(self, step: Callable[[], bool]) -> None:
        try:
            reached = step()
        except Exception:  # the jobs are stored and answered for: nobody can be told but the log
            _log.exception("broker_failed")
            reached = False
        self._note(reached)

    def _fresh(self) -> bool:
        return time.monotonic() - self._known_at < FRESH_SECONDS

    def _note(self, reached: bool) -> None:
        if reached != self._reached:
            _log.warning("broker_reached_again" if reached else "broker_unreachable")
        self._reached, self._known_at = reached, time.monotonic()
