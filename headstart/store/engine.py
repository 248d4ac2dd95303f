"""Engines and transactions: what differs between SQLite and Postgres, and what a driver's error becomes."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    NoSuchModuleError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from headstart.errors import InvalidInput, StoreUnavailable
from headstart.store.tables import UnstorableTextError

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY_SECONDS = 60  # how long a writer waits for another: longer than the longest import
CONNECT = {  # to Postgres, unless the URL says otherwise: a network that is gone is noticed in seconds
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,  # ms that what was sent may go unacknowledged
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # A line of jobs fills in seconds, before Postgres has counted it. It then takes it for short and sorts
    # the whole of it for every claim (5 ms at 10,000 jobs, and growing) instead of walking its index (1 ms).
    "options": "-c enable_bitmapscan=off",
}
IDLE_SECONDS = 1.0  # after which a pooled connection is asked whether it still lives
EVIDENCE_LOCK = 0x4EAD57A7  # Postgres advisory locks of ours
SCHEMA_LOCK = 0x4EAD57A8
_WRITES = "headstart_writes"
_USED = "headstart_used"
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC}

# NaN is refused as Postgres would, and SQLite would not.
_dump = json.JSONEncoder(allow_nan=False).encode


def parse_url(url: str) -> URL:
    """Return the URL with our driver; raise StoreUnavailable if it is neither SQLite nor Postgres."""
    try:
        parsed = make_url(url)
        if parsed.drivername in {"postgresql", "postgres"}:
            parsed = parsed.set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername not in {"sqlite", "sqlite+pysqlite", "postgresql+psycopg"}:
        # The URL itself stays out of the message: it may hold a password.
        raise StoreUnavailable(
            "The store's URL cannot be used: set HEADSTART_STORE to sqlite:///FILE "
            "or postgresql://USER:PASSWORD@HOST/DATABASE."
        )
    return parsed


def in_memory(url: URL) -> bool:
    """Whether the database lives and dies with its one connection."""
    return url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}


def open_engine(url: URL) -> Engine:
    """Return an engine whose transactions are to be opened on `reading(engine)` or `writing(engine)`."""
    options: dict[str, Any] = {"json_serializer": _dump, "hide_parameters": True}
    try:
        if url.get_backend_name() == "sqlite":
            return _open_sqlite(url, options)
        connect = {name: value for name, value in CONNECT.items() if name not in url.query}
        engine = create_engine(url, connect_args=connect, **options)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise StoreUnavailable(
            f"The store's driver cannot be loaded ({type(error).__name__}): "
            "install headstart-advice with its 'service' or 'worker' extra."
        ) from None
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", _ping_if_idle)
    return engine


def _note_use(_connection: Any, record: Any) -> None:
    record.info[_USED] = time.monotonic()


def _ping_if_idle(connection: Any, record: Any, _proxy: object) -> None:
    """Ask a connection that lay idle whether it still lives; the pool replaces it if not, and all its like.

    SQLAlchemy's own ping asks before every transaction, which doubles the price of the short ones.
    """
    if time.monotonic() - record.info.get(_USED, float("inf")) < IDLE_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except connection.Error:
        raise DisconnectionError from None


def _open_sqlite(url: URL, options: dict[str, Any]) -> Engine:
    options |= {"poolclass": QueuePool, "connect_args": {"check_same_thread": False}}
    if in_memory(url):
        # One connection that threads take in turn: a second one would see another, empty database.
        options |= {"pool_size": 1, "max_overflow": 0, "pool_timeout": BUSY_SECONDS}
    engine = create_engine(url, **options)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # Without this the driver begins transactions when it sees fit, and never for SELECT or DDL.
    connection.isolation_level = None
    for pragma in ("foreign_keys = ON", f"busy_timeout = {BUSY_SECONDS * 1000}", "synchronous = NORMAL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer that begins as a reader cannot wait for another writer: SQLite refuses it at once.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def reading(engine: Engine) -> Engine:
    """Return the engine's twin for reading transactions, on the same pool: one snapshot each."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def writing(engine: Engine) -> Engine:
    """Return the engine's twin for writing transactions, on the same pool.

    On Postgres a statement sees what was committed before it, so what follows a lock is up to date.
    """
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_WRITES: True})
    return engine.execution_options(isolation_level="READ COMMITTED")


def lock(connection: Connection, key: int) -> None:
    """Hold the lock until the transaction ends. On SQLite, a writing transaction is alone already."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(key)))


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Run one transaction; turn what the driver raises into errors for people, without its message."""
    # COPY goes past SQLAlchemy, so the driver's own errors arrive beside the wrapped ones.
    driver = engine.dialect.loaded_dbapi
    try:
        with engine.begin() as connection:
            yield connection
    except (IntegrityError, driver.IntegrityError):
        raise
    except (DataError, driver.DataError, OverflowError):
        raise InvalidInput("A number or text is beyond what the store can hold.") from None
    except (DBAPIError, driver.Error, PoolTimeoutError) as error:
        raise StoreUnavailable(_why(error.orig if isinstance(error, DBAPIError) else error)) from None
    except UnstorableTextError as error:
        raise InvalidInput(str(error)) from None
    except StatementError as error:  # a column's type refused a value
        if isinstance(error.orig, UnstorableTextError):
            raise InvalidInput(str(error.orig)) from None
        raise error.orig or error from None


def _why(error: BaseException | None) -> str:
    """What keeps the store from answering, and what to do, without the driver's words."""
    cause = type(error).__name__
    if getattr(error, "sqlite_errorcode", None) in _FULL or cause == "DiskFull":
        return "The store cannot write: its disk is full or failing. Free some space where the database is."
    return (
        f"The store does not answer, or its schema is another ({cause}). Check that the database "
        "of HEADSTART_STORE runs and was upgraded with `python -m migrations`."
    )
