"""A checkpoint's frozen body in memory, ready for forward passes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from headstart.failures import NotApplicable, Refused
from worker.building import build, hidden_layers, is_causal
from worker.configs import read_config
from worker.reading import told_as
from worker.tokenizer import load_tokenizer, tokenizer_digest
from worker.trial import LONG, try_out, watch
from worker.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from headstart.workbench import Pooling
    from worker.checkpoints import CheckpointFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A body on a device, in eval mode, without gradients.

    One forward pass is `output = body.model(input_ids=, attention_mask=[, token_type_ids=])` on integers
    [b, t]. Hidden states are seen by `tap` while it runs, and where there is a source head its logits are
    `body.classify(output)`: `model` then is the classifier around the backbone, else the backbone itself.
    """

    model: PreTrainedModel  # what is called
    backbone: PreTrainedModel  # the body in it
    tokenizer: PreTrainedTokenizerBase
    tokenizer_digest: str
    classify: Callable[[Any], torch.Tensor] | None  # from the model's output to logits [b, z]; None: no head
    architecture: str  # model type: "bert", "t5", ...
    modules: tuple[nn.Module, ...]  # the L hidden layers in order; none where they cannot be told apart
    dimension: int  # d of the last hidden state
    padded: bool  # texts of several lengths may share a batch: padding does not reach into them
    pooling: Pooling  # default: the last token of a causal body, else the mean
    causal: bool  # a token sees only those before it
    most_tokens: int | None  # positions it can take; None: any
    vocabulary: int  # token ids are below it: of a tokenizer that grew without its body, not all are
    pad_id: int  # fills up a batch, under a mask of zeros: the tokenizer's own, or one that exists
    takes_types: bool  # token_type_ids make a difference; others must not be passed
    loading: dict[str, Any]  # "missing", "unexpected": names of tensors; "head": "used", or why there is none

    @property
    def layers(self) -> int:
        """L: how many hidden layers `tap` can tell apart."""
        return len(self.modules)


def load_body(files: CheckpointFiles, device: torch.device, dtype: torch.dtype, *, with_head: bool) -> Body:
    """The body of a checkpoint on a device; of an encoder-decoder, the encoder half.

    With its source head, if it has one: where the checkpoint is a classifier that chooses one of two or more
    labels, and no encoder-decoder (those classify by their decoder). Nothing is fetched, no code of the
    checkpoint runs, and nothing large is allocated before the configuration agrees with the weights' header.
    Attention is torch's own (sdpa) where the architecture has it. See also `try_out`.

    Raises: Refused (broken or lying files, code of its own), NotApplicable (no text model, an unknown one,
    quantised weights, a forward pass that fails), OutOfMemory.
    """
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # what it would say is in `loading`
    weights = Weights(files.weights)
    config = read_config(files.folder, weights.shapes)
    tokenizer = load_tokenizer(files.folder, config)
    built = build(config, weights, dtype, with_head=with_head)
    model, backbone = built.model, built.backbone
    with told_as(Refused, f"The model does not go to {device}", "Run the job on another worker."):
        model.to(device).eval().requires_grad_(False)
    vocabulary = int(backbone.get_input_embeddings().num_embeddings)
    pad_id = _pad_id(tokenizer, vocabulary)
    causal = is_causal(config)
    for inner in (model.config, backbone.config):
        inner.return_dict, inner.use_cache = True, False
        inner.output_hidden_states = inner.output_attentions = False
    if causal:
        model.config.pad_token_id = pad_id  # by which the head of a decoder finds a text's last token
    most_tokens = _most_tokens(backbone)
    text = _unpadded(min(LONG, most_tokens or LONG), pad_id, vocabulary).to(device)
    trial = try_out(backbone, hidden_layers(backbone)[1], text, pad_id)
    return Body(
        model=model,
        backbone=backbone,
        tokenizer=tokenizer,
        tokenizer_digest=tokenizer_digest(files.folder, config),
        classify=_logits if built.head == "used" else None,
        architecture=config.model_type,
        modules=trial.layers,
        dimension=trial.dimension,
        padded=trial.padded,
        pooling="last" if causal else "mean",
        causal=causal,
        most_tokens=most_tokens,
        vocabulary=vocabulary,
        pad_id=pad_id,
        takes_types=_takes_types(backbone),
        loading={"missing": built.missing, "unexpected": built.unexpected, "head": built.head},
    )


def tap(body: Body, layer: str, see: Callable[[torch.Tensor], None]) -> RemovableHandle:
    """Show `see` the hidden states [b, t, d] of a layer whenever the body runs, until the handle is removed.

    "0" is what the first layer is given (the embeddings), "1".."L" is what a layer gives, "last" is the
    body's last hidden state: layer L, behind the final norm where there is one (decoders, T5, ModernBERT).

    Raises NotApplicable for a layer that the body does not have.
    """
    if layer == "last":
        return watch(body.backbone, see)
    number = int(layer)
    if not body.modules or number > body.layers:
        raise NotApplicable(
            f"There is no layer {layer}: of this {body.architecture} {body.layers} can be told apart.",
            "Ask for 'last', or for a layer that the checkpoint has.",
        )
    if number > 0:
        return watch(body.modules[number - 1], see)
    handle: RemovableHandle = body.modules[0].register_forward_pre_hook(
        lambda _module, args, named: see(args[0] if args else named["hidden_states"]), with_kwargs=True
    )
    return handle


def _logits(output: Any) -> torch.Tensor:
    logits: torch.Tensor = output.logits
    return logits


def _pad_id(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> int:
    """Any id does under a mask, and no embedding is added for it; a head's decoder looks for this one."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in known if token is not None and token < vocabulary)


def _unpadded(length: int, pad_id: int, vocabulary: int) -> torch.Tensor:
    """Tokens [t] that the embeddings have, none of them the padding."""
    return (pad_id + 1 + torch.arange(length) % max(1, vocabulary - 1)) % vocabulary


def _most_tokens(backbone: PreTrainedModel) -> int | None:
    """Positions that the body has: of its table, less those that padding takes up, and of its configuration.

    None where positions are relative and the configuration names no limit (T5).
    """
    limits = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _POSITION_TABLES:
            taken = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa, MPNet
            limits.append(module.num_embeddings - taken)
    named = getattr(backbone.config, "max_position_embeddings", None)
    if isinstance(named, int) and named > 0:
        limits.append(named)
    return min(limits, default=None)


_POSITION_TABLES = {"position_embeddings", "wpe", "embed_positions"}


def _takes_types(backbone: PreTrainedModel) -> bool:
    types = getattr(backbone.config, "type_vocab_size", 0) or 0
    return types > 1 and "token_type_ids" in inspect.signature(backbone.forward).parameters
