"""What a backbone makes of two short texts, tried once at load: no configuration tells it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from headstart.failures import NotApplicable
from worker.reading import told_as

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float, Int
    from torch import nn
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

SHORT, LONG = 7, 12  # tokens of the two texts: odd, so that no window or stride fits the short one by chance
# How far a token's last hidden state may be from that of the text alone, relative to its norm. Rounding was
# measured below 2e-6 in fp32 and 2e-2 in bf16; padding that leaks (ConvBERT, MobileBERT, Funnel) above 0.2.
NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.1}


@dataclass(frozen=True, slots=True)
class Trial:
    """What was found."""

    layers: tuple[nn.Module, ...]  # those given, or none where their outputs are not the hidden states
    dimension: int  # d of the last hidden state
    padded: bool  # a text gives the same in a batch, padded, as alone


def try_out(
    backbone: PreTrainedModel, layers: Sequence[nn.Module], text: Int[torch.Tensor, "t"], pad_id: int
) -> Trial:
    """Run a text of up to LONG tokens, none of them padding, and its beginning alone and beside it.

    `layers` are the hidden layers if each runs once and gives [b, t, d], and transformers itself returns what
    one of them gives as a hidden state: of another list (attentions, norms) it returns none. Not all: a norm
    follows the last layer of decoders, and a convolution the first of DeBERTa-v2.

    Raises: NotApplicable (the forward pass fails, or gives other shapes), OutOfMemory.
    """
    kind = backbone.config.model_type
    short = max(1, SHORT * len(text) // LONG)
    both, mask = text.repeat(2, 1), torch.ones(2, len(text), dtype=torch.long, device=text.device)
    both[0, short:], mask[0, short:] = pad_id, 0
    seen: list[list[torch.Tensor]] = [[] for _ in layers]
    with told_as(NotApplicable, *forward_fails(kind, short)), torch.inference_mode():
        with ExitStack() as watched:
            for layer, states in zip(layers, seen, strict=True):
                watched.enter_context(watch(layer, states.append))
            output = backbone(
                input_ids=text[None, :short], attention_mask=mask[1:, :short], output_hidden_states=True
            )
        beside = backbone(input_ids=both, attention_mask=mask)[0][:1, :short]
    alone = output[0]
    if alone.shape[:2] != (1, short) or alone.shape != beside.shape:
        raise NotApplicable(
            f"A {kind} does not give one hidden state a token: {tuple(alone.shape)} of {short} tokens.",
            "Use a checkpoint of another architecture.",
        )
    told = getattr(output, "hidden_states", None) or ()
    apart = all(len(states) == 1 and states[0].shape == alone.shape for states in seen)
    apart = apart and (len(seen) == 1 or any(_same(states[0], state) for states in seen for state in told))
    return Trial(
        tuple(layers) if apart else (), alone.shape[-1], _distance(alone, beside) < NEAR[backbone.dtype]
    )


def watch(module: nn.Module, see: Callable[[torch.Tensor], None]) -> RemovableHandle:
    """Show `see` what a module gives, of several things the first, until the handle is removed."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        see(output if isinstance(output, torch.Tensor) else output[0])

    handle: RemovableHandle = module.register_forward_hook(hook)
    return handle


def forward_fails(kind: str, tokens: int) -> tuple[str, str]:
    """The sentence and the remedy where a forward pass raises something."""
    return (
        f"The forward pass of this {kind} fails on texts of {tokens} tokens",
        "Ask for precision fp32, or use a checkpoint of another architecture.",
    )


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)


def _distance(alone: Float[torch.Tensor, "1 t d"], beside: Float[torch.Tensor, "1 t d"]) -> float:
    """The largest over the tokens, relative; NaN is for the feature pass to tell, and is none."""
    alone, beside = alone.float(), beside.float()
    return float(((alone - beside).norm(dim=-1) / alone.norm(dim=-1)).nan_to_num(0.0).max())
