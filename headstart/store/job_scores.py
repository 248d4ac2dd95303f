"""The scores that jobs measure: in force under their key, or beside the one that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select
from sqlalchemy.dialects import postgresql, sqlite

from headstart.store.ingest import CONTRADICTS
from headstart.store.scores import params_digest
from headstart.store.tables import IN_FORCE, KEY, jobs, scores

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from headstart.entities import JobDraft
    from headstart.method import Measurement
    from headstart.store.transactions import Moment


def columns(measurement: Measurement, job_id: int, attempt: int, seconds: float) -> dict[str, Any]:
    """A measurement as the columns of a score."""
    return {
        "value": measurement.value,
        "stderr": measurement.stderr,
        "rows_tested": measurement.rows_tested,
        "source": f"job {job_id}",
        "provenance": measurement.details | {"job": job_id, "attempt": attempt, "seconds": seconds},
    }


def protocol_of_job(connection: Connection, job_id: int) -> dict[str, Any]:
    """The key of the score that a job measures, and the params."""
    names = [*(column.name for column in KEY), "params"]
    row = connection.execute(select(*(jobs.c[name] for name in names)).where(jobs.c.id == job_id)).one()
    return dict(row._mapping)


def protocol_of(draft: JobDraft) -> dict[str, Any]:
    """The key of the score that a job of this draft would measure, and the params."""
    return {
        "checkpoint_id": draft.checkpoint_id,
        "target_id": draft.target_id,
        "method": draft.method,
        "method_version": draft.method_version,
        "params_digest": params_digest(draft.params),
        "seed": draft.seed,
        "params": draft.params,
    }


def store_in_force(
    connection: Connection, protocol: dict[str, Any], measured: dict[str, Any], now: Moment
) -> int | None:
    """Store a score in force, unless its key is held or an equal score is there: then None."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = protocol | measured | {"created_at": now}
    create = dialect.insert(scores).values(row).on_conflict_do_nothing().returning(scores.c.id)
    stored: int | None = connection.scalar(create)
    return stored


def beside_the_held(
    connection: Connection, job_id: int, protocol: dict[str, Any], measured: dict[str, Any], now: Moment
) -> int:
    """The key is held: by an equal score, which is the answer, or by another, which this one contradicts."""
    under_key = select(scores.c.id, scores.c.value, IN_FORCE.label("in_force")).where(*_same_key(protocol))
    found = connection.execute(under_key).all()
    for row in found:
        if row.value == measured["value"]:
            return int(row.id)
    holder = next(row for row in found if row.in_force)
    note = (
        f"Score {holder.id} is in force for the same key with {holder.value!r}; "
        f"job {job_id} measured {measured['value']!r}."
    )
    return store_doubted(connection, protocol, measured, (CONTRADICTS, note), now)


def store_doubted(
    connection: Connection,
    protocol: dict[str, Any],
    measured: dict[str, Any],
    why: tuple[str, str | None],
    now: Moment,
) -> int:
    """Store a score under quarantine, for this reason and with this note: the evidence stays as it is."""
    same = (*_same_key(protocol), scores.c.value == measured["value"])
    known = connection.scalar(select(scores.c.id).where(*same))
    if known is not None:
        return int(known)
    row = protocol | measured | {"quarantine": why[0], "quarantine_note": why[1], "created_at": now}
    return int(connection.execute(insert(scores).values(row).returning(scores.c.id)).scalar_one())


def _same_key(protocol: dict[str, Any]) -> list[Any]:
    return [column == protocol[column.name] for column in KEY]
