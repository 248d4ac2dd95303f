"""The life of an import: created, released, claimed, kept alive, ended. `attempt` fences off stale claims."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, func, insert, or_, select, true, update

from headstart.entities import Import, ImportReport, ImportState
from headstart.errors import Conflict
from headstart.store.catalogue import row_of
from headstart.store.paging import read_page
from headstart.store.tables import imports, upload_chunks

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Connection, Row

    from headstart.entities import Page

_IMPORTS = select(
    imports.c.id,
    imports.c.kind,
    imports.c.source,
    imports.c.params,
    imports.c.state,
    imports.c.attempt,
    imports.c.progress,
    imports.c.stage,
    imports.c.report,
    imports.c.error,
    imports.c.created_at,
    imports.c.finished_at,
)


def create(connection: Connection, kind: str, source: str, params: dict[str, Any], now: datetime) -> Import:
    """A new import that no claim takes yet."""
    row = {
        "kind": kind,
        "source": source,
        "params": params,
        "released": False,
        "state": ImportState.QUEUED,
        "attempt": 0,
        "progress": 0.0,
        "stage": "",
        "created_at": now,
    }
    return read(connection, connection.execute(insert(imports).returning(imports.c.id), row).scalar_one())


def read(connection: Connection, import_id: int) -> Import:
    """The import of this id."""
    return _import(row_of(connection, _IMPORTS, imports, "import", import_id))


def page_of_imports(connection: Connection, size: int, token: str | None) -> Page[Import]:
    """One page of the imports."""
    return read_page(connection, _IMPORTS, imports.c.id, _import, scope=("imports",), size=size, token=token)


def count_by_state(connection: Connection) -> dict[str, int]:
    """Imports by state."""
    query = select(imports.c.state, func.count()).group_by(imports.c.state).order_by(imports.c.state)
    return {str(state): count for state, count in connection.execute(query)}


def release(connection: Connection, import_id: int) -> Import:
    """Let the import be claimed. Releasing it again changes nothing."""
    found = read(connection, import_id)
    connection.execute(update(imports).where(imports.c.id == import_id).values(released=True))
    return found


def delete_unreleased(connection: Connection, import_id: int) -> None:
    """Forget an import and its uploaded bytes; Conflict once it was released."""
    refuse_released(connection, import_id, "deleted")
    connection.execute(delete(imports).where(imports.c.id == import_id))


def refuse_released(connection: Connection, import_id: int, verb: str) -> None:
    """Hold the import's row until the transaction ends; Conflict if it was released."""
    query = select(imports.c.released).with_for_update()
    if row_of(connection, query, imports, "import", import_id).released:
        raise Conflict(f"Import {import_id} was released and cannot be {verb}: create another import.")


def claim(
    connection: Connection, lease_seconds: float, kinds: Collection[str] | None, now: datetime
) -> Import | None:
    """Take the oldest import of these kinds that waits, or whose lease ran out."""
    waits = imports.c.state == ImportState.QUEUED
    abandoned = and_(imports.c.state == ImportState.RUNNING, imports.c.lease_until <= now)
    # SKIP LOCKED: of two claimers one takes this import and the other the next one; neither waits.
    oldest = (
        select(imports.c.id)
        .where(
            imports.c.released, or_(waits, abandoned), true() if kinds is None else imports.c.kind.in_(kinds)
        )
        .order_by(imports.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    claimed = connection.scalar(
        update(imports)
        .where(imports.c.id == oldest.scalar_subquery())
        .values(
            state=ImportState.RUNNING,
            attempt=imports.c.attempt + 1,
            lease_until=now + timedelta(seconds=lease_seconds),
            progress=0.0,
            stage="",
        )
        .returning(imports.c.id)
    )
    return None if claimed is None else read(connection, claimed)


def change(connection: Connection, import_id: int, attempt: int, values: dict[str, Any]) -> bool:
    """Change an import if the attempt is its current one and runs; False if not."""
    read(connection, import_id)
    changed = connection.execute(update(imports).where(_current(import_id, attempt)).values(values))
    return changed.rowcount == 1


def succeed(connection: Connection, import_id: int, attempt: int, now: datetime) -> bool:
    """End the import well; False if the claim is lost. Its report follows in the same transaction."""
    return _end(
        connection, import_id, attempt, {"state": ImportState.SUCCEEDED, "progress": 1.0, "finished_at": now}
    )


def fail(connection: Connection, import_id: int, attempt: int, error: str, now: datetime) -> bool:
    """End the import with an error; False if the claim is lost."""
    error = error.encode(errors="replace").decode()  # see write_report
    return _end(
        connection, import_id, attempt, {"state": ImportState.FAILED, "error": error, "finished_at": now}
    )


def write_report(connection: Connection, import_id: int, report: ImportReport) -> None:
    """Keep the report of an import. Lone surrogates, which no answer can hold, become question marks."""
    text = json.dumps(asdict(report), ensure_ascii=False).encode(errors="replace")
    connection.execute(update(imports).where(imports.c.id == import_id).values(report=json.loads(text)))


def _end(connection: Connection, import_id: int, attempt: int, values: dict[str, Any]) -> bool:
    ended = change(connection, import_id, attempt, values | {"lease_until": None})
    if ended:
        connection.execute(delete(upload_chunks).where(upload_chunks.c.import_id == import_id))
    return ended


def _current(import_id: int, attempt: int) -> ColumnElement[bool]:
    return and_(
        imports.c.id == import_id, imports.c.attempt == attempt, imports.c.state == ImportState.RUNNING
    )


def _import(row: Row[Any]) -> Import:
    report = row.report and ImportReport(**(row.report | {"notes": tuple(row.report["notes"])}))
    return Import(**(dict(row._mapping) | {"state": ImportState(row.state), "report": report}))
