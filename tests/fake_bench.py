"""A workbench on arrays, for methods without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.entities import Checkpoint, Target
from headstart.failures import JobFailure, NotApplicable
from headstart.workbench import Briefing, TaskVectorFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headstart.entities import Lineage
    from headstart.method import Measurement, Method, Params
    from headstart.regions.task_vector import TaskVector
    from headstart.workbench import FeatureSpec, Finetuned, FinetuneSpec, Judge, Role

CHECKPOINT = Checkpoint(
    id=1, family="f", name="c", revision="", is_vanilla=False, parameters=None, license=None
)
TARGET = Target(
    id=1, name="t", task="classification", metric="accuracy", train_size=None, classes=None, rows_tested=None
)


@dataclass
class FakeRows:
    labels: np.ndarray
    layers: dict[str, np.ndarray]
    source: np.ndarray | None = None

    def blocks(self, layer: str, size: int = 4096) -> Iterator[np.ndarray]:
        x = self.layers[layer]
        for start in range(0, len(x), size):
            yield x[start : start + size].astype(np.float32)

    def array(self, layer: str) -> np.ndarray:
        return self.layers[layer].astype(np.float32)

    def source_probabilities(self) -> np.ndarray | None:
        return self.source


@dataclass
class FakeFeatures:
    roles: dict[str, FakeRows]
    classes: tuple[str, ...] | None
    facts: dict[str, Any] = field(default_factory=lambda: {"device": "fake", "tokens": 100})

    @property
    def dimension(self) -> int:
        return next(iter(next(iter(self.roles.values())).layers.values())).shape[1]

    def rows(self, role: Role) -> FakeRows:
        if role not in self.roles:
            raise NotApplicable(f"The target has no {role} rows.")
        return self.roles[role]


@dataclass
class FakeBench:
    """`roles` maps a role to its rows; every layer that a method may ask for has to be there."""

    found: FakeFeatures
    seed: int = 0
    attempt: int = 1
    folder: Path = Path("/nonexistent")
    checkpoint: Checkpoint = CHECKPOINT
    target: Target = TARGET
    specs: list[FeatureSpec] = field(default_factory=list)
    briefing: Briefing = field(default_factory=Briefing)
    kept: list[tuple[Checkpoint, Method, Params, int, Measurement, float]] = field(default_factory=list)
    vectors: dict[int, TaskVector | JobFailure] = field(default_factory=dict)  # by checkpoint
    lineages: dict[int, tuple[Lineage, str]] = field(default_factory=dict)  # as told, by checkpoint

    def report(
        self, fraction: float, stage: str, message: str = "", seconds_left: float | None = None
    ) -> None:
        assert 0.0 <= fraction <= 1.0
        assert stage

    def features(self, spec: FeatureSpec) -> FakeFeatures:
        self.specs.append(spec)
        return self.found

    def finetune(self, spec: FinetuneSpec, judge: Judge) -> Finetuned:
        raise NotApplicable("This bench has no checkpoint to train.")

    def on(
        self,
        checkpoint: Checkpoint,
        *,
        seed: int,
        evaluations: int | None = None,
        seconds: float | None = None,
    ) -> FakeBench:
        return replace(self, checkpoint=checkpoint, seed=seed)

    def keep_score(
        self,
        checkpoint: Checkpoint,
        method: Method,
        params: Params,
        seed: int,
        found: Measurement,
        seconds: float,
    ) -> None:
        self.kept.append((checkpoint, method, params, seed, found, seconds))

    def keep_checkpoint(
        self, spec: FinetuneSpec, judge: Judge, name: str, card: dict[str, Any]
    ) -> dict[str, Any]:
        raise NotApplicable("This bench has no checkpoint to train.")

    def task_vectors(
        self, checkpoints: Sequence[Checkpoint], vanilla: Checkpoint
    ) -> Iterator[TaskVectorFound]:
        for one in checkpoints:
            found = self.vectors[one.id]
            if isinstance(found, JobFailure):
                yield TaskVectorFound(checkpoint_id=one.id, vector=None, failure=found.failure())
            else:
                yield TaskVectorFound(checkpoint_id=one.id, vector=found)

    def tell_lineage(self, checkpoint: Checkpoint, lineage: Lineage, reason: str) -> None:
        self.lineages[checkpoint.id] = (lineage, reason)

    def mixed(
        self, members: Sequence[Checkpoint], weights: Sequence[float], vanilla: Checkpoint
    ) -> FakeBench:
        raise NotApplicable("This bench has no checkpoints to mix.")

    def keep_mixture(
        self,
        name: str,
        members: Sequence[Checkpoint],
        weights: Sequence[float],
        vanilla: Checkpoint,
        card: dict[str, Any],
    ) -> dict[str, Any]:
        raise NotApplicable("This bench has no checkpoints to mix.")


def fake_bench(
    x: np.ndarray,
    y: np.ndarray,
    *,
    classes: int | None,
    share: tuple[float, float] = (0.7, 0.85),
    seed: int = 0,
    source: np.ndarray | None = None,
) -> FakeBench:
    """A bench whose rows are cut into train, validation and test in the order given."""
    cuts = [0, *(int(part * len(x)) for part in share), len(x)]
    roles = {
        role: FakeRows(
            y[low:high],
            {"last": x[low:high], "mean": x[low:high]},
            None if source is None else source[low:high],
        )
        for role, low, high in zip(("train", "validation", "test"), cuts, cuts[1:], strict=False)
    }
    names = None if classes is None else tuple(f"class {k:03d}" for k in range(classes))
    return FakeBench(FakeFeatures(roles, names), seed=seed)
