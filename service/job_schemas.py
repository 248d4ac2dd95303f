"""Jobs on the wire: what is asked for, what became of it, and what happens to it."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StrictBool, StringConstraints, Tag
from pydantic.json_schema import SkipJsonSchema

from headstart.entities import JobState, SubmissionStatus
from service.advice_schemas import Number
from service.schemas import CLEAN, LARGEST_ID, Id, Name, Page, PageQuery, Score

MOST_JOBS = 1000  # in one call
LARGEST_SEED = 2**32 - 1  # what every generator of random numbers takes
HIGHEST_PRIORITY = 100
DRY_RUN = "Answer with what it would take, by 200, and store nothing. All is checked as ever."


def _way(value: Any) -> str:
    return "str" if isinstance(value, str) else "int"


# Told apart before it is read, so that a wrong value is one problem and not one for each way.
IdOrName = Annotated[
    Annotated[Annotated[Id, Number], Tag("int")] | Annotated[Name, Tag("str")], Discriminator(_way)
]
Webhook = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=CLEAN)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, json_schema_serialization_defaults_required=True)


class JobRequest(_In):
    """One measurement to make. Asked for again it is joined, or answered by its score."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"method": "linear_probe", "checkpoint": "roberta-base", "target": "rte"},
                {
                    "method": "linear_probe",
                    "checkpoint": 12,
                    "target": 3,
                    "params": {},
                    "seed": 1,
                    "priority": 10,
                },
            ]
        }
    )

    method: Name = Field(
        description="A method that GET /methods shows as runnable.", examples=["linear_probe"]
    )
    checkpoint: IdOrName = Field(description="By id or by name.", examples=["roberta-base"])
    family: Name | SkipJsonSchema[None] = Field(
        None, description="Tells checkpoints of one name apart; not looked at where the checkpoint is an id."
    )
    target: IdOrName = Field(description="By id or by name.", examples=["rte"])
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="Parameters of the method: GET /methods/{name} has their schema. Left out: its defaults.",
    )
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED), Number] = Field(
        0, description="Of every random choice: the same seed gives the same score."
    )
    priority: Annotated[int, Field(ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY), Number] = Field(
        0, description="Higher is sooner; within one priority the older is first."
    )
    webhook: Webhook | SkipJsonSchema[None] = Field(
        None, description="An http(s) URL that is told when the job has ended."
    )
    keep: Name | SkipJsonSchema[None] = Field(
        None,
        description="Keep what a finetune comes to as a checkpoint of this name, NAME or OWNER/NAME. The job "
        "is then one of `keep`, whose result has the checkpoint.",
    )


class SingleRequest(JobRequest):
    """One measurement to make, or to price."""

    dry_run: StrictBool = Field(False, description=DRY_RUN)


