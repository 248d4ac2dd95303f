"""Checkpoint folders written by hand, byte by byte: no library of the formats is asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I8": 1}
CONFIG: dict[str, Any] = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 4,
    "num_hidden_layers": 2,
    "vocab_size": 10,
    "max_position_embeddings": 16,
    "id2label": {"0": "entailment", "1": "neutral", "2": "contradiction"},
}
TENSORS: dict[str, tuple[str, list[int]]] = {
    "bert.embeddings.position_ids": ("I64", [1, 16]),
    "bert.embeddings.word_embeddings.weight": ("F32", [10, 4]),
    "bert.encoder.layer.0.output.dense.weight": ("F32", [4, 4]),
    "bert.encoder.layer.1.output.dense.weight": ("F32", [4, 4]),
    "classifier.weight": ("F32", [3, 4]),
}
PARAMETERS = 10 * 4 + 2 * 4 * 4 + 3 * 4
CARD = """---
license: apache-2.0
language: en
base_model: roberta-base
datasets: [glue, "multi_nli"]
tags:
- text-classification
- 'nli'
model-index:
- name: x
  results:
  - task: y
---
# A card
license: mit
"""


def entries(tensors: dict[str, tuple[str, list[int]]]) -> dict[str, Any]:
    """The header of these tensors, one after the other."""
    told, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = WIDTHS[dtype]
        for axis in shape:
            size *= axis
        told[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return told


def packed(header: Any, data_bytes: int) -> bytes:
    """A safetensors file with this header and so many bytes of zeros."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data_bytes)


def weights(tensors: dict[str, tuple[str, list[int]]] | None = None) -> bytes:
    """A right safetensors file."""
    told = entries(TENSORS if tensors is None else tensors)
    return packed(
        {"__metadata__": {"format": "pt"}, **told}, max(e["data_offsets"][1] for e in told.values())
    )


def make_folder(
    folder: Path,
    *,
    config: dict[str, Any] | None = None,
    tensors: dict[str, tuple[str, list[int]]] | None = None,
    card: str | None = None,
    **files: bytes,
) -> Path:
    """A whole checkpoint; `files` are further ones, or others, with "__" in their names for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights(tensors))
    if card is not None:
        (folder / "README.md").write_text(card)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder
