"""Finetuning: one training loop for every tuning, that can be stopped at any step and goes on where it was.

Rows come in random steps of `batch_rows`, cut by length into micro-batches of a token budget (`batches`);
master weights and the optimiser are fp32, matrix products bf16 where the device is fast in it; AdamW, the
rate growing over `warmup` and falling to 0 linearly. What validates best is kept, and the test rows are
looked at once, at the end. On one device the same seed gives the same bits, interrupted or not.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch.nn import functional

from headstart.failures import Interrupted, NonFinite, OutOfMemory
from headstart.workbench import Outputs, Paused
from worker.batches import micro_batches, steps_of
from worker.cheaper import Cheaper
from worker.forward import Budget, collate
from worker.reading import is_out_of_memory
from worker.training_state import Stretch, TrainingState, random_state, set_random_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from jaxtyping import Float, Int

    from headstart.workbench import FinetuneSpec, Judge
    from worker.classifier import Classifier
    from worker.tokens import Tokens
    from worker.vocabulary import Renumbered

    Report = Callable[[float, str, str, float | None], None]

# Tokens of a micro-batch, padding included. Not measured on CUDA.
BUDGETS = {"cpu": 2048, "cuda": 32_768}
# What a micro-batch costs whatever its size (sums of gradients, kernels for a new shape), in tokens. That of
# CUDA is a guess.
EACH = {"cpu": 150, "cuda": 10_000}
SAVE_SHARE = 0.02  # of the time that saving may take
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of AdamW


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rows of a role, tokenised."""

    tokens: Tokens | Renumbered
    labels: Int[np.ndarray, "n"] | Float[np.ndarray, "n"]


@dataclass(slots=True)
class Progress:
    """Where a training stands; all of it is in the saved state."""

    epoch: int = 0
    step: int = 0  # of all
    step_in_epoch: int = 0
    idle: int = 0  # evaluations without a gain
    best: float = float("-inf")  # validation metric, by which patience counts
    kept: float = float("-inf")  # validation metric of the weights kept
    loss: float = 0.0  # summed since the last evaluation
    losses: int = 0
    seconds: float = 0.0
    tokens: int = 0
    padded_tokens: int = 0
    retries: int = 0  # for want of memory
    unsaved: int = 0  # states that the disk did not take
    curve: list[dict[str, float]] = field(default_factory=list)
    ended: str = ""  # why: "epochs", "steps" or "patience"


