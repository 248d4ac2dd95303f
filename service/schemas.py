"""The nouns on the wire (advice has a file of its own). Built from the frozen entities by attribute."""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from headstart.entities import ImportState, Lineage

T = TypeVar("T")

LARGEST_ID = 2**53 - 1  # the largest integer every JSON reader holds exactly
CLEAN = r"^[^\x00-\x1f\x7f]*$"  # no control characters: databases and terminals choke on them

Id = Annotated[int, Field(ge=1, le=LARGEST_ID)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=CLEAN)]
Kind = Literal["model-recycling", "table"]


class _Out(BaseModel):
    """Read from an entity; every field is always present, so that clients need no defaults."""

    model_config = ConfigDict(from_attributes=True, json_schema_serialization_defaults_required=True)


class _In(BaseModel):
    """Sent by a client; an unknown field is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ProblemField(BaseModel):
    """One thing wrong with one field."""

    field: str = Field(description="Where: a dotted path, or 'line 12, column value'.")
    message: str = Field(description="What is wrong and what to do.")


class Problem(BaseModel):
    """An error answer (RFC 9457)."""

    type: str = Field(description="urn:headstart:problem: followed by the code.")
    title: str = Field(description="The status, in words.")
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="A sentence that names the value and the remedy.")
    code: str = Field(description="A stable name to program against.")
    request_id: str = Field(description="Also in the X-Request-Id header; finds the request in the log.")
    errors: list[ProblemField] = Field(description="The fields at fault; empty where no field is.")


class Page(_Out, Generic[T]):
    """One page of a list."""

    items: list[T]
    next_page_token: str | None = Field(
        description="Send it as page_token for the next page; null on the last."
    )


class PageQuery(_In):
    """How much of a list, and from where."""

    page_size: int = Field(50, ge=1, le=500, description="How many items at most.")
    page_token: Annotated[str, StringConstraints(min_length=1, max_length=400)] | SkipJsonSchema[None] = (
        Field(
            None,
            description="next_page_token of the page before.",
            json_schema_extra={"format": "page-token"},
        )
    )


class Family(_Out):
    """All checkpoints descending from one pretrained checkpoint, its vanilla."""

    id: int
    name: str = Field(examples=["roberta-base"])
    vanilla_id: int | None = Field(description="Checkpoint id of the vanilla; null until it is known.")
    checkpoints: int = Field(description="How many checkpoints, the vanilla included.")


class FamilyPage(Page[Family]):
    """One page of families."""


class Checkpoint(_Out):
    """A base model at a pinned revision."""

    id: int
    name: str = Field(description="Hub id or folder.", examples=["roberta-base"])
    family: str = Field(examples=["roberta-base"])
    revision: str = Field(description="Commit or digest; empty when the source did not pin one.")
    is_vanilla: bool
    parameters: int | None
    license: str | None
    details: dict[str, Any] = Field(description="What the source says beyond that.")
    lineage: Lineage | None = Field(
        description="Whether its weights descend from the family's vanilla; null: nobody has looked. Scores "
        "of one that is contradicted are no evidence."
    )
    lineage_reason: str | None = Field(description="One sentence on what was seen.")
    lineage_by: Literal["job", "person"] | None = Field(description="Who said so.")


class LineageChange(_In):
    """Say whether a checkpoint descends from its family's vanilla, whatever jobs find."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"lineage": "contradicted", "note": "Finetuned from another pretraining of this size."},
                {"lineage": "verified", "note": "Its training log names the vanilla."},
            ]
        }
    )

    lineage: Lineage | None = Field(
        description="contradicted: its scores leave the evidence; verified or null take them back."
    )
    note: Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=CLEAN)] = Field(
        description="One sentence on what was seen; it stands beside the lineage."
    )


class CheckpointPage(Page[Checkpoint]):
    """One page of checkpoints."""


class CheckpointQuery(PageQuery):
    """Which checkpoints to list."""

    family: Name | SkipJsonSchema[None] = Field(None, description="Only of this family.")
    search: Name | SkipJsonSchema[None] = Field(
        None, description="Only names that contain this, case ignored."
    )


class Target(_Out):
    """A dataset (or its description) + task + metric to finetune for."""

    id: int
    name: str = Field(examples=["rte"])
    task: str | None
    metric: str = Field(examples=["accuracy"])
    train_size: int | None
    classes: int | None
    rows_tested: int | None = Field(description="Size of the test split; null when it cannot be told.")
    fingerprint: str | None = Field(description="Digest of its rows; null: the store holds none of it.")


class TargetPage(Page[Target]):
    """One page of targets."""


