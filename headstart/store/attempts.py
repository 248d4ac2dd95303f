"""Jobs as their workers see them: claimed, kept alive, ended. `attempt` fences off stale claims."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, update

from headstart.entities import Heartbeat, ImportBatch, ImportReport, JobState, Progress
from headstart.failures import WorkerLost
from headstart.store import job_scores
from headstart.store import job_statements as statements
from headstart.store.engine import EVIDENCE_LOCK, lock
from headstart.store.job_statements import times
from headstart.store.jobs import (
    job_of,
    move,
    note_move,
    progress_columns,
    read,
    release_webhooks,
    storable,
)
from headstart.store.lineage import note_verdicts
from headstart.store.scores import raise_version
from headstart.store.subjects import write_subjects
from headstart.store.tables import jobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row, Select

    from headstart.entities import CheckpointDraft, Failure, Job, JobDraft, LineageVerdict
    from headstart.method import Measurement
    from headstart.store.transactions import Moment

_HELD: Select[Any] = (
    select(jobs.c.id, jobs.c.attempt, jobs.c.last_attempt, jobs.c.cancel_requested)
    .where(*statements.CURRENT)
    .with_for_update()
)


def claim(connection: Connection, queues: Sequence[str], lease_seconds: float, now: Moment) -> Job | None:
    """Take the job first in line: of those due the highest priority, then the longest due."""
    given, moment = isinstance(now, datetime), times(now, lease_seconds)
    if connection.dialect.name == "postgresql":
        seen = connection.execute(statements.claim_at_once(given, tuple(queues)), moment).one_or_none()
        return None if seen is None else job_of(seen)
    claimed = connection.execute(statements.claim(given, tuple(queues)), moment).one_or_none()
    if claimed is None:
        return None
    note_move(connection, claimed, None, now)
    return read(connection, claimed.id)


def heartbeat(
    connection: Connection,
    job_id: int,
    attempt: int,
    lease_seconds: float,
    progress: Progress | None,
    now: Moment,
) -> Heartbeat:
    """Prolong the lease, say how far the job is, and tell the worker whether to go on."""
    held = {"job_id": job_id, "held_attempt": attempt} | times(now, lease_seconds)
    if progress is not None:
        held |= {f"new_{name}": value for name, value in progress_columns(progress).items()}
    statement = statements.beat(isinstance(now, datetime), progress is not None)
    cancelled = connection.execute(statement, held).one_or_none()
    if cancelled is None:
        return Heartbeat.LOST
    return Heartbeat.CANCEL if cancelled.cancel_requested else Heartbeat.GO_ON


def check_finite(measurement: Measurement | None, seconds: float | None) -> None:
    """Raise ValueError for a number that is not one: SQLite would store NaN as NULL."""
    numbers = [seconds] if measurement is None else [seconds, measurement.value, measurement.stderr]
    if not all(number is None or math.isfinite(number) for number in numbers):
        raise ValueError(f"A number of the job is not finite: {numbers}.")


def succeed(
    connection: Connection,
    job_id: int,
    attempt: int,
    measurement: Measurement | None,
    result: dict[str, Any] | None,
    seconds: float,
    now: Moment,
    registers: CheckpointDraft | None = None,
    lineages: Sequence[LineageVerdict] = (),
) -> bool:
    """End the job with its score, in one transaction; False if the claim is lost."""
    given = isinstance(now, datetime)
    if lineages:
        lock(connection, EVIDENCE_LOCK)
        if _hold_current(connection, job_id, attempt) is None:
            return False
        note_verdicts(connection, lineages)
    if registers is not None:
        made = _register(connection, job_id, attempt, registers)
        if made is None:
            return False
        result = (result or {}) | {"checkpoint": made}
    held = {"job_id": job_id, "held_attempt": attempt} | times(now)
    found = {"new_result": result, "new_seconds": seconds}
    score_id = None
    if measurement is not None:
        measured = job_scores.columns(measurement, job_id, attempt, seconds)
        if connection.dialect.name == "postgresql" and measurement.quarantine is None:
            every = held | found | measured
            ended = connection.execute(statements.succeed_at_once(given), every).one_or_none()
            if ended is not None:
                release_webhooks(connection, ended, now)
                return True
        score_id = _store_score(connection, held, measured, measurement, now)
        if score_id is None:
            return False
    found["new_score_id"] = score_id
    ended = connection.execute(statements.succeed(given), held | found).one_or_none()
    if ended is None:
        return False
    note_move(connection, ended, None, now)
    return True


def _register(
    connection: Connection, job_id: int, attempt: int, draft: CheckpointDraft
) -> dict[str, Any] | None:
    """Store a checkpoint that a running job made, or find it stored; None: the claim is lost."""
    lock(connection, EVIDENCE_LOCK)
    if _hold_current(connection, job_id, attempt) is None:
        return None
    batch = ImportBatch(checkpoints=(draft,), targets=(), scores=(), report=ImportReport())
    written = write_subjects(connection, batch)
    if written.changed:
        raise_version(connection)
    return {
        "id": written.drafted[draft.family, draft.name, draft.revision],
        "name": draft.name,
        "path": draft.details.get("path"),
        "digest": draft.revision,
    }


def keep_score(
    connection: Connection,
    job_id: int,
    attempt: int,
    draft: JobDraft,
    measurement: Measurement,
    seconds: float,
    now: Moment,
) -> int | None:
    """Store what a job of this draft would have measured, or find it stored; None: the claim is lost."""
    lock(connection, EVIDENCE_LOCK)  # before the job, as where a job ends with its score
    if _hold_current(connection, job_id, attempt) is None:
        return None
    protocol = job_scores.protocol_of(draft)
    measured = job_scores.columns(measurement, job_id, attempt, seconds)
    if measurement.quarantine is not None:
        why = (measurement.quarantine, measurement.quarantine_note)
        return job_scores.store_doubted(connection, protocol, measured, why, now)
    stored = job_scores.store_in_force(connection, protocol, measured, now)
    if stored is None:
        return job_scores.beside_the_held(connection, job_id, protocol, measured, now)
    raise_version(connection)
    return stored


def fail(
    connection: Connection,
    job_id: int,
    attempt: int,
    failure: Failure,
    retry_in: float | None,
    seconds: float | None,
    now: Moment,
) -> bool:
    """End the attempt: queued again after `retry_in` seconds while attempts remain, else failed."""
    held = _hold_current(connection, job_id, attempt)
    if held is None:
        return False
    _end_attempt(connection, held, failure, retry_in, now, {"seconds": seconds})
    return True


def end_cancelled(connection: Connection, job_id: int, attempt: int, now: Moment) -> bool:
    """End a job whose worker has stopped at the user's wish; False if the claim is lost."""
    if _hold_current(connection, job_id, attempt) is None:
        return False
    change = {"state": JobState.CANCELLED, "lease_until": None, "seconds": None, "finished_at": now}
    move(connection, job_id, change, now)
    return True


