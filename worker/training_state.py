"""The state of a training on disk, from which another attempt goes on bit for bit."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from worker.saved import read_saved, write_saved

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from worker.finetune import Progress

    Parameters = Mapping[str, nn.Parameter]


def random_state() -> list[torch.Tensor]:
    """Where the random numbers stand: of the CPU, and of the GPU where there is one."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]


def set_random_state(states: list[torch.Tensor]) -> None:
    """Go back to where they stood."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """How far a training goes before it pauses."""

    evaluations: int | None = None  # in all, those of the stretches before included; None: to the end
    until: float | None = None  # of time.monotonic(); None: as long as it takes

    def over(self) -> bool:
        """Whether the time is up."""
        return self.until is not None and time.monotonic() >= self.until

    def enough(self, evaluations: int) -> bool:
        """Whether so many are as many as there may be."""
        return self.evaluations is not None and evaluations >= self.evaluations


class TrainingState:
    """One file in a job's folder, replaced whole; and the best weights so far, in memory.

    Of a training that has ended it holds the best weights alone. A file that cannot be read, or is of another
    training, is as good as none: `key` names what it is of.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._best: dict[str, torch.Tensor] = {}

    def keep(self, parameters: Parameters) -> None:
        """Take the weights as they are for the best."""
        self._best = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def best_into(self, parameters: Parameters) -> None:
        """Set the weights to the best."""
        with torch.no_grad():
            for name, values in self._best.items():
                parameters[name].copy_(values)

    def save(self, progress: Progress, parameters: Parameters, optimiser: torch.optim.Optimizer) -> bool:
        """Write all that a training goes on from; False where the disk does not take it."""
        whole: dict[str, Any] = {"progress": asdict(progress), "best": self._best}
        if not progress.ended:
            whole |= {
                "parameters": {name: parameter.detach() for name, parameter in parameters.items()},
                "optimiser": optimiser.state_dict(),
                "random": random_state(),
            }
        return write_saved(self._path, self._key, whole)

    def load(self, parameters: Parameters, optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Set weights, optimiser and random numbers to what was saved; return its progress, or None."""
        found = read_saved(self._path, self._key)
        if found is None:
            return None
        self._best = {name: values.to(parameters[name].device) for name, values in found["best"].items()}
        progress: dict[str, Any] = found["progress"]
        if not progress["ended"]:
            with torch.no_grad():
                for name, values in found["parameters"].items():
                    parameters[name].copy_(values)
            optimiser.load_state_dict(found["optimiser"])
            set_random_state(found["random"])
        return progress
