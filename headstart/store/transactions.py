"""What every group of verbs stands on: two kinds of transaction and a clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, func

from headstart.store.engine import open_engine, parse_url, reading, transaction, writing

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection

    Moment = (
        datetime | ColumnElement[datetime]
    )  # a time, or the database's own now(); either takes + timedelta


def machine_clock() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


class Transactions:
    """An open database. Its verbs are in the classes that derive from it."""

    def __init__(self, url: str, clock: Callable[[], datetime] | None = None) -> None:
        self.url = parse_url(url)
        self._given_clock = clock
        self._engine = open_engine(self.url)
        self._reader, self._writer = reading(self._engine), writing(self._engine)

    def close(self) -> None:
        """Close every connection. Verbs must have returned."""
        self._engine.dispose()

    def _read(self) -> AbstractContextManager[Connection]:
        return transaction(self._reader)

    def _write(self) -> AbstractContextManager[Connection]:
        return transaction(self._writer)

    def _clock(self) -> datetime:
        return (self._given_clock or machine_clock)()

    def _shared_now(self) -> Moment:
        """The time that all workers agree on: the database's, since the clocks of machines differ.

        SQLite is one machine's, so that machine's clock will do.
        """
        if self._given_clock is None and self._engine.dialect.name == "postgresql":
            return func.now()
        return self._clock()
