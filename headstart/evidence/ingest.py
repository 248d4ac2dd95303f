"""Runs imports: claim, read, check, store; whoever calls `run_next` decides how often.

A file is stored whole or not at all, and storing it again changes nothing. What goes wrong ends in the
import's `error`, one sentence for the user.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from headstart.errors import HeadstartError, InvalidInput, StoreUnavailable
from headstart.evidence.model_recycling import read_results
from headstart.evidence.source import open_source
from headstart.evidence.table import read_tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from headstart.entities import Import, ImportBatch, ImportReport
    from headstart.evidence.source import Progress, Source
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
        )


class Reader(Protocol):
    """Reads a source into what is to be stored. Importers are readers, one file each."""

    def __call__(self, source: Source, *, max_rows: int, progress: Progress) -> ImportBatch:
        """Read the source; raise a HeadstartError for one that cannot be read."""
        ...


IMPORTERS: Mapping[str, Reader] = {
    "model-recycling": read_results,
    "table": read_tables,
}


class _LeaseLost(Exception):
    """Another worker holds the import now; what this one read is thrown away."""


def run_next(store: Store, limits: ImportLimits) -> bool:
    """Run the oldest import that waits, and return whether there was one.

    Raises: StoreUnavailable (the import stays claimed until its lease runs out), and any error that is no
    HeadstartError, after failing the import, so that the caller can log it.
    """
    item = store.claim_import(limits.lease_seconds)
    if item is None:
        return False
    try:
        batch = _read(store, item, limits)
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


def _read(store: Store, item: Import, limits: ImportLimits) -> ImportBatch:
    reader = IMPORTERS.get(item.kind)
    if reader is None:
        raise InvalidInput(f"{item.kind!r} is no kind of import. Known kinds: {', '.join(IMPORTERS)}.")
    source = open_source(
        item.source,
        store=store,
        import_id=item.id,
        roots=limits.roots,
        allow_private=limits.allow_private,
        most_bytes=limits.max_bytes,
        trusted=bool(limits.starter) and item.source == limits.starter,
    )
    beat = _Heartbeat(store, item, limits.lease_seconds)
    batch = reader(source, max_rows=limits.max_rows, progress=beat)
    beat.renew(0.8, "storing", limits.lease_seconds + len(batch.scores) / STORED_PER_SECOND)
    return replace(batch, report=replace(batch.report, files=dict(sorted(source.digests.items()))))


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
