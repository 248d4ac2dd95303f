"""The question and the answer of POST /recommend.

The answer is written by `service.advice` straight to bytes; these models document it, and a test holds
every answer against them.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StringConstraints,
    model_validator,
)

from headstart.recommend.decide import WORTH, Verdict
from service.board import NEXT_JOBS
from service.schemas import CLEAN, Id, Name

LARGEST = 2**53 - 1
MOST = 500  # candidates in one answer
LONGEST_RACE = 1e9  # seconds
MOST_RUNS = 100_000  # of one race
DESCRIPTION = ("task", "train_size", "classes")
License = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=CLEAN)]

QUESTION_EXAMPLES: list[JsonValue] = [
    {"family": "roberta-base", "target": {"name": "rte"}},
    {"family": "roberta-base", "target": {"task": "nli", "train_size": 2000, "classes": 3}, "limit": 5},
    {"target": {"name": "rte"}, "max_parameters": 150_000_000, "worth": 1.0},
    {"target": {"name": "rte"}, "explain": True, "next_jobs": 5, "pareto": True},
    {
        "family": "roberta-base",
        "target": {"name": "rte"},
        "refine": "finetune",
        "budget_seconds": 1200,
    },
    {},
]


def _number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError(f"should be a number, not {value!r:.40}")  # noqa: TRY004 - what pydantic reports
    return value


Number = BeforeValidator(_number)  # pydantic alone reads true as 1 and "5" as 5
Count = Annotated[int, Field(ge=1, le=LARGEST), Number]

# by id, by name, or by description: every pair of keys that may not stand together
EXCLUSIVE = [("id", "name"), *((one, other) for one in ("id", "name") for other in DESCRIPTION)]


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class TargetQuestion(_Question):
    """A known target by id or name, or the description of one never seen."""

    model_config = ConfigDict(
        json_schema_extra={"not": {"anyOf": [{"required": list(pair)} for pair in EXCLUSIVE]}}
    )

    id: Annotated[Id, Number] | None = Field(None, description="A known target by its id.")
    name: Name | None = Field(None, description="A known target by its name.")
    task: Name | None = Field(
        None, description="Description: the kind of task. Echoed; on the published evidence it is no guide."
    )
    train_size: Count | None = Field(
        None, description="Description: rows to train on. Known targets of like size count for more."
    )
    classes: Annotated[int, Field(ge=2, le=1_000_000), Number] | None = Field(
        None, description="Description: number of classes. Known targets with as many count for more."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = self.model_fields_set
        if any(one in given and other in given for one, other in EXCLUSIVE):
            raise ValueError(
                "a target is given by id, by name, or by a description (task, train_size, classes); "
                "send one of the three"
            )
        return self


class Question(_Question):
    """Which base model should I start from? Everything is optional; {} asks for the static ranking."""

    model_config = ConfigDict(json_schema_extra={"examples": QUESTION_EXAMPLES})

    family: Name | None = Field(
        None, description="Ask within one family; without it all families are ranked by expected score."
    )
    target: TargetQuestion | None = Field(
        None, description="What to finetune for; without it, any target like the known ones."
    )
    limit: Annotated[int, Field(ge=1, le=MOST), Number] = Field(10, description="Candidates in the answer.")
    max_parameters: Count | None = Field(
        None, description="Only checkpoints known to have at most this many parameters."
    )
    licenses: Annotated[tuple[License, ...], Field(max_length=50)] = Field(
        (), description="Only checkpoints known to have one of these licences, case ignored; empty: any."
    )
    exclude: Annotated[tuple[Name, ...], Field(max_length=1000)] = Field(
        (), description="Checkpoints to leave out, by name."
    )
    worth: Annotated[float, Field(ge=0, le=100), Number] = Field(
        WORTH, description="Points of gain that justify leaving the vanilla; the verdict turns on it."
    )
    explain: StrictBool = Field(False, description="Whether to say where each expected gain comes from.")
    next_jobs: Annotated[int, Field(ge=0, le=20), Number] = Field(
        NEXT_JOBS, description="Measurements to propose, best first; none without a target."
    )
    pareto: StrictBool = Field(
        False, description="Whether to name the candidates that none beats in score, size and cost together."
    )
    refine: Literal["finetune"] | None = Field(
        None,
        description="Race the candidates that pass the filters by finetunes on the target, as POST "
        "/targets/{target_id}/race does. Takes a family, a known target with rows, and a budget.",
    )
    budget_seconds: Annotated[float, Field(gt=0, le=LONGEST_RACE), Number] | None = Field(
        None, description="Of the race, in seconds of work; with `refine`."
    )
    budget_runs: Annotated[int, Field(ge=1, le=MOST_RUNS), Number] | None = Field(
        None, description="Of the race, in finetunes begun, the vanilla's included; with `refine`."
    )


class CandidateCheckpoint(BaseModel):
    """The checkpoint of a candidate."""

    id: int
    name: str
    family: str
    parameters: int | None
    license: str | None


class CandidateEvidence(BaseModel):
    """What the numbers of a candidate rest on."""

    targets_finetuned: int = Field(description="Targets this checkpoint was finetuned on.")
    probed: bool = Field(description="Whether its linear probe on the family's reference target is known.")
    measured_here: int = Field(description="Finetune runs on this very target.")
    probes_here: int = Field(description="Methods that probed it on this very target.")
    age_days: int | None = Field(description="Days since its newest score was stored; null: no score.")


class MovedBy(BaseModel):
    """A finetune on another target that moved an expected gain."""

    target: str = Field(description="Name of that target.")
    runs: int = Field(description="Finetune runs on it.")
    gain: float = Field(description="Measured there, in percentage points over that target's vanilla.")
    foretold: float = Field(description="What was expected there without it. Only the difference is news.")
    points: float = Field(description="By which it moved the expected gain on the asked target.")


class Explanation(BaseModel):
    """Where an expected gain comes from, in percentage points: the five parts add up to it."""

    target: float = Field(description="Expected of the family's average checkpoint on the asked target.")
    prior: float = Field(description="From its reference probe, size, age and name.")
    finetunes: float = Field(description="From its finetunes on other targets.")
    probes: float = Field(description="From its probes on the asked target.")
    here: float = Field(description="From its finetunes on the asked target.")
    moved_by: list[MovedBy] = Field(
        description="The finetunes that moved it most, strongest first, at most 5."
    )


class Candidate(BaseModel):
    """One candidate, best first. Gains are percentage points over the family's vanilla."""

    checkpoint: CandidateCheckpoint
    expected_gain: float = Field(description="Posterior mean of the true gain, in percentage points.")
    gain_interval: tuple[float, float] = Field(description="80 % interval of the true gain.")
    p_beats_vanilla: float = Field(ge=0, le=1, description="P(true gain > 0).")
    expected_score: float | None = Field(
        description="Vanilla's level + expected gain, 0..1; null where no vanilla level is known."
    )
    evidence: CandidateEvidence
    p_best: float = Field(
        ge=0,
        le=1,
        description="P(it is the best of all candidates that pass the filters, and of the vanillas). The "
        "first 128 of each family are compared; 0 for those behind.",
    )
    explanation: Explanation | None = Field(None, description="With `explain`; absent without.")


