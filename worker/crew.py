"""The crew: the runners of one worker, one per GPU or as many as asked for, and the upkeep of the store."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from headstart.errors import StoreUnavailable
from headstart.upkeep import Upkeep, chores_of, starter_chore
from worker.runner import Runner, RunnerOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headstart.queue import Queue
    from headstart.settings import Settings
    from headstart.store import Store

POLL_SECONDS = 0.2  # how often an idle runner looks for a job
RETRY_SECONDS = 2.0  # while the store does not answer


def devices(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs this worker was given, as CUDA names them; none where nothing is said."""
    given = environment.get("CUDA_VISIBLE_DEVICES", "")
    return tuple(part.strip() for part in given.split(",") if part.strip() not in {"", "-1"})


class Crew:
    """Runners that share a store, each with a child process of its own."""

    def __init__(self, store: Store, settings: Settings, queue: Queue, log: Any) -> None:
        self._log = log
        self._stop = threading.Event()
        chores = (*chores_of(store, settings, queue, log), starter_chore(store, settings.starter))
        self._upkeep = Upkeep(chores, log)
        gpus = devices(os.environ)
        self.size = settings.concurrency or max(1, len(gpus))
        options = RunnerOptions.from_settings(settings)
        self._runners = [
            Runner(
                store,
                replace(options, device=gpus[slot % len(gpus)] if gpus else None),
                self._stop,
                log.bind(slot=slot),
            )
            for slot in range(self.size)
        ]
        self._idle: SimpleQueue[Runner] = SimpleQueue()
        for runner in self._runners:
            self._idle.put(runner)

    def start(self) -> None:
        """Start the upkeep and, so that the first job need not wait for them, the child processes."""
        self._upkeep.start()
        for runner in self._runners:
            runner.warm()

    def stop(self) -> None:
        """Let every runner give its job back; `close` follows when they have."""
        self._stop.set()

    def close(self) -> None:
        """End the upkeep and the child processes."""
        self._stop.set()
        self._upkeep.stop()
        for runner in self._runners:
            runner.close()

    def run_next(self, queues: Sequence[str]) -> bool:
        """Run the job first in line on an idle runner; waits for one."""
        if self._stop.is_set():
            return False
        runner = self._idle.get()
        try:
            return runner.run_next(queues)
        finally:
            self._idle.put(runner)

    def drain(self, queues: Sequence[str]) -> None:
        """Run jobs until told to stop, looking into the store all the time; then return."""
        threads = [
            threading.Thread(target=self._drain, args=(queues,), name=f"runner-{slot}")
            for slot in range(self.size)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _drain(self, queues: Sequence[str]) -> None:
        while not self._stop.is_set():
            pause = POLL_SECONDS
            try:
                if self.run_next(queues):
                    continue
            except StoreUnavailable as error:
                self._log.warning("store_unavailable", reason=error.message, retry_seconds=RETRY_SECONDS)
                pause = RETRY_SECONDS
            except Exception:
                self._log.exception("runner_failed")
                pause = RETRY_SECONDS
            self._stop.wait(pause)
