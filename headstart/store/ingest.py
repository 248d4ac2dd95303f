"""Storing what an import found: one batch, in bulk, within the transaction that ends the import.

A draft is compared with what the store holds under its key:

* the same value, in force or quarantined for whatever reason: unchanged (a person may have decided so);
* in force, while another value is in force: stored in quarantine as "contradicts";
* else: stored as it is.

Drafts of one batch are compared with each other by the same rules, the earlier as if it were stored.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from headstart.store import target_rows
from headstart.store.bulk import in_chunks, insert_many
from headstart.store.scores import params_digest, raise_version
from headstart.store.subjects import write_subjects
from headstart.store.tables import IN_FORCE, KEY, scores

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from headstart.entities import ImportBatch, ImportReport, ScoreDraft
    from headstart.store.subjects import Subjects

CONTRADICTS = "contradicts"

Key = tuple[int, int, str, str, str, int]  # checkpoint, target, method, version, params digest, seed


@dataclass(slots=True)
class _Held:
    """What stands under a key: every value, and which of them is in force."""

    values: set[float] = field(default_factory=set)
    in_force: float | None = None
    score_id: int | None = None  # of the one in force; None while it is not stored yet


@dataclass(slots=True)
class _Plan:
    """What to store of a batch."""

    in_force: list[dict[str, Any]] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    contradicting: list[tuple[dict[str, Any], _Held]] = field(default_factory=list)
    unchanged: int = 0


def check_finite(drafts: Iterable[ScoreDraft]) -> None:
    """Raise ValueError for a number that is not one: SQLite would store NaN as NULL."""
    for draft in drafts:
        numbers = (draft.value,) if draft.stderr is None else (draft.value, draft.stderr)
        if not all(map(math.isfinite, numbers)):
            raise ValueError(
                f"The score of {draft.checkpoint!r} on {draft.target!r} is not finite: {numbers}."
            )


def digests(drafts: Iterable[ScoreDraft]) -> list[str]:
    """The digest of each draft's protocol; drafts that share one `params` object share the work."""
    known: dict[int, str] = {}
    found = []
    for draft in drafts:
        if id(draft.params) not in known:
            known[id(draft.params)] = params_digest(draft.params)
        found.append(known[id(draft.params)])
    return found


def store_batch(
    connection: Connection, batch: ImportBatch, protocols: Sequence[str], import_id: int, now: datetime
) -> ImportReport:
    """Store the batch and return its report, filled in. The caller holds the evidence lock."""
    subjects = write_subjects(connection, batch)
    target_id = checkpoint_id = None
    if batch.rows is not None:
        target_id = subjects.targets[batch.rows.target]
        target_rows.write(connection, target_id, batch.rows)
    if batch.registers is not None:
        drafted = batch.registers
        checkpoint_id = subjects.drafted[drafted.family, drafted.name, drafted.revision]
    plan = _plan(connection, batch.scores, protocols, subjects)
    common = {"import_id": import_id, "created_at": now}
    insert_many(connection, scores, [row | common for row in plan.in_force])
    _name_contradicted(connection, plan, import_id)
    insert_many(connection, scores, [row | common for row in plan.quarantined])
    if plan.in_force or subjects.changed:
        raise_version(connection)
    doubted = Counter(draft.quarantine for draft in batch.scores if draft.quarantine is not None)
    doubted += Counter({CONTRADICTS: len(plan.contradicting)})
    return replace(
        batch.report,
        scores_stored=len(plan.in_force) + len(plan.quarantined),
        scores_unchanged=plan.unchanged,
        scores_quarantined=dict(sorted(doubted.items())),
        scores_realigned=sum("realigned_from" in draft.provenance for draft in batch.scores),
        checkpoints_new=subjects.checkpoints_new,
        targets_new=subjects.targets_new,
        target_id=target_id,
        checkpoint_id=checkpoint_id,
    )


def _plan(
    connection: Connection, drafts: Sequence[ScoreDraft], protocols: Sequence[str], subjects: Subjects
) -> _Plan:
    keys: list[Key] = [
        (
            subjects.checkpoints[draft.family, draft.checkpoint],
            subjects.targets[draft.target],
            draft.method,
            draft.method_version,
            protocol,
            draft.seed,
        )
        for draft, protocol in zip(drafts, protocols, strict=True)
    ]
    held = _read_held(connection, {key[0] for key in keys})
    plan = _Plan()
    for key, draft in zip(keys, drafts, strict=True):
        under_key = held[key]
        if draft.value in under_key.values:
            plan.unchanged += 1
            continue
        under_key.values.add(draft.value)
        row = _row(key, draft)
        if draft.quarantine is not None:
            plan.quarantined.append(row)
        elif under_key.in_force is not None:
            row["quarantine"] = CONTRADICTS
            plan.quarantined.append(row)
            plan.contradicting.append((row, under_key))
        else:
            under_key.in_force = draft.value
            plan.in_force.append(row)
    return plan


def _read_held(connection: Connection, checkpoint_ids: Iterable[int]) -> defaultdict[Key, _Held]:
    held: defaultdict[Key, _Held] = defaultdict(_Held)
    for chunk in in_chunks(sorted(checkpoint_ids)):
        query = select(*KEY, scores.c.value, scores.c.id, IN_FORCE).where(scores.c.checkpoint_id.in_(chunk))
        for *key, value, score_id, in_force in connection.execute(query):
            under_key = held[tuple(key)]
            under_key.values.add(value)
            if in_force:
                under_key.in_force, under_key.score_id = value, score_id
    return held


def _row(key: Key, draft: ScoreDraft) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip((column.name for column in KEY), key, strict=True))
    return row | {
        "params": draft.params,
        "value": draft.value,
        "stderr": draft.stderr,
        "rows_tested": draft.rows_tested,
        "source": draft.source,
        "provenance": draft.provenance,
        "quarantine": draft.quarantine,
        "quarantine_note": draft.quarantine_note,
    }


def _name_contradicted(connection: Connection, plan: _Plan, import_id: int) -> None:
    """Note on each contradicting row which score it contradicts: one of the store, or one just inserted."""
    ids: dict[Key, int] = {}
    if any(under_key.score_id is None for _, under_key in plan.contradicting):
        query = select(*KEY, scores.c.id).where(scores.c.import_id == import_id, IN_FORCE)
        ids = {tuple(key): score_id for *key, score_id in connection.execute(query)}
    for row, under_key in plan.contradicting:
        score_id = under_key.score_id or ids[tuple(row[column.name] for column in KEY)]
        row["quarantine_note"] = (
            f"Score {score_id} is in force for the same key with {under_key.in_force!r}; this one says "
            f"{row['value']!r}."
        )
