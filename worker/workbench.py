"""The workbench as the child process implements it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headstart.entities import Progress
from headstart.workbench import Cancelled

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from headstart.entities import Checkpoint, Target

REPORT_SECONDS = 0.2  # between two reports that travel; those between are dropped


@dataclass(slots=True)
class ChildWorkbench:
    """One run of one method, in the child. See `headstart.workbench.Workbench`."""

    checkpoint: Checkpoint
    target: Target
    seed: int
    attempt: int
    folder: Path
    cancelled: threading.Event
    send: Callable[[Progress], None]
    _next: float = field(default=0.0, init=False)

    def report(
        self, fraction: float, stage: str, message: str = "", seconds_left: float | None = None
    ) -> None:
        """See Workbench.report."""
        if self.cancelled.is_set():
            raise Cancelled
        now = time.monotonic()
        if now >= self._next:
            self._next = now + REPORT_SECONDS
            fraction = min(1.0, max(0.0, float(fraction)))
            self.send(Progress(fraction=fraction, stage=stage, message=message, seconds_left=seconds_left))
