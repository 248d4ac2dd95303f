"""Jobs as their workers see them: claimed, kept alive, ended. `attempt` fences off stale claims."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, insert, select, update

from headstart.entities import Heartbeat, JobState
from headstart.failures import WorkerLost
from headstart.store.engine import EVIDENCE_LOCK, lock
from headstart.store.jobs import move, note_move, progress_columns, read
from headstart.store.scores import raise_version
from headstart.store.tables import IN_FORCE, KEY, jobs, scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from headstart.entities import Failure, Job, Progress
    from headstart.method import Measurement
    from headstart.store.transactions import Moment

CONTRADICTS = "contradicts"
_MOVED = (jobs.c.id, jobs.c.revision, jobs.c.state, jobs.c.attempt, jobs.c.has_webhook)


def claim(connection: Connection, queues: Sequence[str], lease_seconds: float, now: Moment) -> Job | None:
    """Take the job first in line: highest priority, then oldest, of those that are due."""
    # SKIP LOCKED: of two claimers one takes this job and the other the next one; neither waits.
    first = (
        select(jobs.c.id)
        .where(jobs.c.state == JobState.QUEUED, jobs.c.queue.in_(queues), jobs.c.run_after <= now)
        .order_by(jobs.c.priority.desc(), jobs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    claimed = connection.execute(
        update(jobs)
        .where(jobs.c.id == first.scalar_subquery())
        .values(
            state=JobState.RUNNING,
            attempt=jobs.c.attempt + 1,
            lease_until=now + timedelta(seconds=lease_seconds),
            progress=0.0,
            stage="",
            message="",
            seconds_left=None,
            started_at=now,
            revision=jobs.c.revision + 1,
        )
        .returning(*_MOVED)
    ).one_or_none()
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
    values: dict[str, Any] = {"lease_until": now + timedelta(seconds=lease_seconds)}
    if progress is not None:
        values |= progress_columns(progress) | {"revision": jobs.c.revision + 1}
    cancelled = connection.execute(
        update(jobs).where(_current(job_id, attempt)).values(values).returning(jobs.c.cancel_requested)
    ).one_or_none()
    if cancelled is None:
        return Heartbeat.LOST
    return Heartbeat.CANCEL if cancelled.cancel_requested else Heartbeat.GO_ON


def succeed(
    connection: Connection,
    job_id: int,
    attempt: int,
    measurement: Measurement | None,
    result: dict[str, Any] | None,
    seconds: float,
    now: Moment,
) -> bool:
    """End the job with its score, in one transaction; False if the claim is lost."""
    ended = connection.execute(
        update(jobs)
        .where(_current(job_id, attempt))
        .values(
            state=JobState.SUCCEEDED,
            progress=1.0,
            seconds_left=0.0,
            lease_until=None,
            failure_name=None,
            failure_sentence=None,
            failure_remedy=None,
            result=result,
            seconds=seconds,
            finished_at=now,
            revision=jobs.c.revision + 1,
        )
        .returning(*_MOVED, jobs.c.params, *(jobs.c[column.name] for column in KEY))
    ).one_or_none()
    if ended is None:
        return False
    if measurement is not None:
        score_id = _store_score(connection, ended, measurement, seconds, now)
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(score_id=score_id))
    note_move(connection, ended, None, now)
    return True


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
    move(connection, job_id, {"state": JobState.CANCELLED, "lease_until": None, "finished_at": now}, now)
    return True


def release(connection: Connection, job_id: int, attempt: int, now: Moment) -> bool:
    """Give a job back that its worker cannot finish (it is told to stop); the attempt does not count."""
    held = _hold_current(connection, job_id, attempt)
    if held is None:
        return False
    if held.cancel_requested:
        return end_cancelled(connection, job_id, attempt, now)
    change = _waiting(0.0, now) | {"last_attempt": held.last_attempt + 1}
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
        _end_attempt(connection, row, lost, 0.0, now, {})
    return tuple(row.id for row in rows)


def take_unrung(
    connection: Connection, queue: str, silent_seconds: float, most: int, now: Moment
) -> tuple[int, ...]:
    """Jobs that are due and were not rung for lately, first in line first; they count as rung now."""
    unrung = (
        select(jobs.c.id)
        .where(jobs.c.state == JobState.QUEUED, jobs.c.queue == queue, jobs.c.run_after <= now)
        .where(jobs.c.rung_at <= now - timedelta(seconds=silent_seconds))
        .order_by(jobs.c.priority.desc(), jobs.c.id)
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
        "failure_name": failure.name,
        "failure_sentence": failure.sentence,
        "failure_remedy": failure.remedy,
    }
    if held.cancel_requested:
        change = {"state": JobState.CANCELLED, "lease_until": None, "finished_at": now}
    elif retry_in is not None and held.attempt < held.last_attempt:
        change = _waiting(retry_in, now)
    else:
        change = {"state": JobState.FAILED, "lease_until": None, "finished_at": now}
    move(connection, held.id, values | change, now)


def _waiting(seconds: float, now: Moment) -> dict[str, Any]:
    return {
        "state": JobState.QUEUED,
        "lease_until": None,
        "run_after": now + timedelta(seconds=seconds),
        "rung_at": now - timedelta(days=1),  # long ago: it is rung for as soon as it is due
    }


def _hold_current(connection: Connection, job_id: int, attempt: int) -> Row[Any] | None:
    """Hold the row of a job if the attempt is its current one and runs."""
    columns = (jobs.c.id, jobs.c.attempt, jobs.c.last_attempt, jobs.c.cancel_requested)
    query: Select[Any] = select(*columns).where(_current(job_id, attempt)).with_for_update()
    return connection.execute(query).one_or_none()


def _current(job_id: int, attempt: int) -> ColumnElement[bool]:
    return and_(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state == JobState.RUNNING)


def _store_score(
    connection: Connection, ended: Row[Any], measurement: Measurement, seconds: float, now: Moment
) -> int:
    """Store the score of a job, or find it stored; a contradiction goes to quarantine."""
    lock(connection, EVIDENCE_LOCK)
    key = {column.name: ended._mapping[jobs.c[column.name]] for column in KEY}
    under_key = select(scores.c.id, scores.c.value, IN_FORCE.label("in_force")).where(
        *(scores.c[name] == value for name, value in key.items())
    )
    held = connection.execute(under_key).all()
    for row in held:
        if row.value == measurement.value:
            return int(row.id)
    holder = next((row for row in held if row.in_force), None)
    stored: int = connection.execute(
        insert(scores)
        .returning(scores.c.id)
        .values(
            **key,
            params=ended.params,
            value=measurement.value,
            stderr=measurement.stderr,
            rows_tested=measurement.rows_tested,
            source=f"job {ended.id}",
            provenance=measurement.details | {"job": ended.id, "attempt": ended.attempt, "seconds": seconds},
            quarantine=None if holder is None else CONTRADICTS,
            quarantine_note=None
            if holder is None
            else f"Score {holder.id} is in force for the same key with {holder.value!r}; "
            f"job {ended.id} measured {measurement.value!r}.",
            created_at=now,
        )
    ).scalar_one()
    if holder is None:
        raise_version(connection)
    return stored
