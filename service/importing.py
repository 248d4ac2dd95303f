"""The embedded worker: a daemon thread that runs imports and refits in the service's own process.

It is the small deployment's stand-in for a worker process and speaks to the store alone, so that both can
run side by side. The heavy imports (arrow, the fit) happen in the thread, after the service answers.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

from headstart.entities import ImportState

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.settings import Settings
    from headstart.store import Store

IDLE_SECONDS = 1.0  # how often to look without being woken
STOP_SECONDS = 2.0  # how long a stop waits; a claim it leaves behind runs out and is taken again
_log = structlog.get_logger("headstart.worker")


class EmbeddedWorker:
    """Runs what the store holds for it, one thing at a time, and never dies of an error."""

    def __init__(self, store: Store, settings: Settings, announce: Callable[[str], None]) -> None:
        self._store = store
        self._settings = settings
        self._announce = announce
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._starter_id: int | None = None
        self._thread = threading.Thread(target=self._run, name="headstart-worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to do: look now."""
        self._woken.set()

    def stop(self) -> None:
        """Ask the thread to end and wait for it a little."""
        self._stopping.set()
        self._woken.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        self._guarded(self._begin_starter)
        while not self._stopping.is_set():
            self._woken.clear()
            busy = self._guarded(self._import_next)
            busy = self._guarded(self._refit) or busy
            if not busy:
                self._woken.wait(IDLE_SECONDS)

    def _guarded(self, step: Callable[[], bool]) -> bool:
        """Run a step; an error is logged and counts as nothing done, so that the next try waits."""
        try:
            return step()
        except Exception:
            if not self._stopping.is_set():
                _log.exception("worker_step_failed", step=step.__name__.lstrip("_"))
            return False

    def _begin_starter(self) -> bool:
        from headstart.evidence.ingest import begin_starter  # noqa: PLC0415 - heavy, and off the start

        self._starter_id = begin_starter(self._store, self._settings.starter)
        return self._starter_id is not None

    def _import_next(self) -> bool:
        from headstart.evidence.ingest import ImportLimits, run_next  # noqa: PLC0415 - heavy, and off the start

        ran = run_next(self._store, ImportLimits.from_settings(self._settings))
        if self._starter_id is not None:
            self._report_starter(self._starter_id)
        return ran

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

    def _refit(self) -> bool:
        from headstart.refit import refit_stale  # noqa: PLC0415 - heavy, and off the start

        return refit_stale(self._store) > 0
