"""What a method declares about itself, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.workbench import Workbench

ON_GPU = frozenset({"features", "finetune", "loss_chains"})  # ingredients that a GPU makes faster


class Params(BaseModel):
    """Base of every method's parameters. All of them, defaults filled in, make up a score's protocol."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one run of a method found."""

    value: float  # in the unit and range of the method
    stderr: float | None = None
    rows_tested: int | None = None
    details: dict[str, Any] = field(default_factory=dict)  # diagnostics; they become the score's provenance
    quarantine: str | None = None  # a reason of `headstart.evidence.quality`: kept, and no evidence
    quarantine_note: str | None = None  # one sentence on what was seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a method is defined."""

    paper: str  # citation with identifier
    equation: str  # the defining formula, in the words of the paper


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a job can be asked for."""

    name: str
    version: str
    needs: tuple[str, ...]  # ingredients, dearest first
    summary: str  # one sentence

    @property
    def needs_rows(self) -> bool:
        """Whether its target has to have rows (POST /targets)."""
        return "labelled rows" in self.needs

    @property
    def queue(self) -> Literal["cpu", "gpu"]:
        """Where its jobs wait: with the workers that have a GPU, if it needs what a GPU makes faster."""
        return "gpu" if ON_GPU.intersection(self.needs) else "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method(_Work):
    """A way of scoring, with name and version. A score is only compared with scores of its own method.

    The version is raised whenever the same input could give another value.
    """

    subject: Literal["checkpoint x target"]
    unit: str
    range: tuple[float, float]  # lowest and highest value a score can have
    higher_is_better: bool
    source: Source
    params: type[Params] = Params
    run: Callable[[Workbench, Any], Measurement] | None = None  # None: scores are imported, not measured here


@dataclass(frozen=True, slots=True, kw_only=True)
class Procedure(_Work):
    """Work that a job does beside scoring: it makes many scores, or something else. Its result is JSON.

    `headstart.procedures` lists them. GET /methods does not, and each has a request of its own.
    """

    params: type[Params]
    run: Callable[[Workbench, Any], dict[str, Any]]  # what lands in Job.result