class TargetAnswer(BaseModel):
    """The asked target, as the family's evidence sees it."""

    id: int | None = Field(description="Null for a target never seen.")
    name: str | None
    basis: str = Field(
        description="'own': the vanilla was run on this target; 'others': a mixture of known targets; "
        "'prior': no target is known well enough."
    )
    stands_on: int = Field(
        description="Finetuned checkpoints on it ('own') or known targets mixed ('others')."
    )
    probed: int = Field(description="Checkpoints probed on it.")


class ProbeWeight(BaseModel):
    """What one kind of probe is worth in a family, beyond the quality of the checkpoints."""

    weight: float = Field(
        ge=0,
        description="What a probe adds that surprises by one standard deviation, in units of the spread of "
        "the target's gains. 0 without evidence.",
    )
    stderr: float = Field(description="Its posterior standard deviation.")
    cells: int = Field(
        description="Checkpoints × targets both probed and finetuned, which it was learnt from."
    )


class Calibration(BaseModel):
    """How the family's own 80 % intervals fare on its finetunes, each foretold without its own score."""

    coverage: float | None = Field(description="Share of them that fell inside; null: there are none.")
    cells: int = Field(description="How many there are.")
    widening: float = Field(
        ge=1, description="Factor by which all intervals are widened for that, 1: by none."
    )


class TargetExplanation(BaseModel):
    """How the target reacts once seed noise is told apart."""

    sensitivity: float = Field(description="As beside: points per standard deviation of checkpoint quality.")
    apparent_spread: float = Field(
        description="Standard deviation of gains measured by one run of each checkpoint, in points: how much "
        "the target seems to react."
    )
    quality_share: float = Field(
        ge=0, le=1, description="Of the variance of such gains (on the scale of the fit): by quality."
    )
    noise_share: float = Field(
        ge=0,
        le=1,
        description="Of the same: seed noise. What neither explains belongs to single checkpoints on this "
        "target, or is not known.",
    )


