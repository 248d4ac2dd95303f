"""Centroid: a mixture of a family's checkpoints, which becomes a checkpoint of the family.

What: the body whose every weight is the weighted mean of the members' (`worker.mixing` does the sums), with
configuration and tokenizer of the vanilla and without a head. Equal weights give the centroid of a region;
two members weighed `a` and `1 - a` a point on the line through them, beyond them where `a` is outside 0..1;
weights of 0 or more a point in the members' convex hull.
Source: Gueta, Venezian, Raffel, Slonim, Katz, Choshen, "Knowledge is a Region in Weight Space for Fine-tuned
Language Models", Findings of EMNLP 2023 (arXiv 2302.04863): the centroid is the unweighted mean of a region's
bodies; as a start for a target, without the members that were tuned on it. Who is left out is for the asker
to say: the params name the members that count.

Where we deviate: the released code leaves the first model of a weighted mean unweighted and divides by the
count; ours is the weighted mean. Tensors are matched by name and shape, not by position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from headstart.failures import CheckpointNotFound
from headstart.method import Params, Procedure
from headstart.procedures.keep import PlainName  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from typing import Self

    from headstart.entities import Checkpoint
    from headstart.workbench import Workbench

LEAST_MEMBERS = 2
MOST_WEIGHT = 100.0  # further out than that lies no model, only overflow
CLOSE = 1e-6  # to 1, of the sum of the weights


class Told(Params):
    """Why these members, for the card and the details. Nothing is computed from it."""

    rule: str = Field("list", description="How they were chosen: region, list, source, line, hull.")
    weights: str = Field("uniform", description="How they were weighed: uniform, posterior, given.")
    region: int | str | None = Field(None, description="The region that they are the members of.")
    target: int | str | None = Field(None, description="The target that the centroid is a start for.")
    left_out: tuple[str, ...] = Field((), description="Members that do not count, each with the reason.")


class CentroidParams(Params):
    """What is mixed, in which shares, and what it is called."""

    family: str
    name: PlainName = Field(description="Of the new checkpoint: NAME or OWNER/NAME.")
    candidates: tuple[int, ...] = Field(description="Checkpoints by id: the vanilla, then the members.")
    weights: tuple[float, ...] = Field(description="One of each member, in their order; they sum to 1.")
    told: Told = Field(default_factory=Told)

    @property
    def members(self) -> tuple[int, ...]:
        """Those that are mixed, by id. The vanilla may be one of them: its id then stands twice."""
        return self.candidates[1:]

    @model_validator(mode="after")
    def _mixes(self) -> Self:
        check_mixture(self.members, self.weights)
        return self


def check_mixture(members: tuple[int, ...], weights: tuple[float, ...]) -> None:
    """Raise ValueError, a sentence, where these weights make no mixture of these members."""
    if len(weights) != len(members):
        raise ValueError(f"There are {len(members)} members and {len(weights)} weights: give one of each.")
    if len(set(members)) < len(members):
        twice = next(one for one in members if members.count(one) > 1)
        raise ValueError(f"Checkpoint {twice} is named twice: give it once, with both weights.")
    counting = sum(1 for weight in weights if weight != 0)
    if counting < LEAST_MEMBERS:
        raise ValueError(
            f"A mixture takes at least {LEAST_MEMBERS} members of a weight other than 0, and there "
            f"{'is' if counting == 1 else 'are'} {counting}: it would be a copy."
        )
    if max(map(abs, weights)) > MOST_WEIGHT:
        raise ValueError(f"A weight is {max(weights, key=abs):g}: at most {MOST_WEIGHT:g} either way.")
    if abs(sum(weights) - 1.0) > CLOSE:
        raise ValueError(f"The weights sum to {sum(weights):g}, not to 1: divide each by their sum.")


def run(bench: Workbench, params: CentroidParams) -> dict[str, Any]:
    """Mix, and keep the mixture.

    Raises: CheckpointNotFound (a member has gone), and what mixing and the disk raise.
    """
    known = {one.id: one for one in bench.briefing.candidates}
    vanilla, *members = (_known(known, one) for one in params.candidates)
    made = bench.keep_mixture(
        params.name, members, params.weights, vanilla, params.told.model_dump(mode="json")
    )
    told = [
        {"id": member.id, "name": member.name, "weight": weight}
        for member, weight in zip(members, params.weights, strict=True)
    ]
    return {"checkpoint": made, "family": params.family, "members": told, **params.told.model_dump()}


def _known(known: dict[int, Checkpoint], wanted: int) -> Checkpoint:
    if wanted not in known:
        raise CheckpointNotFound(
            f"The store holds no checkpoint {wanted}, which the mixture was to be made of.",
            "Ask again, with members that there are: GET /checkpoints lists them.",
        )
    return known[wanted]


CENTROID = Procedure(
    name="centroid",
    version="1",
    needs=("weights",),
    summary="A mixture of a family's checkpoints, kept as a checkpoint of the family.",
    params=CentroidParams,
    run=run,
)
