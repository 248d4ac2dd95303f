from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from service import worker_process
from service.worker_process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

OBEDIENT = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); time.sleep(60)"
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
