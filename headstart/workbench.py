"""The port through which a method asks for its ingredients. The worker implements it; tests fake it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from jaxtyping import Float, Int

    from headstart.entities import Checkpoint, Target

Role = Literal["train", "validation", "test"]
Pooling = Literal["mean", "first", "last"]
Precision = Literal["auto", "fp32", "bf16"]

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


class Workbench(Protocol):
    """One run of one method on one checkpoint and target. It grows only for a new *kind* of ingredient."""

    checkpoint: Checkpoint
    target: Target
    seed: int  # of everything random in this run
    attempt: int  # 1 on the first try
    folder: Path  # scratch that the next attempt of this job finds again on the same machine

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


class Cancelled(BaseException):
    """The user wants the job stopped. No `Exception`, so that no method swallows it by accident."""
