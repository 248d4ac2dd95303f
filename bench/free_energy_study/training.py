"""Pretraining, and the two finetunes that say how well a checkpoint transfers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.func import grad, vmap
from torch.nn import functional as F  # noqa: N812 - its usual name

from bench.free_energy_study.nets import HEAD, initial, logits, new_head, statistics_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.free_energy_study.data import Images, Split
    from bench.free_energy_study.nets import Statistics

    Weights = dict[str, torch.Tensor]

FINETUNE_STEPS, FINETUNE_BATCH = 100, 128  # the paper's
BODY_RATE, HEAD_RATE, FINETUNE_MOMENTUM = 1e-3, 1e-1, 0.9  # the paper's 1 : 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A network in evaluation mode."""

    weights: Weights
    statistics: Statistics

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 5)."""
        return logits(self.weights, x, self.statistics)[0]

    def losses(self, rows: Images) -> torch.Tensor:
        """(n,), nats."""
        with torch.no_grad():
            return F.cross_entropy(self.logits(rows.x), rows.y, reduction="none")

    def accuracy(self, rows: Images) -> float:
        """0..1."""
        with torch.no_grad():
            return float((self.logits(rows.x).argmax(1) == rows.y).double().mean())


def pretrain(
    rows: Images,
    *,
    rate: float,
    batch: int,
    momentum: float,
    steps: int,
    seed: int,
    until: Callable[[Trained], bool] | None = None,
    every: int = 20,
) -> Trained:
    """Plain SGD from a random start, constant rate, no decay. `until` is asked every so many steps."""
    generator = torch.Generator().manual_seed(seed)
    weights = initial(generator)
    speed = {name: torch.zeros_like(value) for name, value in weights.items()}
    slope = grad(_loss)
    for step in range(1, steps + 1):
        chosen = torch.randperm(len(rows.y), generator=generator)[:batch]
        gradient = slope(weights, rows.x[chosen], rows.y[chosen])
        for name, value in weights.items():
            speed[name].mul_(momentum).add_(gradient[name])
            value.add_(speed[name], alpha=-rate)
        if until is not None and step % every == 0 and until(_settled(weights, rows)):
            break
    return _settled(weights, rows)


def finetuned(checkpoint: Trained, split: Split, seed: int) -> float:
    """Test accuracy on the new classes after the paper's full finetune: 100 steps of 128 rows, new head."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: value.clone() for name, value in checkpoint.weights.items()} | new_head(generator)
    rows, speed = split.transfer, {name: torch.zeros_like(value) for name, value in weights.items()}
    for _ in range(FINETUNE_STEPS):
        chosen = torch.randperm(len(rows.y), generator=generator)[:FINETUNE_BATCH]
        _descend(weights, speed, grad(_loss)(weights, rows.x[chosen], rows.y[chosen]))
    return _settled(weights, rows).accuracy(split.test)


def few_shot(checkpoint: Trained, split: Split, test_rows: int) -> list[float]:
    """Test accuracy of each 5-shot task: the same steps on all 25 of its rows. Each has a new head."""
    heads = [new_head(torch.Generator().manual_seed(1000 + task)) for task in range(len(split.tasks))]
    weights = {
        name: value.expand(len(heads), *value.shape).clone() for name, value in checkpoint.weights.items()
    }
    weights |= {name: torch.stack([head[name] for head in heads]) for name in HEAD}
    x, y = split.transfer.x[split.tasks], split.transfer.y[split.tasks]
    speed = {name: torch.zeros_like(value) for name, value in weights.items()}
    slope = vmap(grad(_loss))
    for _ in range(FINETUNE_STEPS):
        _descend(weights, speed, slope(weights, x, y))
    found = []
    for task in range(len(heads)):
        own = {name: value[task] for name, value in weights.items()}
        tuned = Trained(weights=own, statistics=statistics_of(own, x[task]))
        found.append(tuned.accuracy(split.test.at(torch.arange(len(split.test.y))[:test_rows])))
    return found


def _loss(weights: Weights, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of a batch that normalises itself."""
    return F.cross_entropy(logits(weights, x, None)[0], y)


def _descend(weights: Weights, speed: Weights, gradient: Weights) -> None:
    for name, value in weights.items():
        speed[name].mul_(FINETUNE_MOMENTUM).add_(gradient[name])
        value.add_(speed[name], alpha=-(HEAD_RATE if name in HEAD else BODY_RATE))


def _settled(weights: Weights, rows: Images) -> Trained:
    return Trained(
        weights={name: value.clone() for name, value in weights.items()},
        statistics=statistics_of(weights, rows.x),
    )
