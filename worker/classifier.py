"""A new head on a checkpoint's body, and which of its parameters a tuning trains."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.models.auto import modeling_auto as auto
from transformers.pytorch_utils import Conv1D

from headstart.failures import NotApplicable
from worker.forward import pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float, Int
    from transformers import PretrainedConfig, PreTrainedModel

    from headstart.workbench import Tuning
    from worker.bodies import Body

INITIAL_SPREAD = 0.02  # of a head's weights, where the configuration names none
LORA_DROPOUT = 0.1
LORA_SCALE = 2.0  # alpha / rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A body with a new head, in fp32, ready to be trained."""

    body: Body  # its `model` is the whole classifier; batches are made for it
    head: frozenset[str]  # names of the parameters of the head, and of what the weights lacked
    tuning: Tuning

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that are trained, by name."""
        for name, parameter in self.body.model.named_parameters():
            if parameter.requires_grad:
                yield name, parameter


class PooledClassifier(nn.Module):
    """A linear head on the pooled last hidden state, for bodies whose architecture has no classifier."""

    def __init__(self, backbone: PreTrainedModel, body: Body, outputs: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(body.dimension, outputs)
        self._pooling = body.pooling

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.classifier.weight.device

    def forward(self, attention_mask: Int[torch.Tensor, "b t"], **inputs: Any) -> Any:
        """Logits, in an object as the classifiers of transformers return it."""
        hidden = self.backbone(attention_mask=attention_mask, **inputs)[0]
        pooled = pool(hidden, attention_mask.bool(), self._pooling)
        return _Output(self.classifier(self.dropout(pooled)))


@dataclass(frozen=True, slots=True)
class _Output:
    logits: Float[torch.Tensor, "b z"]


def new_classifier(body: Body, outputs: int, tuning: Tuning, *, lora_rank: int, seed: int) -> Classifier:
    """The body, which is no longer frozen, with a new head of so many outputs, drawn from the seed.

    The head is the one that transformers puts on this architecture, else a linear one on the pooled hidden
    state (encoder halves). What the weights lack of the body (a pooler) is drawn anew as well.

    Raises NotApplicable where the tuning has nothing to train in this body.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, inside, unused = _with_head(body, outputs)
        head = {name for name, _ in model.named_parameters() if not name.startswith(inside)}
        lacking = set(body.loading["missing"])
        head |= {
            n for n, _ in model.named_parameters() if n.startswith(inside) and n[len(inside) :] in lacking
        }
        _draw(model, head, body.backbone.config)
    head -= unused
    model = model.to(body.model.device)
    model.requires_grad_(tuning == "full")
    if tuning == "lora":
        _add_lora(body, lora_rank, seed)
    for name, parameter in model.named_parameters():
        if name in unused:
            parameter.requires_grad_(False)
        elif name in head or _tuned(name, tuning):
            parameter.requires_grad_(True)
    if tuning in {"bitfit", "lora"} and all(
        name in head for name, p in model.named_parameters() if p.requires_grad
    ):
        raise NotApplicable(
            f"This {body.architecture} has nothing that {tuning} would train.",
            "Use tuning full, or lora for a body without biases.",
        )
    return Classifier(body=replace(body, model=model, classify=None), head=frozenset(head), tuning=tuning)


def _with_head(body: Body, outputs: int) -> tuple[Any, str, set[str]]:
    """The model around the backbone, its head without values; the prefix of its names; and those of
    its parameters that this classifier does not use (a pooler).
    """
    config = copy.deepcopy(body.backbone.config)
    config.num_labels = outputs
    config.problem_type = None
    mapping = auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    model: Any = None
    if _is_whole(body.backbone) and type(config) in mapping:
        with torch.device("meta"):
            model = mapping[type(config)](config)
    if model is None or _reads_otherwise(model, body.backbone):
        return PooledClassifier(body.backbone, body, outputs, _dropout_of(config)), "backbone.", set()
    prefix = model.base_model_prefix
    used = {name for name, _ in getattr(model, prefix).named_parameters()}
    unused = {f"{prefix}.{name}" for name, _ in body.backbone.named_parameters() if name not in used}
    setattr(model, prefix, body.backbone)
    model.config = config
    for name, child in model.named_children():
        if name != prefix:
            child.to_empty(device="cpu")
    return model, f"{prefix}.", unused


def _reads_otherwise(model: Any, backbone: PreTrainedModel) -> bool:
    """Whether an architecture's own classifier would not read the body's hidden states as a pooled head does.

    Funnel's is around another body than the one that reads every token; XLNet's looks at the last position,
    which is padding where a longer text stands beside.
    """
    if type(getattr(model, model.base_model_prefix)) is not type(backbone):
        return True
    return hasattr(model, "sequence_summary") and backbone.config.summary_type != "first"


def _is_whole(backbone: PreTrainedModel) -> bool:
    """Whether it is all that the architecture's own classifier would be around, not the half of it."""
    whole: Any = auto.MODEL_MAPPING[type(backbone.config)]
    return type(backbone) in (whole if isinstance(whole, tuple) else (whole,))


def _draw(model: nn.Module, names: set[str], config: PretrainedConfig) -> None:
    """Draw these parameters: weights normal, biases zero, norms as they begin."""
    spread = float(getattr(config, "initializer_range", None) or INITIAL_SPREAD)
    for path, module in model.named_modules():
        own = [(name, p) for name, p in module.named_parameters(recurse=False) if f"{path}.{name}" in names]
        for name, parameter in own:
            with torch.no_grad():
                if isinstance(module, nn.LayerNorm):
                    parameter.fill_(1.0 if name == "weight" else 0.0)
                elif name == "bias":
                    parameter.zero_()
                else:
                    parameter.copy_(torch.randn(parameter.shape) * spread)


def _dropout_of(config: PretrainedConfig) -> float:
    for name in ("classifier_dropout", "dropout_rate", "hidden_dropout_prob", "dropout"):
        value = getattr(config, name, None)
        if isinstance(value, float):
            return value
    return 0.1


def _tuned(name: str, tuning: Tuning) -> bool:
    if tuning == "bitfit":
        return name.endswith("bias")
    return tuning == "lora" and "lora_" in name


def _add_lora(body: Body, rank: int, seed: int) -> None:
    """Low-rank updates of all linear layers of the body (Hu et al. 2021, arXiv 2106.09685), by PEFT."""
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - a second, for the jobs that need it

    linear = {n: m for n, m in body.backbone.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    names = sorted(name for name in linear if not name.startswith("pooler"))
    if not names:
        raise NotApplicable(f"This {body.architecture} has no linear layer that lora could update.")
    config = LoraConfig(
        r=rank,
        lora_alpha=int(LORA_SCALE * rank),
        lora_dropout=LORA_DROPOUT,
        target_modules=names,
        fan_in_fan_out=any(isinstance(linear[name], Conv1D) for name in names),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, body.backbone)
