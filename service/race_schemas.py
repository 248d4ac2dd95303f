"""Races on the wire: what is asked for, what one may cost, and how its result reads."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool
from pydantic.json_schema import SkipJsonSchema

from headstart.recommend.decide import WORTH
from service.advice_schemas import LONGEST_RACE, MOST_RUNS, Number
from service.job_schemas import HIGHEST_PRIORITY, LARGEST_SEED, IdOrName, Webhook
from service.schemas import Name

MOST_RACED = 100  # candidates of one race
USUAL = 12
LEAST_CHANCE = 0.1

Seconds = Annotated[float, Field(gt=0, le=LONGEST_RACE), Number]
Runs = Annotated[int, Field(ge=1, le=MOST_RUNS), Number]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Out(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class RaceRequest(_In):
    """Find out which of a family's checkpoints is the best start on a target, by few finetunes."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"family": "roberta-base", "budget_seconds": 1200},
                {"family": "roberta-base", "candidates": ["me/rob-mnli", 12], "budget_runs": 6},
            ]
        }
    )

    family: Name = Field(description="Its vanilla runs first, and gains are over it.")
    candidates: Annotated[list[IdOrName], Field(max_length=MOST_RACED)] = Field(
        default_factory=list,
        description="Checkpoints of the family, by id or by name. Left out: the first of its ranking for a "
        "target of this size; what was measured on the target itself has no say in it.",
    )
    most_candidates: Annotated[int, Field(ge=1, le=MOST_RACED), Number] = Field(
        USUAL, description="How many are taken of the ranking, the vanilla not counted."
    )
    budget_seconds: Seconds | SkipJsonSchema[None] = Field(
        None, description="Seconds of work, over all attempts; left out: until it is decided."
    )
    budget_runs: Runs | SkipJsonSchema[None] = Field(
        None, description="Finetunes begun, those of the vanilla included; left out: until it is decided."
    )
    worth: Annotated[float, Field(ge=0, le=100), Number] = Field(
        WORTH, description="Points of gain that justify leaving the vanilla."
    )
    least_chance: Annotated[float, Field(ge=0, le=1), Number] = Field(
        LEAST_CHANCE, description="The race stops where P(some candidate is worth it) falls below."
    )
    finetune: dict[str, Any] = Field(
        default_factory=dict,
        description="The recipe of every run: parameters of the method finetune. Left out: its defaults.",
    )
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED), Number] = Field(
        0, description="Of the first run of each candidate."
    )
    priority: Annotated[int, Field(ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY), Number] = Field(
        0, description="Higher is sooner; within one priority the older is first."
    )
    webhook: Webhook | SkipJsonSchema[None] = Field(
        None, description="An http(s) URL that is told when the race has ended."
    )
    dry_run: StrictBool = Field(False, description="Whether to say what it would cost, and submit nothing.")


class CandidatePrice(_Out):
    """What one finetune of a candidate is expected to take."""

    id: int
    name: str
    vanilla: bool
    seconds: float
    interval: tuple[float, float] = Field(description="80 % interval.")


class RacePrice(_Out):
    """The most that a race is expected to cost. Nothing was submitted."""

    dry_run: Literal[True] = True
    seconds: float = Field(
        description="Every candidate finetuned once to its end, or the budget if that is less. A race that "
        "stops runs early takes a part of it; seeds that two leaders need to be told apart come on top."
    )
    interval: tuple[float, float] = Field(description="80 % interval, as if all were off together.")
    seconds_of_all: float = Field(
        description="Every candidate finetuned once to its end, whatever the budget."
    )
    basis: Literal["measured", "assumed"] = Field(
        description="'measured': by finished jobs; 'assumed': of one data-centre GPU."
    )
    device: str | None = Field(
        description="That it is for, as recent jobs told; null: nobody knows, a data-centre GPU is assumed."
    )
    candidates: list[CandidatePrice] = Field(description="Those that would race, the vanilla first.")


class RaceRun(_Out):
    """One finetune of a candidate, as far as it came."""

    seed: int
    evaluations: int = Field(description="Looks at the validation rows.")
    steps: int
    steps_planned: int
    validation: float | None = Field(description="Best metric on the validation rows; null: no look yet.")
    finished: bool
    collapsed: bool = Field(description="It ended at the largest class or below, and counts for nothing.")
    known: bool = Field(description="It was measured before the race, and cost nothing.")
    seconds: float


class RaceCandidate(_Out):
    """A checkpoint that raced. Gains are points over the vanilla on the validation rows."""

    id: int
    name: str
    vanilla: bool
    prior_gain: float = Field(description="Expected before the race.")
    expected_gain: float = Field(description="Posterior mean.")
    gain_interval: tuple[float, float] = Field(description="80 % interval.")
    p_best: float
    p_worth: float = Field(description="P(it gains more than `worth`).")
    runs: list[RaceRun]


class RaceFailure(_Out):
    """A candidate that could not be run, and left the race."""

    id: int
    name: str
    failure: str = Field(description="A stable name, as of failed jobs.")
    sentence: str


class RacePick(_Out):
    """Where to start."""

    id: int
    name: str


class RaceResult(_Out):
    """The `result` of a race's job. No number in it was made of test rows."""

    verdict: Literal["start_from", "stay_with_vanilla", "undecided"] = Field(
        description="undecided: the budget ended before the vanilla and one candidate could be compared."
    )
    pick: RacePick
    sentence: str = Field(description="The verdict in words.")
    p_best: float = Field(description="P(the pick is the best of those that raced).")
    p_worth: float = Field(description="P(the pick gains more than `worth` points over the vanilla).")
    p_any_worth: float = Field(description="P(some candidate gains more than `worth`).")
    expected_gain: float = Field(description="Of the pick: posterior mean, in points.")
    gain_interval: tuple[float, float] = Field(description="80 % interval.")
    expected_regret: float = Field(description="Points by which the best is expected to beat the pick.")
    ended: Literal["decided", "hopeless", "budget", "all_finished"] = Field(
        description="hopeless: no candidate is likely to be worth it."
    )
    candidates: list[RaceCandidate] = Field(description="The vanilla first, then as asked.")
    seconds: float = Field(description="That the race took.")
    runs: int = Field(description="Finetunes that it began.")
    seconds_of_all: float = Field(description="That finetuning every candidate once would have taken.")
    share: float = Field(description="`seconds` over `seconds_of_all`.")
    failures: list[RaceFailure]
