"""Scratch folders: where the attempts of a job keep what the next one goes on from."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from headstart.errors import NotFound
from headstart.workbench import DEATHS

if TYPE_CHECKING:
    from pathlib import Path

    from headstart.store import Store

KEPT_SECONDS = 7 * 24 * 3600.0  # after the last write, where the job has ended on another machine
SWEEP_SECONDS = 3600.0


def folder_of(scratch: Path, job_id: int) -> Path:
    """The folder of a job."""
    return scratch / f"job-{job_id}"


def note_death(folder: Path) -> None:
    """Leave word to the next attempt that the child of this one died: of the work, as far as can be told."""
    with suppress(OSError), (folder / DEATHS).open("a") as file:
        file.write("died\n")


def sweep(store: Store, scratch: Path, older_than: float = KEPT_SECONDS) -> int:
    """Remove the folders of ended jobs that nothing was written to for so long; return how many."""
    removed = 0
    for folder in scratch.glob("job-*"):
        number = folder.name.removeprefix("job-")
        with suppress(OSError, NotFound):
            old = number.isdecimal() and time.time() - folder.stat().st_mtime > older_than
            if old and store.job(int(number)).finished_at is not None:
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
    return removed
