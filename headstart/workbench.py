"""The port through which a method asks for its ingredients. The worker implements it; tests fake it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from headstart.entities import Checkpoint, Target


class Workbench(Protocol):
    """One run of one method on one checkpoint and target. It grows only for a new *kind* of ingredient."""

    checkpoint: Checkpoint
    target: Target
    seed: int  # of everything random in this run
    attempt: int  # 1 on the first try
    folder: Path  # scratch that the next attempt of this job finds again on the same machine

    def report(
        self, fraction: float, stage: str, message: str = "", seconds_left: float | None = None
    ) -> None:
        """Say how far the run is (fraction 0..1); to be called at every step, it costs microseconds.

        Raises Cancelled where the user wants the job stopped: let it pass.
        """
        ...


class Cancelled(BaseException):
    """The user wants the job stopped. No `Exception`, so that no method swallows it by accident."""
