"""A checkpoint finetuned on a target: from files and rows to what it says of the validation and test rows."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from headstart.failures import NotApplicable
from headstart.workbench import Finetuned, Outputs, Role
from worker.bodies import load_body
from worker.classifier import new_classifier
from worker.device import device_name, peak_memory, pick_device, pick_dtype, start_counting_memory
from worker.finetune import Part, Training
from worker.forward import check_vocabulary
from worker.tokens import open_tokens
from worker.training_state import TrainingState
from worker.vocabulary import used_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from headstart.rows import RowsFile
    from headstart.workbench import FinetuneSpec, Judge, Tuning
    from worker.bodies import Body
    from worker.cache import Cache
    from worker.checkpoints import CheckpointFiles
    from worker.tokens import Tokens
    from worker.training_state import Stretch
    from worker.vocabulary import Renumbered, SmallerTable

    Report = Callable[[float, str, str, float | None], None]

RATES = {"bert": 2e-5, "roberta": 5e-5, "t5": 1e-4}  # Choshen et al. 2023; of others OTHER_RATE
OTHER_RATE = 5e-5
# Times the rate of full tuning. Hu et al. 2021 and Ben Zaken et al. 2022 (arXiv 2106.10199) train few
# parameters at 2e-4 .. 5e-4 and 1e-4 .. 1e-3; a head alone is convex, and takes more.
FASTER: dict[Tuning, float] = {"full": 1.0, "lora": 10.0, "bitfit": 20.0, "head": 50.0}
FORMAT = 2  # of the state of a training; raised whenever what is in it changes
LOADED, TRAINED = 0.05, 0.95  # shares of the progress
SAVE_SECONDS = 60.0  # of training between two states on disk, at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a finetune reads, and where it keeps what the next attempt goes on from."""

    files: CheckpointFiles
    rows: RowsFile
    cache: Cache
    folder: Path
    save_seconds: float = SAVE_SECONDS
    stretch: Stretch | None = None  # of a training that may pause


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finetune that has ended; the weights that validated best are in its model."""

    files: CheckpointFiles  # of the base
    classes: tuple[str, ...] | None
    spec: FinetuneSpec
    training: Training
    tokens: Mapping[Role, Tokens]
    smaller: SmallerTable | None  # the embeddings, where only those of the target's tokens were trained

    @property
    def body(self) -> Body:
        """The body; its `model` is the classifier."""
        return self.training.body

    @property
    def step(self) -> int:
        """Steps until the weights that validated best."""
        at = self.training.at
        return int(next(one["step"] for one in at.curve if one["validation"] == at.kept))

    def seen(self, tokens: Tokens) -> Tokens | Renumbered:
        """The tokens of a role as the model takes them."""
        return self.smaller.of(tokens) if self.smaller else tokens


def rate_of(spec: FinetuneSpec, architecture: str) -> float:
    """The learning rate of a spec that names one, else the papers' for the architecture and the tuning."""
    if spec.learning_rate is not None:
        return spec.learning_rate
    return RATES.get(architecture, OTHER_RATE) * FASTER[spec.tuning]


def finetune(inputs: Inputs, spec: FinetuneSpec, judge: Judge, report: Report) -> Finetuned:
    """Finetune, choose by the validation rows, and only then look at the labels of the test rows.

    Raises what `Workbench.finetune` says.
    """
    started = time.monotonic()
    start_counting_memory(pick_device())
    with trained(inputs, spec, judge, report) as found:
        training, tokens = found.training, found.tokens

        def scoring(share: float, stage: str) -> None:
            training.rest()
            report(TRAINED + (1 - TRAINED) * share, stage, "", None)

        validation = training.outputs(training.validation, lambda _: scoring(0.0, "validating"))
        unseen = Part(tokens=found.seen(tokens["test"]), labels=np.zeros(0))
        said = training.outputs(unseen, lambda share: scoring(share, "scoring the test rows"))
        facts = _facts(inputs, found.body, tokens, spec, training)
    return Finetuned(
        classes=inputs.rows.head.classes,
        validation=validation,
        test=Outputs(values=said.values, labels=_labels(inputs, "test", spec)),
        curve=tuple(training.at.curve),
        facts=facts | {"seconds": round(training.seconds_before + time.monotonic() - started, 3)},
    )


@contextmanager
def trained(inputs: Inputs, spec: FinetuneSpec, judge: Judge, report: Report) -> Iterator[Trained]:
    """Train to the end, or go on from what an attempt before left; no label of a test row is read.

    Raises what `Workbench.finetune` says.
    """
    report(0.0, "loading the checkpoint", "", None)
    body = load_body(inputs.files, pick_device(), torch.float32, with_head=False)
    with ExitStack() as opened:
        tokens = {
            role: opened.enter_context(closing(_tokens(inputs, body, spec, role, report)))
            for role in get_args(Role)
        }
        for found in tokens.values():
            check_vocabulary(body, found)
        smaller = used_only(body, list(tokens.values()))
        parts = {
            role: Part(tokens=smaller.of(found) if smaller else found, labels=_labels(inputs, role, spec))
            for role, found in tokens.items()
            if role != "test"
        }
        training = _training(inputs, body, parts, spec, judge, report)
        training.run()
        yield Trained(
            files=inputs.files,
            classes=inputs.rows.head.classes,
            spec=spec,
            training=training,
            tokens=tokens,
            smaller=smaller,
        )


