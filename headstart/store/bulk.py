"""Many rows in few statements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import insert

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Connection, Table

T = TypeVar("T")

CHUNK = 5_000  # names or ids in one query: it takes only so many parameters


def in_chunks(items: Iterable[T]) -> Iterator[Sequence[T]]:
    """The items, CHUNK at a time."""
    remaining = list(items)
    for start in range(0, len(remaining), CHUNK):
        yield remaining[start : start + CHUNK]


def insert_many(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert the rows, which all have the same columns in the same order."""
    if rows and connection.dialect.name == "postgresql":
        _copy(connection, table, rows)
    elif rows:
        connection.execute(insert(table), rows)


def _copy(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert by COPY, twice as fast on Postgres, through the same column types."""
    names = list(rows[0])
    dialect = connection.dialect
    processors = [table.c[name].type.dialect_impl(dialect).bind_processor(dialect) for name in names]
    driver: Any = connection.connection.driver_connection
    statement = f"COPY {table.name} ({', '.join(names)}) FROM STDIN"
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            cells = zip(processors, row.values(), strict=True)
            copy.write_row([value if bind is None else bind(value) for bind, value in cells])
