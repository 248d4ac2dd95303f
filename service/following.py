"""What commands share that wait: for an import to end, and for a worker to begin."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from service import tables
from service.client import Refused

if TYPE_CHECKING:
    from service.client import Client

POLL_SECONDS = 0.2
HINT_SECONDS = 5.0  # after which whoever waits is told what for
START_A_WORKER = "Start one with: headstart serve --worker, or python -m worker."


def bars(*, quiet: bool) -> Progress:
    """Progress bars on stderr, for a person at a terminal alone."""
    screen = tables.console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    return Progress(*columns, console=screen, disable=quiet or not screen.is_terminal, transient=True)


def hint(sentence: str) -> None:
    """Say on stderr what is being waited for."""
    tables.console(stderr=True).print(escape(sentence), soft_wrap=True)


def imported(client: Client, accepted: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Wait for an import to end, and return it. Refused, with its sentence, where it has failed."""
    done = ended(client, accepted, quiet=quiet)
    if done["state"] == "failed":
        raise Refused(done["error"] or "The import failed.")
    return done


def ended(client: Client, accepted: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Wait for an import to end, well or not, and return it."""
    path, current, begun = f"/imports/{accepted['id']}", accepted, time.monotonic()
    hinted = quiet
    with bars(quiet=quiet) as shown:
        bar = shown.add_task("waiting", total=1.0)
        while current["state"] in ("queued", "running"):
            time.sleep(POLL_SECONDS)
            current = client.request("GET", path)
            shown.update(bar, completed=current["progress"], description=escape(current["stage"]))
            if not hinted and current["state"] == "queued" and time.monotonic() - begun > HINT_SECONDS:
                hint(f"No process has begun import {current['id']} yet. {START_A_WORKER}")
                hinted = True
    return current
