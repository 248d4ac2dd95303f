"""Idempotency keys: who answers a request, and the answer for those who ask again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from headstart.entities import RecordedResponse
from headstart.errors import Conflict, InvalidInput
from headstart.store.tables import requests

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

CLAIM_KEPT = timedelta(minutes=10)
RESPONSE_KEPT = timedelta(hours=24)


def begin(
    connection: Connection, key: str, route: str, body_digest: str, now: datetime
) -> RecordedResponse | None:
    """Claim the key (None) or return the recorded response."""
    # What has expired is as if it had never been: this is both the taking over and the cleaning up.
    connection.execute(delete(requests).where(requests.c.expires_at < now))
    row = connection.execute(select(requests).where(_is(key, route))).one_or_none()
    if row is None:
        claim = {"key": key, "route": route, "body_digest": body_digest, "expires_at": now + CLAIM_KEPT}
        try:
            connection.execute(insert(requests), claim)
        except IntegrityError:  # another process claimed it between the two statements
            raise _still_running(key) from None
        return None
    if row.body_digest != body_digest:
        raise InvalidInput(
            f"The Idempotency-Key {key[:100]!r} came before with another body: "
            "repeat that body, or choose a new key."
        )
    if row.status is None:
        raise _still_running(key)
    return RecordedResponse(status=row.status, headers=row.headers, body=row.body)


def record(connection: Connection, key: str, route: str, response: RecordedResponse, now: datetime) -> None:
    """Record the response of a claimed key. The first one stands."""
    connection.execute(
        update(requests)
        .where(_is(key, route), requests.c.status.is_(None))
        .values(
            status=response.status,
            headers=response.headers,
            body=response.body,
            expires_at=now + RESPONSE_KEPT,
        )
    )


def release(connection: Connection, key: str, route: str) -> None:
    """Give up a claim. A recorded response stays."""
    connection.execute(delete(requests).where(_is(key, route), requests.c.status.is_(None)))


def _is(key: str, route: str) -> ColumnElement[bool]:
    return (requests.c.key == key) & (requests.c.route == route)


def _still_running(key: str) -> Conflict:
    return Conflict(
        f"The first request with the Idempotency-Key {key[:100]!r} is still running: try again later."
    )
