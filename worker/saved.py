"""A file of tensors in a job's folder that another attempt goes on from: replaced whole, read with doubt."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path


def write_saved(path: Path, key: str, whole: dict[str, Any]) -> bool:
    """Replace the file by this, of what `key` names; False where the disk does not take it."""
    beside = path.with_suffix(".part")
    try:
        with beside.open("wb") as file:
            torch.save({"key": key} | whole, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, RuntimeError):  # the latter is torch's word for a disk that is full
        with suppress(OSError):
            beside.unlink()
        return False
    return True


def read_saved(path: Path, key: str) -> dict[str, Any] | None:
    """What was written; None where there is nothing that can be read, or it is of another key."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return None
    if not isinstance(found, dict) or found.get("key") != key:
        return None
    return found
