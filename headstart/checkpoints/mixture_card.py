"""The model card of a mixture of checkpoints: what it was made of, for people and for the hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headstart.checkpoints.card import clean
from headstart.checkpoints.place import is_hub_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from headstart.entities import Checkpoint

_RULES = {
    "region": "the members of a region of weight space",
    "list": "checkpoints that were named",
    "source": "checkpoints that were tuned on a target",
    "line": "two checkpoints, and a point on the line through them",
    "hull": "a point in the convex hull of checkpoints",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One of those that were mixed."""

    checkpoint: Checkpoint
    digest: str  # of its files
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureProvenance:
    """What a mixture was made of."""

    name: str
    vanilla: Checkpoint
    digest: str  # of the vanilla's files
    members: Sequence[Member]
    told: Mapping[str, Any]  # "rule", "weights", "region", "target", "left_out"
    filled: Sequence[tuple[str, str]]  # member and tensor, where the vanilla's stands for one it lacks
    versions: Mapping[str, str]
    made_at: datetime


def mixture_card(made: MixtureProvenance) -> str:
    """The card, with front matter that `headstart.checkpoints.card` and the hub read."""
    told = made.told
    facts = {
        "family": made.vanilla.family,
        "vanilla": f"{made.vanilla.name}, {made.digest}",
        "made of": _RULES.get(str(told.get("rule")), told.get("rule")),
        "region": told.get("region"),
        "a start for": told.get("target"),
        "weights": told.get("weights"),
        "tensors": "fp32 sums in fp64, rounded once; configuration and tokenizer are the vanilla's; no head",
        "made by": ", ".join(f"{name} {version}" for name, version in made.versions.items()),
        "made at": f"{made.made_at:%Y-%m-%d %H:%M:%S} UTC",
    }
    rows = [f"| {_cell(name)} | {_cell(fact)} |" for name, fact in facts.items() if fact is not None]
    members = [
        f"| {one.checkpoint.id} | {_cell(one.checkpoint.name)} | {one.weight!r} | "
        f"{_cell(_source_of(one.checkpoint))} | {_cell(one.digest)} |"
        for one in made.members
    ]
    return f"""---
{_front_matter(made)}
---

# {_cell(made.name)}

A weighted mean of checkpoints of one family, made by Headstart as a start for finetunes.

| | |
|---|---|
{_lines(rows)}

The members:

| id | name | weight | tuned on | digest of its files |
|---|---|---|---|---|
{_lines(members)}
{_notes(made)}"""


def shared_license(vanilla: Checkpoint, members: Sequence[Checkpoint]) -> str | None:
    """The licence that all of them have; None where they differ or one's is unknown: a person has to look."""
    found = {one.license for one in (vanilla, *members)}
    return vanilla.license if len(found) == 1 else None


def _notes(made: MixtureProvenance) -> str:
    notes = [f"- left out: {_cell(one)}" for one in made.told.get("left_out") or ()]
    notes += [
        f"- {_cell(member)} has no {_cell(tensor)}: the vanilla's stands for it"
        for member, tensor in made.filled
    ]
    return f"\nNotes:\n\n{_lines(notes)}\n" if notes else ""


def _source_of(checkpoint: Checkpoint) -> str:
    return str(checkpoint.details.get("finetuned_on") or "")


def _front_matter(made: MixtureProvenance) -> str:
    """Several bases, and so by `headstart.checkpoints.lineage` none that names a family: the store has it."""
    told: dict[str, Any] = {}
    names = [one.checkpoint.name for one in made.members if is_hub_id(one.checkpoint.name)]
    if names:
        told |= {"base_model": names, "base_model_relation": "merge"}
    if license_ := shared_license(made.vanilla, [one.checkpoint for one in made.members]):
        told["license"] = license_
    told |= {"library_name": "transformers", "tags": ["headstart", "merge"]}
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in told.items())


def _lines(rows: Sequence[str]) -> str:
    return "\n".join(rows)


def _cell(value: Any) -> str:
    """Foreign words as a cell of a table holds them."""
    return clean(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