def _training(
    inputs: Inputs, body: Body, parts: Mapping[Role, Part], spec: FinetuneSpec, judge: Judge, report: Report
) -> Training:
    classes, dtype = inputs.rows.head.classes, pick_dtype(body.model.device, spec.precision)
    key = _key(inputs, spec, dtype, body.model.device)
    _check_labels(parts["train"].labels)
    return Training(
        new_classifier(
            body,
            1 if classes is None else len(classes),
            spec.tuning,
            lora_rank=spec.lora_rank,
            seed=spec.seed,
        ),
        parts["train"],
        parts["validation"],
        spec,
        rate=rate_of(spec, body.architecture),
        dtype=dtype,
        judge=judge,
        state=TrainingState(inputs.folder / f"training-{key[:16]}.pt", key),
        save_seconds=inputs.save_seconds,
        stretch=inputs.stretch,
        report=lambda fraction, *said: report(LOADED + (TRAINED - LOADED) * fraction, *said),
    )


def _facts(
    inputs: Inputs, body: Body, tokens: Mapping[Role, Tokens], spec: FinetuneSpec, training: Training
) -> dict[str, Any]:
    at, device = training.at, training.device
    rows = {role: len(found.lengths) for role, found in tokens.items()}
    return {
        "checkpoint": inputs.files.digest,
        "architecture": body.architecture,
        "tuning": spec.tuning,
        "device": device_name(device),
        "dtype": str(training.dtype).removeprefix("torch."),
        "learning_rate": training.rate,
        "trained_parameters": sum(p.numel() for p in training.parameters.values()),
        "max_tokens": _most_tokens(body, spec),
        "rows": rows,
        "steps": at.step,
        "steps_planned": training.steps,
        "epochs": round(at.step / training.per_epoch, 3),
        "ended": at.ended,
        "tokens": at.tokens,
        "padded_tokens": at.padded_tokens,
        "truncated": sum(found.truncated for found in tokens.values()) / sum(rows.values()),
        "train_seconds": round(at.seconds, 3),
        "batch_tokens": training.budget.tokens,
        "out_of_memory_retries": at.retries,
        "resumed_at_step": training.resumed_at,
        "states_not_saved": at.unsaved,
        "classes_without_train_rows": _unseen(inputs, training),
        "peak_memory_bytes": peak_memory(device),
    }


def _unseen(inputs: Inputs, training: Training) -> list[str]:
    """Classes that the train rows taken do not have: they are hardly ever predicted."""
    classes = inputs.rows.head.classes or ()
    seen = set(training.train.labels.tolist())
    return [name for number, name in enumerate(classes) if number not in seen]


def _check_labels(labels: Any) -> None:
    if np.all(labels == labels[0]):
        raise NotApplicable(
            f"All {len(labels)} train rows have the same label, so there is nothing to learn.",
            "Give the target train rows of every class, or take more of them (max_train_rows).",
        )


def _tokens(inputs: Inputs, body: Body, spec: FinetuneSpec, role: Role, report: Report) -> Tokens:
    count = min(_most_rows(spec, role), inputs.rows.head.sizes.get(role, 0))
    if count == 0:
        raise NotApplicable(f"The target has no {role} rows.", "Give it rows by POST /targets.")
    return open_tokens(
        body.tokenizer,
        body.tokenizer_digest,
        inputs.rows,
        role,
        most_rows=count,
        max_tokens=_most_tokens(body, spec),
        cache=inputs.cache,
        report=lambda share, stage, message: report(LOADED * share, stage, message, None),
    )


def _most_rows(spec: FinetuneSpec, role: Role) -> int:
    if role == "train":
        return spec.max_train_rows or 1 << 62
    return spec.max_rows


def _most_tokens(body: Body, spec: FinetuneSpec) -> int:
    return min(spec.max_tokens, body.most_tokens or spec.max_tokens)


def _labels(inputs: Inputs, role: Role, spec: FinetuneSpec) -> Any:
    return inputs.rows.labels(role, _most_rows(spec, role))


def _key(inputs: Inputs, spec: FinetuneSpec, dtype: torch.dtype, device: torch.device) -> str:
    """Of a training: equal keys, equal results."""
    parts = {
        "format": FORMAT,
        "checkpoint": inputs.files.digest,
        "target": inputs.rows.head.fingerprint,
        "made_by": [version(name) for name in ("torch", "transformers", "peft")],
        "computed": [str(dtype), device_name(device)],
    }
    return hashlib.sha256(json.dumps(parts | asdict(spec), sort_keys=True).encode()).hexdigest()
