"""Jobs as their users see them: looked at, cancelled, tried again. Submitting them is in `submissions.py`."""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.exc import IntegrityError

from headstart.entities import Failure, Job, JobCounts, JobEvent, JobState, Progress
from headstart.errors import Conflict, NotFound
from headstart.store import deliveries
from headstart.store.bulk import in_chunks
from headstart.store.catalogue import row_of
from headstart.store.job_statements import HIDDEN, NAMES, note_event, times
from headstart.store.paging import read_page
from headstart.store.tables import ALIVE, checkpoints, families, job_events, jobs, targets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Row, Select

    from headstart.entities import Page
    from headstart.store.transactions import Moment

LONGEST_TEXT = 2000  # characters of what a job says
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_JOBS: Select[Any] = (
    select(*(column for column in jobs.c if column.name not in HIDDEN), *NAMES)
    .join_from(jobs, checkpoints, jobs.c.checkpoint_id == checkpoints.c.id, isouter=True)
    .join(families, checkpoints.c.family_id == families.c.id, isouter=True)
    .join(targets, jobs.c.target_id == targets.c.id, isouter=True)
)
_ONE = _JOBS.where(jobs.c.id == bindparam("wanted"))


def read(connection: Connection, job_id: int) -> Job:
    """The job of this id."""
    row = connection.execute(_ONE, {"wanted": job_id}).one_or_none() if 0 < job_id < 2**63 else None
    if row is None:
        raise NotFound("job", job_id)
    return job_of(row)


def read_many(connection: Connection, job_ids: Iterable[int]) -> dict[int, Job]:
    """The jobs of these ids."""
    found: dict[int, Job] = {}
    for chunk in in_chunks(set(job_ids)):
        for row in connection.execute(_JOBS.where(jobs.c.id.in_(chunk))):
            found[row.id] = job_of(row)
    return found


def page_of_jobs(
    connection: Connection,
    *,
    state: str | None,
    method: str | None,
    checkpoint_id: int | None,
    target_id: int | None,
    size: int,
    token: str | None,
) -> Page[Job]:
    """One page of the jobs that pass every filter given; NotFound if a filter names what is not there."""
    if checkpoint_id is not None:
        row_of(connection, select(checkpoints.c.id), checkpoints, "checkpoint", checkpoint_id)
    if target_id is not None:
        row_of(connection, select(targets.c.id), targets, "target", target_id)
    query = _JOBS
    given = {"state": state, "method": method, "checkpoint_id": checkpoint_id, "target_id": target_id}
    for name, value in given.items():
        if value is not None:
            query = query.where(jobs.c[name] == value)
    scope = ("jobs", *given.values())
    return read_page(connection, query, jobs.c.id, job_of, scope=scope, size=size, token=token)


def read_newest(connection: Connection, method: str, checkpoint_id: int) -> Job | None:
    """The job of this method and checkpoint that was the last to be submitted of those that succeeded."""
    of_pair = jobs.c.method == method, jobs.c.checkpoint_id == checkpoint_id
    query = _JOBS.where(*of_pair, jobs.c.state == JobState.SUCCEEDED).order_by(jobs.c.id.desc())
    row = connection.execute(query.limit(1)).one_or_none()
    return None if row is None else job_of(row)


def cancel(connection: Connection, job_id: int, now: Moment) -> Job:
    """End a waiting job, or ask the worker of a running one to stop; Conflict if it has ended otherwise."""
    hold(connection, job_id)
    found = read(connection, job_id)
    if found.state is JobState.QUEUED:
        move(connection, job_id, {"state": JobState.CANCELLED, "finished_at": now}, now)
    elif found.state is JobState.RUNNING and not found.cancel_requested:
        request = {"cancel_requested": True, "revision": jobs.c.revision + 1}
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(request))
    elif found.state not in {JobState.RUNNING, JobState.CANCELLED}:
        raise Conflict(f"Job {job_id} has {found.state} and cannot be cancelled.")
    return read(connection, job_id)


def retry(connection: Connection, job_id: int, attempts: int, request_id: str, now: Moment) -> Job:
    """Queue a failed or cancelled job again, with all its attempts; Conflict for any other."""
    hold(connection, job_id)
    found = read(connection, job_id)
    if found.state not in {JobState.FAILED, JobState.CANCELLED}:
        remedy = "GET its score." if found.state is JobState.SUCCEEDED else "Cancel it first."
        raise Conflict(f"Job {job_id} is {found.state}: only a failed or cancelled job is retried. {remedy}")
    key = connection.scalar(select(jobs.c.key).where(jobs.c.id == job_id))
    other = connection.scalar(select(jobs.c.id).where(ALIVE, jobs.c.key == key))
    if other is not None:
        raise Conflict(f"Job {job_id} cannot be retried: job {other} is under way and measures the same.")
    change = {
        "state": JobState.QUEUED,
        "last_attempt": found.attempt + attempts,
        "cancel_requested": False,
        "run_after": now,
        "rung_at": now,
        "finished_at": None,
        "request_id": request_id,
        **progress_columns(Progress()),
    }
    try:
        with connection.begin_nested():
            move(connection, job_id, change, now)
    except IntegrityError:  # uq_jobs_alive
        raise Conflict(
            f"Job {job_id} cannot be retried: a job that measures the same got under way just now."
        ) from None
    deliveries.rearm(connection, job_id)
    return read(connection, job_id)


