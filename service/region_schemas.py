"""Weight regions on the wire: how they are asked for, how their result reads, and centroids of them."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StrictBool, Tag, model_validator
from pydantic.json_schema import SkipJsonSchema

from headstart.entities import Lineage
from service.advice_schemas import Number
from service.job_schemas import HIGHEST_PRIORITY, LARGEST_SEED, IdOrName, Webhook
from service.schemas import Name

MOST_MEMBERS = 2_000  # checkpoints of one job: their sketches take half a gigabyte
MOST_CLUSTERS = 200
MOST_MIXED = 500  # members of a centroid
MOST_SOURCES = 100
MOST_POINTS = 21
MOST_SAMPLES = 200

Priority = Annotated[int, Field(ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY), Number]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED), Number]
RegionNumber = Annotated[int, Field(ge=0, le=MOST_MEMBERS), Number]
SOONER = "Higher is sooner; within one priority the older is first."
TOLD = "An http(s) URL that is told when the job has ended."


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Out(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class RegionsRequest(_In):
    """Find the regions of a family: which of its checkpoints lie together in weight space."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"clusters": 6}]})

    checkpoints: Annotated[list[IdOrName], Field(max_length=MOST_MEMBERS)] = Field(
        default_factory=list,
        description="Of the family, by id or by name. Left out: all that were registered or kept, but those "
        "that a person has said are not of the family.",
    )
    clusters: Annotated[int, Field(ge=1, le=MOST_CLUSTERS), Number] | SkipJsonSchema[None] = Field(
        None, description="How many regions to cut into; left out: as many as the weights show, perhaps none."
    )
    seed: Seed = Field(0, description="Of the bootstrap.")
    priority: Priority = Field(0, description=SOONER)
    webhook: Webhook | SkipJsonSchema[None] = Field(None, description=TOLD)


class RegionMember(_Out):
    """A checkpoint whose weights were read."""

    id: int
    name: str
    source: str | None = Field(description="What it was finetuned on, as far as it is told.")
    region: int | None = Field(description="Number of its region; null: it is in none.")
    norm: float = Field(
        description="Length of its task vector: weights less the vanilla's, the head left out."
    )
    x: float | None = Field(description="On the map; null: it has no place there.")
    y: float | None
    lineage: Lineage | None = Field(description="null: a person took the verdict back.")
    reason: str = Field(description="What the lineage rests on.")


class Region(_Out):
    """Checkpoints that moved away from the vanilla in one direction."""

    number: int
    name: str = Field(description="What most of its members were finetuned on, or its number.")
    members: list[int] = Field(description="Checkpoint ids.")
    tightness: float = Field(description="Mean cosine between the task vectors of two members.")
    separation: float = Field(description="Mean cosine between a member and a checkpoint outside.")
    stability: float = Field(description="0 to 1: how much of it comes again in a bootstrap.")
    sources: dict[str, int] = Field(description="What its members were finetuned on -> how many.")


class LeftOut(_Out):
    """A checkpoint that could not be read."""

    id: int
    name: str
    failure: str = Field(description="A stable name, as of failed jobs.")
    sentence: str


class Cosines(_Out):
    """Mean cosine of two task vectors; null: there are no such two."""

    within: float | None = Field(description="Of one region.")
    between: float | None = Field(description="Of two regions.")


class RegionsResult(_Out):
    """The `result` of a job of `regions`."""

    family: str
    dims: int = Field(description="Dimensions of the sketches, in which cosines have an error.")
    noise: float = Field(description="Standard error of a cosine by the sketch: one over the root of `dims`.")
    members: list[RegionMember]
    regions: list[Region] = Field(description="Empty where the weights show none.")
    purity: float | None = Field(
        description="Share of the members of regions that have the commonest source of theirs; null: nothing "
        "is known of sources."
    )
    rand: float | None = Field(description="Adjusted Rand index of regions and sources; null: as above.")
    copies: list[list[int]] = Field(description="Groups of checkpoints whose bodies are the same.")
    chosen_by: str = Field(description="Why so many regions, in a sentence.")
    diagnostics: dict[str, Any] = Field(description="What the choice rests on.")
    left_out: list[LeftOut]
    cosine: Cosines


