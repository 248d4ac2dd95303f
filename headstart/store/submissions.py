"""Submitting jobs: each request to measure is answered by a score, by a job under way, or by a new one."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, insert, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from headstart.entities import JobState, Progress, Submission, SubmissionStatus
from headstart.errors import Conflict, NotFound
from headstart.failures import NotApplicable
from headstart.store import deliveries
from headstart.store.bulk import in_chunks
from headstart.store.jobs import progress_columns, read_many
from headstart.store.scores import params_digest, read_scores
from headstart.store.tables import (
    ALIVE,
    IN_FORCE,
    KEY,
    MEASURED,
    checkpoints,
    job_events,
    jobs,
    scores,
    targets,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Select, Table

    from headstart.entities import JobDraft, Score
    from headstart.store.transactions import Moment

FIRST_REVISION = 1
FORESEEN = ("collapsed", "not_converged")  # quarantines that the same seed comes to on any further try
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
    wanted: dict[str, dict[str, Any]] = {}  # in the order asked for; of equal drafts the first
    hooked: set[str] = set()  # keys with a webhook
    for draft, digest, key, score in zip(drafts, digests, keys, scored, strict=True):
        if score is None:
            wanted.setdefault(key, _row(draft, digest, key))
            if draft.webhook is not None:
                hooked.add(key)
    settled = _not_applicable(connection, wanted)
    common = _common(attempts, request_id, now)
    rows = {key: row for key, row in wanted.items() if key not in settled}
    new, joined = _insert(connection, rows, common, hooked)
    ids = settled | joined | new
    webhooks = [
        (ids[key], draft.webhook)
        for draft, key, score in zip(drafts, keys, scored, strict=True)
        if draft.webhook is not None and score is None and key not in settled
    ]
    deliveries.subscribe(connection, webhooks, now)
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


def foresee(connection: Connection, drafts: Sequence[JobDraft]) -> tuple[SubmissionStatus, ...]:
    """What `submit` would answer to every draft."""
    _refuse_unknown(connection, checkpoints, "checkpoint", {draft.checkpoint_id for draft in drafts})
    _refuse_unknown(connection, targets, "target", {draft.target_id for draft in drafts})
    digests = [params_digest(draft.params) for draft in drafts]
    scored = _scores_of(connection, drafts, digests)
    keys = [job_key(draft, digest) for draft, digest in zip(drafts, digests, strict=True)]
    there = set(_not_applicable(connection, set(keys))) | set(_under_way(connection, keys, set()))
    answers = []
    for key, score in zip(keys, scored, strict=True):
        if score is not None:
            answers.append(SubmissionStatus.SCORED)
            continue
        answers.append(SubmissionStatus.JOINED if key in there else SubmissionStatus.QUEUED)
        there.add(key)  # an equal draft of the same batch joins the first
    return tuple(answers)


def job_key(draft: JobDraft, digest: str) -> str:
    """The digest of all that makes two jobs the same measurement."""
    same = (draft.method, draft.method_version, draft.checkpoint_id, draft.target_id, digest, draft.seed)
    return hashlib.sha256(json.dumps(same).encode()).hexdigest()[:32]


def _refuse_unknown(connection: Connection, table: Table, kind: str, wanted: set[int | None]) -> None:
    missing = {identity for identity in wanted if identity is not None}
    for chunk in in_chunks(identity for identity in missing if 0 < identity < 2**63):
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
    answers = IN_FORCE | (scores.c.quarantine.in_(FORESEEN) & MEASURED)
    for chunk in in_chunks(set(keys)):
        query = select(*KEY, scores.c.id).where(answers, tuple_(*KEY).in_(chunk))
        found_here = connection.execute(query.order_by(IN_FORCE, scores.c.id))
        held |= {tuple(key): score_id for *key, score_id in found_here}
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
    connection: Connection, rows: dict[str, dict[str, Any]], common: dict[str, Any], hooked: set[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Insert what is not under way; return key -> id of the new jobs, and of those under way."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    # What can be in the way is uq_jobs_alive alone: an equal job that another transaction has just inserted.
    create = dialect.insert(jobs).values(common).on_conflict_do_nothing().returning(jobs.c.key, jobs.c.id)
    new: dict[str, int] = {}
    joined: dict[str, int] = {}
    for _ in range(TRIES):
        missing = [key for key in rows if key not in new and key not in joined]
        if not missing:
            break
        joined |= _under_way(connection, missing, hooked)
        fresh = _numbered(connection, [rows[key] for key in missing if key not in joined])
        if fresh:
            new |= {row.key: row.id for row in connection.execute(create, fresh)}
    else:
        raise Conflict("Equal jobs end as fast as this request asks for them: send it again.")
    if new:
        created = insert(job_events).values(
            revision=FIRST_REVISION, at=common["created_at"], state=JobState.QUEUED, attempt=0
        )
        connection.execute(created, [{"job_id": job_id} for job_id in new.values()])
    return new, joined


def _under_way(connection: Connection, keys: Sequence[str], hooked: set[str]) -> dict[str, int]:
    """Key -> job that waits or runs. One that gets a webhook is held, so that it cannot end before."""
    found: dict[str, int] = {}
    for held in (False, True):
        for chunk in in_chunks(key for key in keys if (key in hooked) is held):
            query: Select[Any] = select(jobs.c.key, jobs.c.id).where(ALIVE, jobs.c.key.in_(chunk))
            if held:  # by ascending id: two batches that share jobs do not wait in a ring
                query = query.order_by(jobs.c.id).with_for_update()
            found |= {row.key: row.id for row in connection.execute(query)}
    return found


def _numbered(connection: Connection, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The rows as they are to be inserted, with ids that ascend in the order asked for."""
    if connection.dialect.name != "postgresql" or not rows:
        return rows  # SQLite numbers them as they come
    sequence = func.pg_get_serial_sequence(jobs.name, jobs.c.id.name)
    each = func.generate_series(1, len(rows)).table_valued("value")
    ids = sorted(connection.scalars(select(func.nextval(sequence)).select_from(each)))
    numbered = [row | {"id": identity} for row, identity in zip(rows, ids, strict=True)]
    # By key: two batches that share jobs insert them in one order, and do not wait in a ring.
    return sorted(numbered, key=lambda row: str(row["key"]))


def _row(draft: JobDraft, digest: str, key: str) -> dict[str, Any]:
    """What is a job's own."""
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
    }


def _common(attempts: int, request_id: str, now: Moment) -> dict[str, Any]:
    """What the jobs of a batch share."""
    return {
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
