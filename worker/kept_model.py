"""The model of a finetune that has ended, written as transformers writes and reads it.

Configuration and weights (safetensors, fp32) are those of the step that the validation rows chose; the
tokenizer's files are the base's, byte for byte. What the tuning does not train is the base's too, and lora is
merged into it. The table of embeddings is whole: of a token that the target does not have it holds the base's
row times what AdamW's decay alone would have left of it, as a training of the whole table would.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from worker.building import build_whole
from worker.classifier import PooledClassifier
from worker.configs import read_config
from worker.finetune import schedule
from worker.tokenizer import tokenizer_files
from worker.weights import Weights

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from headstart.workbench import FinetuneSpec
    from worker.tuned import Trained

HEAD = "head.safetensors"  # of a body that transformers has no classifier for
MOST_CENTRE = 1e4  # standard deviations from 0 up to which an fp32 bias holds the mean of the values


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Of a regression: its values are `centre + scale * output`."""

    centre: float = 0.0
    scale: float = 1.0


def write_model(trained: Trained, folder: Path) -> Units:
    """Write configuration, weights and tokenizer; return what the configuration cannot say.

    The model in memory is taken apart.
    """
    weights = Weights(trained.files.weights)
    config = read_config(trained.files.folder, weights.shapes)
    whole, backbone = build_whole(config, weights, torch.float32)
    body, model = trained.body, trained.training.model.to("cpu")
    inside = "backbone" if isinstance(model, PooledClassifier) else model.base_model_prefix
    with torch.no_grad():
        _take_over(body.backbone, backbone, trained)
        units = _in_units(trained, inside)
    lacking = set(body.loading["missing"])
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if isinstance(model, PooledClassifier):
        _save(whole, config, folder, without=lacking)
        save_file(
            {name: values.contiguous() for name, values in model.classifier.state_dict().items()},
            folder / HEAD,
        )
    else:
        setattr(model, inside, backbone)
        _tell_labels(config, trained)
        _save(model, config, folder, without={f"{inside}.{name}" for name in lacking} - learnt)
    for path in tokenizer_files(trained.files.folder):
        shutil.copyfile(path, folder / path.name)
    return units


def decay(spec: FinetuneSpec, rate: float, steps: int, taken: int) -> float:
    """What so many steps of a training leave of a weight that has no gradient: AdamW's decay, 0..1.

    Loshchilov and Hutter 2019 (arXiv 1711.05101), Algorithm 2: each step takes `rate * weight_decay` of it.
    """
    return prod(1.0 - rate * schedule(step, steps, spec.warmup) * spec.weight_decay for step in range(taken))


def _take_over(made: PreTrainedModel, base: PreTrainedModel, trained: Trained) -> None:
    """Put what was trained of a backbone into the base's, which is whole and in fp32."""
    small = trained.smaller
    for name, parameter in made.named_parameters():
        cut = small is not None and parameter is small.table.weight
        if parameter.requires_grad and "lora_" not in name and not cut:
            base.get_parameter(name).copy_(parameter)
    for name, module in made.named_modules():
        if hasattr(module, "get_delta_weight"):  # of PEFT
            base.get_submodule(name).weight.add_(module.get_delta_weight("default"))
    if small is not None and small.table.weight.requires_grad:
        training = trained.training
        table: Any = base.get_input_embeddings()
        table.weight.mul_(decay(trained.spec, training.rate, training.steps, trained.step))
        table.weight[torch.from_numpy(small.kept)] = small.table.weight


def _in_units(trained: Trained, inside: str) -> Units:
    """Let the head of a regression give values in the target's unit; return what is left to do by hand.

    It is trained on standard deviations from the mean. Its last layer can hold both where it has a bias, and
    where the mean is not so far from 0 that fp32 would round the values away.
    """
    training = trained.training
    if not training.regression:
        return Units()
    last: Any = [
        module
        for name, module in training.model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(f"{inside}.")
    ][-1]
    if last.bias is None or abs(training.centre) > MOST_CENTRE * training.scale:
        return Units(centre=training.centre, scale=training.scale)
    last.weight.mul_(training.scale)
    last.bias.mul_(training.scale).add_(training.centre)
    return Units()


def _tell_labels(config: PretrainedConfig, trained: Trained) -> None:
    classes = trained.classes
    config.num_labels = 1 if classes is None else len(classes)
    if classes is not None:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: number for number, name in enumerate(classes)}
    config.problem_type = "regression" if classes is None else "single_label_classification"
    if trained.body.causal:
        config.pad_token_id = trained.body.pad_id  # by which the head finds a text's last token


def _save(model: PreTrainedModel, config: PretrainedConfig, folder: Path, without: set[str]) -> None:
    """`without`: what was drawn at random and is not used."""
    model.config = config
    state = {name: values for name, values in model.state_dict().items() if name not in without}
    model.save_pretrained(folder, state_dict=state)