class BatchRequest(_In):
    """Many measurements in one call: all of them are taken, or none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "jobs": [
                        {"method": "linear_probe", "checkpoint": "roberta-base", "target": "rte"},
                        {"method": "linear_probe", "checkpoint": "roberta-base", "target": "mnli"},
                    ]
                }
            ]
        }
    )

    jobs: Annotated[list[JobRequest], Field(min_length=1, max_length=MOST_JOBS)] = Field(
        description=f"Up to {MOST_JOBS}; answered in this order."
    )
    dry_run: StrictBool = Field(False, description=DRY_RUN)


class Progress(_Out):
    """How far a job is."""

    fraction: float = Field(ge=0, le=1)
    stage: str = Field(description="What it is doing, in words.")
    message: str = Field(description="The newest thing worth saying.")
    seconds_left: float | None = Field(description="null: it cannot tell.")


class Failure(_Out):
    """Why an attempt at a job failed."""

    name: str = Field(description="A stable name to program against.", examples=["OutOfMemory"])
    sentence: str = Field(description="What happened.")
    remedy: str = Field(description="What to do.")


class Job(_Out):
    """One intention to measure, with a state."""

    id: int
    method: str
    method_version: str
    checkpoint_id: int | None
    checkpoint: str | None
    family: str | None
    target_id: int | None
    target: str | None
    params: dict[str, Any] = Field(description="All of them, defaults filled in.")
    seed: int
    queue: str = Field(description="With which workers it waits: cpu or gpu.")
    priority: int
    state: JobState
    attempt: int = Field(description="Of those begun, the newest; 0: none yet.")
    last_attempt: int = Field(description="The attempt after which a failure is final.")
    cancel_requested: bool = Field(description="Its worker is asked to stop.")
    progress: Progress
    failure: Failure | None = Field(
        description="Of the newest attempt that failed; kept while the job waits to be tried again."
    )
    score_id: int | None = Field(description="The score it made.")
    result: dict[str, Any] | None = Field(
        description="What it made beside a score; of a race a RaceResult, of regions a RegionsResult."
    )
    seconds: float | None = Field(description="How long the newest ended attempt ran.")
    request_id: str = Field(description="Of the request that submitted it; finds both in the logs.")
    revision: int = Field(description="Raised by every change, of progress too.")
    created_at: datetime
    started_at: datetime | None = Field(description="Of the newest attempt.")
    finished_at: datetime | None


class JobPage(Page[Job]):
    """One page of jobs."""


class JobQuery(PageQuery):
    """Which jobs to list."""

    state: JobState | SkipJsonSchema[None] = Field(None, description="Only in this state.")
    method: Name | SkipJsonSchema[None] = Field(None, description="Only by this method.")
    checkpoint_id: Id | SkipJsonSchema[None] = Field(None, description="Only of this checkpoint.")
    target_id: Id | SkipJsonSchema[None] = Field(None, description="Only on this target.")


class Submission(_Out):
    """What became of a request to measure: a job, or the score that answers it."""

    status: SubmissionStatus = Field(
        description="A new job; an equal job that waits or runs, or found the method not applicable; or the "
        "score, which was there."
    )
    job: Job | None = Field(description="null where the score was there.")
    score: Score | None = Field(description="null where there is a job.")


class Counts(_Out):
    """How many of a batch were answered by what."""

    queued: int
    joined: int
    scored: int


class SubmissionBatch(_Out):
    """What became of each request of a batch, in its order."""

    items: list[Submission]
    counts: Counts


class Priced(_Out):
    """What something would take, on one worker. 0 for what is scored or under way already."""

    seconds: float = Field(description="Median of what is expected.", examples=[84.0])
    interval: tuple[float, float] = Field(description="That is to hold in 80 % of cases.")
    basis: Literal["measured", "assumed"] = Field(
        description="'measured': jobs of this kind are on record, on this device; 'assumed': they are not."
    )
    device: str | None = Field(
        description="That it is for: the one that recent jobs ran on. null: none is on record, and a "
        "data-centre GPU is assumed; or there is more than one."
    )


class DryRun(Priced):
    """What a request would take, had it been no dry run."""

    dry_run: Literal[True] = True
    jobs: int = Field(description="New ones that it would queue.")
    joined: int = Field(description="Equal ones that are under way.")
    scored: int = Field(description="Scores that are there.")


class PricedJob(Priced):
    """What one request of a batch would take."""

    status: SubmissionStatus = Field(description="What would become of it.")


class BatchDryRun(DryRun):
    """What a batch would take. Probes that share a forward pass pay for it once, the first of them."""

    items: list[PricedJob] = Field(description="In the order of the batch.")


class JobEvent(_Out):
    """The data of one event: the state of a job has changed, or its progress."""

    job_id: int
    revision: int = Field(description="Also the event's id, to go on after it.")
    at: datetime = Field(description="When the job came to this state.")
    state: JobState
    attempt: int
    progress: Progress
    failure: str | None = Field(description="Its name, where an attempt failed.")


Revision = Annotated[int, Field(ge=0, le=LARGEST_ID)]
