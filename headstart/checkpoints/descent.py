"""What a checkpoint was tuned on: by itself, by what it was tuned from, and by what it is a mean of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstart.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Checkpoint, Target


def source_of(checkpoint: Checkpoint) -> str | None:
    """What it was finetuned on: as the job that kept it says, or else the one dataset of its card."""
    told = checkpoint.details.get("finetuned_on")
    if told:
        return str(told)
    datasets = checkpoint.details.get("datasets")
    return str(datasets[0]) if isinstance(datasets, list) and len(datasets) == 1 else None


def is_mean(checkpoint: Checkpoint) -> bool:
    """Whether it is a mean of others, tuned on nothing itself."""
    return "centroid_of" in checkpoint.details


def tuned_on(checkpoint: Checkpoint, target: Target, find: Callable[[int], Checkpoint]) -> bool:
    """Whether it, or any checkpoint of the store that it was made from, was tuned on the target.

    By the fingerprint of the rows, or by the name. `find` raises NotFound for one that has gone.
    """
    waiting, seen = [checkpoint], {checkpoint.id}
    while waiting:
        one = waiting.pop()
        if _itself(one, target):
            return True
        for parent in _parents(one):
            if parent not in seen:
                seen.add(parent)
                try:
                    waiting.append(find(parent))
                except NotFound:
                    continue
    return False


def _itself(checkpoint: Checkpoint, target: Target) -> bool:
    rows = checkpoint.details.get("finetuned_on_fingerprint")
    if rows is not None and rows == target.fingerprint:
        return True
    source = source_of(checkpoint)
    return source is not None and source.casefold() == target.name.casefold()


def _parents(checkpoint: Checkpoint) -> list[int]:
    """Ids of what it was tuned from, and of what it is a mean of."""
    mixed = checkpoint.details.get("centroid_of")
    told = [checkpoint.details.get("base_id"), *(mixed if isinstance(mixed, list) else ())]
    return [one for one in told if isinstance(one, int)]
