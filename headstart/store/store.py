"""The store: the only place that speaks SQL.

Contract
--------
* A verb is one short transaction. It returns frozen entities (`headstart.entities`) or plain values;
  no row, session or lazy attribute leaves this module. Every verb is thread-safe.
* Immutable once written: families, checkpoints and targets (by their unique names), the value and key
  of a score, finished imports, posteriors. Mutable: a score's quarantine (and note), an unfinished
  import, NULL details of a checkpoint or target that a later import knows (never the reverse; the rows
  of a target are such a detail), the vanilla of a family that has none, and the lineage of a checkpoint.
* At most one score *in force* (quarantine is None) holds a key
  (checkpoint, target, method, method_version, params_digest, seed). A quarantined score may stand
  beside it; an equal score (same key and value, whatever its quarantine) is stored once.
* `evidence_version` starts at 0 and rises by one with every transaction that changes what `evidence`
  or `catalogue` tell, and only then: the set of scores in force, the checkpoints of a family and what is
  known of them, which of them their weights contradict (they and their scores are no evidence), its
  vanilla, the test split of a known target. A target that is new has no scores, and
  changes nothing. It is read in the same transaction as the evidence.
* An import is claimed by compare-and-set. `attempt` is the fencing token: heartbeat, finish and fail
  of an attempt that is no longer the current one, or whose import has ended, change nothing and say
  so (False or None). A claim whose lease ran out may be claimed again. Uploaded bytes are deleted when
  the import ends.
* Finishing an import stores everything or nothing. A draft equal to a stored score is unchanged; a
  draft in force whose key another value holds in force is stored in quarantine as "contradicts", with
  a note naming that score. Two at once are serialised by a lock (SQLite: BEGIN IMMEDIATE; Postgres: an
  advisory transaction lock) and both end right.
* A job is claimed by compare-and-set, like an import; heartbeat, finish, fail and release of an attempt
  that is no longer the current one change nothing and say so. Its end, its score, the checkpoint that
  it made and the lineages that it found are one transaction; scores that it makes beside that
  (`keep_score`) are stored at once, under the same rules, and stay.
  At most one job of a key (what makes two jobs the same measurement) waits or runs; asking for it again
  joins it, and asking for what is scored, or has collapsed or not converged here, returns the score. Ended
  jobs are kept.
  `revision` rises with every change. Leases and stamps of jobs are the database's time on Postgres, so
  that machines whose clocks differ agree.
* A delivery waits exactly as long as its job waits or runs. It is claimed by a lease; the record of a try
  whose claim is lost is logged and changes nothing else. Its log keeps the newest hundred tries.
* Values are checked finite before they arrive; a non-finite one raises ValueError (a bug of ours).
* Times in and out are aware UTC datetimes. `clock` is an argument so that tests freeze it.
* Raises: NotFound (unknown id or name, with the nearest names), Conflict, InvalidInput (a page token
  that is not ours, a text no database can hold), StoreUnavailable (the database does not answer; the
  driver's message is not passed on since it may hold secrets).
* Lists are ordered by ascending id and paginated by an opaque token that stays valid while rows are
  added.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from headstart.errors import StoreUnavailable
from headstart.store import catalogue, imports, ingest, posteriors, requests, scores, target_rows, uploads
from headstart.store.delivery_verbs import DeliveryVerbs
from headstart.store.engine import EVIDENCE_LOCK, in_memory, lock
from headstart.store.evidence import read_evidence
from headstart.store.job_verbs import JobVerbs
from headstart.store.key_verbs import KeyVerbs
from headstart.store.lineage import write_lineage
from headstart.store.schema import SCHEMA_REVISION, revision_of, upgrade_engine, wrong_revision

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from datetime import datetime

    from sqlalchemy import Connection

    from headstart.entities import (
        Catalogue,
        Checkpoint,
        Family,
        Import,
        ImportBatch,
        Lineage,
        Page,
        PosteriorRow,
        RecordedResponse,
        Score,
        Target,
    )
    from headstart.recommend.evidence import FamilyEvidence


class Store(JobVerbs, KeyVerbs, DeliveryVerbs):
    """A store behind a SQLAlchemy URL. The schema must be at head (see `upgrade_schema`).

    A store in memory ("sqlite://") upgrades itself, and is gone when it is closed.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] | None = None) -> None:
        super().__init__(url, clock)
        self.in_memory = in_memory(self.url)
        if self.in_memory:
            upgrade_engine(self._engine)

    # health

    def ping(self) -> None:
        """Return if the database answers and its schema is SCHEMA_REVISION; raise StoreUnavailable."""
        with self._read() as connection:
            found = revision_of(connection)
        if found != SCHEMA_REVISION:
            raise StoreUnavailable(wrong_revision(found))

    # catalogue

    def families(self) -> tuple[Family, ...]:
        """Every family, ascending id."""
        with self._read() as connection:
            return catalogue.read_families(connection)

    def family(self, name: str) -> Family:
        """The family of this name."""
        with self._read() as connection:
            return catalogue.read_family(connection, name)

    def checkpoint(self, checkpoint_id: int) -> Checkpoint:
        """The checkpoint of this id."""
        with self._read() as connection:
            return catalogue.read_checkpoint(connection, checkpoint_id)

    def checkpoints_pinned(self, revision: str) -> tuple[Checkpoint, ...]:
        """Every checkpoint of this revision, under whatever names, ascending id. Reads all of them.

        One that published scores brought has no revision of its own; its details tell what it is pinned to.
        """
        with self._read() as connection:
            return catalogue.read_checkpoints_pinned(connection, revision)

    def checkpoints_named(self, names: Iterable[str]) -> dict[str, tuple[Checkpoint, ...]]:
        """Name -> its checkpoints, one in each family and revision. Unknown names are left out."""
        with self._read() as connection:
            return catalogue.read_checkpoints_named(connection, names)

    def checkpoints_after(self, family: str, checkpoint_id: int) -> tuple[Checkpoint, ...]:
        """Every checkpoint of the family that was stored after the one of this id, ascending id."""
        with self._read() as connection:
            return catalogue.read_checkpoints_after(connection, family, checkpoint_id)

    def checkpoints(
        self,
        *,
        family: str | None = None,
        search: str | None = None,
        page_size: int = 50,
        page_token: str | None = None,
    ) -> Page[Checkpoint]:
        """A page of checkpoints: of a family, with `search` in the name (literally, case ignored)."""
        with self._read() as connection:
            return catalogue.page_of_checkpoints(connection, family, search, page_size, page_token)

    def set_lineage(self, checkpoint_id: int, lineage: Lineage | None, note: str) -> Checkpoint:
        """Set what a person says of a checkpoint's descent (None: nothing is known); jobs leave it so.

        Conflict where it would contradict a vanilla.
        """
        with self._write() as connection:
            return write_lineage(connection, checkpoint_id, lineage, note)

    def catalogue(self, family: str) -> Catalogue:
        """Every checkpoint of the family in columns, ascending id (for the snapshot; a million is fine)."""
        with self._read() as connection:
            return catalogue.read_catalogue(connection, family)

    def target(self, target_id: int) -> Target:
        """The target of this id."""
        with self._read() as connection:
            return catalogue.read_target(connection, target_id)

    def target_named(self, name: str) -> Target:
        """The target of this name."""
        with self._read() as connection:
            return catalogue.read_target_named(connection, name)

    def targets_named(self, names: Iterable[str]) -> dict[str, Target]:
        """Name -> target. Unknown names are left out."""
        with self._read() as connection:
            return catalogue.read_targets_named(connection, names)

    def targets(
        self, *, search: str | None = None, page_size: int = 50, page_token: str | None = None
    ) -> Page[Target]:
        """A page of targets: with `search` in the name (literally, case ignored)."""
        with self._read() as connection:
            return catalogue.page_of_targets(connection, search, page_size, page_token)

    def all_targets(self) -> tuple[Target, ...]:
        """Every target, ascending id."""
        with self._read() as connection:
            return catalogue.read_all_targets(connection)

    def target_details(self) -> tuple[int, ...]:
        """Counts that change whenever a target is added or a detail of one becomes known, and only then."""
        with self._read() as connection:
            return catalogue.count_target_details(connection)

    # scores

    def score(self, score_id: int) -> Score:
        """The score of this id."""
        with self._read() as connection:
            return scores.read_score(connection, score_id)

    def scores(
        self,
        *,
        family: str | None = None,
        checkpoint_id: int | None = None,
        target_id: int | None = None,
        method: str | None = None,
        quarantined: bool | None = None,
        page_size: int = 50,
        page_token: str | None = None,
    ) -> Page[Score]:
        """A page of the scores that pass every filter. NotFound if a filter names what is not there."""
        with self._read() as connection:
            return scores.page_of_scores(
                connection,
                family=family,
                checkpoint_id=checkpoint_id,
                target_id=target_id,
                method=method,
                quarantined=quarantined,
                size=page_size,
                token=page_token,
            )

    def quarantine_counts(self) -> dict[str, int]:
        """Quarantined scores by reason."""
        with self._read() as connection:
            return scores.count_quarantined(connection)

    def set_quarantine(self, score_id: int, reason: str | None, note: str | None) -> Score:
        """Set (reason) or lift (None) quarantine.

        Lifting into an occupied key raises Conflict, naming the score in force.
        """
        with self._write() as connection:
            return scores.write_quarantine(connection, score_id, reason, note)

    # evidence and posteriors

    def evidence_version(self) -> int:
        """How often the scores in force, or what is known of their checkpoints and targets, have changed."""
        with self._read() as connection:
            return scores.read_version(connection)

    def evidence(self, family: str) -> FamilyEvidence:
        """The scores in force of the family, in columns, as of one evidence version."""
        with self._read() as connection:
            return read_evidence(connection, family)

    def save_posterior(self, family: str, evidence_version: int, format: str, payload: bytes) -> int:
        """Store a fitted posterior and return its id; keeps the newest three of a family and format."""
        row = {"evidence_version": evidence_version, "format": format, "payload": payload}
        with self._write() as connection:
            return posteriors.write_posterior(connection, family, row | {"created_at": self._clock()})

    def newest_posteriors(self, format: str) -> dict[str, tuple[int, int]]:
        """family -> (id, evidence_version) of the newest of this format: highest version, then id."""
        with self._read() as connection:
            return posteriors.read_newest(connection, format)

    def posterior(self, posterior_id: int) -> PosteriorRow:
        """The posterior of this id; NotFound once newer ones have replaced it."""
        with self._read() as connection:
            return posteriors.read_posterior(connection, posterior_id)

    # imports

    def create_import(self, kind: str, source: str, params: dict[str, Any] | None = None) -> Import:
        """A new import in state queued that no claim takes yet: release it with `queue_import`."""
        with self._write() as connection:
            return imports.create(connection, kind, source, params or {}, self._clock())

    def append_upload(self, import_id: int, file: str, data: bytes) -> None:
        """Append bytes to an uploaded file of an import not yet released; Conflict once it is."""
        with self._write() as connection:
            uploads.append(connection, import_id, file, data)

    def queue_import(self, import_id: int) -> Import:
        """Release the import to be claimed. Doing so again changes nothing."""
        with self._write() as connection:
            return imports.release(connection, import_id)

    def uploads(self, import_id: int) -> tuple[str, ...]:
        """Names of the uploaded files, in the order of their first bytes; none once the import has ended."""
        with self._read() as connection:
            return uploads.names(connection, import_id)

    def read_upload(self, import_id: int, file: str) -> Iterator[bytes]:
        """The bytes of an uploaded file, chunk by chunk, one short transaction each."""
        with self._read() as connection:
            chunk_ids = uploads.chunk_ids(connection, import_id, file)
        yield from self._one_by_one(chunk_ids, uploads.chunk)

    def get_import(self, import_id: int) -> Import:
        """The import of this id."""
        with self._read() as connection:
            return imports.read(connection, import_id)

    def imports(self, *, page_size: int = 50, page_token: str | None = None) -> Page[Import]:
        """A page of the imports."""
        with self._read() as connection:
            return imports.page_of_imports(connection, page_size, page_token)

    def import_counts(self) -> dict[str, int]:
        """Imports by state."""
        with self._read() as connection:
            return imports.count_by_state(connection)

    def claim_import(self, lease_seconds: float, kinds: Collection[str] | None = None) -> Import | None:
        """Take the oldest released import of these kinds that is queued, or whose lease ran out."""
        with self._write() as connection:
            return imports.claim(connection, lease_seconds, kinds, self._clock())

    def target_rows(self, target_id: int) -> Iterator[bytes]:
        """The rows of the target as `headstart.rows` wrote them, chunk by chunk; NotFound if it has none."""
        with self._read() as connection:
            chunk_ids = target_rows.chunk_ids(connection, target_id)
        yield from self._one_by_one(chunk_ids, target_rows.chunk)

    def _one_by_one(
        self, chunk_ids: Iterable[int], read: Callable[[Connection, int], bytes]
    ) -> Iterator[bytes]:
        """The chunks of these ids, each in a short transaction of its own."""
        for chunk_id in chunk_ids:
            with self._read() as connection:
                data = read(connection, chunk_id)
            yield data

    def heartbeat_import(
        self, import_id: int, attempt: int, lease_seconds: float, progress: float, stage: str
    ) -> bool:
        """Prolong the lease and say how far the import is. False: the claim is lost, stop."""
        with self._write() as connection:
            lease_until = self._clock() + timedelta(seconds=lease_seconds)
            change = {"lease_until": lease_until, "progress": progress, "stage": stage}
            return imports.change(connection, import_id, attempt, change)

    def finish_import(self, import_id: int, attempt: int, batch: ImportBatch) -> Import | None:
        """Store the batch and end the import: everything, or nothing (None: the claim is lost)."""
        ingest.check_finite(batch.scores)
        protocols = ingest.digests(batch.scores)
        with self._write() as connection:
            lock(connection, EVIDENCE_LOCK)
            now = self._clock()
            if not imports.succeed(connection, import_id, attempt, now):
                return None
            report = ingest.store_batch(connection, batch, protocols, import_id, now)
            imports.write_report(connection, import_id, report)
            return imports.read(connection, import_id)

    def fail_import(self, import_id: int, attempt: int, error: str) -> bool:
        """End the import with one sentence on what went wrong. False: the claim is lost."""
        with self._write() as connection:
            return imports.fail(connection, import_id, attempt, error, self._clock())

    def delete_import(self, import_id: int) -> None:
        """Forget an import that was never released (an upload that broke off); Conflict if it was."""
        with self._write() as connection:
            imports.delete_unreleased(connection, import_id)

    # idempotency

    def begin_request(self, key: str, route: str, body_digest: str) -> RecordedResponse | None:
        """Claim the key: None if it is ours to answer, the recorded response if it was answered.

        Conflict if the first request is still running; InvalidInput if the key came with another body.
        A claim older than 10 minutes without a response is taken over; responses are kept 24 hours.
        """
        with self._write() as connection:
            return requests.begin(connection, key, route, body_digest, self._clock())

    def record_response(self, key: str, route: str, response: RecordedResponse) -> None:
        """Record the response of a claimed key. The first one stands."""
        with self._write() as connection:
            requests.record(connection, key, route, response, self._clock())

    def release_request(self, key: str, route: str) -> None:
        """Give up the claim (the request failed); a retry may run."""
        with self._write() as connection:
            requests.release(connection, key, route)
