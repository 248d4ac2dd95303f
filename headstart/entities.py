"""The nouns of Headstart, as frozen values.

The store returns these and nothing else; rows and sessions never leave it. Times are aware UTC.
Scores are in the unit of their method (accuracy and the like: 0..1). Gains are percentage points.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

T = TypeVar("T")


class ImportState(StrEnum):
    """The life of an import: queued -> running -> succeeded | failed."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """All checkpoints descending from one pretrained checkpoint, its vanilla."""

    id: int
    name: str
    vanilla_id: int | None  # checkpoint id; None until the vanilla is known
    checkpoints: int = 0  # how many, the vanilla included


class Lineage(StrEnum):
    """Whether a checkpoint descends from its family's vanilla, as its weights tell."""

    VERIFIED = "verified"
    CONTRADICTED = "contradicted"  # its scores are no evidence of the family


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageVerdict:
    """What was found of the descent of one checkpoint."""

    checkpoint_id: int
    lineage: Lineage
    reason: str  # one sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A base model at a pinned revision. (family, name, revision) is unique."""

    id: int
    family: str
    name: str  # hub id or folder
    revision: str  # commit or digest; "" when the source did not pin one
    is_vanilla: bool
    parameters: int | None
    license: str | None
    details: dict[str, Any] = field(default_factory=dict)  # what the source says beyond that
    lineage: str | None = None  # a Lineage; None: nobody has looked, or a person took a verdict back
    lineage_reason: str | None = None  # one sentence on what was seen
    lineage_by: Literal["job", "person"] | None = None  # who said so; a job does not overrule a person


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The checkpoints of one family in columns, ascending id: what a ranking shows of a million of them."""

    ids: tuple[int, ...]
    names: tuple[str, ...]
    parameters: tuple[int | None, ...]
    licenses: tuple[str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A dataset (or its description) + task + metric to finetune for. The name is unique."""

    id: int
    name: str
    task: str | None
    metric: str  # "accuracy", "spearman", ...
    train_size: int | None
    classes: int | None
    rows_tested: int | None  # size of the test split; None when it cannot be told
    fingerprint: str | None = None  # digest of its rows; None: the store holds no rows of it
    profile: dict[str, Any] | None = None  # what was counted in its rows; see headstart.targets


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDraft:
    """A checkpoint as an importer saw it, before it has an id."""

    family: str
    name: str
    revision: str = ""
    is_vanilla: bool = False
    parameters: int | None = None
    license: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetDraft:
    """A target as an importer saw it, before it has an id."""

    name: str
    task: str | None = None
    metric: str = "accuracy"
    train_size: int | None = None
    classes: int | None = None
    rows_tested: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreDraft:
    """One measurement as an importer saw it. `family` + `checkpoint` + `target` name its subject."""

    family: str
    checkpoint: str
    target: str
    method: str
    value: float
    stderr: float | None = None
    seed: int = 0
    rows_tested: int | None = None
    method_version: str = "1"
    params: dict[str, Any] = field(default_factory=dict)  # the protocol; its digest is in the key
    source: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    quarantine: str | None = None  # a reason of headstart.evidence.quality, or None: in force
    quarantine_note: str | None = None  # one sentence on what was seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One stored measurement: checkpoint x target x method (+ version, params, seed).

    At most one score *in force* (quarantine is None) exists for a key; quarantined ones may
    stand beside it.
    """

    id: int
    checkpoint_id: int
    checkpoint: str
    family: str
    target_id: int
    target: str
    method: str
    method_version: str
    params_digest: str
    seed: int
    value: float
    stderr: float | None
    rows_tested: int | None
    source: str
    provenance: dict[str, Any]
    quarantine: str | None
    quarantine_note: str | None
    import_id: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import found and did. Scores found before count as unchanged, and are judged all the same."""

    rows_read: int = 0
    scores_stored: int = 0  # new in the store, in force or quarantined
    scores_unchanged: int = 0  # were there already, equal
    scores_quarantined: dict[str, int] = field(default_factory=dict)  # as judged here, by reason
    scores_realigned: int = 0  # moved to the column they were shifted from
    checkpoints_new: int = 0
    targets_new: int = 0
    target_id: int | None = None  # of the target whose rows it stored
    checkpoint_id: int | None = None  # of the checkpoint it registered
    files: dict[str, str] = field(default_factory=dict)  # file name -> sha256
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import: where from, how far, what came of it."""

    id: int
    kind: str  # "model-recycling" | "table" | "target" | "checkpoint" | ...
    source: str  # a URL, a folder, a hub id, or "upload"
    params: dict[str, Any]  # what else the importer has to know
    state: ImportState
    attempt: int  # fencing token: raised by every claim
    progress: float  # 0..1
    stage: str  # what it is doing, in words
    report: ImportReport | None
    error: str | None  # one sentence, when failed
    created_at: datetime
    finished_at: datetime | None


class JobState(StrEnum):
    """The life of a job: queued -> running -> succeeded | failed | cancelled; or running -> queued again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a job did not succeed, for a person and for a program."""

    name: str  # stable, see headstart.failures
    sentence: str  # what happened
    remedy: str  # what to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is."""

    fraction: float = 0.0  # 0..1
    stage: str = ""  # what it is doing, in words
    message: str = ""  # the newest thing worth saying
    seconds_left: float | None = None  # None: it cannot tell


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDraft:
    """One intention to measure, checked, before it has an id."""

    method: str
    method_version: str
    checkpoint_id: int | None
    target_id: int | None
    params: dict[str, Any]  # all of them, defaults filled in: their digest is in the key
    seed: int = 0
    queue: str = "cpu"
    priority: int = 0  # higher is sooner; within one priority the older is first
    webhook: str | None = None  # told when the job has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One intention to measure, with a state."""

    id: int
    method: str
    method_version: str
    checkpoint_id: int | None
    checkpoint: str | None
    family: str | None
    target_id: int | None
    target: str | None
    params: dict[str, Any]
    seed: int
    queue: str
    priority: int
    state: JobState
    attempt: int  # fencing token: raised by every claim
    last_attempt: int  # the attempt after which a failure is final
    cancel_requested: bool
    progress: Progress
    failure: Failure | None  # of the newest attempt that failed; kept while the job waits to be tried again
    score_id: int | None
    result: dict[str, Any] | None  # what it made beside a score
    seconds: float | None  # that the newest ended attempt ran
    request_id: str  # of the request that submitted it: finds both in the logs
    revision: int  # raised by every change, of progress too
    created_at: datetime
    started_at: datetime | None  # of the newest attempt
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """A change of a job's state, or (the newest one alone) of its progress."""

    job_id: int
    revision: int
    at: datetime
    state: JobState
    attempt: int
    progress: Progress
    failure: str | None  # its name, where an attempt failed


