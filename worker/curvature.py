"""Second derivatives of the loss of a body at a checkpoint, by two passes of plain autograd.

`worker.sgld.curve` is the same by `torch.func`, inside which tensors cannot be read: a body's batches have to
be made before. Attention is computed by its formula, since no fused kernel has a second derivative.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from jaxtyping import Int

    from worker.sgld import Loss, Moving

    Rows = Int[np.ndarray, "b"]


def product(
    at: Moving, loss: Loss, rows: Rows, vector: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The loss's Hessian on these rows times a vector."""
    leaves = {name: value.detach().requires_grad_() for name, value in at.items()}
    with sdpa_kernel(SDPBackend.MATH):
        value = loss(leaves, torch.from_numpy(rows))
        slope = torch.autograd.grad(value, list(leaves.values()), create_graph=True, materialize_grads=True)
        along = torch.stack(
            [(one * vector[name]).sum() for name, one in zip(leaves, slope, strict=True)]
        ).sum()
        found = torch.autograd.grad(along, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def bend(at: Moving, loss: Loss, batches: Iterable[Rows], seed: int) -> float:
    """v'Hv of a vector v of +1 and -1 drawn from the seed: Hutchinson's estimate of the trace.

    H is the Hessian of the mean loss over the rows of all batches together.
    """
    device = next(iter(at.values())).device
    generator = torch.Generator(device).manual_seed(seed)
    vector = {
        name: torch.empty_like(value).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
        for name, value in at.items()
    }
    total, count = 0.0, 0
    for rows in batches:
        found = product(at, loss, rows, vector)
        total += _dot(found, vector) * len(rows)
        count += len(rows)
    return total / count


def largest(at: Moving, loss: Loss, batches: Iterable[Rows], seed: int) -> float:
    """The largest curvature in size, of either sign, about: power iteration, a step on each batch.

    It ends where a product is no longer finite, with what was found before.
    """
    device = next(iter(at.values())).device
    generator = torch.Generator(device).manual_seed(seed)
    vector = {name: torch.empty_like(one).normal_(generator=generator) for name, one in at.items()}
    curvature = 0.0
    for rows in batches:
        norm = math.sqrt(_dot(vector, vector))
        if not norm or not math.isfinite(norm):
            break
        for one in vector.values():
            one.div_(norm)
        turned = product(at, loss, rows, vector)
        found = _dot(turned, vector)
        if not math.isfinite(found):
            break
        curvature, vector = found, turned
    return abs(curvature)


def _dot(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    return float(sum((one[name] * other[name]).sum(dtype=torch.float64) for name in one))