class FamilyAnswer(BaseModel):
    """The vanilla of one family on the target, and how the target reacts in it."""

    family: str
    checkpoints: int = Field(description="Checkpoints in the family, before filters.")
    vanilla_score: float | None = Field(description="Expected score of the vanilla, 0..1; null: unknown.")
    vanilla_score_interval: tuple[float, float] | None = Field(description="Its 80 % interval.")
    vanilla_basis: Literal["measured", "foretold"] | None = Field(
        description="'measured': by its own runs on this target; 'foretold': from its other targets and "
        "other families; null: no vanilla was ever run."
    )
    vanilla_runs: int = Field(description="Runs of the vanilla on this very target.")
    seed_noise: float | None = Field(description="Standard deviation between seeds of one run, in points.")
    sensitivity: float = Field(
        description="Points gained per standard deviation of checkpoint quality; noise is not in it."
    )
    sensitivity_rank: float | None = Field(
        description="Share of the family's known targets that react less, 0..1; null: none known."
    )
    best_gain: float = Field(
        description="Expected gain of the best choice without filters, 0 or more, in percentage points."
    )
    calibration: Calibration
    target: TargetAnswer
    reference: str | None = Field(
        description="The target whose linear probes make the static ranking; null: nobody was probed."
    )
    probe_weights: dict[str, ProbeWeight] = Field(
        description="By method: what a probe on the asked target counts for; the reference is not among them."
    )
    explanation: TargetExplanation | None = Field(None, description="With `explain`; absent without.")


class Stopping(BaseModel):
    """What starting now, without another measurement, is worth.

    Going on is expected to add the `value` of the job that is done.
    """

    pick: str | None = Field(
        description="The checkpoint to take; null: the family's vanilla. The best expected score, however "
        "little is gained: `worth` has no say here."
    )
    family: str
    expected_gain: float = Field(description="Over the family's vanilla, in percentage points.")
    expected_regret: float = Field(
        ge=0, description="Points by which the best of all is expected to score higher."
    )


class NextJob(BaseModel):
    """A measurement worth making."""

    checkpoint: str
    family: str
    target: str | None = Field(description="The asked target; null: the one described.")
    method: str = Field(description="'finetune', or a probe.")
    runs_here: int = Field(
        description="Finetune runs it has on the target already; one more has another seed."
    )
    value: float = Field(
        ge=0,
        description="Points of expected regret that its result is expected to take away, and so to add to "
        "what stopping now gives: what is known in the end, not what it takes to use it. One or two probes "
        "on a target tell nothing: then it is that of a probe among the three listed.",
    )
    seconds: float = Field(description="What it is expected to take.")
    value_per_second: float


class Refinement(BaseModel):
    """The race that was started to make the next answer better."""

    job: int = Field(description="Id of its job.")
    location: str = Field(description="Where to follow it.", examples=["/jobs/1"])
    status: Literal["queued", "joined"] = Field(description="'joined': an equal race waits or runs already.")


class Advice(BaseModel):
    """The answer."""

    verdict: Verdict
    sentence: str = Field(description="The verdict in words.")
    worth: float = Field(description="The points of gain the verdict turned on.")
    p_worth: float | None = Field(
        description="P(the first choice gains more than `worth`) over its family's vanilla, or that of "
        "another family where it is expected to score more; null: there is no candidate."
    )
    p_vanilla_best: float | None = Field(
        description="P(no candidate that passes the filters beats the best vanilla). The vanilla of a family "
        "without candidates takes part; null: nothing does."
    )
    expected_regret: float | None = Field(
        description="Points by which the best of all is expected to beat the first choice; null: there is no "
        "candidate."
    )
    stopping: Stopping | None = Field(description="Null where nothing passes the filters.")
    next_jobs: list[NextJob] = Field(
        description="In order of expected gain until three candidates were finetuned on the target, then of "
        "value a second."
    )
    seconds_basis: Literal["measured", "assumed"] = Field(
        description="'measured': learnt from jobs of these kinds that finished here; 'assumed': of one "
        "data-centre GPU."
    )
    pareto: list[str] | None = Field(
        description="With `pareto`: candidates that no other beats in expected score, parameters and cost "
        "of a finetune together, best score first; null without."
    )
    evidence_version: int = Field(description="Rises with every change of the evidence.")
    families: list[FamilyAnswer] = Field(description="The families ranked, as asked.")
    candidates: list[Candidate]
    notes: list[str] = Field(description="What to know before relying on this answer; often empty.")
    refine: Refinement | None = Field(None, description="With `refine`; absent without.")


class RankedCheckpoint(Candidate):
    """A candidate with its place in the static ranking."""

    rank: int
