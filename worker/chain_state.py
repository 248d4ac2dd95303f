"""Chains on disk, from which another attempt goes on bit for bit."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from worker.sgld import State

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Progress:
    """What was found so far; all of it is saved. Tensors lie on the CPU, in fp64."""

    centre: torch.Tensor  # (n,), loss of each row at the checkpoint
    slope: float  # |gradient|^2 there, of all rows
    trace: torch.Tensor  # (p,), of the probes
    curvature: float | None  # the largest, by power iteration; None: the step was given
    epsilon: float
    excess: torch.Tensor  # (c, t)
    distance: torch.Tensor  # (c, t)
    budget: int  # tokens of a part, padding included
    held: int  # tokens whose activations are held at once
    acceptance: float | None = None  # None: the chains have not ended
    step_error: float | None = None  # share of the excess that is the step's doing, at the end
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    unsaved: int = 0  # states that the disk did not take


class ChainState:
    """One file in a job's folder, replaced whole.

    Of chains that have ended it holds what was found alone. A file that cannot be read, or is of other
    chains, is as good as none: `key` names what it is of.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key

    def save(self, progress: Progress, state: State | None) -> bool:
        """Write all that another attempt goes on from; False where the disk does not take it."""
        whole: dict[str, Any] = {"key": self._key, "progress": asdict(progress)}
        whole["state"] = None if state is None else state.to_dict()
        beside = self._path.with_suffix(".part")
        try:
            with beside.open("wb") as file:
                torch.save(whole, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except (OSError, RuntimeError):  # the latter is torch's word for a disk that is full
            with suppress(OSError):
                beside.unlink()
            return False
        return True

    def load(self, device: torch.device) -> tuple[Progress, State | None] | None:
        """What was found, and where the chains are (None: they have ended); None: there is nothing."""
        try:
            found = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception:
            return None
        if not isinstance(found, dict) or found.get("key") != self._key:
            return None
        progress, told = Progress(**found["progress"]), found["state"]
        if told is None:
            return progress, None
        for place in ("moving", "squares", "steady"):
            told[place] = {name: value.to(device) for name, value in told[place].items()}
        return progress, State.from_dict(told)
