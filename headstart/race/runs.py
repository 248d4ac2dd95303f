"""The runs of a race: finetunes that were begun, how far they are, what the validation rows said of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

POINTS = 100.0  # a metric is a fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finetune of one candidate, by one seed. Nothing of the test rows is in it."""

    checkpoint_id: int
    seed: int
    curve: tuple[float, ...] = ()  # the validation metric after each evaluation, a fraction
    validation: float | None = None  # of the weights that were kept; None: not finished
    collapsed: bool = False
    known: bool = False  # it ran before the race, and cost it nothing
    seconds: float = 0.0  # of training
    steps: int = 0
    steps_planned: int = 0

    @property
    def finished(self) -> bool:
        """Whether it has come to its end."""
        return self.validation is not None or self.collapsed

    @property
    def evaluations(self) -> int:
        """Made so far."""
        return len(self.curve)

    @property
    def best(self) -> float:
        """The highest metric so far, in points; of a finished run that of the weights kept."""
        return POINTS * (max(self.curve) if self.validation is None else self.validation)

    def best_at(self, evaluations: int) -> float:
        """The highest metric after so many evaluations, in points; that of its last where it made no more."""
        if evaluations >= len(self.curve):
            return self.best
        return min(POINTS * max(self.curve[:evaluations]), self.best)

    @property
    def tells(self) -> bool:
        """Whether its candidate's level can be read off: a run that collapsed has not shown it."""
        return not self.collapsed and (self.finished or bool(self.curve))

    def idle(self, epsilon: float) -> int:
        """Evaluations since the last gain of more than `epsilon` (a fraction): at `patience` a run ends."""
        best, idle = float("-inf"), 0
        for value in self.curve:
            best, idle = (value, 0) if value > best + epsilon else (best, idle + 1)
        return idle

    def to_json(self) -> dict[str, Any]:
        """As it is kept on disk."""
        return asdict(self)

    @staticmethod
    def from_json(told: dict[str, Any]) -> Run:
        """What `to_json` wrote."""
        return Run(**told | {"curve": tuple(told["curve"])})


def put(runs: Iterable[Run], run: Run) -> tuple[Run, ...]:
    """The runs with this one in the place of its earlier self, or at the end."""
    found = tuple(runs)
    place = [
        k for k, one in enumerate(found) if (one.checkpoint_id, one.seed) == (run.checkpoint_id, run.seed)
    ]
    return (*found[: place[0]], run, *found[place[0] + 1 :]) if place else (*found, run)
