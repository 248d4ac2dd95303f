"""Webhooks of jobs: subscribed to when a job is submitted, due when it has ended, tried until they arrive.

A delivery waits exactly as long as its job waits or runs.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from headstart.entities import Delivery, DeliveryState
from headstart.errors import Conflict
from headstart.store.bulk import in_chunks
from headstart.store.catalogue import row_of
from headstart.store.paging import read_page
from headstart.store.tables import deliveries, jobs, turns
from headstart.store.turns import take

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row

    from headstart.entities import Page
    from headstart.store.transactions import Moment

MOST_LOGGED = 100  # newest tries kept of one delivery: it may be sent again without end

_DELIVERIES = select(deliveries)


# beside the moves of a job: the caller holds its row, so that it neither ends nor is retried meanwhile


def subscribe(connection: Connection, wanted: Sequence[tuple[int, str]], now: Moment) -> None:
    """Tell these addresses (job id, URL) when the job, which waits or runs, has ended; each address once."""
    if not wanted:
        return
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    common = {"state": DeliveryState.WAITING, "tries": 0, "log": [], "created_at": now}
    rows = [{"job_id": job_id, "url": url} for job_id, url in dict.fromkeys(wanted)]
    connection.execute(dialect.insert(deliveries).values(common).on_conflict_do_nothing(), rows)
    for chunk in in_chunks({job_id for job_id, _ in wanted}):
        connection.execute(update(jobs).where(jobs.c.id.in_(chunk)).values(has_webhook=True))


def release(connection: Connection, job_id: int, now: Moment) -> None:
    """The job has ended: its webhooks are due."""
    due = {"state": DeliveryState.PENDING, "tries": 0, "next_at": now}
    waits = deliveries.c.state == DeliveryState.WAITING
    connection.execute(update(deliveries).where(deliveries.c.job_id == job_id, waits).values(due))


def rearm(connection: Connection, job_id: int) -> None:
    """The job is tried again: whoever was told, or was to be told, is told of its next end instead."""
    again = {"state": DeliveryState.WAITING, "tries": 0, "next_at": None}
    connection.execute(update(deliveries).where(deliveries.c.job_id == job_id).values(again))


# for whoever sends them


def claim(connection: Connection, lease_seconds: float, now: Moment) -> Delivery | None:
    """Take the delivery that is due longest; it comes back when the lease has run out.

    Of one address no two are taken at a time, so that a slow receiver holds up one sender, not all: a claim
    takes the turn of its address too, and `note_try` gives it back.
    """
    is_told = select(turns.c.name).where(turns.c.name == deliveries.c.url, turns.c.until > now).exists()
    # SKIP LOCKED: of two claimers one takes this delivery and the other the next one.
    first = (
        select(deliveries.c.id, deliveries.c.url)
        .where(deliveries.c.state == DeliveryState.PENDING, deliveries.c.next_at <= now, ~is_told)
        .order_by(deliveries.c.next_at, deliveries.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    while (due := connection.execute(first).one_or_none()) is not None:
        # False: another has just begun to tell this address, and the next look passes over it.
        if take(connection, due.url, lease_seconds, now):
            claimed = connection.execute(
                update(deliveries)
                .where(deliveries.c.id == due.id)
                .values(next_at=now + timedelta(seconds=lease_seconds))
                .returning(*deliveries.c)
            ).one()
            return _delivery(claimed)
    return None


def note_try(
    connection: Connection,
    claimed: Delivery,
    entry: dict[str, Any],
    next_in: float | None,
    delivered: bool,
    now: Moment,
) -> bool:
    """Log a try and move on; False if the claim is lost: the try is logged, and nothing else changes.

    The moment to which a claim pushed `next_at` is its token: nothing else sets the same one.
    """
    held = _hold(connection, claimed.id)
    # The turn of the address was taken to the same moment.
    connection.execute(delete(turns).where(turns.c.name == claimed.url, turns.c.until == claimed.next_at))
    current = held.state is DeliveryState.PENDING and held.next_at == claimed.next_at
    change: dict[str, Any] = {"log": [*held.log, entry][-MOST_LOGGED:]}
    if current:
        change |= {"tries": held.tries + 1, "next_at": None}
        if delivered:
            change["state"] = DeliveryState.DELIVERED
        elif next_in is None:
            change["state"] = DeliveryState.FAILED
        else:
            change["next_at"] = now + timedelta(seconds=next_in)
    connection.execute(update(deliveries).where(deliveries.c.id == claimed.id).values(change))
    return current


# for users


def read(connection: Connection, delivery_id: int) -> Delivery:
    """The delivery of this id."""
    return _delivery(row_of(connection, _DELIVERIES, deliveries, "delivery", delivery_id))


def page_of_deliveries(
    connection: Connection, job_id: int | None, state: str | None, size: int, token: str | None
) -> Page[Delivery]:
    """One page of the deliveries that pass every filter given; NotFound if there is no such job."""
    query = _DELIVERIES
    if job_id is not None:
        row_of(connection, select(jobs.c.id), jobs, "job", job_id)
        query = query.where(deliveries.c.job_id == job_id)
    if state is not None:
        query = query.where(deliveries.c.state == state)
    scope = ("deliveries", job_id, state)
    return read_page(connection, query, deliveries.c.id, _delivery, scope=scope, size=size, token=token)


def redeliver(connection: Connection, delivery_id: int, now: Moment) -> Delivery:
    """Send the delivery again, now, with all its tries; Conflict while its job has not ended."""
    held = _hold(connection, delivery_id)
    if held.state is DeliveryState.WAITING:
        raise Conflict(
            f"Delivery {delivery_id} waits for job {held.job_id} to end, and is sent then. "
            f"GET /jobs/{held.job_id} says how far it is."
        )
    due = {"state": DeliveryState.PENDING, "tries": 0, "next_at": now}
    connection.execute(update(deliveries).where(deliveries.c.id == delivery_id).values(due))
    return read(connection, delivery_id)


def count_by_state(connection: Connection) -> dict[str, int]:
    """How many deliveries are in each state."""
    query = select(deliveries.c.state, func.count()).group_by(deliveries.c.state)
    counted: dict[str, int] = dict.fromkeys(DeliveryState, 0)
    for state, count in connection.execute(query):
        counted[DeliveryState(state)] = count
    return counted


def _hold(connection: Connection, delivery_id: int) -> Delivery:
    """The delivery, held until the transaction ends."""
    return _delivery(row_of(connection, _DELIVERIES.with_for_update(), deliveries, "delivery", delivery_id))


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(**(dict(row._mapping) | {"state": DeliveryState(row.state), "log": tuple(row.log)}))
