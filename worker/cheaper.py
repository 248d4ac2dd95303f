"""What training on a CPU pays too much for, computed otherwise: dropout, attention, casts of frozen weights.

- torch draws the mask of a dropout on one thread, a random number a value: a tenth of a step of MiniLM.
  Here 64 random bits are enough for four values. The probability is rounded to 1/65536, and what stays is
  scaled by what it then is.
- Attention with dropout has no fused kernel on a CPU and is computed in fp32 whatever the autocast; without
  it there is one, whose backward pass in bf16 is slow for short texts. Here the plain formula is computed in
  the numbers of the autocast, its softmax in fp32.
- An autocast keeps its casts of weights that are trained, and casts frozen ones at every use. Here those are
  cast once. That changes no bit.

All random numbers come from torch's own generator. On a GPU torch's own ways are left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float

LEVELS = 1 << 16  # of a dropout's probability: 16 bits a value, four values from one random number
SHORT = 128  # tokens up to which the plain formula beats torch's fused kernel in bf16, forth and back


class Cheaper(TorchFunctionMode):
    """While it is entered, torch's calls of these three are computed as here, whoever makes them."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """`dtype`: what the autocast casts to; fp32 where there is none."""
        super().__init__()
        self._on, self._dtype = device.type == "cpu", dtype
        self._frozen: dict[nn.Parameter, torch.Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Take a call, or let it pass."""
        named = kwargs or {}
        if not self._on:
            return func(*args, **named)
        if func is functional.dropout:
            return _dropout(*args, **named)
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **named)
        if func is functional.linear or func is torch.addmm:  # the latter is GPT-2's
            args = tuple(self._cast_once(one) for one in args)
        return func(*args, **named)

    def _cast_once(self, one: Any) -> Any:
        if not isinstance(one, nn.Parameter) or one.requires_grad or one.dtype == self._dtype:
            return one
        if one not in self._frozen:
            with torch.inference_mode(False):  # else what is cast in an evaluation could not be trained with
                self._frozen[one] = one.detach().to(self._dtype)
        return self._frozen[one]


def dropout(x: Float[torch.Tensor, "*any"], p: float) -> Float[torch.Tensor, "*any"]:
    """Each value 0 with probability p (0..1, excluded), else scaled so that the mean stays what it is."""
    dropped = min(round(p * LEVELS), LEVELS - 1)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = bits.ge(dropped - LEVELS // 2).to(x.dtype)
    return x * kept.mul_(LEVELS / (LEVELS - dropped))


def attention(
    query: Float[torch.Tensor, "*b t d"],
    key: Float[torch.Tensor, "*b s d"],
    value: Float[torch.Tensor, "*b s v"],
    mask: Bool[torch.Tensor, "*m"] | Float[torch.Tensor, "*m"] | None,
    *,
    p: float,
    scale: float | None,
) -> Float[torch.Tensor, "*b t v"]:
    """Scaled dot-product attention, its weights dropped with probability p; the softmax is in fp32.

    `mask`: True where a query sees a key, or what is added to the scores. A query that sees no key looks at
    all of them alike: such stand at padding, where nobody reads them.
    """
    scores = (query @ key.transpose(-2, -1)).float()
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1).to(value.dtype)
    return (dropout(weights, p) if p > 0 else weights) @ value


def _dropout(
    input: torch.Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> torch.Tensor:
    """What `torch.nn.functional.dropout` is called with."""
    if not training or not 0 < p < 1 or inplace or not input.is_floating_point():
        return functional.dropout(input, p, training, inplace)
    return dropout(input, p)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What `torch.nn.functional.scaled_dot_product_attention` is called with."""
    tokens = max(query.shape[-2], key.shape[-2])
    dear = 0 < dropout_p < 1 or (
        torch.is_grad_enabled() and query.dtype == torch.bfloat16 and tokens <= SHORT
    )
    if not dear or enable_gqa:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    return attention(query, key, value, attn_mask, p=dropout_p, scale=scale)
