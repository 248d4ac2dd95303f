"""What a checkpoint is, by its config, its card and the headers of its weights; and where they contradict.

Pure: a folder and a repository of the hub are described by the same code.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from headstart.checkpoints.card import clean
from headstart.checkpoints.files import CONFIG, NO_CODE, TOKENIZER_CONFIG
from headstart.errors import Forbidden, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headstart.checkpoints.safetensors import Header, Tensor

MOST_LABELS = 100  # of a head, that are told
LARGEST = 1 << 40  # a size in a config that is larger is a lie

# what architectures name a size, the usual name first
_WIDTH = ("hidden_size", "d_model", "n_embd", "dim")
_DEPTH = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")
_HEADS = {
    "ForSequenceClassification": "sequence classification",
    "ForTokenClassification": "token classification",
    "ForQuestionAnswering": "question answering",
    "ForMultipleChoice": "multiple choice",
    "ForMaskedLM": "masked language model",
    "ForPreTraining": "pretraining",
    "ForCausalLM": "language model",
    "LMHeadModel": "language model",
    "ForConditionalGeneration": "text to text",
}
_EMBEDDING = re.compile(r"(?:^|\.)(?:word_embeddings|embed_tokens|wte|shared|tok_embeddings)\.weight$")
_OUTPUT = re.compile(
    r"(?:^|\.)(?:lm_head|predictions\.decoder|lm_head\.decoder|decoder|embed_out|vocab_projector"
    r"|generator_lm_head|embed_tokens)\.weight$"
)
_LAYER = re.compile(r"(?:^|\.)(?:layer|layers|h|block)\.(\d{1,6})\.")
_COUNTERS = ("I64", "BOOL")  # positions and masks: buffers, no parameters


def check_config(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> None:
    """Refuse a config that asks for code of its own (Forbidden), or names no architecture (InvalidInput)."""
    for name, told in ((CONFIG, config), (TOKENIZER_CONFIG, tokenizer_config)):
        if told.get("auto_map"):
            raise Forbidden(f"{name} asks for code of its own ('auto_map'). {NO_CODE}")
    if not isinstance(config.get("model_type"), str) or not config["model_type"]:
        raise InvalidInput(
            f"{CONFIG} has no 'model_type', so that nothing can tell the architecture. Save the checkpoint "
            "again with save_pretrained."
        )


def check_shapes(config: Mapping[str, Any], headers: Sequence[Header]) -> None:
    """Refuse weights that are none, or not those of the config where that is cheap to see: InvalidInput."""
    if not headers:
        return
    tensors = tensors_of(headers)
    if parameters_of(config, headers) == 0:
        raise InvalidInput(
            f"The weights hold {len(tensors)} tensors and no parameter. Save the checkpoint again with "
            "save_pretrained."
        )
    for name, tensor in tensors.items():
        if _EMBEDDING.search(name) and len(tensor.shape) == 2:
            _check_embedding(config, name, tensor)
    depth, found = size_of(config, _DEPTH), _layers_in(tensors)
    if depth is not None and 0 < found < depth:
        raise InvalidInput(
            f"{CONFIG} says {depth} layers, and the weights have {found}: the others would be drawn at "
            "random. Save the checkpoint again with save_pretrained."
        )


def details_of(
    config: Mapping[str, Any], card: Mapping[str, Sequence[str]], headers: Sequence[Header]
) -> dict[str, Any]:
    """What is worth knowing beside name, size and licence, as far as it is known."""
    architectures = config.get("architectures")
    architecture = clean(architectures[0]) if isinstance(architectures, list) and architectures else None
    labels = labels_of(config)
    told = {
        "model_type": clean(config["model_type"]),
        "architecture": architecture,
        "head": head_of(architecture, len(labels) or size_of(config, ("num_labels",))),
        "labels": list(labels[:MOST_LABELS]) if head_of(architecture, None, labelled=True) else None,
        "hidden_size": size_of(config, _WIDTH),
        "layers": size_of(config, _DEPTH),
        "vocab_size": size_of(config, ("vocab_size",)),
        "max_positions": size_of(config, _POSITIONS),
        "dtype": _dtype_of(headers),
        "tags": list(card.get("tags", ())),
        "datasets": list(card.get("datasets", ())),
        "language": list(card.get("language", ())),
        "pipeline_tag": next(iter(card.get("pipeline_tag", ())), None),
    }
    return {key: value for key, value in told.items() if value not in (None, [], "")}


def parameters_of(config: Mapping[str, Any], headers: Sequence[Header]) -> int | None:
    """How many parameters there are: elements of all tensors, buffers left out, tied weights once.

    Where the config ties input and output embeddings (as it does unless it says otherwise), an output
    embedding of the shape of the input embedding counts as the same. None: there is no header to tell.
    """
    if not headers:
        return None
    tensors = tensors_of(headers)
    counted = {name: one for name, one in tensors.items() if one.dtype not in _COUNTERS}
    inputs = {one.shape for name, one in counted.items() if _EMBEDDING.search(name)}
    if config.get("tie_word_embeddings") is not False:
        first = next((name for name in sorted(counted) if _EMBEDDING.search(name)), None)
        again = (n for n in counted if n != first and counted[n].shape in inputs and _is_tied(n))
        counted = {name: counted[name] for name in set(counted) - set(again)}
    return sum(one.elements for one in counted.values())


def license_of(card: Mapping[str, Sequence[str]]) -> str | None:
    """The licence by its name on the hub, such as "apache-2.0"."""
    words = card.get("license", ())
    if words == ["other"] and card.get("license_name"):
        words = card["license_name"]
    return words[0] if words else None


def head_of(architecture: str | None, labels: int | None, *, labelled: bool = False) -> str | None:
    """What its head does, in words; None for a bare body. If `labelled`, only heads that have labels."""
    for ending, what in _HEADS.items():
        if (architecture or "").endswith(ending):
            has_labels = what.endswith("classification")
            if labelled and not has_labels:
                return None
            return f"{what} with {labels} labels" if has_labels and labels else what
    return None


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a head's labels, in their order."""
    told = config.get("id2label")
    if not isinstance(told, dict) or not all(re.fullmatch(r"[0-9]{1,12}", key) for key in told):
        return ()
    return tuple(clean(told[key]) for key in sorted(told, key=int))


