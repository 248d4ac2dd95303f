"""`headstart serve --worker`: a worker process beside the service, started, watched and stopped with it."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMAND = (sys.executable, "-m", "worker")
STOP_SECONDS = 20.0  # for giving its jobs back; then it is killed, and their leases run out
FIRST_PAUSE_SECONDS = (
    1.0  # before a worker that ended by itself is started again; doubled while it goes on so
)
LONGEST_PAUSE_SECONDS = 60.0


class WorkerProcess:
    """One worker process that is started again when it ends by itself."""

    def __init__(self, announce: Callable[[str], None], command: Sequence[str] = COMMAND) -> None:
        self._announce = announce
        self._command = tuple(command)
        self._stopping = threading.Event()
        self._process = subprocess.Popen(self._command)  # noqa: S603 - our own module
        self._watch = threading.Thread(target=self._keep_running, name="worker-process", daemon=True)
        self._watch.start()

    @property
    def pid(self) -> int:
        """The process id of the worker that runs now."""
        return self._process.pid

    def stop(self) -> None:
        """Let the worker give its jobs back and end; wait for it."""
        self._stopping.set()
        self._watch.join()

    def _keep_running(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.wait(0.1):
            if self._process.poll() is None:
                continue
            self._announce(
                f"The worker ended with exit code {self._process.returncode}; "
                f"it is started again in {pause:g} s. Its jobs wait."
            )
            if self._stopping.wait(pause):
                break
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
            self._process = subprocess.Popen(self._command)  # noqa: S603
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