def release(connection: Connection, job_id: int, attempt: int, now: Moment) -> bool:
    """Give a job back that its worker cannot finish (it is told to stop); the attempt does not count."""
    held = _hold_current(connection, job_id, attempt)
    if held is None:
        return False
    if held.cancel_requested:
        return end_cancelled(connection, job_id, attempt, now)
    change = _waiting(0.0, now) | {"last_attempt": held.last_attempt + 1, "seconds": None}
    move(connection, job_id, change, now)
    return True


def requeue_stale(connection: Connection, now: Moment, most: int = 500) -> tuple[int, ...]:
    """Take jobs from workers whose lease ran out: back to the line, or failed after the last attempt."""
    stale: Select[Any] = (
        select(jobs.c.id, jobs.c.attempt, jobs.c.last_attempt, jobs.c.cancel_requested)
        .where(jobs.c.state == JobState.RUNNING, jobs.c.lease_until <= now)
        .order_by(jobs.c.lease_until)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    lost = WorkerLost("The worker that ran the job was not heard of again.").failure()
    rows = connection.execute(stale).all()
    for row in rows:
        _end_attempt(connection, row, lost, 0.0, now, {"seconds": None})
    return tuple(row.id for row in rows)


def count_due(connection: Connection, queue: str, now: Moment) -> int:
    """How many jobs of a queue could be claimed now."""
    waiting = select(func.count()).select_from(jobs).where(jobs.c.state == JobState.QUEUED)
    return connection.execute(waiting.where(jobs.c.queue == queue, jobs.c.run_after <= now)).scalar_one()


def take_unrung(
    connection: Connection, queue: str, silent_seconds: float, most: int, now: Moment
) -> tuple[int, ...]:
    """Jobs that are due and were not rung for lately, first in line first; they count as rung now."""
    unrung = (
        select(jobs.c.id)
        .where(jobs.c.state == JobState.QUEUED, jobs.c.queue == queue, jobs.c.run_after <= now)
        .where(jobs.c.rung_at <= now - timedelta(seconds=silent_seconds))
        .order_by(jobs.c.priority.desc(), jobs.c.run_after, jobs.c.id)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    found = tuple(connection.scalars(unrung))
    if found:
        connection.execute(update(jobs).where(jobs.c.id.in_(found)).values(rung_at=now))
    return found


def _end_attempt(
    connection: Connection,
    held: Row[Any],
    failure: Failure,
    retry_in: float | None,
    now: Moment,
    values: dict[str, Any],
) -> None:
    values = values | {
        "failure_name": storable(failure.name),
        "failure_sentence": storable(failure.sentence),
        "failure_remedy": storable(failure.remedy),
    }
    if held.cancel_requested:
        change = {"state": JobState.CANCELLED, "lease_until": None, "finished_at": now}
    elif retry_in is not None and held.attempt < held.last_attempt:
        change = _waiting(retry_in, now)
    else:
        change = {"state": JobState.FAILED, "lease_until": None, "finished_at": now}
    move(connection, held.id, values | change, now)


def _waiting(seconds: float, now: Moment) -> dict[str, Any]:
    """Back to the line: to the end of it after so many seconds, or, after none, to its old place."""
    change = {
        "state": JobState.QUEUED,
        "lease_until": None,
        "rung_at": now - timedelta(days=1),  # long ago: it is rung for as soon as it is due
        **progress_columns(Progress()),
    }
    return change | {"run_after": now + timedelta(seconds=seconds)} if seconds else change


def _hold_current(connection: Connection, job_id: int, attempt: int) -> Row[Any] | None:
    """Hold the row of a job if the attempt is its current one and runs."""
    return connection.execute(_HELD, {"job_id": job_id, "held_attempt": attempt}).one_or_none()


def _store_score(
    connection: Connection,
    held: dict[str, Any],
    measured: dict[str, Any],
    measurement: Measurement,
    now: Moment,
) -> int | None:
    """Store the score of a running job, or find it stored; None: the claim is lost."""
    if measurement.quarantine is not None:
        if _hold_current(connection, held["job_id"], held["held_attempt"]) is None:
            return None
        protocol = job_scores.protocol_of_job(connection, held["job_id"])
        why = (measurement.quarantine, measurement.quarantine_note)
        return job_scores.store_doubted(connection, protocol, measured, why, now)
    statement = statements.store_score(isinstance(now, datetime), connection.dialect.name)
    stored: int | None = connection.scalar(statement, held | measured)
    if stored is not None:
        raise_version(connection)
        return stored
    if _hold_current(connection, held["job_id"], held["held_attempt"]) is None:
        return None
    protocol = job_scores.protocol_of_job(connection, held["job_id"])
    return job_scores.beside_the_held(connection, held["job_id"], protocol, measured, now)
