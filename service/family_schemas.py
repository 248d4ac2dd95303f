"""A family on the wire, with how well each static score foretells gain in its evidence."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas import Family


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, json_schema_serialization_defaults_required=True)


class Correlation(_Out):
    """A correlation with the checkpoints' mean gains; positive: the better the score, the more gain."""

    value: float = Field(ge=-1, le=1)
    low: float = Field(ge=-1, le=1, description="95 % interval, by a bootstrap over checkpoints.")
    high: float = Field(ge=-1, le=1)


class ScoreReference(_Out):
    """Where the score is read from: its values of other targets and protocols are not mixed in."""

    target_id: int
    target: str
    method_version: str
    params_digest: str


class ScoreWeight(_Out):
    """What the score counts in the static prior of an expected gain."""

    value: float = Field(
        description="In standard deviations of a typical target's gains, per standard deviation of the score."
    )
    stderr: float


class StaticScore(_Out):
    """How well one static score of a checkpoint foretells what finetunes gain, in this family's evidence."""

    name: Literal["linear_probe", "free_energy", "trace", "loss", "llc", "size"] = Field(
        description="trace, loss and llc are parts of the free energy; size is the number of parameters. Of "
        "linear_probe and size more is better, of the others less."
    )
    checkpoints: int = Field(description="With this score and a mean gain, the vanilla apart.")
    spearman: Correlation | None = Field(description="Rank correlation; null: it cannot be told.")
    pearson: Correlation | None = Field(description="Linear correlation; null: it cannot be told.")
    reference: ScoreReference | None = Field(description="null: size has none, or nobody has the score.")
    weight: ScoreWeight | None = Field(description="null: the score is not in the static prior.")
    reason: str | None = Field(description="Why the correlations cannot be told; null: they can.")


class FamilyDetails(Family):
    """A family, with what its evidence says of static scores."""

    static_scores: list[StaticScore] = Field(
        description="Always these six, whatever comes out. A mean gain is over a checkpoint's finetunes, in "
        "units of each target's spread, less the effect of the targets that it happens to be measured on."
    )
    static_scores_version: int | None = Field(
        description="evidence_version that static_scores are of; null: nothing is fitted yet."
    )
