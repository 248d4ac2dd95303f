"""Tiny random checkpoints of every architecture, written as they lie in the wild: weights, config, tokenizer.

Encoders are masked language models, decoders causal ones without a pad token, T5 both halves; with `labels`
each is a classifier instead. The same arguments give the same bytes of weights.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from pathlib import Path

HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 32, 3, 4, 64, 128
WORDS = ("the", "film", "was", "good", "bad", "and", "not", "a", "very", "long", "plot", "her", "actor")

_PLAIN = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
}
_DEBERTA = {**_PLAIN, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0}

# architecture: its config class, what it is set to, the class saved, the tokenizer
_KINDS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "bert": ("BertConfig", _PLAIN, "BertForMaskedLM", "bert"),
    "roberta": (
        "RobertaConfig",
        {**_PLAIN, "max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1},
        "RobertaForMaskedLM",
        "roberta",
    ),
    "mpnet": (
        "MPNetConfig",
        {**_PLAIN, "max_position_embeddings": POSITIONS + 2},
        "MPNetForMaskedLM",
        "mpnet",
    ),
    "deberta": ("DebertaConfig", _DEBERTA, "DebertaForMaskedLM", "deberta"),
    "deberta-v2": (
        "DebertaV2Config",
        {**_DEBERTA, "conv_kernel_size": 3, "conv_act": "gelu", "share_att_key": True},
        "DebertaV2ForMaskedLM",
        "deberta-v2",
    ),
    "deberta-v3": (
        "DebertaV2Config",
        {
            **_DEBERTA,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
        },
        "DebertaV2ForMaskedLM",
        "deberta-v2",
    ),
    "electra": ("ElectraConfig", {**_PLAIN, "embedding_size": 16}, "ElectraForMaskedLM", "bert"),
    "distilbert": (
        "DistilBertConfig",
        {
            "dim": HIDDEN,
            "n_layers": LAYERS,
            "n_heads": HEADS,
            "hidden_dim": INNER,
            "max_position_embeddings": POSITIONS,
        },
        "DistilBertForMaskedLM",
        "distilbert",
    ),
    "gpt2": (
        "GPT2Config",
        {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS},
        "GPT2LMHeadModel",
        "gpt2",
    ),
    "llama": ("LlamaConfig", {**_PLAIN, "num_key_value_heads": 2}, "LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2Config", {**_PLAIN, "num_key_value_heads": 2}, "Qwen2ForCausalLM", "qwen2"),
    "t5": (
        "T5Config",
        {"d_model": HIDDEN, "d_kv": 8, "d_ff": INNER, "num_layers": LAYERS, "num_heads": HEADS},
        "T5ForConditionalGeneration",
        "t5",
    ),
    "modernbert": (
        "ModernBertConfig",
        {
            **_PLAIN,
            "global_attn_every_n_layers": 2,
            "local_attention": 16,
            **{"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
        },
        "ModernBertForMaskedLM",
        "modernbert",
    ),
}
ARCHITECTURES = tuple(_KINDS)
DECODERS = ("gpt2", "llama", "qwen2")

# tokenizer: the algorithm, its special tokens by role, the form of a pair (a text alone is its first part)
_SPECIALS: dict[str, tuple[str, dict[str, str], str]] = {
    "bert": (
        "wordpiece",
        {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        "[CLS]:0 $A:0 [SEP]:0 | $B:1 [SEP]:1",
    ),
    "roberta": (
        "bytes",
        {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"},
        "<s>:0 $A:0 </s>:0 | </s>:0 $B:0 </s>:0",
    ),
    "mpnet": (
        "wordpiece",
        {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "[UNK]", "mask": "<mask>"},
        "<s>:0 $A:0 </s>:0 | </s>:0 $B:0 </s>:0",
    ),
    "deberta": (
        "bytes",
        {"cls": "[CLS]", "pad": "[PAD]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"},
        "[CLS]:0 $A:0 [SEP]:0 | $B:1 [SEP]:1",
    ),
    "deberta-v2": (
        "unigram",
        {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"},
        "[CLS]:0 $A:0 [SEP]:0 | $B:1 [SEP]:1",
    ),
    "distilbert": (
        "wordpiece",
        {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        "[CLS]:0 $A:0 [SEP]:0 | $B:0 [SEP]:0",
    ),
    "gpt2": ("bytes", {"unk": "<|endoftext|>", "bos": "<|endoftext|>", "eos": "<|endoftext|>"}, ""),
    "llama": ("bytes", {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}, "<s>:0 $A:0 | <s>:0 $B:0"),
    "qwen2": ("bytes", {"eos": "<|endoftext|>"}, ""),
    "t5": ("unigram", {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}, "$A:0 </s>:0 | $B:0 </s>:0"),
    "modernbert": (
        "bytes",
        {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"},
        "[CLS]:0 $A:0 [SEP]:0 | $B:0 [SEP]:0",
    ),
}


def make_tiny(architecture: str, folder: Path, *, labels: int = 0, seed: int = 0, **changes: Any) -> Path:
    """Write a checkpoint to the folder and return it; `changes` are of its configuration."""
    config_class, config, saved_class, kind = _KINDS[architecture]
    tokenizer = make_tokenizer(kind)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    ids = {f"{role}_token_id": tokenizer.convert_tokens_to_ids(token) for role, token in _ids(kind).items()}
    made = getattr(transformers, config_class)(
        **{
            **config,
            "vocab_size": len(tokenizer),
            **ids,
            **({"num_labels": labels} if labels else {}),
            **changes,
        }
    )
    if labels:
        saved_class = config_class.replace("Config", "ForSequenceClassification")
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, saved_class)(made)
    _draw_weights(model, seed)
    model.save_pretrained(folder)
    return folder


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer of the kind that an architecture has: it knows letters and a few words."""
    algorithm, roles, form = _SPECIALS[kind]
    specials = list(dict.fromkeys(roles.values()))
    tokenizer = _ALGORITHMS[algorithm](specials, roles.get("unk"))
    if form:
        single, pair = form.split(" | ")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single,
            pair=f"{single} {pair}",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in specials],
        )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=inputs if ":1" in form else ["input_ids", "attention_mask"],
        **{f"{role}_token": token for role, token in roles.items()},
    )


def _ids(kind: str) -> dict[str, str]:
    """The special tokens that a config names by number."""
    return {role: token for role, token in _SPECIALS[kind][1].items() if role in {"pad", "bos", "eos"}}


def _draw_weights(model: torch.nn.Module, seed: int) -> None:
    """Weights of the size that keeps activations of order one, biases and norms off their neutral values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(noise * 0.1)


def _wordpiece(specials: list[str], unknown: str | None) -> Tokenizer:
    letters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*specials, *letters, *(f"##{letter}" for letter in letters), *(w for w in WORDS if len(w) > 1)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _bytes(specials: list[str], unknown: str | None) -> Tokenizer:
    pieces, merges = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())], []
    for word in WORDS:
        grown = "Ġ"
        for letter in word:
            merges.append((grown, letter))
            grown += letter
            pieces.append(grown)
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _unigram(specials: list[str], unknown: str | None) -> Tokenizer:
    letters = string.ascii_letters + string.digits + string.punctuation
    scored = [(token, 0.0) for token in specials]
    scored += [(letter, -8.0) for letter in ("▁", *letters)]
    scored += [(f"▁{word}", -3.0) for word in WORDS]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=specials.index(str(unknown))))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


_ALGORITHMS = {"wordpiece": _wordpiece, "bytes": _bytes, "unigram": _unigram}
