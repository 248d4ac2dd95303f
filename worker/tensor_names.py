"""One name for each tensor of a body, whichever way it was saved."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING

import torch

from headstart.failures import Refused
from worker.building import model_class
from worker.reading import told_as

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig, PreTrainedModel

    from worker.weights import Weights

_OLD = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))  # of TensorFlow
MOST_KNOWN = 64
_known: dict[str, tuple[str, Mapping[str, str]]] = {}  # see `_names`
_TOLD_OF_ONE = {"_name_or_path", "architectures", "id2label", "label2id", "transformers_version"}
_REMEDY = "Use the configuration that was saved with these weights, or save the checkpoint again."


def body_names(weights: Weights, config: PretrainedConfig) -> Mapping[str, str]:
    """Which stored tensor is which of the body's: from the name in the body to the name in the files.

    The names, and their order, are those of the body as transformers builds it from the configuration (of an
    encoder-decoder what `worker.building` builds: T5's encoder alone). Heads and integer buffers are not
    among them. A body inside another model ("bert.encoder..." of a classifier) has the names of a bare one,
    layer norms may have their old names, and tensors that the architecture ties are there once. A tensor that
    the files lack (a pooler) is left out: whether that matters is for the caller to say.

    Raises: Refused (no model can be laid out from the configuration), NotApplicable (no text model).
    """
    prefix, own = _names(config)
    inside = f"{prefix}."
    found: dict[str, str] = {}
    for stored in sorted(weights.shapes):
        plain = stored
        for old, new in _OLD:
            plain = plain.replace(old, new)
        name = own.get(plain) or own.get(plain.removeprefix(inside))
        if name is not None:
            found.setdefault(name, stored)
    return {name: found[name] for name in own.values() if name in found}


def lacking(weights: Weights, config: PretrainedConfig) -> tuple[str, ...]:
    """Names of the body's tensors that the files do not have, the pooler left out. Raises as `body_names`."""
    found = body_names(weights, config)
    own = dict.fromkeys(_names(config)[1].values())
    return tuple(name for name in own if name not in found and "pooler" not in name)


def _names(config: PretrainedConfig) -> tuple[str, Mapping[str, str]]:
    """The body's prefix inside another model, and `_own_names`; laid out once for equal configurations."""
    told = {name: value for name, value in config.to_dict().items() if name not in _TOLD_OF_ONE}
    key = json.dumps(told, default=repr)
    if key not in _known:
        model = _laid_out(config)
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[key] = model.base_model_prefix, _own_names(model)
    return _known[key]


def _laid_out(config: PretrainedConfig) -> PreTrainedModel:
    """The body without memory for its weights."""
    kind = model_class(config, classifier=False)
    with told_as(Refused, f"No {config.model_type} can be built from config.json", _REMEDY):  # noqa: SIM117
        with torch.device("meta"):
            return kind(copy.deepcopy(config))


def _own_names(model: PreTrainedModel) -> dict[str, str]:
    """Every name that a tensor of floats has in the model, to the first that the same tensor has."""
    first: dict[int, str] = {}
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point():
            found[name] = first.setdefault(id(tensor), name)
    return found
