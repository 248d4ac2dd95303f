"""The port through which a method asks for its ingredients. The worker implements it; tests fake it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from headstart.entities import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from jaxtyping import Float, Int

    from headstart.entities import Failure, Lineage, Target
    from headstart.method import Measurement, Method, Params
    from headstart.regions.task_vector import TaskVector

Role = Literal["train", "validation", "test"]
Pooling = Literal["mean", "first", "last"]
Precision = Literal["auto", "fp32", "bf16"]

Tuning = Literal["full", "bitfit", "lora", "head"]
Objective = Literal["classification", "masked-lm", "causal-lm"]
Scheme = Literal["euler", "crank-nicolson"]

DEATHS = "deaths"  # file in a job's folder: a line for each process that died at the job on this machine
LAST = "last"  # the last hidden layer
MEAN = "mean"  # the average of all hidden layers, the embeddings left out


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """Which features of the frozen body are wanted. Equal specs on equal inputs share one forward pass."""

    layers: tuple[str, ...] = (LAST,)  # LAST, MEAN, or the number of a layer: "0" embeddings, "1" first, ...
    pooling: Pooling | None = None  # over a text's tokens; None: as suits the architecture
    max_tokens: int = 256  # of a text or pair; longer ones are cut, and the share of them is reported
    max_rows: int = 20_000  # of each role; a target's rows lie in random order, so the first are a sample
    precision: Precision = "auto"  # auto: bf16 where the device is fast in it, fp32 elsewhere


class Rows(Protocol):
    """The features of one role of a target, in blocks, so that memory does not grow with the rows."""

    @property
    def labels(self) -> Int[np.ndarray, "n"] | Float[np.ndarray, "n"]:
        """Class 0..K-1, or the value of a regression."""
        ...

    def blocks(self, layer: str, size: int = 4096) -> Iterator[Float[np.ndarray, "b d"]]:
        """Pooled features in fp32, in the order of the labels; one of the layers of the spec."""
        ...

    def array(self, layer: str) -> Float[np.ndarray, "n d"]:
        """All of them at once, for methods that need every row."""
        ...

    def source_probabilities(self) -> Float[np.ndarray, "n z"] | None:
        """What the checkpoint's own classification head says, rows summing to 1; None: it has no head."""
        ...


class Features(Protocol):
    """What one forward pass of a frozen checkpoint over a target found."""

    dimension: int  # d
    classes: tuple[str, ...] | None  # K names, sorted; None for a regression

    @property
    def facts(self) -> dict[str, Any]:
        """Device, dtype, pooling, tokens, seconds, truncated share, ...: for a score's details."""
        ...

    def rows(self, role: Role) -> Rows:
        """The rows of a role; the forward pass over it happens here, unless it is cached."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneSpec:
    """How a checkpoint is trained on a target's train rows; `headstart.methods.finetune` has more."""

    tuning: Tuning = "full"
    learning_rate: float | None = None  # None: as suits the architecture and the tuning
    epochs: float = 10.0
    most_steps: int | None = None
    batch_rows: int = 256  # rows of one step, whatever fits into memory at a time
    warmup: float = 0.006  # share of the steps in which the rate grows; then it falls to 0, linearly
    weight_decay: float = 0.01
    most_gradient: float = 1.0  # norm at which a step's gradient is cut
    epsilon: float = 0.001  # gain of the validation metric that counts as one
    patience: int = 3  # evaluations without one, after which training ends
    evaluations: int = 1  # per epoch
    max_tokens: int = 256
    max_train_rows: int | None = None
    max_rows: int = 20_000  # of validation, and of test
    precision: Precision = "auto"
    lora_rank: int = 8
    seed: int = 0  # of the new head, the order of rows, and dropout


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a finetuned checkpoint says of the rows of a role."""

    values: Float[np.ndarray, "n z"]  # a logit per class (fp32), or the one value of a regression
    labels: Int[np.ndarray, "n"] | Float[np.ndarray, "n"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetuned:
    """What a finetune came to, at the step that the validation rows chose."""

    classes: tuple[str, ...] | None  # K names, sorted; None for a regression
    validation: Outputs
    test: Outputs
    curve: tuple[dict[str, float], ...]  # per evaluation: step, epoch, seconds, loss, validation
    facts: dict[str, Any]  # device, dtype, tokens, steps, seconds, memory, ...: for a score's details


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearHead:
    """Logits = pooled features @ weights + bias."""

    weights: Float[np.ndarray, "d K"]
    bias: Float[np.ndarray, "K"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChainSpec:
    """Which local posterior around a checkpoint is sampled, and how: see `headstart.methods.free_energy`.

    Its density is proportional to exp(-n beta L_n(w) - (gamma/2) |w - w*|^2), L_n the mean loss of n train
    rows. The body moves; the head stays, unless `moves_head`.
    """

    objective: Objective = "classification"
    head: LinearHead | None = None  # of a classification, on features of FeatureSpec's defaults
    most_rows: int = 1000  # n at most: the first train rows, which lie in random order
    max_tokens: int = 128
    beta: float | None = None  # inverse temperature; None: 1 / log n
    localisation: float | None = None  # gamma; None: d / radius^2 for d numbers that move
    radius: float = 10.0  # |w - w*| of the prior exp(-(gamma/2) |w - w*|^2)
    scheme: Scheme = "crank-nicolson"
    step: float | None = None  # epsilon; None: the largest of a ladder whose steps Metropolis would accept
    precondition: float | None = None  # decay of RMSprop's mean of squares; euler only
    controlled: bool = True  # batches' gradients are corrected by those at w*
    chains: int = 4
    draws: int = 100  # of each chain, after the burn-in
    burn_in: int = 20
    batch_rows: int = 16
    moves_head: bool = False
    trace_probes: int = 10  # of Hutchinson's estimate; 0: none
    mask_share: float = 0.15  # of a text's tokens, for masked-lm
    precision: Precision = "fp32"
    seed: int = 0  # of the noise, the batches, the masks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chains:
    """What chains around a checkpoint saw. Losses are nats a row; a text's is the mean over its tokens."""

    excess: Float[np.ndarray, "c t"]  # L_B(w) - L_B(w*) of each draw, on the same batch
    distance: Float[np.ndarray, "c t"]  # |w - w*| of each draw
    centre: Float[np.ndarray, "n"]  # loss of each of the n rows at the checkpoint w*
    trace: Float[np.ndarray, "p"]  # v'Hv of Hutchinson's probes v, H the Hessian of L_n at w*, on batches
    slope: float  # |gradient of L_n|^2 at w*: 0 where the checkpoint lies in a minimum
    dimension: int  # d: numbers that move
    strength: float  # n beta
    localisation: float  # gamma
    step: float  # epsilon
    acceptance: float  # mean chance that Metropolis would accept a step, at the end of the chains
    curvature: float | None = None  # of L_n at w*, the largest in size, about; None: not looked at
    facts: dict[str, Any]  # device, dtype, tokens, steps, seconds, memory, ...: for a score's details
    step_error: float | None = None  # share of the excess that is the step's doing, where the chains end


