"""The tables, as SQLAlchemy Core sees them. Alembic alone creates them; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime. SQLite drops time zones: they are checked going in, put back coming out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; refuse a time without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone.")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time as aware UTC on every dialect."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class UnstorableTextError(ValueError):
    """A text that not every database can hold."""


class PlainText(TypeDecorator[str]):
    """Text without NUL and lone surrogates: Postgres cannot hold the one, nor any driver send the other."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Refuse what only some dialects could store, so that all behave alike."""
        if value is None or (value.isascii() and "\0" not in value):
            return value
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise UnstorableTextError(f"{value[:200]!a} holds a NUL or half of a surrogate pair: remove it.")
        return value


class Name(PlainText):
    """Text that stands in an index, where Postgres holds 2,700 bytes in all."""

    cache_ok = True
    longest = 1000  # bytes of UTF-8

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Refuse a longer one."""
        value = super().process_bind_param(value, dialect)
        if value is not None and len(value) * 4 > self.longest and len(value.encode()) > self.longest:
            raise UnstorableTextError(f"{value[:50]!r}... is longer than {self.longest} bytes: shorten it.")
        return value


# SQLite numbers rows by itself only under the exact type INTEGER.
BigId = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(naming_convention=NAMES)

families = Table(
    "families",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("name", Name, nullable=False),
    UniqueConstraint("name"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("family_id", BigId, ForeignKey("families.id"), nullable=False),
    Column("name", Name, nullable=False),
    Column("revision", Name, nullable=False),
    Column("is_vanilla", Boolean, nullable=False),
    Column("parameters", BigInteger),
    Column("license", PlainText),
    Column("details", JSON, nullable=False),
    Column("lineage", PlainText),  # NULL: nobody has looked at its weights
    Column("lineage_reason", PlainText),
    Column("lineage_by", PlainText),  # "job" or "person"
    UniqueConstraint("family_id", "name", "revision"),
)
IN_FAMILY = checkpoints.c.lineage.is_distinct_from("contradicted")  # as far as anybody knows
_vanilla = checkpoints.c.is_vanilla.is_(True)
Index(
    "uq_checkpoints_vanilla",
    checkpoints.c.family_id,
    unique=True,
    sqlite_where=_vanilla,
    postgresql_where=_vanilla,
)

targets = Table(
    "targets",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("name", Name, nullable=False),
    Column("task", PlainText),
    Column("metric", PlainText, nullable=False),
    Column("train_size", BigInteger),
    Column("classes", BigInteger),
    Column("rows_tested", BigInteger),
    Column("fingerprint", Name),
    Column("profile", JSON(none_as_null=True)),
    UniqueConstraint("name"),
)

target_chunks = Table(
    "target_chunks",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("target_id", BigId, ForeignKey("targets.id"), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index(None, "target_id"),
)

imports = Table(
    "imports",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("kind", PlainText, nullable=False),
    Column("source", PlainText, nullable=False),
    Column("params", JSON, nullable=False, server_default="{}"),
    Column("released", Boolean, nullable=False),
    Column("state", PlainText, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("lease_until", UtcDateTime),
    Column("progress", Double, nullable=False),
    Column("stage", PlainText, nullable=False),
    Column("report", JSON(none_as_null=True)),
    Column("error", PlainText),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed')", name="state"),
    # Deleted imports must not lend their id to the next one: clients hold it.
    sqlite_autoincrement=True,
)

upload_chunks = Table(
    "upload_chunks",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("import_id", BigId, ForeignKey("imports.id", ondelete="CASCADE"), nullable=False),
    Column("file", Name, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index(None, "import_id", "file"),
)

scores = Table(
    "scores",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("checkpoint_id", BigId, ForeignKey("checkpoints.id"), nullable=False),
    Column("target_id", BigId, ForeignKey("targets.id"), nullable=False),
    Column("method", Name, nullable=False),
    Column("method_version", Name, nullable=False),
    Column("params_digest", Name, nullable=False),
    Column("params", JSON, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("value", Double, nullable=False),
    Column("stderr", Double),
    Column("rows_tested", BigInteger),
    Column("source", PlainText, nullable=False),
    Column("provenance", JSON, nullable=False),
    Column("quarantine", PlainText),
    Column("quarantine_note", PlainText),
    Column("import_id", BigId, ForeignKey("imports.id")),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "target_id"),
)
KEY = (
    scores.c.checkpoint_id,
    scores.c.target_id,
    scores.c.method,
    scores.c.method_version,
    scores.c.params_digest,
    scores.c.seed,
)
IN_FORCE = scores.c.quarantine.is_(None)
Index("uq_scores_in_force", *KEY, unique=True, sqlite_where=IN_FORCE, postgresql_where=IN_FORCE)
Index("uq_scores_key_value", *KEY, scores.c.value, unique=True)
MEASURED = scores.c.import_id.is_(None)  # here, by a job
_measured = text("import_id IS NULL")
Index("ix_scores_measured", scores.c.id, sqlite_where=_measured, postgresql_where=_measured)

evidence = Table(
    "evidence",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="single_row"),
)

posteriors = Table(
    "posteriors",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("family_id", BigId, ForeignKey("families.id"), nullable=False),
    Column("evidence_version", BigInteger, nullable=False),
    Column("format", PlainText, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "family_id", "evidence_version"),
    # An old posterior is deleted; readers that cached its id must not meet another under it.
    sqlite_autoincrement=True,
)

requests = Table(
    "requests",
    metadata,
    Column("key", Name, primary_key=True),
    Column("route", Name, primary_key=True),
    Column("body_digest", PlainText, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("status", Integer),  # NULL: claimed, not answered yet
    Column("headers", JSON(none_as_null=True)),
    Column("body", LargeBinary),
    Index(None, "expires_at"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("method", Name, nullable=False),
    Column("method_version", Name, nullable=False),
    Column("checkpoint_id", BigId, ForeignKey("checkpoints.id")),
    Column("target_id", BigId, ForeignKey("targets.id")),
    Column("params", JSON, nullable=False),
    Column("params_digest", Name, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("key", Name, nullable=False),  # digest of all that makes two jobs the same measurement
    Column("queue", Name, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", PlainText, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("last_attempt", Integer, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("run_after", UtcDateTime, nullable=False),
    Column("rung_at", UtcDateTime, nullable=False),
    Column("lease_until", UtcDateTime),
    Column("progress", Double, nullable=False),
    Column("stage", PlainText, nullable=False),
    Column("message", PlainText, nullable=False),
    Column("seconds_left", Double),
    Column("failure_name", PlainText),
    Column("failure_sentence", PlainText),
    Column("failure_remedy", PlainText),
    Column("score_id", BigId, ForeignKey("scores.id")),
    Column("result", JSON(none_as_null=True)),
    Column("seconds", Double),  # that the newest ended attempt ran
    Column("has_webhook", Boolean, nullable=False),
    Column("request_id", PlainText, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"),
    Index(None, "key"),
    sqlite_autoincrement=True,
)
ALIVE = jobs.c.state.in_(("queued", "running"))
_alive = text("state IN ('queued', 'running')")
_queued = text("state = 'queued'")
_running = text("state = 'running'")
Index("uq_jobs_alive", jobs.c.key, unique=True, sqlite_where=_alive, postgresql_where=_alive)
Index(
    "ix_jobs_in_line",
    jobs.c.priority.desc(),
    jobs.c.run_after,
    jobs.c.id,
    sqlite_where=_queued,
    postgresql_where=_queued,
)
Index("ix_jobs_lease", jobs.c.lease_until, sqlite_where=_running, postgresql_where=_running)

job_events = Table(
    "job_events",
    metadata,
    Column("job_id", BigId, ForeignKey("jobs.id"), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("state", PlainText, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("failure", PlainText),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("job_id", BigId, ForeignKey("jobs.id"), nullable=False),
    Column("url", Name, nullable=False),
    Column("state", PlainText, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_at", UtcDateTime),
    Column("log", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    CheckConstraint("state IN ('waiting', 'pending', 'delivered', 'failed')", name="state"),
    UniqueConstraint("job_id", "url"),
    sqlite_autoincrement=True,
)
_pending = text("state = 'pending'")
Index("ix_deliveries_next_at", deliveries.c.next_at, sqlite_where=_pending, postgresql_where=_pending)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("name", Name, nullable=False),
    Column("scope", PlainText, nullable=False),
    Column("shown", PlainText, nullable=False),
    Column("digest", Name, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    CheckConstraint("scope IN ('read', 'run', 'admin')", name="scope"),
    UniqueConstraint("name"),
    UniqueConstraint("digest"),
    sqlite_autoincrement=True,
)

turns = Table(
    "turns",
    metadata,
    Column("name", Name, primary_key=True),
    Column("until", UtcDateTime, nullable=False),
)
