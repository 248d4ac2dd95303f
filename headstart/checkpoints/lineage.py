"""Which family a checkpoint belongs to, and which checkpoint is that family's vanilla.

The rule, first match wins; each step looks once and follows nothing further:

1. The family that was given.
2. The one family in which the store holds a checkpoint of its name already.
3. What the checkpoint says it came from: the one `base_model` of its card; if the card names none, the
   `_name_or_path` of its config, if that has the form of a hub id (OWNER/NAME) and not of a path; a bare
   NAME, as older configs have it, could be any folder and counts only where the store knows it. Where the
   store holds a checkpoint of that name in one family alone, it is that family; else the family is named
   like the base, which is its vanilla.
4. Its own name: it is the vanilla.

A card that names several bases (a merge) names none. Names are the same where they differ in case alone, or
in an owner under which the hub filed names that had none (`roberta-base`, `FacebookAI/roberta-base`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from headstart.checkpoints.place import is_hub_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from headstart.entities import Checkpoint

# the owners of what the hub once called "bert-base-uncased", "roberta-base", "gpt2" ...
FILED_UNDER = (
    *("albert", "almanach", "distilbert", "FacebookAI"),
    *("google-bert", "google-t5", "openai-community", "xlnet"),
)
_FILED_UNDER = frozenset(map(str.casefold, FILED_UNDER))
_NO_OWNERS = frozenset(  # folders that weights are trained into
    (
        *("checkpoint", "checkpoints", "data", "experiments", "home", "model", "models", "out", "output"),
        *("outputs", "pretrained", "result", "results", "run", "runs", "save", "saved", "saved_models"),
        *("temp", "tmp", "trained"),
    )
)
_STEP = re.compile(r"checkpoint-?\d+|epoch-?\d+|final|best|last")


@dataclass(frozen=True, slots=True)
class Base:
    """What a checkpoint says it came from."""

    name: str
    told_by: Literal["card", "config"]


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a checkpoint belongs."""

    family: str
    is_vanilla: bool
    vanilla: str | None = None  # name of the vanilla, where it is to be noted beside the checkpoint


def same_name(one: str, other: str) -> bool:
    """Whether two names mean one checkpoint of the hub."""
    return _plain(one) == _plain(other)


def base_of(
    name: str,
    card: Mapping[str, Sequence[str]],
    config: Mapping[str, Any],
    *,
    is_known: Callable[[str], bool],
) -> Base | None:
    """What the checkpoint called `name` says it came from, if it names one.

    `is_known`: whether the store knows a family of a bare name, as `family_of` tells.
    """
    named = list(dict.fromkeys(card.get("base_model", ())))
    if named:
        only = named[0] if len(named) == 1 and is_hub_id(named[0]) else None
        return None if only is None or same_name(only, name) else Base(only, "card")
    hint = config.get("_name_or_path")
    if not isinstance(hint, str) or not is_hub_id(hint) or same_name(hint, name):
        return None
    first, slash, last = hint.lower().partition("/")
    if first in _NO_OWNERS or _STEP.fullmatch(last or first) or not (slash or is_known(hint)):
        return None
    return Base(hint, "config")


def lineage_of(
    name: str,
    base: Base | None,
    *,
    family: str | None,
    is_vanilla: bool,
    families: Iterable[str],
    named: Callable[[str], Sequence[Checkpoint]],
) -> Lineage:
    """Apply the rule above.

    Args:
        name: of the checkpoint.
        base: what it says it came from.
        family: as given, or None.
        is_vanilla: as given; a checkpoint named like its family is the vanilla in any case.
        families: names of the families there are.
        named: the checkpoints of a name that there are.
    """
    family = family or _holding(named(name))
    if family is not None:
        return Lineage(family, is_vanilla or same_name(name, family))
    if base is None or is_vanilla:
        return Lineage(_known(name, families) or name, is_vanilla=True)
    known = family_of(base.name, families, named)
    return Lineage(known or base.name, is_vanilla=False, vanilla=None if known else base.name)


def family_of(name: str, families: Iterable[str], named: Callable[[str], Sequence[Checkpoint]]) -> str | None:
    """The family that a checkpoint of this name is in, or that is called so, where the store knows one."""
    held = (_holding(named(spelling)) for spelling in _spellings(name))
    return next(filter(None, held), None) or _known(name, families)


def _spellings(name: str) -> tuple[str, ...]:
    """The name, and what the hub called it before or since: without the owner, or with any of them."""
    owner, slash, last = name.partition("/")
    if not slash:
        return (name, *(f"{owner}/{name}" for owner in FILED_UNDER))
    return (name, last) if owner.casefold() in _FILED_UNDER else (name,)


def _holding(checkpoints: Sequence[Checkpoint]) -> str | None:
    """The family of all of them, if it is one."""
    families = {one.family for one in checkpoints}
    return families.pop() if len(families) == 1 else None


def _known(name: str, families: Iterable[str]) -> str | None:
    """The family of this name: spelt alike, else the one that means the same."""
    alike = [family for family in families if same_name(family, name)]
    if name in alike:
        return name
    return alike[0] if len(alike) == 1 else None


def _plain(name: str) -> str:
    owner, slash, last = name.casefold().partition("/")
    return last if slash and owner in _FILED_UNDER else name.casefold()
