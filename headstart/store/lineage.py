"""Whether checkpoints descend from their family's vanilla: what jobs find, and what persons say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select, update

from headstart.entities import Lineage
from headstart.errors import Conflict
from headstart.store.bulk import in_chunks
from headstart.store.catalogue import read_checkpoint, row_of
from headstart.store.engine import EVIDENCE_LOCK, lock
from headstart.store.jobs import storable
from headstart.store.scores import raise_version
from headstart.store.tables import checkpoints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from headstart.entities import Checkpoint, LineageVerdict

JOB, PERSON = "job", "person"


def note_verdicts(connection: Connection, verdicts: Sequence[LineageVerdict]) -> None:
    """Note what a job found; its transaction holds the evidence lock.

    What a person said stands, a vanilla has no lineage to contradict, and a checkpoint that has gone is
    passed over.
    """
    c = checkpoints.c
    found = {one.checkpoint_id: one for one in verdicts}
    changes, moved = [], False
    for chunk in in_chunks(found):
        query = select(c.id, c.lineage, c.lineage_by, c.is_vanilla).where(c.id.in_(chunk))
        for row in connection.execute(query.with_for_update()):
            if row.is_vanilla or row.lineage_by == PERSON:
                continue
            told = found[row.id]
            changes.append(_columns(told.lineage, storable(told.reason), JOB) | {"identity": row.id})
            moved = moved or _leaves_or_returns(row.lineage, told.lineage)
    if changes:
        connection.execute(update(checkpoints).where(c.id == bindparam("identity")), changes)
    if moved:
        raise_version(connection)


def write_lineage(
    connection: Connection, checkpoint_id: int, lineage: Lineage | None, note: str
) -> Checkpoint:
    """Set what a person says of a checkpoint's descent; Conflict where it would contradict a vanilla."""
    lock(connection, EVIDENCE_LOCK)
    before = row_of(connection, select(checkpoints), checkpoints, "checkpoint", checkpoint_id)
    if before.is_vanilla and lineage is Lineage.CONTRADICTED:
        raise Conflict(
            f"Checkpoint {checkpoint_id} ({before.name!r}) is the vanilla of its family, which all others "
            "descend from: its lineage cannot be contradicted. Contradict those that descend from another."
        )
    said = _columns(lineage, note, PERSON)
    connection.execute(update(checkpoints).where(checkpoints.c.id == checkpoint_id).values(said))
    if _leaves_or_returns(before.lineage, lineage):
        raise_version(connection)
    return read_checkpoint(connection, checkpoint_id)


def _columns(lineage: Lineage | None, reason: str, by: str) -> dict[str, str | None]:
    return {"lineage": lineage and str(lineage), "lineage_reason": reason, "lineage_by": by}


def _leaves_or_returns(before: str | None, after: str | None) -> bool:
    """Whether the checkpoint's scores become evidence by the change, or are no more."""
    return (before == Lineage.CONTRADICTED) != (after == Lineage.CONTRADICTED)
