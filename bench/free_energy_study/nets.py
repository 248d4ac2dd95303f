"""A small ResNet with batch normalisation, as functions of a dictionary of tensors.

Stem 5x5 (to 4 x 4 places, 16 channels), one residual block of 16 channels and one of 32 (stride 2), mean over
the places, a linear head: 19,632 numbers in the backbone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - its usual name

if TYPE_CHECKING:
    from collections.abc import Mapping

    Weights = Mapping[str, torch.Tensor]
    Statistics = Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # mean and variance of each layer's channels

CHANNELS, CLASSES, EPSILON = (16, 32), 5, 1e-5
HEAD = ("head.w", "head.b")


def initial(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """He's normal weights (arXiv 1502.01852), scales 1, shifts 0, and a new head."""
    weights = {}

    def convolution(name: str, inside: int, outside: int, side: int) -> None:
        spread = math.sqrt(2 / (inside * side * side))
        weights[f"{name}.w"] = torch.randn(outside, inside, side, side, generator=generator) * spread
        weights[f"{name}.scale"], weights[f"{name}.shift"] = torch.ones(outside), torch.zeros(outside)

    convolution("stem", 1, CHANNELS[0], 5)
    for at, (inside, outside) in enumerate(zip((CHANNELS[0], *CHANNELS), CHANNELS, strict=False)):
        convolution(f"{at}.one", inside, outside, 3)
        convolution(f"{at}.two", outside, outside, 3)
        if inside != outside:
            convolution(f"{at}.skip", inside, outside, 1)
    return weights | new_head(generator)


def new_head(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Torch's default for a linear layer: uniform within 1 / sqrt(d)."""
    most = 1 / math.sqrt(CHANNELS[-1])
    return {
        "head.w": (torch.rand(CLASSES, CHANNELS[-1], generator=generator) * 2 - 1) * most,
        "head.b": (torch.rand(CLASSES, generator=generator) * 2 - 1) * most,
    }


def backbone(weights: Weights) -> dict[str, torch.Tensor]:
    """All but the head."""
    return {name: value for name, value in weights.items() if name not in HEAD}


def features(
    weights: Weights, x: torch.Tensor, statistics: Statistics | None
) -> tuple[torch.Tensor, Statistics]:
    """Pooled features (n, 32), and the statistics that normalised: those given, or else the batch's own."""
    used: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def layer(name: str, x: torch.Tensor, stride: int) -> torch.Tensor:
        kernel = weights[f"{name}.w"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        if statistics is None:
            variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            used[name] = (mean, variance)
        else:
            used[name] = mean, variance = statistics[name]
        scale = weights[f"{name}.scale"] * torch.rsqrt(variance + EPSILON)
        shift = weights[f"{name}.shift"] - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    x = F.relu(layer("stem", x, 4 if x.shape[-1] > 8 else 2))
    for at in range(len(CHANNELS)):
        stride = 2 if at else 1
        inner = layer(f"{at}.two", F.relu(layer(f"{at}.one", x, stride)), 1)
        x = F.relu(inner + (layer(f"{at}.skip", x, stride) if f"{at}.skip.w" in weights else x))
    return x.mean((2, 3)), used


def logits(
    weights: Weights, x: torch.Tensor, statistics: Statistics | None
) -> tuple[torch.Tensor, Statistics]:
    """(n, 5), and what normalised."""
    pooled, used = features(weights, x, statistics)
    return pooled @ weights["head.w"].T + weights["head.b"], used


def statistics_of(weights: Weights, x: torch.Tensor) -> Statistics:
    """Of all rows in one pass, as evaluation uses them: no running means, which hang on the last batches."""
    with torch.no_grad():
        return features(weights, x, None)[1]
