"""Uploaded files: in the database, so that a worker on any machine can import them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, insert, select

from headstart.errors import NotFound
from headstart.store import imports
from headstart.store.tables import upload_chunks

if TYPE_CHECKING:
    from sqlalchemy import Connection

CHUNK_BYTES = 1 << 20


def append(connection: Connection, import_id: int, file: str, data: bytes) -> None:
    """Append bytes to a file of an import not yet released. No bytes make an empty file."""
    imports.refuse_released(connection, import_id, "added to")
    pieces = range(0, max(len(data), 1), CHUNK_BYTES)
    connection.execute(
        insert(upload_chunks),
        [{"import_id": import_id, "file": file, "data": data[i : i + CHUNK_BYTES]} for i in pieces],
    )


def names(connection: Connection, import_id: int) -> tuple[str, ...]:
    """The names of the uploaded files, in the order of their first bytes."""
    imports.read(connection, import_id)
    of_import = upload_chunks.c.import_id == import_id
    query = select(upload_chunks.c.file).where(of_import).group_by(upload_chunks.c.file)
    return tuple(connection.scalars(query.order_by(func.min(upload_chunks.c.id))))


def chunk_ids(connection: Connection, import_id: int, file: str) -> tuple[int, ...]:
    """The ids of the file's chunks, in order; NotFound names the nearest file."""
    imports.read(connection, import_id)
    query = select(upload_chunks.c.id).where(
        upload_chunks.c.import_id == import_id, upload_chunks.c.file == file
    )
    found = tuple(connection.scalars(query.order_by(upload_chunks.c.id)))
    if not found:
        raise NotFound("upload", file, names(connection, import_id))
    return found


def chunk(connection: Connection, chunk_id: int) -> bytes:
    """The bytes of a chunk; NotFound once the import has ended."""
    data: bytes | None = connection.scalar(select(upload_chunks.c.data).where(upload_chunks.c.id == chunk_id))
    if data is None:
        raise NotFound("upload chunk", chunk_id)
    return data
