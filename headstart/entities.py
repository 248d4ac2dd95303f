"""The nouns of Headstart, as frozen values.

The store returns these and nothing else; rows and sessions never leave it. Times are aware UTC.
Scores are in the unit of their method (accuracy and the like: 0..1). Gains are percentage points.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from datetime import datetime

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
    files: dict[str, str] = field(default_factory=dict)  # file name -> sha256
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import: where from, how far, what came of it."""

    id: int
    kind: str  # "model-recycling" | "table"
    source: str  # a URL, a folder, or "upload"
    state: ImportState
    attempt: int  # fencing token: raised by every claim
    progress: float  # 0..1
    stage: str  # what it is doing, in words
    report: ImportReport | None
    error: str | None  # one sentence, when failed
    created_at: datetime
    finished_at: datetime | None


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
class ImportBatch:
    """All that one import wants stored, in one transaction."""

    checkpoints: tuple[CheckpointDraft, ...]
    targets: tuple[TargetDraft, ...]
    scores: tuple[ScoreDraft, ...]
    report: ImportReport  # what the importer counted; the store fills in what it stored


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedResponse:
    """The first response to a POST with an Idempotency-Key."""

    status: int
    headers: dict[str, str]
    body: bytes
