"""Submitting jobs: each request to measure is answered by a score, by a job under way, or by a new one."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from headstart.entities import JobState, Progress, Submission, SubmissionStatus
from headstart.errors import Conflict, NotFound
from headstart.failures import NotApplicable
from headstart.store import deliveries
from headstart.store.bulk import in_chunks
from headstart.store.jobs import progress_columns, read_many
from headstart.store.scores import params_digest, read_scores
from headstart.store.tables import ALIVE, IN_FORCE, KEY, checkpoints, job_events, jobs, scores, targets

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Table

    from headstart.entities import JobDraft, Score
    from headstart.store.transactions import Moment

FIRST_REVISION = 1
TRIES = 5  # of inserting a job beside others that do the same


def submit(
    connection: Connection, drafts: Sequence[JobDraft], attempts: int, request_id: str, now: Moment
) -> tuple[Submission, ...]:
    """Answer every draft by its score, by a job that is under way, or by a new one."""
    _refuse_unknown(connection, checkpoints, "checkpoint", {draft.checkpoint_id for draft in drafts})
    _refuse_unknown(connection, targets, "target", {draft.target_id for draft in drafts})
    digests = [params_digest(draft.params) for draft in drafts]
    scored = _scores_of(connection, drafts, digests)
    keys = [job_key(draft, digest) for draft, digest in zip(drafts, digests, strict=True)]
    wanted = {
        key: _row(draft, digest, key, attempts, request_id, now)
        for draft, digest, key, score in zip(drafts, digests, keys, scored, strict=True)
        if score is None
    }
    settled = _not_applicable(connection, wanted)
    new, joined = _insert(connection, {key: row for key, row in wanted.items() if key not in settled}, now)
    ids = settled | joined | new
    hooked = [
        (ids[key], draft.webhook)
        for draft, key, score in zip(drafts, keys, scored, strict=True)
        if draft.webhook is not None and score is None and key not in settled
    ]
    deliveries.subscribe(connection, hooked, now)
    found = read_many(connection, ids.values())
    firsts = set(new)
    answers = []
    for key, score in zip(keys, scored, strict=True):
        if score is not None:
            answers.append(Submission(status=SubmissionStatus.SCORED, job=None, score=score))
            continue
        status = SubmissionStatus.QUEUED if key in firsts else SubmissionStatus.JOINED
        firsts.discard(key)  # an equal draft of the same batch joins the first
        answers.append(Submission(status=status, job=found[ids[key]], score=None))
    return tuple(answers)


def job_key(draft: JobDraft, digest: str) -> str:
    """The digest of all that makes two jobs the same measurement."""
    same = (draft.method, draft.method_version, draft.checkpoint_id, draft.target_id, digest, draft.seed)
    return hashlib.sha256(json.dumps(same).encode()).hexdigest()[:32]


def _refuse_unknown(connection: Connection, table: Table, kind: str, wanted: set[int | None]) -> None:
    missing = {identity for identity in wanted if identity is not None}
    for chunk in in_chunks(missing):
        missing = missing - set(connection.scalars(select(table.c.id).where(table.c.id.in_(chunk))))
    if missing:
        raise NotFound(kind, min(missing))


def _scores_of(
    connection: Connection, drafts: Sequence[JobDraft], digests: Sequence[str]
) -> list[Score | None]:
    keys = [
        (draft.checkpoint_id, draft.target_id, draft.method, draft.method_version, digest, draft.seed)
        for draft, digest in zip(drafts, digests, strict=True)
    ]
    held: dict[tuple[Any, ...], int] = {}
    for chunk in in_chunks(set(keys)):
        query = select(*KEY, scores.c.id).where(IN_FORCE, tuple_(*KEY).in_(chunk))
        held |= {tuple(key): score_id for *key, score_id in connection.execute(query)}
    found = read_scores(connection, held.values())
    return [found.get(held.get(key, 0)) for key in keys]


def _not_applicable(connection: Connection, keys: Iterable[str]) -> dict[str, int]:
    """Key -> newest job that found the method not applicable: an outcome, which stands."""
    found: dict[str, int] = {}
    for chunk in in_chunks(keys):
        query = (
            select(jobs.c.key, jobs.c.id)
            .where(jobs.c.key.in_(chunk), jobs.c.failure_name == NotApplicable.__name__)
            .where(jobs.c.state == JobState.FAILED)
            .order_by(jobs.c.id)
        )
        found |= {row.key: row.id for row in connection.execute(query)}
    return found


def _insert(
    connection: Connection, rows: dict[str, dict[str, Any]], now: Moment
) -> tuple[dict[str, int], dict[str, int]]:
    """Insert what is not under way; return key -> id of the new jobs, and of those under way."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    create = (
        dialect.insert(jobs)
        .on_conflict_do_nothing(index_elements=[jobs.c.key], index_where=ALIVE)
        .returning(jobs.c.key, jobs.c.id)
    )
    new: dict[str, int] = {}
    joined: dict[str, int] = {}
    for _ in range(TRIES):
        missing = [key for key in rows if key not in new and key not in joined]
        if not missing:
            break
        # Sorted: two batches that share jobs take their keys in one order, and neither waits in a ring.
        for chunk in in_chunks(sorted(missing)):
            new |= dict(connection.execute(create.values([rows[key] for key in chunk])).all())
        for chunk in in_chunks(missing):
            alive = select(jobs.c.key, jobs.c.id).where(ALIVE, jobs.c.key.in_(chunk))
            joined |= {row.key: row.id for row in connection.execute(alive) if row.key not in new}
    else:
        raise Conflict("Equal jobs end as fast as this request asks for them: send it again.")
    created = {"revision": FIRST_REVISION, "at": now, "state": JobState.QUEUED, "attempt": 0, "failure": None}
    for ids in in_chunks(new.values()):
        connection.execute(insert(job_events), [created | {"job_id": job_id} for job_id in ids])
    return new, joined


def _row(
    draft: JobDraft, digest: str, key: str, attempts: int, request_id: str, now: Moment
) -> dict[str, Any]:
    return {
        "method": draft.method,
        "method_version": draft.method_version,
        "checkpoint_id": draft.checkpoint_id,
        "target_id": draft.target_id,
        "params": draft.params,
        "params_digest": digest,
        "seed": draft.seed,
        "key": key,
        "queue": draft.queue,
        "priority": draft.priority,
        "state": JobState.QUEUED,
        "attempt": 0,
        "last_attempt": attempts,
        "cancel_requested": False,
        "run_after": now,
        "rung_at": now,
        **progress_columns(Progress()),
        "has_webhook": False,
        "request_id": request_id,
        "revision": FIRST_REVISION,
        "created_at": now,
    }
