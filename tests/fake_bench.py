"""A workbench on arrays, for methods without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.entities import Checkpoint, Target
from headstart.failures import JobFailure, NotApplicable
from headstart.workbench import Briefing, Chains, TaskVectorFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headstart.entities import Lineage
    from headstart.method import Measurement, Method, Params
    from headstart.regions.task_vector import TaskVector
    from headstart.workbench import ChainSpec, FeatureSpec, Finetuned, FinetuneSpec, Judge, Role

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


@dataclass(frozen=True, kw_only=True)
class Valley:
    """A quadratic loss around w*, g'v + 1/2 sum h v^2, whose local posterior is drawn from exactly.

    By v ~ N(-n beta g / a, 1/a) with a = n beta h + gamma, of each direction on its own, the llc is
    1/2 sum n beta h / a - 1/2 sum (n beta g)^2 (a + gamma) / a^2.
    """

    curvatures: np.ndarray  # h
    slopes: np.ndarray | None = None  # g; None: w* is the minimum
    rows: int = 400
    loss: float = 0.7  # of each row at w*, where there is no head to tell
    acceptance: float = 0.9
    scatter: float = 0.0  # of a batch's loss around the mean of all rows

    @property
    def g(self) -> np.ndarray:
        return np.zeros(len(self.curvatures)) if self.slopes is None else self.slopes

    def llc(self, strength: float, localisation: float) -> float:
        """What the chains' mean is an estimate of."""
        a = strength * self.curvatures + localisation
        held = strength * self.curvatures / a
        return float(np.sum(held - (strength * self.g) ** 2 * (a + localisation) / a**2) / 2)

    def chains(self, spec: ChainSpec, centre: np.ndarray) -> Chains:
        """Independent draws of the posterior, as if every step were one."""
        n, d = len(centre), len(self.curvatures)
        strength = n * (1 / np.log(n) if spec.beta is None else spec.beta)
        localisation = d / spec.radius**2 if spec.localisation is None else spec.localisation
        generator = np.random.default_rng(spec.seed)
        a = strength * self.curvatures + localisation
        v = generator.normal(size=(spec.chains, spec.draws, d)) / np.sqrt(a) - strength * self.g / a
        excess = v @ self.g + (v**2 @ self.curvatures) / 2
        excess += self.scatter * generator.normal(size=excess.shape)
        return Chains(
            excess=excess,
            distance=np.sqrt((v**2).sum(axis=2)),
            centre=centre,
            trace=np.full(spec.trace_probes, self.curvatures.sum()),  # exact where H is diagonal
            slope=float(self.g @ self.g),
            dimension=d,
            strength=strength,
            localisation=localisation,
            step=1e-3 if spec.step is None else spec.step,
            acceptance=self.acceptance,
            facts={"device": "fake", "tokens": 100, "seconds": 2.0},
        )


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
    valley: Valley | None = None  # what the chains of `loss_chains` sample
    chained: list[ChainSpec] = field(default_factory=list)

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

    def loss_chains(self, spec: ChainSpec) -> Chains:
        self.chained.append(spec)
        if self.valley is None:
            raise NotApplicable("This bench has no checkpoint to sample around.")
        return self.valley.chains(spec, self._centre(spec, self.valley))

    def _centre(self, spec: ChainSpec, valley: Valley) -> np.ndarray:
        """The loss of each row: that of the head on the features, or one that the valley makes up."""
        if spec.head is None:
            share = np.random.default_rng(0).uniform(0.5, 1.5, size=min(valley.rows, spec.most_rows))
            return valley.loss * share
        rows = self.found.rows("train")
        logits = rows.layers["last"][: spec.most_rows] @ spec.head.weights.astype(np.float64) + spec.head.bias
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[np.arange(len(logits)), rows.labels[: spec.most_rows]]
        return np.asarray(np.log(np.exp(logits).sum(axis=1)) - own)

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
