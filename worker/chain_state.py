"""Chains on disk, from which another attempt goes on bit for bit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from worker.saved import read_saved, write_saved
from worker.sgld import State

if TYPE_CHECKING:
    from pathlib import Path

    import torch


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
        whole: dict[str, Any] = {"progress": asdict(progress)}
        whole["state"] = None if state is None else state.to_dict()
        return write_saved(self._path, self._key, whole)

    def load(self, device: torch.device) -> tuple[Progress, State | None] | None:
        """What was found, and where the chains are (None: they have ended); None: there is nothing."""
        found = read_saved(self._path, self._key)
        if found is None:
            return None
        progress, told = Progress(**found["progress"]), found["state"]
        if told is None:
            return progress, None
        for place in ("moving", "squares", "steady"):
            told[place] = {name: value.to(device) for name, value in told[place].items()}
        return progress, State.from_dict(told)
