"""From a checked configuration and checked tensors to a model of transformers; no file is looked for."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.models.auto import modeling_auto as auto

from headstart.failures import NotApplicable, Refused
from worker.reading import told_as

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    from worker.weights import Weights

MOST_BUFFER_ELEMENTS = 1 << 30  # of masks and tables that a model makes beside its weights
_REMEDY = "Use the configuration that was saved with these weights, or save the checkpoint again."
_TEXT = (
    auto.MODEL_FOR_MASKED_LM_MAPPING,
    auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    auto.MODEL_FOR_TEXT_ENCODING_MAPPING,
)


@dataclass(frozen=True, slots=True)
class Built:
    """A model with its weights, on the CPU."""

    model: PreTrainedModel  # the backbone itself, or a classifier around it
    backbone: PreTrainedModel
    missing: tuple[str, ...]  # tensors that the weights do not have, and the body does not use
    unexpected: tuple[str, ...]  # tensors of the weights that are not the body's: heads, a decoder
    head: str  # "used", or why there is none


def build(config: PretrainedConfig, weights: Weights, dtype: torch.dtype, *, with_head: bool) -> Built:
    """The model of a configuration with these weights, in `dtype`.

    It is laid out without memory first: it may not need more than half as much again as the weights hold
    (a pooler that is not among them is made, and not used). Every tensor of the body has to be there, in
    the shape that the configuration says.

    Raises: Refused (configuration and weights disagree), NotApplicable (no text model), OutOfMemory.
    """
    no_head = _why_no_head(config) if with_head else "not asked for"
    kind = model_class(config, classifier=no_head is None)
    _check_layout(kind, config, weights)
    model, found = _fill(kind, config, weights, dtype)
    if no_head is None:
        backbone, prefix = model.base_model, f"{model.base_model_prefix}."
    else:
        backbone, prefix = _encoder_of(model), ""
    _check_body(found, prefix, backbone)
    lost = sorted(name for name in _faulty(found) if not name.startswith(prefix))
    if no_head is None and lost:
        no_head = f"its weights are not there ({', '.join(lost[:3])})"
    return Built(
        model=backbone if no_head else model,
        backbone=backbone,
        missing=tuple(sorted(found["missing_keys"])),
        unexpected=tuple(sorted(found["unexpected_keys"])),
        head=no_head or "used",
    )


def build_whole(
    config: PretrainedConfig, weights: Weights, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The model that `build` takes a backbone from, a decoder beside it and all, and that backbone in it.

    Raises as `build`, whose checks of the body have been made.
    """
    model, _ = _fill(model_class(config, classifier=False), config, weights, dtype)
    return model, _encoder_of(model)


def hidden_layers(backbone: PreTrainedModel) -> tuple[str, Sequence[nn.Module]]:
    """Where the hidden layers are in a backbone, and the layers in order; ("", []) where they are in no list.

    Such an architecture repeats one layer (ALBERT), or keeps them otherwise.
    """
    count = getattr(backbone.config, "num_hidden_layers", None)
    for path, module in backbone.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return path, list(module)
    return "", []


def is_causal(config: PretrainedConfig) -> bool:
    """Whether a token sees only those before it: decoders, and encoders configured as one."""
    kind = type(config)
    if config.is_encoder_decoder:
        return False
    decoder = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING
    return decoder or bool(getattr(config, "is_decoder", False))


def _why_no_head(config: PretrainedConfig) -> str | None:
    """Why the checkpoint's own head says nothing on classes; None: it does."""
    if not any(str(name).endswith("ForSequenceClassification") for name in config.architectures or ()):
        return "the checkpoint is no classifier"
    if config.is_encoder_decoder or type(config) not in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return f"a {config.model_type} does not classify by its encoder"
    if config.num_labels < 2 or config.problem_type in {"regression", "multi_label_classification"}:
        return "the checkpoint's head does not choose one of several labels"
    return None


def model_class(config: PretrainedConfig, *, classifier: bool) -> type[PreTrainedModel]:
    """The class of transformers to build: looked up by the configuration's type, never by a name in it."""
    kind = type(config)
    if not any(kind in mapping for mapping in _TEXT) or kind not in auto.MODEL_MAPPING:
        raise NotApplicable(f"A {config.model_type} is no text model.", "Use a checkpoint that reads text.")
    mapping = auto.MODEL_MAPPING
    if classifier:
        mapping = auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    elif kind in auto.MODEL_FOR_TEXT_ENCODING_MAPPING:
        mapping = auto.MODEL_FOR_TEXT_ENCODING_MAPPING
    found: Any = mapping[kind]
    chosen: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
    return chosen


def _check_layout(kind: type[PreTrainedModel], config: PretrainedConfig, weights: Weights) -> None:
    with told_as(Refused, f"No {config.model_type} can be built from config.json", _REMEDY):  # noqa: SIM117
        with torch.device("meta"):
            model = kind(copy.deepcopy(config))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters > 1.5 * weights.elements:
        raise Refused(
            f"config.json describes a {config.model_type} of {parameters:,} parameters, and the weights hold "
            f"{weights.elements:,} numbers.",
            _REMEDY,
        )
    if sum(buffer.numel() for buffer in model.buffers()) > MOST_BUFFER_ELEMENTS:
        raise Refused("config.json describes tables larger than any model's of this size.", _REMEDY)


def _fill(
    kind: type[PreTrainedModel], config: PretrainedConfig, weights: Weights, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    with told_as(Refused, f"The weights do not fit a {config.model_type}", _REMEDY):
        model, found = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights.tensors(),
            dtype=dtype,
            attn_implementation="sdpa" if getattr(kind, "_supports_sdpa", False) else "eager",
            ignore_mismatched_sizes=True,  # they are told by `_check_body`
            output_loading_info=True,
        )
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # out of the mapped file, which may change under us
    return model, found


def _encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder of an encoder-decoder, so that its decoder's memory is given back; else the model."""
    if not model.config.is_encoder_decoder or type(model).__name__.endswith("EncoderModel"):
        return model
    encoder: PreTrainedModel = model.get_encoder()
    return encoder


def _check_body(found: dict[str, Any], prefix: str, backbone: PreTrainedModel) -> None:
    """Refuse weights that lack tensors of the body, have them in other shapes, or have layers beyond it."""
    for name, there, wanted in sorted(found["mismatched_keys"]):
        if name.startswith(prefix):
            raise Refused(
                f"The tensor {name} has the shape {tuple(there)}, and config.json says {tuple(wanted)}.",
                _REMEDY,
            )
    missing = sorted(n for n in found["missing_keys"] if n.startswith(prefix) and "pooler" not in n)
    if missing:
        raise Refused(
            f"The weights lack {len(missing)} tensors of the {backbone.config.model_type} that config.json "
            f"describes, such as {missing[0]}.",
            _REMEDY,
        )
    path, layers = hidden_layers(backbone)
    beyond = re.compile(rf"(?:{re.escape(backbone.base_model_prefix)}\.)?{re.escape(path)}\.(\d+)\.")
    for name in sorted(found["unexpected_keys"]):
        if path and (match := beyond.match(name)) and int(match[1]) >= len(layers):
            raise Refused(
                f"config.json says {len(layers)} layers, and the weights have more: {name}.", _REMEDY
            )


def _faulty(found: dict[str, Any]) -> set[str]:
    """Names of tensors that are missing or of another shape."""
    return {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