def tensors_of(headers: Sequence[Header]) -> dict[str, Tensor]:
    """The tensors of all shards by name. InvalidInput where two shards have one of the same name."""
    found: dict[str, Tensor] = {}
    for header in headers:
        twice = next((name for name in header.tensors if name in found), None)
        if twice is not None:
            raise InvalidInput(f"Two shards hold the tensor {twice[:100]!r}. Copy the checkpoint again.")
        found.update(header.tensors)
    return found


def size_of(config: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """The first of these sizes that the config tells. InvalidInput for one that is no size."""
    for name in names:
        told = config.get(name)
        if told is None:
            continue
        if type(told) is not int or not 0 <= told <= LARGEST:
            raise InvalidInput(
                f"{CONFIG} says {name} {clean(told)[:40]!r}, which is no size. Save the checkpoint again "
                "with save_pretrained."
            )
        return told
    return None


def _check_embedding(config: Mapping[str, Any], name: str, tensor: Tensor) -> None:
    words, width = tensor.shape
    vocabulary = size_of(config, ("vocab_size",))
    if vocabulary is not None and words != vocabulary:
        raise _contradiction(f"vocab_size {vocabulary}", name, tensor)
    # narrower embeddings are projected to the hidden size
    widths = [size_of(config, (key,)) for key in (*_WIDTH, "embedding_size", "word_embed_proj_dim")]
    if any(widths) and width not in widths:
        raise _contradiction(f"hidden_size {size_of(config, _WIDTH)}", name, tensor)


def _contradiction(says: str, name: str, tensor: Tensor) -> InvalidInput:
    return InvalidInput(
        f"{CONFIG} says {says}, and the tensor {name[:100]!r} has the shape {list(tensor.shape)}. The "
        "config is not that of these weights: copy both from the same place."
    )


def _layers_in(tensors: Mapping[str, Tensor]) -> int:
    """How many layers the names of the tensors tell, of the stack that has most; 0: none."""
    stacks: dict[str, set[int]] = {}
    for name in tensors:
        if at := _LAYER.search(name):
            stacks.setdefault(name[: at.start(1)], set()).add(int(at[1]))
    return max((len(found) for found in stacks.values()), default=0)


def _is_tied(name: str) -> bool:
    return bool(_OUTPUT.search(name) or _EMBEDDING.search(name))


def _dtype_of(headers: Sequence[Header]) -> str | None:
    """The type that most of the numbers have."""
    held = Counter[str]()
    for header in headers:
        for tensor in header.tensors.values():
            held[tensor.dtype] += tensor.elements
    return held.most_common(1)[0][0] if held else None