def read_events(connection: Connection, job_id: int, after: int) -> tuple[JobEvent, ...]:
    """What happened to the job after this revision: its moves, and its newest progress."""
    job = read(connection, job_id)
    query = select(job_events).where(job_events.c.job_id == job_id).order_by(job_events.c.revision)
    moves = [
        JobEvent(
            job_id=job_id,
            revision=row.revision,
            at=row.at,
            state=JobState(row.state),
            attempt=row.attempt,
            progress=job.progress if row.revision == job.revision else Progress(),
            failure=row.failure,
        )
        for row in connection.execute(query)
    ]
    last = moves[-1]
    if job.revision > last.revision:
        newest = JobEvent(
            job_id=job_id,
            revision=job.revision,
            at=last.at,
            state=job.state,
            attempt=job.attempt,
            progress=job.progress,
            failure=None,
        )
        moves.append(newest)
    return tuple(event for event in moves if event.revision > after)


def read_revisions(connection: Connection, job_ids: Iterable[int]) -> dict[int, int]:
    """The revision of each of these jobs."""
    found: dict[int, int] = {}
    for chunk in in_chunks(job_ids):
        query = select(jobs.c.id, jobs.c.revision).where(jobs.c.id.in_(chunk))
        found |= {row.id: row.revision for row in connection.execute(query)}
    return found


def read_counts(connection: Connection, now: datetime) -> JobCounts:
    """The jobs at a glance."""
    counted = select(jobs.c.state, jobs.c.failure_name, func.count()).group_by(
        jobs.c.state, jobs.c.failure_name
    )
    by_state: Counter[str] = Counter(dict.fromkeys(JobState, 0))
    by_failure: Counter[str] = Counter()
    for state, failure, count in connection.execute(counted):
        by_state[state] += count
        if state == JobState.FAILED:
            by_failure[failure] += count
    waiting = (
        select(jobs.c.queue, func.count(), func.min(jobs.c.run_after))
        .where(jobs.c.state == JobState.QUEUED)
        .group_by(jobs.c.queue)
    )
    lines = connection.execute(waiting).all()
    ran = (
        select(jobs.c.method, func.count(), func.sum(jobs.c.seconds))
        .where(jobs.c.state == JobState.SUCCEEDED)
        .group_by(jobs.c.method)
    )
    return JobCounts(
        by_state=dict(by_state),
        by_failure=dict(by_failure),
        depth={queue: count for queue, count, _ in lines},
        oldest_seconds={queue: max(0.0, (now - oldest).total_seconds()) for queue, _, oldest in lines},
        succeeded={
            method: (count, float(seconds or 0.0)) for method, count, seconds in connection.execute(ran)
        },
    )


def hold(connection: Connection, job_id: int) -> None:
    """Hold the job's row until the transaction ends."""
    row_of(connection, select(jobs.c.id).with_for_update(), jobs, "job", job_id)


def move(connection: Connection, job_id: int, values: dict[str, Any], now: Moment) -> None:
    """Change the state of a job whose row is held; note the event and, at its end, release its webhooks."""
    changed = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(values | {"revision": jobs.c.revision + 1})
        .returning(jobs.c.id, jobs.c.revision, jobs.c.state, jobs.c.attempt, jobs.c.has_webhook)
    ).one()
    note_move(connection, changed, values.get("failure_name"), now)


def note_move(connection: Connection, changed: Row[Any], failure: str | None, now: Moment) -> None:
    """Note the event of a change of state, and tell of it, if the job has ended."""
    event = {
        "job_id": changed.id,
        "revision": changed.revision,
        "state": changed.state,
        "attempt": changed.attempt,
        "failure": failure,
    }
    connection.execute(note_event(isinstance(now, datetime)), event | times(now))
    release_webhooks(connection, changed, now)


def release_webhooks(connection: Connection, changed: Row[Any], now: Moment) -> None:
    """Whoever is to be told of the job's end is told, if that was it."""
    if changed.has_webhook and changed.state not in {JobState.QUEUED, JobState.RUNNING}:
        deliveries.release(connection, changed.id, now)


def progress_columns(progress: Progress) -> dict[str, Any]:
    """The progress as columns, made storable: what a method says of itself must not end its job."""
    fraction, left = progress.fraction, progress.seconds_left
    return {
        "progress": 0.0 if math.isnan(fraction) else min(1.0, max(0.0, fraction)),
        "stage": storable(progress.stage),
        "message": storable(progress.message),
        "seconds_left": left if left is not None and 0.0 <= left < math.inf else None,
    }


def storable(text: str) -> str:
    """The text as every database can hold it: without NUL and halves of surrogate pairs, and not too long."""
    return _UNSTORABLE.sub("\ufffd", text[:LONGEST_TEXT])


def job_of(row: Row[Any]) -> Job:
    """The job of a row that has all of its columns but the HIDDEN ones, and the NAMES."""
    columns = dict(row._mapping)
    name = columns.pop("failure_name")
    sentence, remedy = columns.pop("failure_sentence"), columns.pop("failure_remedy")
    progress = Progress(
        fraction=columns.pop("progress"),
        stage=columns.pop("stage"),
        message=columns.pop("message"),
        seconds_left=columns.pop("seconds_left"),
    )
    return Job(
        **columns
        | {
            "state": JobState(row.state),
            "progress": progress,
            "failure": None if name is None else Failure(name=name, sentence=sentence, remedy=remedy),
        }
    )
