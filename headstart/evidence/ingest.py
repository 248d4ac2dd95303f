"""Runs imports: claim, read, check, store; whoever calls `run_next` decides how often.

A file is stored whole or not at all, and storing it again changes nothing. What goes wrong ends in the
import's `error`, one sentence for the user.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from headstart.checkpoints.importer import import_folder
from headstart.entities import ImportBatch
from headstart.errors import HeadstartError, StoreUnavailable
from headstart.evidence.model_recycling import read_results
from headstart.evidence.source import open_source
from headstart.evidence.table import read_tables
from headstart.targets.files import read_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headstart.entities import Import, ImportReport
    from headstart.evidence.source import Progress, StreamedSource
    from headstart.settings import Settings
    from headstart.store.store import Store

HEARTBEAT_SECONDS = 0.5
STORED_PER_SECOND = 500  # slowest storing that the lease waits for
UNEXPECTED = (
    "The import broke off through a fault of this service, which its log describes. Nothing was stored."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportLimits:
    """What an import may read and for how long a claim holds; made from the settings."""

    roots: tuple[Path, ...]
    allow_private: bool
    max_rows: int
    max_bytes: int
    lease_seconds: float
    starter: str = ""  # this source is trusted: it comes from the settings, not from a request
    allow_pickles: bool = False  # of checkpoints
    checkpoint_roots: tuple[Path, ...] = ()  # that checkpoints may be read from, beside `roots`

    @classmethod
    def from_settings(cls, settings: Settings) -> ImportLimits:
        """Take from the settings what an import may do."""
        return cls(
            roots=settings.roots,
            allow_private=settings.allow_private_urls,
            max_rows=settings.max_import_rows,
            max_bytes=settings.max_upload_bytes,
            lease_seconds=settings.lease_seconds,
            starter=settings.starter,
            allow_pickles=settings.allow_pickles,
            checkpoint_roots=settings.checkpoint_roots,
        )


@dataclass(slots=True, kw_only=True)
class Errand:
    """What an importer is given: what to read, how much of it, and where to say how far it is."""

    source: str  # as the import names it: "upload", a URL, a path, a hub id
    params: dict[str, Any]
    limits: ImportLimits
    folder: Path  # empty; gone when the import has ended
    progress: Progress
    store: Store
    import_id: int
    opened: StreamedSource | None = None

    def open(self) -> StreamedSource:
        """The source as files. Raises: Forbidden (a path outside the roots), InvalidInput, Unreachable."""
        self.opened = open_source(
            self.source,
            store=self.store,
            import_id=self.import_id,
            roots=self.limits.roots,
            allow_private=self.limits.allow_private,
            most_bytes=self.limits.max_bytes,
            trusted=bool(self.limits.starter) and self.source == self.limits.starter,
        )
        return self.opened


Importer = Callable[[Errand], ImportBatch]
"""Reads a source into what is to be stored; raises a HeadstartError for one that cannot be read."""


def _scores_of(read: Callable[..., ImportBatch]) -> Importer:
    def run(errand: Errand) -> ImportBatch:
        return read(errand.open(), max_rows=errand.limits.max_rows, progress=errand.progress)

    return run


IMPORTERS: Mapping[str, Importer] = {
    "model-recycling": _scores_of(read_results),
    "table": _scores_of(read_tables),
    "target": read_target,
    "checkpoint": import_folder,
}


class _LeaseLost(Exception):
    """Another worker holds the import now; what this one read is thrown away."""


def run_next(store: Store, limits: ImportLimits, importers: Mapping[str, Importer] = IMPORTERS) -> bool:
    """Run the oldest import that waits for one of these importers, and return whether there was one.

    Raises: StoreUnavailable (the import stays claimed until its lease runs out), and any error that is no
    HeadstartError, after failing the import, so that the caller can log it.
    """
    item = store.claim_import(limits.lease_seconds, tuple(importers))
    if item is None:
        return False
    try:
        with TemporaryDirectory(prefix="headstart-") as folder:
            batch = _read(store, item, limits, importers[item.kind], Path(folder))
            store.finish_import(item.id, item.attempt, batch)
    except _LeaseLost:
        pass
    except StoreUnavailable:
        raise
    except HeadstartError as e:
        store.fail_import(item.id, item.attempt, e.message)
    except Exception:
        store.fail_import(item.id, item.attempt, UNEXPECTED)
        raise
    return True


def begin_starter(store: Store, starter: str) -> int | None:
    """Queue the import of the starter evidence into a store that never saw one; return its id, or None.

    Where two processes do so at once, the second import finds nothing new.
    """
    if not starter or store.families() or store.imports(page_size=1).items:
        return None
    return store.queue_import(store.create_import("model-recycling", starter).id).id


def summary(report: ImportReport) -> str:
    """Return what a finished import did, in one sentence."""
    known = report.scores_unchanged
    if report.scores_stored == 0:
        return f"Nothing new: all {known} scores were stored before."
    suspect = sum(report.scores_quarantined.values())
    return f"{report.scores_stored} scores stored, {suspect} of them quarantined; {known} were stored before."


def _read(store: Store, item: Import, limits: ImportLimits, importer: Importer, folder: Path) -> ImportBatch:
    beat = _Heartbeat(store, item, limits.lease_seconds)
    errand = Errand(
        source=item.source,
        params=item.params,
        limits=limits,
        folder=folder,
        progress=beat,
        store=store,
        import_id=item.id,
    )
    batch = importer(errand)
    stored = len(batch.scores) + (0 if batch.rows is None else batch.rows.file.stat().st_size >> 12)
    beat.renew(0.8, "storing", limits.lease_seconds + stored / STORED_PER_SECOND)
    if errand.opened is None:
        return batch
    return replace(batch, report=replace(batch.report, files=dict(sorted(errand.opened.digests.items()))))


class _Heartbeat:
    """The progress callback of a reader: renews the claim, at most twice a second.

    Raises: _LeaseLost.
    """

    def __init__(self, store: Store, item: Import, lease_seconds: float) -> None:
        self._store = store
        self._item = item
        self._lease_seconds = lease_seconds
        self._next = 0.0

    def __call__(self, progress: float, stage: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + HEARTBEAT_SECONDS
            self.renew(progress, stage, self._lease_seconds)

    def renew(self, progress: float, stage: str, lease_seconds: float) -> None:
        """Renew the claim at once."""
        if not self._store.heartbeat_import(
            self._item.id, self._item.attempt, lease_seconds, progress, stage
        ):
            raise _LeaseLost
