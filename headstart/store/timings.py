"""What scores that were measured here tell of the time that jobs take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from headstart.recommend.timings import Timing
from headstart.store.tables import MEASURED, checkpoints, scores

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

_TIMINGS: Select[Any] = (
    select(
        scores.c.id,
        scores.c.method,
        scores.c.params,
        checkpoints.c.parameters,
        scores.c.target_id,
        scores.c.provenance,
    )
    .join_from(scores, checkpoints)
    .where(MEASURED)
    .order_by(scores.c.id.desc())
)


def read_timings(connection: Connection, most: int) -> tuple[Timing, ...]:
    """Of so many scores, newest first."""
    return tuple(Timing(*row) for row in connection.execute(_TIMINGS.limit(most)))
