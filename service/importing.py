"""The embedded worker: the upkeep of the store in threads of the service's own process.

It is the small deployment's stand-in for a worker process, but for jobs: those run in workers alone. It
speaks to the store, so that both can run side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from headstart.entities import ImportState
from headstart.upkeep import Chore, Upkeep, chores_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.queue import Queue
    from headstart.settings import Settings
    from headstart.store import Store

_log = structlog.get_logger("headstart.worker")


class EmbeddedWorker:
    """Keeps the store up, and announces in a sentence where the starter evidence could not be imported."""

    def __init__(
        self, store: Store, settings: Settings, queue: Queue, announce: Callable[[str], None]
    ) -> None:
        self._store = store
        self._starter = settings.starter
        self._announce = announce
        self._starter_id: int | None = None
        self._begun = False
        chores = (*chores_of(store, settings, queue, _log), Chore("starter", 0.5, self._follow_starter))
        self._upkeep = Upkeep(chores, _log)

    def start(self) -> None:
        """Start the threads."""
        self._upkeep.start()

    def wake(self) -> None:
        """There is something to do: look now."""
        self._upkeep.wake()

    def stop(self) -> None:
        """Ask the threads to end and wait for them a little."""
        self._upkeep.stop()

    def _follow_starter(self) -> bool:
        from headstart.evidence.ingest import begin_starter  # noqa: PLC0415 - heavy, and off the start

        if not self._begun:
            self._starter_id = begin_starter(self._store, self._starter)
            self._begun = True
        elif self._starter_id is not None:
            self._report_starter(self._starter_id)
        return False

    def _report_starter(self, import_id: int) -> None:
        starter = self._store.get_import(import_id)
        if starter.state is ImportState.FAILED:
            reason = (starter.error or "it failed.").rstrip(".")
            self._announce(
                f"The starter evidence could not be imported ({reason}); serving without it: "
                f"import your own, or set HEADSTART_STARTER to a folder or URL that can be read."
            )
        if starter.finished_at is not None:
            self._starter_id = None
