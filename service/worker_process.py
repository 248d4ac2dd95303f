"""`headstart serve --worker`: a worker process beside the service, started, watched and stopped with it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMAND = (sys.executable, "-m", "worker", "--until-eof")
STOP_SECONDS = 20.0  # for giving its jobs back; then it is killed, and their leases run out
FIRST_PAUSE_SECONDS = 1.0  # before a worker that ended is started again; doubled while it goes on so
LONGEST_PAUSE_SECONDS = 60.0


class WorkerProcess:
    """One worker process that is started again when it ends by itself.

    Its standard input ends with this process, however that ends, and so does the worker: nothing else tells
    it of a SIGKILL. It is in a session of its own, so that Ctrl-C reaches the service alone, which stops it.
    """

    def __init__(self, announce: Callable[[str], None], command: Sequence[str] = COMMAND) -> None:
        self._announce = announce
        self._command = tuple(command)
        self._stopping = threading.Event()
        self._started = 0.0
        self._fault = ""
        self._process = self._start()
        self._watch = threading.Thread(target=self._keep_running, name="worker-process", daemon=True)
        self._watch.start()

    @property
    def pid(self) -> int | None:
        """The process id of the worker that was started last; None if it could not be started."""
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        """Let the worker give its jobs back and end; wait for it."""
        self._stopping.set()
        self._watch.join()

    def _start(self) -> subprocess.Popen[bytes] | None:
        self._started = time.monotonic()
        try:
            return subprocess.Popen(  # noqa: S603 - our own module
                self._command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True
            )
        except OSError as error:
            self._fault = (error.strerror or str(error)).lower()
            return None

    def _keep_running(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.wait(0.1):
            if self._process is not None and self._process.poll() is None:
                continue
            if time.monotonic() - self._started > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._announce(f"The worker {self._end()}; it is started again in {pause:g} s. Its jobs wait.")
            if self._stopping.wait(pause):
                break
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
            self._process = self._start()
        self._end()

    def _end(self) -> str:
        """Stop the worker if it runs; say how it ended."""
        process = self._process
        if process is None:
            return f"cannot be started ({self._fault})"
        process.terminate()  # does nothing to one that has ended
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
        return f"ended with exit code {process.returncode}"