class FamilyRegions(RegionsResult):
    """The newest regions of a family."""

    job_id: int
    finished_at: datetime | None
    stale: bool = Field(
        description="Registered checkpoints are not in it: they came since, or were not named. POST again to "
        "place them."
    )
    registered_since: int = Field(description="How many.")


def _way(value: Any) -> str:
    return "float" if isinstance(value, list) else "str"


Weights = Annotated[
    Annotated[Literal["uniform", "posterior"], Tag("str")]
    | Annotated[list[Annotated[float, Number]], Field(min_length=2, max_length=MOST_MIXED), Tag("float")],
    Discriminator(_way),
]


class MemberRule(_In):
    """Which checkpoints of a family are meant."""

    source: Annotated[list[Name], Field(min_length=1, max_length=MOST_SOURCES)] = Field(
        description="Those that were finetuned on one of these."
    )


class CentroidRequest(_In):
    """Make the mean of some checkpoints of a family a checkpoint of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [one]} for one in ("region", "members", "rule")],
            "examples": [
                {"name": "me/nli-centre", "region": 1, "target": "rte"},
                {"name": "me/halfway", "members": ["me/a", "me/b"], "weights": [0.5, 0.5]},
                {"name": "me/nli", "rule": {"source": ["mnli", "snli"]}, "weights": "posterior"},
            ],
        }
    )

    name: Name = Field(description="Of the new checkpoint: NAME or OWNER/NAME.")
    region: RegionNumber | SkipJsonSchema[None] = Field(
        None, description="The members of this region of GET /families/{name}/regions."
    )
    members: Annotated[list[IdOrName], Field(min_length=1, max_length=MOST_MIXED)] = Field(
        default_factory=list, description="These checkpoints of the family, by id or by name."
    )
    rule: MemberRule | SkipJsonSchema[None] = Field(None, description="All that it fits.")
    target: IdOrName | SkipJsonSchema[None] = Field(
        None, description="What it is to be a start for: members tuned on it are left out."
    )
    include_target_members: StrictBool = Field(
        False, description="Keep the members that were tuned on the target."
    )
    weights: Weights = Field(
        "uniform",
        description="uniform: the plain mean. posterior: more for those that are expected to gain more. Or a "
        "number for each of `members`, which sum to 1; outside of 0..1 they extrapolate.",
    )
    priority: Priority = Field(0, description=SOONER)
    webhook: Webhook | SkipJsonSchema[None] = Field(None, description=TOLD)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum((self.region is not None, bool(self.members), self.rule is not None)) != 1:
            raise ValueError("give one of region, members and rule")
        return self


class RegionStudyRequest(_In):
    """Measure whether a region is a good place to start from on a target."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"target": "rte", "region": 1}]})

    target: IdOrName = Field(description="It has rows. Members tuned on it are left out.")
    region: RegionNumber = Field(description="Of GET /families/{name}/regions.")
    pairs: Annotated[int, Field(ge=0, le=50), Number] = Field(3, description="Lines between two members.")
    hull_samples: Annotated[int, Field(ge=0, le=MOST_SAMPLES), Number] = Field(
        10, description="Random mixtures of members."
    )
    max_rows: Annotated[int, Field(ge=100, le=1_000_000), Number] = Field(
        2_000, description="Of each role of the target: a study makes a probe at every point."
    )
    seed: Seed = Field(0, description="Of the pairs and mixtures that are drawn.")
    priority: Priority = Field(0, description=SOONER)
    webhook: Webhook | SkipJsonSchema[None] = Field(None, description=TOLD)
