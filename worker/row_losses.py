"""The loss of a body on rows, as a function of the tensors that move: what Langevin dynamics walks on.

`RowLoss` is a `worker.sgld.Loss`. The rows of a batch are cut by length into parts with little padding
(`batches`), whose sum is one graph. Where the activations of all parts do not fit into memory together, those
of all but the last are computed again in the backward pass: the same numbers, for another forward pass.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.func import functional_call
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from headstart.failures import OutOfMemory
from worker.batches import micro_batches
from worker.cheaper import Cheaper
from worker.finetune import BUDGETS, EACH
from worker.forward import Budget, collate, pool
from worker.reading import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jaxtyping import Bool, Float, Int

    from headstart.workbench import LinearHead, Pooling
    from worker.bodies import Body
    from worker.tokens import Tokens
    from worker.vocabulary import Renumbered

    Moving = Mapping[str, torch.Tensor]
    Rows = Int[np.ndarray, "b"]
    Hidden = Float[torch.Tensor, "b t d"]
    Logits = Callable[[Float[torch.Tensor, "m d"], Moving], Float[torch.Tensor, "m z"]]
    Terms = tuple[Float[torch.Tensor, "m"], Int[np.ndarray, "m"]]

MOST_LOGITS = 1 << 27  # numbers that the logits of a part may be
# Tokens, padding included, whose activations are held at once. A CPU whose memory runs out kills the process,
# which nobody can catch. 32 texts of 128 tokens are half of these.
HELD = {"cpu": 8192, "cuda": 1 << 62}
HEAD_WEIGHTS, HEAD_BIAS = "head weights", "head bias"  # in what moves; names of a body's have no spaces


class Objective(Protocol):
    """What is asked of hidden states."""

    outputs_per_token: float  # logits, in the mean over a row's tokens

    def terms(self, hidden: Hidden, mask: Bool[torch.Tensor, "b t"], rows: Rows, moving: Moving) -> Terms:
        """Shares of losses in nats, and which of the b rows each is of: a row's loss is their sum."""
        ...


class Linear:
    """A linear head, which may be among what moves."""

    def __init__(self, head: LinearHead, device: torch.device) -> None:
        self.tensors = {
            HEAD_WEIGHTS: torch.from_numpy(np.array(head.weights, dtype=np.float32)).to(device),
            HEAD_BIAS: torch.from_numpy(np.array(head.bias, dtype=np.float32)).to(device),
        }

    def __call__(self, x: Float[torch.Tensor, "m d"], moving: Moving) -> Float[torch.Tensor, "m z"]:
        """The logits."""
        weights, bias = (moving.get(name, value) for name, value in self.tensors.items())
        return x @ weights + bias


