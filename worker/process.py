"""The parent's handle on a child process: start, order, listen, cancel, kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from worker.child import main

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from worker.child import Order
    from worker.workbench import Premises

START_SECONDS = 120.0  # importing torch on a cold disk takes a while
REAP_SECONDS = 10.0
_spawn = multiprocessing.get_context("spawn")  # a fork would share CUDA, locks and sockets with the worker


class Died(Exception):
    """The child is gone; the message says how."""


class Child:
    """A process that runs one order after another."""

    def __init__(self, modules: tuple[str, ...], device: str | None, premises: Premises) -> None:
        self._connection: Connection
        self._connection, theirs = _spawn.Pipe()
        # Not a daemon: those may not have children, and data loaders are.
        self._process: BaseProcess = _spawn.Process(
            target=main, args=(theirs, modules, device, premises), name="headstart-child", daemon=False
        )
        self._process.start()
        theirs.close()
        self._ready = False
        self._begun = time.monotonic()

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._process.pid

    def ready(self, seconds: float) -> bool:
        """Whether it can take an order, now or within so many seconds; raise Died if it never will."""
        if not self._ready:
            self._ready = self.listen(seconds) is not None
            if not self._ready and time.monotonic() - self._begun > START_SECONDS:
                raise Died(f"The process that runs jobs was not ready after {START_SECONDS:g} s.")
        return self._ready

    def order(self, order: Order) -> None:
        """Hand over an order."""
        self._send(order.to_bytes())

    def cancel(self, job_id: int) -> None:
        """Ask for the order to be given up at its next step."""
        self._send(json.dumps({"cancel": job_id}).encode())

    def listen(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None when there was none for so long; raise Died at the end of the process."""
        try:
            if not self._connection.poll(seconds):
                if self._process.is_alive() or self._connection.poll(0):
                    return None
                # A process of its own (a data loader) may outlive it, and hold the pipe open.
                raise Died(self._how_it_died())
            told: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise Died(self._how_it_died()) from None
        return told

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.is_alive()

    def kill(self) -> None:
        """End it and the processes it started, at once, and wait until it is gone."""
        if self._process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):  # its group; it may not have made one yet
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join(REAP_SECONDS)
        self._connection.close()

    def _send(self, data: bytes) -> None:
        try:
            self._connection.send_bytes(data)
        except OSError:
            raise Died(self._how_it_died()) from None

    def _how_it_died(self) -> str:
        self._process.join(REAP_SECONDS)
        code = self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            why = ", most often for lack of memory" if -code == signal.SIGKILL else ""
            return f"The process that ran the job was ended by {name}{why}."
        return f"The process that ran the job ended with exit code {code}."
