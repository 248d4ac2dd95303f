"""The crew: the runners of one worker, one per GPU or as many as asked for, and the upkeep of the store."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from glob import glob
from itertools import takewhile
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from headstart.errors import StoreUnavailable
from headstart.upkeep import Chore, Upkeep, chores_of, starter_chore
from worker.hub import hub_importers
from worker.process import Died
from worker.runner import Runner, RunnerOptions
from worker.scratch import SWEEP_SECONDS, sweep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headstart.queue import Queue
    from headstart.settings import Settings
    from headstart.store import Store

POLL_SECONDS = 0.2  # how often an idle runner looks for a job
RETRY_SECONDS = 2.0  # while the store does not answer


def devices(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs this worker may see, as CUDA names them: those it was given, or all of the machine's."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return tuple(str(number) for number in range(len(glob("/dev/nvidia[0-9]*"))))
    named = (part.strip() for part in given.split(","))
    return tuple(takewhile(lambda name: name not in {"", "-1"}, named))  # CUDA reads no further either


def size_of(settings: Settings, environment: Mapping[str, str]) -> int:
    """How many jobs run at a time: as many as asked for, or one for each GPU, or one."""
    return settings.concurrency or max(1, len(devices(environment)))


class Crew:
    """Runners that share a store, each with a child process of its own."""

    def __init__(self, store: Store, settings: Settings, queue: Queue, log: Any) -> None:
        self._log = log
        self._stop = threading.Event()
        chores = (
            *chores_of(store, settings, queue, log, hub_importers),
            starter_chore(store, settings.starter),
            Chore("scratch", SWEEP_SECONDS, lambda: sweep(store, settings.scratch) < 0),
        )
        self._upkeep = Upkeep(chores, log)
        gpus = devices(os.environ)
        self.size = size_of(settings, os.environ)
        options = RunnerOptions.from_settings(settings, self.size)
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
        except Died as died:  # before there was a job: nothing is lost but time
            self._log.error("child_cannot_start", reason=str(died), retry_seconds=RETRY_SECONDS)
            self._stop.wait(RETRY_SECONDS)
            return False
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

    def stand_in(self, queue: Queue, queues: Sequence[str]) -> None:
        """Run jobs while the broker is away, until told to stop; for a worker that is woken by a broker."""
        while not self._stop.wait(RETRY_SECONDS):
            try:
                while queue.depth(queues[0]) is None and self.run_next(queues):
                    pass
            except StoreUnavailable as error:
                self._log.warning("store_unavailable", reason=error.message)
            except Exception:
                self._log.exception("runner_failed")

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
