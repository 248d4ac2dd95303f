"""Turns: what several processes could do, and one should do now."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError

from headstart.store.tables import turns

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from headstart.store.transactions import Moment


def take(connection: Connection, name: str, seconds: float, now: Moment) -> bool:
    """Take the turn for so many seconds; False while another has it."""
    until = now + timedelta(seconds=seconds)
    taken = connection.execute(
        update(turns).where(turns.c.name == name, turns.c.until <= now).values(until=until)
    )
    if taken.rowcount:
        return True
    try:
        with connection.begin_nested():
            connection.execute(insert(turns).values(name=name, until=until))
    except IntegrityError:
        return False
    return True