class Classification:
    """Cross-entropy of the rows' classes, by a head on the pooled hidden state. See Objective."""

    outputs_per_token = 0.0

    def __init__(self, logits: Logits, labels: Int[np.ndarray, "n"], pooling: Pooling) -> None:
        self._logits, self._labels, self._pooling = logits, torch.from_numpy(labels), pooling

    def terms(self, hidden: Hidden, mask: Bool[torch.Tensor, "b t"], rows: Rows, moving: Moving) -> Terms:
        """One a row."""
        logits = self._logits(pool(hidden, mask, self._pooling), moving)
        labels = self._labels[torch.from_numpy(rows)].to(hidden.device)
        return functional.cross_entropy(logits.float(), labels, reduction="none"), np.arange(len(rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Which tokens of which rows are to be predicted, and from the hidden states of which places."""

    places: list[Int[np.ndarray, "k"]]  # of each of the n rows, one or more
    wanted: list[Int[np.ndarray, "k"]]  # outputs of the head


class Prediction:
    """Cross-entropy of tokens: a row's is the mean over those of it that are predicted. See Objective."""

    def __init__(self, targets: Targets, logits: Logits, outputs_per_token: float) -> None:
        self._targets, self._logits, self.outputs_per_token = targets, logits, outputs_per_token

    def terms(self, hidden: Hidden, mask: Bool[torch.Tensor, "b t"], rows: Rows, moving: Moving) -> Terms:
        """One a predicted token."""
        seen, of = self.seen(hidden, rows)
        wanted = torch.from_numpy(np.concatenate([self._targets.wanted[row] for row in rows.tolist()]))
        share = torch.from_numpy((1 / np.bincount(of))[of].astype(np.float32)).to(hidden.device)
        losses = functional.cross_entropy(
            self._logits(seen, moving).float(), wanted.to(hidden.device), reduction="none"
        )
        return losses * share, of

    def seen(self, hidden: Hidden, rows: Rows) -> tuple[Float[torch.Tensor, "m d"], Int[np.ndarray, "m"]]:
        """The hidden states that predict, and which of the b rows each is of."""
        places = [self._targets.places[row] for row in rows.tolist()]
        of = np.repeat(np.arange(len(rows)), [len(one) for one in places])
        at = torch.from_numpy(np.concatenate(places)).to(hidden.device)
        return hidden[torch.from_numpy(of).to(hidden.device), at], of


@dataclass(slots=True, kw_only=True)
class RowLoss:
    """The mean loss of some rows. See `worker.sgld.Loss`."""

    body: Body  # frozen, in eval mode: what does not move is read from it
    tokens: Tokens | Renumbered
    objective: Objective
    dtype: torch.dtype  # of matrix products; what moves is fp32
    tick: Callable[[], None]  # called before every part; may raise to stop
    budget: Budget = field(init=False)  # tokens of a part, padding included
    held: int = 0  # tokens as in HELD, which it is where 0 is given
    lengths: Int[np.ndarray, "n"] = field(init=False)
    rows: int = field(init=False)  # n

    def __post_init__(self) -> None:
        """Look up what does not change."""
        self.held = self.held or HELD[self.device.type]
        most = BUDGETS[self.device.type]
        if self.objective.outputs_per_token:
            most = min(most, max(1, int(MOST_LOGITS / self.objective.outputs_per_token)))
        self.budget, self.lengths = Budget(min(most, self.held)), self.tokens.lengths
        self.rows = len(self.lengths)

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        found: torch.device = self.body.model.device
        return found

    def __call__(self, moving: Moving, rows: torch.Tensor) -> torch.Tensor:
        """The mean over the rows."""
        parts = self.parts(rows.numpy())
        plain = self.padded(parts) <= self.held
        total = torch.zeros((), device=self.device)
        for part in parts[:-1]:
            total = total + (self._sum(moving, part) if plain else self._sum_again(moving, part))
        return (total + self._sum(moving, parts[-1])) / len(rows)

    def parts(self, rows: Rows) -> list[Rows]:
        """The rows in parts, longest first."""
        each = EACH[self.device.type]
        return list(micro_batches(rows, self.lengths, self.budget, padded=self.body.padded, each=each))

    def padded(self, parts: list[Rows]) -> int:
        """Their tokens, padding included."""
        return sum(int(self.lengths[part].max()) * len(part) for part in parts)

    def terms(self, moving: Moving, part: Rows) -> Terms:
        """See Objective."""
        with self._cast():
            hidden, mask = self.hidden(moving, part)
            return self.objective.terms(hidden, mask, part, moving)

    def hidden(self, moving: Moving, part: Rows) -> tuple[Hidden, Bool[torch.Tensor, "b t"]]:
        """The last hidden states of a part, and where they are of tokens."""
        self.tick()
        inputs = collate(self.body, self.tokens, part)
        own = {name: value for name, value in moving.items() if name not in {HEAD_WEIGHTS, HEAD_BIAS}}
        hidden = functional_call(self.body.backbone, own, (), inputs)[0]
        return hidden, inputs["attention_mask"].bool()

    def _cast(self) -> ExitStack:
        entered = ExitStack()
        if self.dtype != torch.float32:
            entered.enter_context(torch.autocast(self.device.type, self.dtype))
            entered.enter_context(Cheaper(self.device, self.dtype))
        return entered

    def longest(self, count: int) -> torch.Tensor:
        """The rows of most tokens."""
        return torch.from_numpy(np.argsort(-self.lengths, kind="stable")[:count].copy())

    def fit(self, moving: Moving, rows: torch.Tensor) -> frozenset[str]:
        """Find how much is held at once on the way forth and back; return the names that the loss reads.

        Raises: OutOfMemory.
        """
        while (read := self._tried(moving, rows)) is None:
            parts = self.parts(rows.numpy())
            longest = int(self.lengths[rows.numpy()].max())
            self.held = min(self.held, self.padded(parts)) // 2
            if self.held < longest:
                raise OutOfMemory(
                    f"One text of {longest} tokens does not fit into the memory of {self.device.type} beside "
                    "the chains.",
                    "Ask for fewer chains or fewer tokens, or run the job on a worker with more memory.",
                )
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.budget.halve(2, min(self.budget.tokens, self.held))
        return read

    def _tried(self, moving: Moving, rows: torch.Tensor) -> frozenset[str] | None:
        """The names read by a pass forth and back whose gradients are dropped; None where memory ran out."""
        read = set()
        leaves = {name: value.detach().requires_grad_() for name, value in moving.items()}
        for name, leaf in leaves.items():

            def drop(one: torch.Tensor, name: str = name) -> None:
                one.grad = None
                read.add(name)

            leaf.register_post_accumulate_grad_hook(drop)  # type: ignore[no-untyped-call]
        try:
            self(leaves, rows).backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None
        return frozenset(read)

    def _sum(self, moving: Moving, part: Rows) -> torch.Tensor:
        return self.terms(moving, part)[0].sum()

    def _sum_again(self, moving: Moving, part: Rows) -> torch.Tensor:
        found: torch.Tensor = checkpoint(self._sum, moving, part, use_reentrant=False)
        return found
