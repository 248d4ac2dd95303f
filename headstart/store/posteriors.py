"""Fitted posteriors: opaque bytes, the newest three of each family and format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select

from headstart.entities import PosteriorRow
from headstart.store.catalogue import family_id, row_of
from headstart.store.tables import families, posteriors

if TYPE_CHECKING:
    from sqlalchemy import Connection

KEPT = 3


def write_posterior(connection: Connection, family: str, row: dict[str, Any]) -> int:
    """Store a posterior, forget all but the newest three of its family and format, and return its id."""
    owner = family_id(connection, family)
    stored = insert(posteriors).returning(posteriors.c.id)
    identity: int = connection.execute(stored, row | {"family_id": owner}).scalar_one()
    alike = (posteriors.c.family_id == owner) & (posteriors.c.format == row["format"])
    newest = (
        select(posteriors.c.id)
        .where(alike)
        .order_by(posteriors.c.evidence_version.desc(), posteriors.c.id.desc())
        .limit(KEPT)
    )
    connection.execute(delete(posteriors).where(alike, posteriors.c.id.not_in(newest)))
    return identity


def read_newest(connection: Connection, format: str) -> dict[str, tuple[int, int]]:
    """Family -> (id, evidence version) of its newest posterior of this format."""
    query = (
        select(families.c.name, posteriors.c.id, posteriors.c.evidence_version)
        .join_from(posteriors, families)
        .where(posteriors.c.format == format)
        .order_by(posteriors.c.evidence_version, posteriors.c.id)
    )
    return {name: (identity, version) for name, identity, version in connection.execute(query)}


def read_posterior(connection: Connection, posterior_id: int) -> PosteriorRow:
    """The posterior of this id; NotFound once newer ones replaced it."""
    query = select(
        posteriors.c.id,
        families.c.name.label("family"),
        posteriors.c.evidence_version,
        posteriors.c.format,
        posteriors.c.payload,
        posteriors.c.created_at,
    ).join_from(posteriors, families)
    return PosteriorRow(**row_of(connection, query, posteriors, "posterior", posterior_id)._mapping)
