"""Where the weights of a checkpoint could be: in a folder, or on the hub under its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from headstart.entities import Checkpoint

FOLDER, HUB = "folder", "hub"  # what details["source"] says of a checkpoint that was registered
HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look for the weights of a checkpoint."""

    source: Literal["folder", "hub"]
    where: str  # a path, or a hub id
    revision: str  # "sha256:..." of the files of a folder, a commit of the hub; "": nobody pinned it


def place_of(checkpoint: Checkpoint) -> Place:
    """Where to look for the weights of a checkpoint: where it was registered, else by its name.

    Its name may be another than that of its place, and a checkpoint that published scores brought has no
    revision of its own: what was registered stands in its details.
    """
    told = checkpoint.details
    revision = checkpoint.revision or str(told.get("revision") or "")
    if told.get("source") == FOLDER or (
        told.get("source") != HUB and PurePath(checkpoint.name).is_absolute()
    ):
        return Place("folder", str(told.get("path") or checkpoint.name), revision)
    return Place("hub", str(told.get("hub_id") or checkpoint.name), revision)


def is_hub_id(name: str) -> bool:
    """Whether the hub could have a checkpoint of this name: NAME or OWNER/NAME."""
    return bool(HUB_ID.fullmatch(name)) and not re.search(r"--|\.\.|\.git$", name)


def is_registered(checkpoint: Checkpoint) -> bool:
    """Whether somebody registered its weights; a name that published scores brought may be on the hub too."""
    return checkpoint.details.get("source") in (FOLDER, HUB)


def why_no_weights(checkpoint: Checkpoint) -> str | None:
    """A sentence on why nobody can have its weights; None where somebody may. Nothing is looked up."""
    if is_registered(checkpoint) or is_hub_id(checkpoint.name):
        return None
    if PurePath(checkpoint.name).is_absolute():
        return None
    return f"The name {checkpoint.name[:100]!r} is no hub id, and no folder of it is registered."