class TargetQuery(PageQuery):
    """Which targets to list."""

    search: Name | SkipJsonSchema[None] = Field(
        None, description="Only names that contain this, case ignored."
    )


class Score(_Out):
    """One stored measurement: checkpoint × target × method (+ version, params, seed)."""

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
    value: float = Field(description="In the unit of the method; see GET /methods/{name}.")
    stderr: float | None
    rows_tested: int | None
    source: str
    provenance: dict[str, Any]
    quarantine: str | None = Field(description="Why it is left out of the evidence; null: it is in force.")
    quarantine_note: str | None
    import_id: int | None
    created_at: datetime


class ScorePage(Page[Score]):
    """One page of scores."""


class ScoreQuery(PageQuery):
    """Which scores to list."""

    family: Name | SkipJsonSchema[None] = Field(None, description="Only of this family.")
    checkpoint_id: Id | SkipJsonSchema[None] = Field(None, description="Only of this checkpoint.")
    target_id: Id | SkipJsonSchema[None] = Field(None, description="Only on this target.")
    method: Name | SkipJsonSchema[None] = Field(None, description="Only by this method.")
    quarantined: bool | SkipJsonSchema[None] = Field(
        None, description="true: only quarantined scores; false: only scores in force."
    )


class QuarantineChange(_In):
    """Set quarantine on a score, or lift it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"quarantine": "wrong_split", "note": "Scored on the validation split."},
                {"quarantine": None, "note": "Re-run by hand, the value stands."},
            ]
        }
    )

    quarantine: (
        Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-z_]+$")] | None
    ) = Field(description="A reason, in lower case and underscores; null lifts the quarantine.")
    note: Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=CLEAN)] = Field(
        description="One sentence on what was seen; it stands beside the score."
    )


class Method(_Out):
    """A way of scoring."""

    name: str = Field(examples=["finetune"])
    version: str
    subject: str
    unit: str
    low: float | None = Field(description="The lowest value it can have; null: there is none.")
    high: float | None = Field(description="The highest value it can have; null: there is none.")
    higher_is_better: bool
    needs: list[str] = Field(description="What it takes to measure one score.")
    paper: str
    equation: str
    summary: str
    runnable: bool = Field(description="POST /jobs measures with it; false: its scores are imported.")
    queue: Literal["cpu", "gpu"] = Field(description="With which workers its jobs wait.")
    params: dict[str, Any] = Field(description="JSON Schema of the params of its jobs.")


class MethodPage(Page[Method]):
    """One page of methods."""


class ImportRequest(_In):
    """An import from a source that the service reads by itself."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"kind": "table", "source": "https://example.org/finetunes.csv"}]}
    )

    kind: Kind = Field(description="The form of the source.")
    source: Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=CLEAN)] = Field(
        description="An http(s) URL, or a path under one of the folders in HEADSTART_ROOTS.",
        json_schema_extra={"format": "import-source"},
    )


class ImportReport(_Out):
    """What an import found and did. Counts are of this import alone."""

    rows_read: int
    scores_stored: int = Field(description="New in the store, in force or quarantined.")
    scores_unchanged: int = Field(description="Were there already, equal.")
    scores_quarantined: dict[str, int] = Field(description="By reason, as judged by this import.")
    scores_realigned: int = Field(description="Moved to the column they were shifted from.")
    checkpoints_new: int
    targets_new: int
    target_id: int | None = Field(description="Of the target whose rows it stored.")
    checkpoint_id: int | None = Field(description="Of the checkpoint it registered.")
    files: dict[str, str] = Field(description="File name to sha256.")
    notes: list[str]


class Import(_Out):
    """One import: where from, how far, what came of it."""

    id: int
    kind: str
    source: str = Field(description="A URL, a folder, or 'upload'.")
    state: ImportState
    attempt: int
    progress: float = Field(ge=0, le=1)
    stage: str = Field(description="What it is doing, in words.")
    report: ImportReport | None
    error: str | None = Field(description="One sentence, when failed.")
    created_at: datetime
    finished_at: datetime | None


class ImportPage(Page[Import]):
    """One page of imports."""


class Health(BaseModel):
    """The service runs."""

    status: Literal["ok"] = "ok"
    version: str


class Readiness(BaseModel):
    """The service can answer."""

    status: Literal["ready"] = "ready"
    evidence_version: int = Field(description="Of the snapshot that /recommend answers from.")
    broker: Literal["none", "ok", "unreachable"] = Field(
        description="What rings the workers. Unreachable is ready all the same: answers and submissions go "
        "on, and jobs are rung for again later."
    )
