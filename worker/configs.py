"""The configuration of a checkpoint, believed only as far as its weights bear it out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from headstart.checkpoints.files import CONFIG, TOKENIZER_CONFIG
from headstart.failures import NotApplicable, Refused
from worker.checkpoints import read_json
from worker.reading import told_as

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker.weights import Shapes

MOST_LAYERS = 1000
MOST_PARTS = 1 << 20  # experts, labels: lists as long as that are made
MOST_POSITIONS = 1 << 24  # no size is larger, unless a tensor has a side as long
_LIE = "Use the configuration that was saved with these weights."

_LAYERS = re.compile(r"layers?$")
_PARTS = re.compile(r"experts|labels|groups")
_SIZES = re.compile(
    r"size|dim|hidden|embd|d_model|d_ff|d_kv|heads?$|position|n_ctx|inner|bucket|rank|distance"
)
_STEERING = re.compile(r"^_?attn_implementation|^_experts_implementation$|^use_kernels$|^_commit_hash$")


def read_config(folder: Path, shapes: Shapes) -> PretrainedConfig:
    """The configuration of the model in the folder, whose weights have these shapes.

    No library sees it before its sizes were compared with the weights: a million layers, or a billion labels,
    would be built.

    Raises: Refused (code of its own, broken, sizes that the weights do not have), NotApplicable (an
    architecture that this worker does not know, quantised weights).
    """
    raw = read_json(folder / CONFIG)
    tokenizer = folder / TOKENIZER_CONFIG
    for name, told in ((CONFIG, raw), (TOKENIZER_CONFIG, read_json(tokenizer) if tokenizer.exists() else {})):
        if told.get("auto_map"):
            raise Refused(
                f"{name} asks for code of the checkpoint's own (auto_map), which is never run.",
                "Use a checkpoint of an architecture that transformers has itself.",
            )
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise NotApplicable(
            f"{CONFIG} names the model type {str(kind)[:100]!r}, which this worker does not know.",
            "Save the checkpoint with a known architecture, or upgrade the worker.",
        )
    if raw.get("quantization_config"):
        raise NotApplicable("The weights are quantised.", "Use the checkpoint's unquantised weights.")
    _check_sizes(raw, shapes)
    plain = {key: value for key, value in raw.items() if not _STEERING.search(key)}
    with told_as(Refused, f"{CONFIG} is no configuration of a {kind}", _LIE):
        return CONFIG_MAPPING[kind].from_dict(plain)


def _check_sizes(raw: dict[str, Any], shapes: Shapes) -> None:
    """Refuse what the weights cannot bear out: every layer has a tensor, every size is a side of one."""
    longest = max((side for shape in shapes.values() if 0 not in shape for side in shape), default=0)
    for key, value in _integers(raw):
        if _LAYERS.search(key):
            most = min(len(shapes), MOST_LAYERS)
        elif _PARTS.search(key):
            most = min(max(longest, len(shapes)), MOST_PARTS)
        elif _SIZES.search(key):
            most = max(longest, MOST_POSITIONS)
        else:
            continue
        if value > most:
            raise Refused(
                f"{CONFIG} says {key} = {value}, and the weights ({len(shapes)} tensors, the longest side "
                f"{longest}) are of a smaller model.",
                _LIE,
            )


def _integers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """All integers in a JSON value, each with the key it stands under."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _integers(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _integers(inner, key)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield key, value
