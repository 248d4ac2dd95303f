"""The statements that every job runs through, built once: building one costs as much as running it.

They come in two kinds, by whose time is meant: the database's own now(), or a time that is given with each
execution. `times` makes the parameters of either kind. On Postgres a claim, and an end with a new score, are
one statement each (`claim_at_once`, `succeed_at_once`): round trips are most of what a short job costs.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    Interval,
    Text,
    bindparam,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from headstart.entities import JobState
from headstart.store.engine import EVIDENCE_LOCK
from headstart.store.scores import RAISE_VERSION
from headstart.store.tables import (
    KEY,
    UtcDateTime,
    checkpoints,
    families,
    job_events,
    jobs,
    scores,
    targets,
)

if TYPE_CHECKING:
    from sqlalchemy import CTE, ColumnElement, Executable, Update
    from sqlalchemy.sql.dml import ReturningInsert

    from headstart.store.transactions import Moment

MOVED = (jobs.c.id, jobs.c.revision, jobs.c.state, jobs.c.attempt, jobs.c.has_webhook)
HIDDEN = {"params_digest", "key", "run_after", "rung_at", "lease_until", "has_webhook"}
NAMES = (
    checkpoints.c.name.label("checkpoint"),
    families.c.name.label("family"),
    targets.c.name.label("target"),
)
CURRENT = (
    jobs.c.id == bindparam("job_id"),
    jobs.c.attempt == bindparam("held_attempt"),
    jobs.c.state == JobState.RUNNING,
)


def times(now: Moment, lease_seconds: float | None = None) -> dict[str, Any]:
    """The parameters for the time: none for the database's own."""
    given = isinstance(now, datetime)
    found: dict[str, Any] = {"now": now} if given else {}
    if lease_seconds is not None:
        lease = timedelta(seconds=lease_seconds)
        found["lease"] = now + lease if given else lease
    return found


def _now(given: bool) -> ColumnElement[datetime]:
    return bindparam("now", type_=UtcDateTime()) if given else func.now()


def _lease(given: bool) -> ColumnElement[datetime]:
    return (
        bindparam("lease", type_=UtcDateTime())
        if given
        else func.now() + bindparam("lease", type_=Interval())
    )


@cache
def claim(given: bool, queues: tuple[str, ...]) -> Executable:
    """Take the job first in line."""
    return _claim(given, queues).returning(*MOVED)


@cache
def claim_at_once(given: bool, queues: tuple[str, ...]) -> Executable:
    """Take the job first in line, note the event, and return all that its users see: Postgres only."""
    moved = _claim(given, queues).returning(jobs).cte("moved")
    seen = (column for column in moved.c if column.name not in HIDDEN)
    return (
        select(*seen, *NAMES)
        .join_from(moved, checkpoints, moved.c.checkpoint_id == checkpoints.c.id, isouter=True)
        .join(families, checkpoints.c.family_id == families.c.id, isouter=True)
        .join(targets, moved.c.target_id == targets.c.id, isouter=True)
        .add_cte(_noted(given, moved))
    )


def _claim(given: bool, queues: tuple[str, ...]) -> Update:
    """The job of highest priority, then longest due, becomes this worker's."""
    # SKIP LOCKED: of two claimers one takes this job and the other the next one; neither waits.
    first = (
        select(jobs.c.id)
        .where(jobs.c.state == JobState.QUEUED, jobs.c.queue.in_(queues), jobs.c.run_after <= _now(given))
        .order_by(jobs.c.priority.desc(), jobs.c.run_after, jobs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return (
        update(jobs)
        .where(jobs.c.id == first.scalar_subquery())
        .values(
            state=JobState.RUNNING,
            attempt=jobs.c.attempt + 1,
            lease_until=_lease(given),
            progress=0.0,
            stage="",
            message="",
            seconds_left=None,
            started_at=_now(given),
            revision=jobs.c.revision + 1,
        )
    )


@cache
def beat(given: bool, with_progress: bool) -> Executable:
    """Prolong the lease and, `with_progress`, say how far the job is."""
    values: dict[str, Any] = {"lease_until": _lease(given)}
    if with_progress:
        values |= {
            name: bindparam(f"new_{name}") for name in ("progress", "stage", "message", "seconds_left")
        }
        values["revision"] = jobs.c.revision + 1
    return update(jobs).where(*CURRENT).values(values).returning(jobs.c.cancel_requested)


@cache
def succeed(given: bool) -> Executable:
    """End a job well."""
    return _succeed(given, bindparam("new_score_id", type_=BigInteger())).returning(*MOVED)


@cache
def succeed_at_once(given: bool) -> Executable:
    """Store a score in force, raise the version, end its job and note the event: Postgres only.

    No row: the claim is lost, or the key is held.
    """
    stored = store_score(given, "postgresql").cte("stored")
    raised = RAISE_VERSION.where(exists(select(stored.c.id))).cte("raised")
    score_id = select(stored.c.id).scalar_subquery()
    ended = _succeed(given, score_id).where(exists(select(stored.c.id))).returning(*MOVED).cte("ended")
    return select(*ended.c).add_cte(raised, _noted(given, ended))


def _succeed(given: bool, score_id: Any) -> Update:
    return (
        update(jobs)
        .where(*CURRENT)
        .values(
            state=JobState.SUCCEEDED,
            progress=1.0,
            seconds_left=0.0,
            lease_until=None,
            failure_name=None,
            failure_sentence=None,
            failure_remedy=None,
            score_id=score_id,
            result=bindparam("new_result", type_=JSON(none_as_null=True)),
            seconds=bindparam("new_seconds", type_=Double()),
            finished_at=_now(given),
            revision=jobs.c.revision + 1,
        )
    )


@cache
def store_score(given: bool, dialect: str) -> ReturningInsert[Any]:
    """Store a score in force under the key of its running job, unless that key is held."""
    measured = {
        "params": jobs.c.params,
        "value": bindparam("value", type_=Double()),
        "stderr": bindparam("stderr", type_=Double()),
        "rows_tested": bindparam("rows_tested", type_=BigInteger()),
        "source": bindparam("source", type_=Text()),
        "provenance": bindparam("provenance", type_=JSON()),
        "created_at": _now(given),
    }
    names = [*(column.name for column in KEY), *measured]
    found = select(*(jobs.c[column.name] for column in KEY), *measured.values()).where(*CURRENT)
    create: Any = sqlite.insert(scores)
    if dialect == "postgresql":
        create = postgresql.insert(scores)
        # The evidence's lock, on the way. What was stored while it waited is not seen here, but conflicts.
        found = found.where(select(func.pg_advisory_xact_lock(EVIDENCE_LOCK)).scalar_subquery().is_not(None))
    stored: ReturningInsert[Any] = (
        create.from_select(names, found.with_for_update()).on_conflict_do_nothing().returning(scores.c.id)
    )
    return stored


@cache
def note_event(given: bool) -> Executable:
    """Note a change of state."""
    columns = ("job_id", "revision", "state", "attempt", "failure")
    return insert(job_events).values(at=_now(given), **{name: bindparam(name) for name in columns})


def _noted(given: bool, moved: CTE) -> CTE:
    """The event of a change of state that the same statement makes."""
    columns = ("job_id", "revision", "state", "attempt", "at")
    found = select(moved.c.id, moved.c.revision, moved.c.state, moved.c.attempt, _now(given))
    return insert(job_events).from_select(columns, found).cte("noted")
