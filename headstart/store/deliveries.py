"""Webhooks of jobs: subscribed to when a job is submitted, due when it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite

from headstart.entities import DeliveryState
from headstart.store.tables import deliveries, jobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from headstart.store.transactions import Moment


def subscribe(connection: Connection, wanted: Sequence[tuple[int, str]], now: Moment) -> None:
    """Tell these addresses (job id, URL) when the job has ended; each address once."""
    if not wanted:
        return
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    rows: list[dict[str, Any]] = [
        {
            "job_id": job_id,
            "url": url,
            "state": DeliveryState.WAITING,
            "tries": 0,
            "log": [],
            "created_at": now,
        }
        for job_id, url in dict.fromkeys(wanted)
    ]
    connection.execute(dialect.insert(deliveries).on_conflict_do_nothing().values(rows))
    connection.execute(
        update(jobs).where(jobs.c.id.in_({job_id for job_id, _ in wanted})).values(has_webhook=True)
    )


def release(connection: Connection, job_id: int, now: Moment) -> None:
    """The job has ended: its webhooks are due."""
    _move(
        connection,
        job_id,
        DeliveryState.WAITING,
        {"state": DeliveryState.PENDING, "tries": 0, "next_at": now},
    )


def rearm(connection: Connection, job_id: int) -> None:
    """The job is tried again: whoever was to be told is told again."""
    for state in (DeliveryState.PENDING, DeliveryState.DELIVERED, DeliveryState.FAILED):
        _move(connection, job_id, state, {"state": DeliveryState.WAITING, "tries": 0, "next_at": None})


def _move(connection: Connection, job_id: int, state: DeliveryState, values: dict[str, Any]) -> None:
    connection.execute(
        update(deliveries).where(deliveries.c.job_id == job_id, deliveries.c.state == state).values(values)
    )