class Training:
    """One finetune of a classifier."""

    def __init__(
        self,
        classifier: Classifier,
        train: Part,
        validation: Part,
        spec: FinetuneSpec,
        *,
        rate: float,
        dtype: torch.dtype,
        judge: Judge,
        report: Report,
        state: TrainingState,
        save_seconds: float,
        stretch: Stretch | None = None,
    ) -> None:
        """`save_seconds` of training lie between two states on disk, at least; `stretch`: it may pause."""
        self.body, self.model = classifier.body, classifier.body.model
        self.train, self.validation, self.spec = train, validation, spec
        self.rate, self.dtype, self.judge = rate, dtype, judge
        self._report, self._state = report, state
        self._save_seconds, self._stretch = save_seconds, stretch
        self._started, self._on_disk = 0.0, (0, 0)
        self.device = self.model.device
        self.budget = Budget(BUDGETS[self.device.type])
        self._cheaper = Cheaper(self.device, dtype)
        self.parameters = dict(classifier.trained())
        self.optimiser = torch.optim.AdamW(
            _groups(self.parameters, spec.weight_decay), lr=rate, betas=BETAS, eps=EPSILON, fused=True
        )
        self.at = Progress()
        self.resumed_at, self.seconds_before = 0, 0.0
        self.frozen_body = classifier.tuning == "head"
        per_epoch = len(steps_of(len(train.labels), spec.batch_rows, spec.seed, 0))
        self.per_epoch = per_epoch
        self.steps = max(1, min(round(spec.epochs * per_epoch), spec.most_steps or 1 << 62))
        self.regression = train.labels.dtype.kind == "f"
        self.centre, self.scale = 0.0, 1.0
        labels = train.labels
        if self.regression:  # in standard deviations, before fp32 would round large values away
            self.centre, self.scale = float(labels.mean()), max(float(labels.std()), 1e-12)
            labels = ((labels - self.centre) / self.scale).astype(np.float32)
        self.labels = torch.from_numpy(labels).to(self.device)
        self.lengths = train.tokens.lengths

    def run(self) -> None:
        """Train to the end, and leave the weights that validated best in the model.

        Raises Paused at the end of the stretch, Interrupted where the disk does not take the state then.
        """
        torch.manual_seed(self.spec.seed)
        self._resume()
        self._started, saved = time.monotonic() - self.at.seconds, time.monotonic()
        cost = 0.0
        while not self.at.ended:
            rows = steps_of(len(self.train.labels), self.spec.batch_rows, self.spec.seed, self.at.epoch)
            self._evaluate_if_due(len(rows))  # where it paused in the middle of that
            while not self.at.ended and self.at.step_in_epoch < len(rows):
                self._say()
                self._step(rows[self.at.step_in_epoch])
                self.at.step_in_epoch += 1
                self._keep_time()
                self._evaluate_if_due(len(rows))
                if time.monotonic() - saved > max(self._save_seconds, cost / SAVE_SHARE):
                    cost = self._save()
                    saved = time.monotonic()
            if not self.at.ended:
                self.at.epoch, self.at.step_in_epoch = self.at.epoch + 1, 0
        if self._on_disk != self._where() and (self._stretch or self.at.seconds > self._save_seconds):
            self._save()
        self._state.best_into(self.parameters)

    def rest(self) -> None:
        """Pause if the time of the stretch is up: see `run`."""
        if self._stretch is not None and self._stretch.over():
            self._pause()

    # -- one step

    def _step(self, rows: Int[np.ndarray, "b"]) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * schedule(self.at.step, self.steps, self.spec.warmup)
        before = random_state()
        while (loss := self._gradient(rows)) is None:
            set_random_state(before)
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.spec.most_gradient)
        self.optimiser.step()
        self.at.step += 1
        if not np.isfinite(loss):
            raise NonFinite(
                f"The loss is {loss} at step {self.at.step} of {self.steps}, at a learning rate of "
                f"{self.optimiser.param_groups[0]['lr']:.2g}."
            )
        self.at.loss, self.at.losses = self.at.loss + loss, self.at.losses + 1

    def _gradient(self, rows: Int[np.ndarray, "b"]) -> float | None:
        """The gradient of the mean loss over the rows, and the loss; None where memory ran out."""
        self.model.train()
        if self.frozen_body:
            self.body.backbone.eval()
        self.optimiser.zero_grad(set_to_none=True)
        total, lengths = torch.zeros((), device=self.device), self.lengths
        tokens = padded = 0
        try:
            with self._autocast():  # one for the whole step: weights are cast once
                for batch in self._micro_batches(rows):
                    loss = self._loss(batch) / len(rows)
                    torch.autograd.backward(loss)
                    total += loss.detach()
                    tokens += int(lengths[batch].sum())
                    padded += int(lengths[batch].max()) * len(batch)
            self.at.tokens, self.at.padded_tokens = self.at.tokens + tokens, self.at.padded_tokens + padded
            return float(total)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            loss = None
        self._back_off(rows)
        return None

    def _loss(self, batch: Int[np.ndarray, "m"]) -> torch.Tensor:
        """Summed over the rows: cross-entropy in nats, or squared error in standard deviations."""
        with self._cheaper:
            logits = self.model(**collate(self.body, self.train.tokens, batch)).logits.float()
        labels = self.labels[torch.from_numpy(batch).to(self.device)]
        if self.regression:
            return functional.mse_loss(logits[:, 0], labels, reduction="sum")
        return functional.cross_entropy(logits, labels, reduction="sum")

    def _micro_batches(self, rows: Int[np.ndarray, "b"]) -> Iterator[Int[np.ndarray, "m"]]:
        each = EACH[self.device.type]
        return micro_batches(rows, self.lengths, self.budget, padded=self.body.padded, each=each)

    def _back_off(self, rows: Int[np.ndarray, "b"]) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        longest = int(self.lengths[rows].max())
        if self.budget.tokens <= longest:
            raise OutOfMemory(
                f"One text of {longest} tokens does not fit into the memory of {self.device.type}."
            )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.budget.halve(2, self.budget.tokens // 2)
        self.at.retries += 1

    def _autocast(self) -> AbstractContextManager[Any]:
        cast = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype) if cast else nullcontext()

    # -- between steps

    def _due(self, steps: int) -> bool:
        """Whether to evaluate after this step: `evaluations` times an epoch, and at the end."""
        at = self.at
        if at.step >= self.steps:
            return True
        done = at.step_in_epoch * self.spec.evaluations
        return done // steps > (done - self.spec.evaluations) // steps

    def _evaluate_if_due(self, steps: int) -> None:
        """Evaluate after a step where that is due and not done, and pause if those were enough."""
        if self.at.step_in_epoch and self._due(steps) and self._evaluated() < self.at.step:
            self._evaluate()
        if self._stretch is not None and not self.at.ended and self._stretch.enough(len(self.at.curve)):
            self._pause()

    def _evaluated(self) -> int:
        """The step after which the newest evaluation was."""
        return int(self.at.curve[-1]["step"]) if self.at.curve else 0

    def _evaluate(self) -> None:
        at, spec = self.at, self.spec
        found = self.judge(self.outputs(self.validation, lambda _: self._say("validating")))
        at.curve.append(
            {
                "step": at.step,
                "epoch": round(at.step / self.per_epoch, 3),
                "seconds": round(at.seconds, 3),
                "loss": at.loss / max(1, at.losses),
                "validation": found,
            }
        )
        at.loss, at.losses = 0.0, 0
        if found > at.kept:
            at.kept = found
            self._state.keep(self.parameters)
        if found > at.best + spec.epsilon:
            at.best, at.idle = found, 0
        else:
            at.idle += 1
        if at.step >= self.steps:
            at.ended = "steps" if self.steps == spec.most_steps else "epochs"
        elif at.idle >= spec.patience:
            at.ended = "patience"
        self._keep_time()

    def outputs(self, part: Part, report: Callable[[float], None]) -> Outputs:
        """What the model says of every row, in their order."""
        self.model.eval()
        order = np.argsort(-part.tokens.lengths, kind="stable")
        lengths = part.tokens.lengths[order]
        found: list[np.ndarray] = []
        start = 0
        with torch.inference_mode(), self._autocast(), self._cheaper:
            while start < len(order):
                report(start / len(order))
                rows = order[start : start + self.budget.fitting(lengths, start, padded=self.body.padded)]
                found.append(self.model(**collate(self.body, part.tokens, rows)).logits.float().cpu().numpy())
                start += len(rows)
        values = np.empty((len(order), found[0].shape[1]), dtype=np.float32)
        values[order] = np.concatenate(found)
        if not np.isfinite(values).all():
            rate = self.optimiser.param_groups[0]["lr"]
            raise NonFinite(
                f"The outputs after step {self.at.step} of {self.steps}, at a learning rate of {rate:.2g}, "
                "are NaN or infinite."
            )
        if self.regression:
            return Outputs(values=values.astype(np.float64) * self.scale + self.centre, labels=part.labels)
        return Outputs(values=values, labels=part.labels)

    def _say(self, stage: str = "training") -> None:
        self.rest()
        at = self.at
        left = at.seconds / at.step * (self.steps - at.step) if at.step else None
        so_far = f", validation {at.kept:.3f}" if at.curve else ""
        self._report(at.step / self.steps, stage, f"step {at.step} of {self.steps}{so_far}", left)

    def _resume(self) -> None:
        progress = self._state.load(self.parameters, self.optimiser)
        if progress is not None:
            self.at = Progress(**progress)
            self.resumed_at, self.seconds_before = self.at.step, self.at.seconds
            self._on_disk = self._where()
            for _ in range(self.at.retries):
                self.budget.halve(2, self.budget.tokens // 2)

    def _save(self) -> float:
        """Write the state; return the seconds it took."""
        started = time.monotonic()
        if self._state.save(self.at, self.parameters, self.optimiser):
            self._on_disk = self._where()
        else:
            self.at.unsaved += 1
        return time.monotonic() - started

    def _pause(self) -> NoReturn:
        """Write the state and stop."""
        if not self.at.ended:
            self._keep_time()
        if self._on_disk != self._where():
            self._save()
        if self._on_disk != self._where():
            raise Interrupted("The scratch folder did not take the state of a training that was to pause.")
        at = self.at
        raise Paused(tuple(at.curve), step=at.step, steps_planned=self.steps, seconds=at.seconds)

    def _where(self) -> tuple[int, int]:
        """All that makes one state of this training another than the next."""
        return self.at.step, len(self.at.curve)

    def _keep_time(self) -> None:
        self.at.seconds = time.monotonic() - self._started


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at a step, counted from 0: up to 1 over the warm steps, then to 0."""
    warm = round(warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    return (steps - step) / max(1, steps - warm)


def _groups(parameters: dict[str, Any], weight_decay: float) -> list[dict[str, Any]]:
    """Biases and norms do not decay."""
    plain = [p for p in parameters.values() if p.ndim < 2]
    decays = [p for p in parameters.values() if p.ndim >= 2]
    groups = [{"params": decays, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