class SubmissionStatus(StrEnum):
    """What became of a request to measure."""

    QUEUED = "queued"  # a new job
    JOINED = "joined"  # an equal job waits or runs, or ended as not applicable
    SCORED = "scored"  # the score is stored already


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What became of a request to measure: a job, or the score that answers it."""

    status: SubmissionStatus
    job: Job | None
    score: Score | None


class Heartbeat(StrEnum):
    """What the store answers to a running attempt."""

    GO_ON = "go_on"
    CANCEL = "cancel"  # the user wants it stopped
    LOST = "lost"  # another attempt holds the job, or it has ended: stop, and change nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCounts:
    """The jobs at a glance."""

    by_state: dict[str, int]
    by_failure: dict[str, int]  # failed jobs by the name of their failure
    depth: dict[str, int]  # queue -> jobs waiting
    oldest_seconds: dict[str, float]  # queue -> how long its oldest waiting job has been due
    succeeded: dict[str, tuple[int, float]]  # method -> (jobs, seconds they ran in all)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A bearer key, without its secret."""

    id: int
    name: str
    scope: str  # "read" | "run" | "admin", each holding the ones before it
    shown: str  # its first characters, to recognise it by
    digest: str  # SHA-256 of the whole
    created_at: datetime
    revoked_at: datetime | None


class DeliveryState(StrEnum):
    """The life of a webhook: waiting (for its job) -> pending -> delivered | failed."""

    WAITING = "waiting"
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One webhook of one job: where to, how far, and every try."""

    id: int
    job_id: int
    url: str
    state: DeliveryState
    tries: int  # since it became pending
    next_at: datetime | None  # when it is tried next
    log: tuple[dict[str, Any], ...]  # {"at", "status", "error", "seconds"} of each try, oldest first
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PosteriorRow:
    """A fitted posterior as the store keeps it: opaque bytes under a version and a digest."""

    id: int
    family: str
    evidence_version: int  # of the evidence it was fitted on
    format: str  # of the payload; readers refuse one they do not know
    payload: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """One page of a list. `next_token` is None on the last page."""

    items: tuple[T, ...]
    next_token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsDraft:
    """The rows of a target, before they are stored."""

    target: str  # its name
    fingerprint: str
    profile: dict[str, Any]
    file: Path  # as headstart.rows writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportBatch:
    """All that one import wants stored, in one transaction."""

    checkpoints: tuple[CheckpointDraft, ...]
    targets: tuple[TargetDraft, ...]
    scores: tuple[ScoreDraft, ...]
    report: ImportReport  # what the importer counted; the store fills in what it stored
    rows: RowsDraft | None = None
    registers: CheckpointDraft | None = None  # the one of `checkpoints` whose id the report shall name


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedResponse:
    """The first response to a POST with an Idempotency-Key."""

    status: int
    headers: dict[str, str]
    body: bytes