Judge = Callable[[Outputs], float]  # of the validation rows; higher is better


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRun:
    """A finetune whose score the store has already, as its validation rows saw it."""

    checkpoint_id: int
    seed: int  # of the score: of a run that collapsed, that of its first try
    validation: float
    curve: tuple[dict[str, float], ...]  # as `Finetuned.curve`
    collapsed: bool
    seconds: float  # of training


@dataclass(frozen=True, slots=True, kw_only=True)
class Briefing:
    """What the store knew when the attempt began, for a procedure; there is none for methods."""

    candidates: tuple[Checkpoint, ...] = ()  # in the order of the params; one that has gone is left out
    known: tuple[KnownRun, ...] = ()  # on this target, by the recipe of the params
    prior: dict[str, Any] | None = None  # of the candidates' gains; None: there is no evidence

    def to_json(self) -> dict[str, Any]:
        """As it travels."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Briefing:
        """As it arrives."""
        return cls(
            candidates=tuple(Checkpoint(**one) for one in told["candidates"]),
            known=tuple(KnownRun(**one | {"curve": tuple(one["curve"])}) for one in told["known"]),
            prior=told["prior"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskVectorFound:
    """What the weights of one checkpoint say, or why they could not be read: one of the two."""

    checkpoint_id: int
    vector: TaskVector | None
    failure: Failure | None = None


class Workbench(Protocol):
    """One run of one method on one checkpoint and target. It grows only for a new *kind* of ingredient."""

    checkpoint: Checkpoint
    target: Target
    seed: int  # of everything random in this run
    attempt: int  # 1 on the first try
    folder: Path  # scratch that the next attempt of this job finds again on the same machine
    briefing: Briefing

    def report(
        self, fraction: float, stage: str, message: str = "", seconds_left: float | None = None
    ) -> None:
        """Say how far the run is (fraction 0..1); to be called at every step, it costs microseconds.

        Raises Cancelled where the user wants the job stopped: let it pass.
        """
        ...

    def features(self, spec: FeatureSpec) -> Features:
        """The pooled features of the frozen checkpoint on the target's rows.

        Raises: CheckpointNotFound, TargetNotFound, Refused, OutOfMemory, NotApplicable (a layer that the
        checkpoint does not have, a role without rows), NonFinite.
        """
        ...

    def finetune(self, spec: FinetuneSpec, judge: Judge) -> Finetuned:
        """Train the checkpoint with a new head on the train rows; `judge` chooses the step, and when to stop.

        Nothing is chosen by the test rows' labels. An attempt that goes on from one before it on
        this machine gives what a single one would have given.

        Raises: CheckpointNotFound, TargetNotFound, Refused, OutOfMemory, NotApplicable (a tuning that the
        checkpoint has nothing for, a role without rows), NonFinite (with step and rate), Interrupted.
        """
        ...

    def loss_chains(self, spec: ChainSpec) -> Chains:
        """Sample the local posterior around the checkpoint on the target's train rows.

        An attempt that goes on from one before it on this machine gives what a single one would have given.

        Raises: CheckpointNotFound, TargetNotFound, Refused, OutOfMemory, NotApplicable (no train rows, an
        objective that the checkpoint has no head for), NonFinite (a chain left the finite; with step and
        epsilon), Interrupted.
        """
        ...

    def on(
        self,
        checkpoint: Checkpoint,
        *,
        seed: int,
        evaluations: int | None = None,
        seconds: float | None = None,
    ) -> Workbench:
        """The same bench for another checkpoint and seed, which shares this one's end and its cancel.

        Its `finetune` raises Paused once the training has made so many evaluations in all, or once so many
        seconds have passed since now: they are looked at before every step and every batch of rows that is
        evaluated. None: to the end. Asked again for the same, it goes on where it was, bit for bit.
        """
        ...

    def keep_score(
        self,
        checkpoint: Checkpoint,
        method: Method,
        params: Params,
        seed: int,
        found: Measurement,
        seconds: float,
    ) -> None:
        """Store a score now, under the key that a job of this method of its own would have given it.

        It is evidence from then on, even if this job fails or is cancelled later. `seconds` is what it cost.

        Raises: NonFinite, OutOfRange.
        """
        ...

    def keep_checkpoint(
        self, spec: FinetuneSpec, judge: Judge, name: str, card: dict[str, Any]
    ) -> dict[str, Any]:
        """Write what `finetune` of this spec trains as a checkpoint, to be registered when the job succeeds.

        Trains only where no such finetune has ended on this bench. `card`: the "score" and the "recipe" that
        its card tells. Returns its name, path and digest; the end of the job adds its id.

        Raises: what `finetune` raises, Interrupted (the disk does not take it).
        """
        ...

    def task_vectors(
        self, checkpoints: Sequence[Checkpoint], vanilla: Checkpoint
    ) -> Iterator[TaskVectorFound]:
        """What each checkpoint's weights are less the vanilla's, in their order, one read of each file.

        What was read once on this machine is not read again. A checkpoint that cannot be read is told by its
        failure, and the next one follows.

        Raises: CheckpointNotFound, Refused, NotApplicable, NonFinite, Interrupted of the vanilla.
        """
        ...

    def tell_lineage(self, checkpoint: Checkpoint, lineage: Lineage, reason: str) -> None:
        """Say whether a checkpoint descends from its family's vanilla; stored when the job succeeds."""
        ...

    def mixed(
        self, members: Sequence[Checkpoint], weights: Sequence[float], vanilla: Checkpoint
    ) -> Workbench:
        """The same bench for the weighted mean of these bodies, which shares this one's end and its cancel.

        The mixture lies in its `folder` until somebody removes it; asked again for the same, it is not made
        anew. Its `features` are not kept for other jobs, and may be read until the next mixture is asked for.
        See `keep_mixture` for what is mixed.

        Raises: as `keep_mixture`.
        """
        ...

    def keep_mixture(
        self,
        name: str,
        members: Sequence[Checkpoint],
        weights: Sequence[float],
        vanilla: Checkpoint,
        card: dict[str, Any],
    ) -> dict[str, Any]:
        """Write a mixture as a checkpoint of the vanilla's family, to be registered when the job succeeds.

        Each weight of its body is the weighted mean of the members'; configuration and tokenizer are the
        vanilla's, and it has no head. The weights sum to 1; one below 0 or above 1 lies beyond the members.
        `card`: "rule", "weights", "region", "target" and "left_out", which its card tells. Returns its name,
        path and digest; the end of the job adds its id.

        Raises: CheckpointNotFound, Refused (a broken file), NotApplicable (a member of another architecture,
        shape or vocabulary), NonFinite, Interrupted (the disk does not take it).
        """
        ...


class Paused(Exception):
    """A finetune on a bench made by `on` has had its share. All of it is on disk: nothing is lost."""

    def __init__(
        self, curve: tuple[dict[str, float], ...], *, step: int, steps_planned: int, seconds: float
    ) -> None:
        super().__init__(f"Paused at step {step} of {steps_planned}.")
        self.curve = curve  # as `Finetuned.curve`, so far
        self.step, self.steps_planned = step, steps_planned  # of this training
        self.seconds = seconds  # of training, all stretches, and a first try that collapsed included


class Cancelled(BaseException):
    """The user wants the job stopped. No `Exception`, so that no method swallows it by accident."""
