"""What one pass over a checkpoint's weights found, held against its family's vanilla.

A **task vector** is the weights of a checkpoint minus those of its vanilla, heads left out (Ilharco et al.
2023, arXiv 2212.04089; Gueta et al. 2023, arXiv 2302.04863). It is kept as a sketch
(`headstart.regions.sketch`) and norms, so that nothing has to be read again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod, sqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """One tensor that checkpoint and vanilla both have: Euclidean norms over the numbers compared."""

    name: str  # in the body, without the prefix of a model around it
    shape: tuple[int, ...]  # of what was compared: of a resized vocabulary the rows that both have
    norm: float  # of the checkpoint's
    vanilla_norm: float
    delta_norm: float  # of their difference

    @property
    def elements(self) -> int:
        """How many numbers were compared."""
        return prod(self.shape)

    @property
    def cosine(self) -> float | None:
        """Of the checkpoint's tensor and the vanilla's, -1..1; None where the vanilla's is zero.

        A finetune has nearly 1, whatever its size; another pretraining about 0, and zeros (a file that was
        never filled) 0.
        """
        product = self.norm * self.vanilla_norm
        if not product > 0:
            return 0.0 if self.vanilla_norm > 0 else None
        inner = (self.norm**2 + self.vanilla_norm**2 - self.delta_norm**2) / 2
        return max(-1.0, min(1.0, inner / product))

    @property
    def relative(self) -> float | None:
        """Norm of the difference in norms of the vanilla's, 0 and above; None where that is zero."""
        return self.delta_norm / self.vanilla_norm if self.vanilla_norm > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskVector:
    """The task vector of a checkpoint: a sketch of it, its norms, and what was left out."""

    sketch: Float32[np.ndarray, "dims"]  # all 0 where `identical`
    norm: float  # Euclidean, of the task vector itself, not of its sketch
    vanilla_norm: float  # of the vanilla's numbers that were compared
    tensors: tuple[TensorFacts, ...]  # sorted by name
    left_out: tuple[tuple[str, str], ...]  # tensors of the body that were not compared, or not whole, and why
    matched_elements: int  # numbers compared
    vanilla_tensors: int  # tensors of the vanilla's body, the pooler left out
    outside: int  # tensors of the checkpoint beside its body: a head's, buffers
    identical: bool  # every number is the vanilla's, rounded to the checkpoint's own precision
    dtype: str  # what most of the compared numbers are stored in: "F32", "BF16", ...
    vocabulary: float | None  # share 0..1 of the token ids both have that name one token; None: not known
    architecture: str  # model type of the checkpoint: "bert"
    vanilla_architecture: str

    @property
    def relative(self) -> float:
        """Norm in norms of the vanilla, 0 and above; 0 where nothing was compared."""
        return self.norm / self.vanilla_norm if self.vanilla_norm > 0 else 0.0

    def facts(self) -> dict[str, Any]:
        """All but the sketch, as JSON."""
        told = {name: getattr(self, name) for name in self.__slots__ if name != "sketch"}
        return told | {"tensors": [asdict(one) for one in self.tensors]}

    @classmethod
    def of(cls, sketch: Float32[np.ndarray, "dims"], facts: dict[str, Any]) -> TaskVector:
        """The same again."""
        tensors = tuple(TensorFacts(**one | {"shape": tuple(one["shape"])}) for one in facts["tensors"])
        left_out = tuple((name, why) for name, why in facts["left_out"])
        return cls(sketch=sketch, **facts | {"tensors": tensors, "left_out": left_out})


def norm_of(squares: float) -> float:
    """The norm of a sum of squares; rounding may leave it below zero."""
    return sqrt(max(0.0, squares))
