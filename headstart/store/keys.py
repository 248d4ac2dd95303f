"""API keys: their digests, and what each may do. A name is used once, so that logs stay clear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite

from headstart.entities import ApiKey
from headstart.errors import Conflict, NotFound, nearest_names
from headstart.store.tables import api_keys

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection, Row


def create(connection: Connection, name: str, scope: str, digest: str, shown: str, now: datetime) -> ApiKey:
    """Store a key by its digest; Conflict if a key of this name is there, revoked or not."""
    row = {"name": name, "scope": scope, "digest": digest, "shown": shown, "created_at": now}
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    stored = dialect.insert(api_keys).values(row).on_conflict_do_nothing(index_elements=[api_keys.c.name])
    made = connection.execute(stored.returning(*api_keys.c)).one_or_none()
    if made is None:
        raise Conflict(
            f"There is a key named {name[:100]!r} already (revoked ones keep theirs): choose another name."
        )
    return _key(made)


def read_all(connection: Connection) -> tuple[ApiKey, ...]:
    """Every key, the revoked ones too, ascending id."""
    return tuple(_key(row) for row in connection.execute(select(api_keys).order_by(api_keys.c.id)))


def revoke(connection: Connection, name: str, now: datetime) -> ApiKey:
    """Revoke the key of this name; the first time stands. NotFound names the nearest."""
    named = api_keys.c.name == name
    connection.execute(update(api_keys).where(named, api_keys.c.revoked_at.is_(None)).values(revoked_at=now))
    row = connection.execute(select(api_keys).where(named)).one_or_none()
    if row is None:
        known = connection.scalars(select(api_keys.c.name)).all()
        remedy = None if nearest_names(name, known) else "`headstart keys list` shows those there are."
        raise NotFound("key", name, known, remedy=remedy)
    return _key(row)


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(**row._mapping)
