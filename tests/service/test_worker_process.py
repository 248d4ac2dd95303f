from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from service import worker_process
from service.worker_process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OBEDIENT = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); time.sleep(60)"
UNTIL_EOF = "import sys; open({0!r}, 'w').close(); sys.stdin.buffer.read(); open({1!r}, 'w').close()"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); open({0!r}, 'w').close(); time.sleep(60)"


def until(seen: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_worker_that_dies_is_started_again_and_stops_with_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_process, "FIRST_PAUSE_SECONDS", 0.1)
    said: list[str] = []
    worker = WorkerProcess(said.append, (sys.executable, "-c", OBEDIENT))
    first = worker.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: worker.pid != first)
    assert len(said) == 1
    assert "exit code -9" in said[0]
    second = worker.pid
    assert os.getsid(second) == second, "Ctrl-C is for the service, which stops the worker"
    worker.stop()
    assert gone(second)
    assert len(said) == 1


def test_a_worker_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(worker_process, "STOP_SECONDS", 0.3)
    ready = tmp_path / "ready"
    worker = WorkerProcess(print, (sys.executable, "-c", STUBBORN.format(str(ready))))
    until(ready.exists)
    worker.stop()
    assert gone(worker.pid)


def test_a_worker_ends_with_a_service_that_was_killed(tmp_path: Path) -> None:
    ready, ended = tmp_path / "ready", tmp_path / "ended"
    command = (sys.executable, "-c", UNTIL_EOF.format(str(ready), str(ended)))
    service = f"import time, service.worker_process as w; w.WorkerProcess(print, {command!r}); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", service]) as process:
        until(ready.exists)
        assert not ended.exists()
        process.kill()
    until(ended.exists)


@pytest.mark.parametrize(("longest", "said_last"), [(0.05, "in 0.02 s"), (60.0, "in 0.08 s")])
def test_a_worker_that_ran_long_is_started_again_soon(
    monkeypatch: pytest.MonkeyPatch, longest: float, said_last: str
) -> None:
    monkeypatch.setattr(worker_process, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(worker_process, "LONGEST_PAUSE_SECONDS", longest)
    said: list[str] = []
    worker = WorkerProcess(said.append, (sys.executable, "-c", "import time; time.sleep(0.1)"))
    until(lambda: len(said) >= 3)
    worker.stop()
    assert said_last in said[2]


def test_a_worker_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker_process, "FIRST_PAUSE_SECONDS", 0.05)
    program = tmp_path / "program"
    said: list[str] = []
    worker = WorkerProcess(said.append, (str(program),))
    until(lambda: said)
    assert "cannot be started (no such file or directory)" in said[0]
    made = tmp_path / "made"
    made.write_text("#!/bin/sh\nread line\n")
    made.chmod(0o755)
    made.rename(program)
    until(lambda: worker.pid)
    worker.stop()
