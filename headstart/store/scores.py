"""Scores: reading them, their quarantine, and the version of the evidence they make up."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, update

from headstart.entities import Score
from headstart.errors import Conflict
from headstart.store.bulk import in_chunks
from headstart.store.catalogue import family_id, row_of
from headstart.store.engine import EVIDENCE_LOCK, lock
from headstart.store.paging import read_page
from headstart.store.tables import IN_FORCE, KEY, checkpoints, evidence, families, scores, targets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection, Row, Select

    from headstart.entities import Page

_SCORES: Select[Any] = (
    select(
        scores.c.id,
        scores.c.checkpoint_id,
        checkpoints.c.name.label("checkpoint"),
        families.c.name.label("family"),
        scores.c.target_id,
        targets.c.name.label("target"),
        scores.c.method,
        scores.c.method_version,
        scores.c.params_digest,
        scores.c.seed,
        scores.c.value,
        scores.c.stderr,
        scores.c.rows_tested,
        scores.c.source,
        scores.c.provenance,
        scores.c.quarantine,
        scores.c.quarantine_note,
        scores.c.import_id,
        scores.c.created_at,
    )
    .join_from(scores, checkpoints)
    .join(families)
    .join(targets, scores.c.target_id == targets.c.id)
)


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def params_digest(params: Mapping[str, Any]) -> str:
    """The digest of a protocol: equal parameters, equal digest, whatever their order.

    The first 32 hex digits of the SHA-256 of the canonical JSON. NaN raises ValueError.
    """
    return hashlib.sha256(_canonical(params).encode()).hexdigest()[:32]


def read_score(connection: Connection, score_id: int) -> Score:
    """The score of this id."""
    return _score(row_of(connection, _SCORES, scores, "score", score_id))


def read_scores(connection: Connection, score_ids: Iterable[int]) -> dict[int, Score]:
    """The scores of these ids."""
    found: dict[int, Score] = {}
    for chunk in in_chunks(score_ids):
        found |= {row.id: _score(row) for row in connection.execute(_SCORES.where(scores.c.id.in_(chunk)))}
    return found


def page_of_scores(
    connection: Connection,
    *,
    family: str | None,
    checkpoint_id: int | None,
    target_id: int | None,
    method: str | None,
    quarantined: bool | None,
    size: int,
    token: str | None,
) -> Page[Score]:
    """One page of the scores that pass every filter given; NotFound if a filter names what is not there."""
    query = _SCORES
    if family is not None:
        query = query.where(checkpoints.c.family_id == family_id(connection, family))
    if checkpoint_id is not None:
        row_of(connection, select(checkpoints.c.id), checkpoints, "checkpoint", checkpoint_id)
        query = query.where(scores.c.checkpoint_id == checkpoint_id)
    if target_id is not None:
        row_of(connection, select(targets.c.id), targets, "target", target_id)
        query = query.where(scores.c.target_id == target_id)
    if method is not None:
        query = query.where(scores.c.method == method)
    if quarantined is not None:
        query = query.where(~IN_FORCE if quarantined else IN_FORCE)
    scope = ("scores", family, checkpoint_id, target_id, method, quarantined)
    return read_page(connection, query, scores.c.id, _score, scope=scope, size=size, token=token)


def count_quarantined(connection: Connection) -> dict[str, int]:
    """Quarantined scores by reason."""
    query = select(scores.c.quarantine, func.count()).where(~IN_FORCE).group_by(scores.c.quarantine)
    return dict(connection.execute(query.order_by(scores.c.quarantine)).all())


def write_quarantine(connection: Connection, score_id: int, reason: str | None, note: str | None) -> Score:
    """Set (reason) or lift (None) the quarantine of a score; Conflict if its key is held in force."""
    lock(connection, EVIDENCE_LOCK)
    before = row_of(connection, select(scores), scores, "score", score_id)
    lifted = before.quarantine is not None and reason is None
    if lifted:
        key = (column == getattr(before, column.name) for column in KEY)
        holder = connection.execute(select(scores.c.id, scores.c.value).where(IN_FORCE, *key)).one_or_none()
        if holder is not None:
            raise Conflict(
                f"Score {score_id} ({before.value!r}) cannot be lifted from quarantine: score {holder.id} "
                f"({holder.value!r}) is in force for the same key. Quarantine that one first."
            )
    connection.execute(
        update(scores).where(scores.c.id == score_id).values(quarantine=reason, quarantine_note=note)
    )
    if lifted or (before.quarantine is None and reason is not None):
        raise_version(connection)
    return read_score(connection, score_id)


RAISE_VERSION = update(evidence).values(version=evidence.c.version + 1)


def read_version(connection: Connection) -> int:
    """The evidence version."""
    version: int = connection.execute(select(evidence.c.version)).scalar_one()
    return version


def raise_version(connection: Connection) -> None:
    """Raise the evidence version by one: the scores in force changed, or what they are about."""
    connection.execute(RAISE_VERSION)


def _score(row: Row[Any]) -> Score:
    return Score(**row._mapping)
