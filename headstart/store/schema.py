"""The schema's revision, and how a store gets there: Alembic run from code, under a lock."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from headstart.errors import StoreUnavailable
from headstart.store.engine import (
    BUSY_SECONDS,
    SCHEMA_LOCK,
    in_memory,
    lock,
    open_engine,
    parse_url,
    transaction,
    writing,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

SCHEMA_REVISION = "0005"

_alembic = threading.Lock()  # Alembic keeps its context in module globals


def upgrade_schema(url: str) -> None:
    """Bring the store to SCHEMA_REVISION. Safe to call from many processes at once.

    Creates the parent folder of a SQLite file. A store in memory is upgraded when it is opened.
    Raises StoreUnavailable if the store does not answer or was written by a newer Headstart.
    """
    parsed = parse_url(url)
    if in_memory(parsed):
        return
    engine = open_engine(parsed)
    try:
        if engine.dialect.name == "sqlite":
            _create_file(engine, Path(parsed.database or ""))
        upgrade_engine(engine)
    finally:
        engine.dispose()


def upgrade_engine(engine: Engine) -> None:
    """Bring the store behind the engine to SCHEMA_REVISION, in one transaction."""
    with _alembic, transaction(writing(engine)) as connection:
        lock(connection, SCHEMA_LOCK)
        current = revision_of(connection)
        if current == SCHEMA_REVISION:
            return
        config = alembic_config(connection)
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if current is not None and current not in known:
            raise StoreUnavailable(wrong_revision(current))
        command.upgrade(config, SCHEMA_REVISION)


def revision_of(connection: Connection) -> str | None:
    """The revision the database says it has; None for a database that Alembic has not met."""
    return MigrationContext.configure(connection).get_current_revision()


def wrong_revision(found: str | None) -> str:
    """A sentence and a remedy for a schema that is not ours."""
    if found is not None and found > SCHEMA_REVISION:
        return (
            f"The store has schema {found}, newer than {SCHEMA_REVISION} of this Headstart: "
            "install the Headstart that wrote it, or a newer one."
        )
    return (
        f"The store has {f'schema {found}' if found else 'no schema'}; this Headstart needs "
        f"{SCHEMA_REVISION}: run `python -m migrations`."
    )


def alembic_config(connection: Connection) -> Config:
    """What Alembic needs to run the packaged migrations on this connection, inside its transaction."""
    config = Config()
    config.set_main_option("script_location", "migrations:.")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _create_file(engine: Engine, path: Path) -> None:
    """Create a SQLite file and its parent folder, and switch it to write-ahead logging, for good."""
    deadline = time.monotonic() + BUSY_SECONDS
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _switched_to_wal(engine) and time.monotonic() < deadline:
            time.sleep(0.05)
    except (OSError, DBAPIError, sqlite3.Error) as error:
        raise StoreUnavailable(
            f"The store's file cannot be opened ({type(error).__name__}): check that HEADSTART_STORE "
            "names a SQLite file, or none yet, in a folder that may be written."
        ) from None


def _switched_to_wal(engine: Engine) -> bool:
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        return False  # another process switches; SQLite does not wait for it as it does for a writer
    else:
        return True
    finally:
        connection.close()
