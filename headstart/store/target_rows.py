"""The rows of targets: in the database, so that a worker on any machine can probe and finetune on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import insert, select, update

from headstart.errors import Conflict, NotFound
from headstart.store.catalogue import read_target
from headstart.store.tables import target_chunks, targets
from headstart.store.uploads import CHUNK_BYTES

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from headstart.entities import RowsDraft


def write(connection: Connection, target_id: int, draft: RowsDraft) -> None:
    """Keep the rows of a target that has none. The same rows change nothing; Conflict for others."""
    target = read_target(connection, target_id)
    if target.fingerprint == draft.fingerprint:
        return
    if target.fingerprint is not None:
        raise Conflict(
            f"The target {target.name!r} has other rows already (fingerprint {target.fingerprint[:12]}; "
            f"these are {draft.fingerprint[:12]}). Its scores belong to them: choose another name."
        )
    known, given = target.rows_tested, draft.profile["rows"]["test"]
    if known is not None and known != given:
        raise Conflict(
            f"The target {target.name!r} has scores on a test split of {known} rows, and this one has "
            f"{given}: it is another split. Choose another name."
        )
    row = update(targets).where(targets.c.id == target_id)
    connection.execute(row.values(fingerprint=draft.fingerprint, profile=draft.profile))
    with draft.file.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            connection.execute(insert(target_chunks).values(target_id=target_id, data=data))


def chunk_ids(connection: Connection, target_id: int) -> tuple[int, ...]:
    """The ids of the chunks of a target's rows, in order; NotFound if it has none."""
    query = select(target_chunks.c.id).where(target_chunks.c.target_id == target_id)
    found = tuple(connection.scalars(query.order_by(target_chunks.c.id)))
    if not found:
        raise NotFound("rows of target", target_id, remedy="Give it rows: POST /targets.")
    return found


def chunk(connection: Connection, chunk_id: int) -> bytes:
    """The bytes of a chunk."""
    data: bytes | None = connection.scalar(select(target_chunks.c.data).where(target_chunks.c.id == chunk_id))
    if data is None:
        raise NotFound("chunk of rows", chunk_id)
    return data
