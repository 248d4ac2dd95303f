"""Turns: what several processes could do, and one should do now."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import postgresql, sqlite

from headstart.store.tables import turns

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from headstart.store.transactions import Moment


def take(connection: Connection, name: str, seconds: float, now: Moment) -> bool:
    """Take the turn for so many seconds; False while another has it."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    until = now + timedelta(seconds=seconds)
    take_over = (
        dialect.insert(turns)
        .values(name=name, until=until)
        .on_conflict_do_update(
            index_elements=[turns.c.name], set_={"until": until}, where=turns.c.until <= now
        )
        .returning(turns.c.name)
    )
    return connection.scalar(take_over) is not None
