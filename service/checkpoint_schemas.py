"""Checkpoints with weights on the wire: how one is registered, and how a family is probed."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints, model_validator

from service.advice_schemas import Number
from service.job_schemas import HIGHEST_PRIORITY, LARGEST_SEED, Counts, IdOrName
from service.schemas import CLEAN, Name

HUB_ID = r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9_.-]{0,95}$"
REVISION = r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,199}$"
FolderPath = Annotated[
    str,
    StringConstraints(min_length=1, max_length=2000, pattern=CLEAN),
    Field(json_schema_extra={"format": "import-source"}),
]
MOST_SKIPPED = 20  # checkpoints left out that are named one by one


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, json_schema_serialization_defaults_required=True)


class HubCheckpoint(_In):
    """A checkpoint of the hub."""

    id: Annotated[str, StringConstraints(pattern=HUB_ID)] = Field(
        description="OWNER/NAME, or NAME.", examples=["FacebookAI/roberta-base"]
    )
    revision: Annotated[str, StringConstraints(pattern=REVISION)] | None = Field(
        None, description="A branch, tag or commit; left out: the main branch. It is pinned to its commit."
    )


class CheckpointRequest(_In):
    """A checkpoint to register: a folder or a checkpoint of the hub, one of the two."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["path"], "properties": {"path": {"type": "string"}, "hub": {"type": "null"}}},
                {"required": ["hub"], "properties": {"hub": {"type": "object"}, "path": {"type": "null"}}},
            ],
            "examples": [
                {"hub": {"id": "textattack/roberta-base-MNLI"}, "family": "roberta-base"},
                {"path": "/checkpoints/my-roberta", "name": "my-roberta", "family": "roberta-base"},
            ],
        }
    )

    path: FolderPath | None = Field(
        None, description="A folder that save_pretrained wrote, under one of the folders in HEADSTART_ROOTS."
    )
    hub: HubCheckpoint | None = Field(None, description="Read by a worker.")
    name: Name | None = Field(None, description="Left out: the hub id, or the path.")
    family: Name | None = Field(
        None, description="Left out: told from what the checkpoint names as its base."
    )
    is_vanilla: StrictBool = Field(False, description="It is the one that all of its family descend from.")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either path or hub")
        return self


class FamilyProbeRequest(_In):
    """One measurement of every checkpoint of a family."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"target": "mnli"}]})

    target: IdOrName = Field(description="By id or by name; it has to have rows.", examples=["mnli"])
    method: Name = Field(
        "linear_probe", description="A method that GET /methods shows as runnable.", examples=["linear_probe"]
    )
    params: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of the method. Left out: its defaults."
    )
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED), Number] = Field(0, description="Of every job.")
    priority: Annotated[int, Field(ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY), Number] = Field(
        0, description="Of every job; higher is sooner."
    )


class SkippedCheckpoint(_Out):
    """A checkpoint that cannot be measured."""

    checkpoint_id: int
    checkpoint: str
    reason: str


class FamilyProbe(_Out):
    """What became of the request to probe a family."""

    family: str
    target: str
    method: str
    checkpoints: int = Field(description="Of the family, the vanilla included.")
    counts: Counts
    skipped: int = Field(description="How many cannot be measured.")
    first_skipped: list[SkippedCheckpoint] = Field(description=f"The first {MOST_SKIPPED} of those, and why.")
    job_ids: list[int] = Field(description="Of the jobs queued or joined, the vanilla's first.")
    notes: list[str] = Field(description="What to know before relying on the ranking.")
