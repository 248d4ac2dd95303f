"""POST /recommend against a constant route of the same app, and 1,000,000 checkpoints against 2,000.

    python -m bench.recommend [--checkpoints 1000000] [--requests 4000] [--rounds 5] [--json]

Both routes validate the same question and answer with as many bytes; rounds alternate, and a ratio is the
median over rounds of throughput here / throughput there (p99: there under here; CPU: seconds of the server
process there / here, which other work on the machine moves less). The targets: repeated questions at least
0.9 and differing ones at least 0.7 of the constant route, p99 at most 1.5 times, a million checkpoints at
most 1.2 times slower than 2,000.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.evidence import FAMILY, TARGETS, fill
from bench.load import Load, post, run

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = 2_000
BOARDS = 8.0  # seconds in which a fresh service makes its boards, beside the traffic


def questions(count: int, rng: np.random.Generator, filters: bool) -> list[bytes]:
    """Questions that all differ: target or description, a checkpoint to leave out, some worth, filters."""
    asked = []
    for i in range(count):
        question: dict[str, object] = {"family": FAMILY, "exclude": [f"mine/finetune-{i}"]}
        if rng.random() < 0.3:
            question["worth"] = round(float(rng.uniform(0, 3)), 2)
        if rng.random() < 0.7:
            question["target"] = {"name": str(rng.choice(TARGETS))}
        else:
            question["target"] = {
                "train_size": int(rng.integers(100, 500_000)),
                "classes": int(rng.integers(2, 30)),
            }
        if filters and rng.random() < 0.3:
            question["max_parameters"] = int(rng.integers(50_000_000, 400_000_000))
        if filters and rng.random() < 0.2:
            question["licenses"] = [str(rng.choice(["mit", "apache-2.0"]))]
        if filters and rng.random() < 0.2:
            question["exclude"] = [f"author-{k}/model-{k}" for k in (i, *rng.integers(0, 400, size=3))]
        asked.append(json.dumps(question).encode())
    return asked


@contextmanager
def serving(url: str, size: int) -> Iterator[int]:
    """A server process on this store; yields its port once it answers."""
    command = [sys.executable, "-m", "bench.server", url, str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=120).raise_for_status()
            yield port
        finally:
            process.terminate()


def answer_size(url: str) -> int:
    """Bytes of a typical answer."""
    with serving(url, 1) as port:
        body = {"family": FAMILY, "target": {"name": TARGETS[0]}}
        return len(httpx.post(f"http://127.0.0.1:{port}/recommend", json=body).content)


class Timed(NamedTuple):
    """A load, and what it took the server."""

    load: Load
    cpu: float  # seconds


def cpu_of(port: int) -> float:
    """CPU seconds of the server so far."""
    return float(httpx.get(f"http://127.0.0.1:{port}/cpu", trust_env=False).json())


def timed(port: int, requests: list[bytes]) -> Timed:
    """Send them all."""
    before = cpu_of(port)
    load = run(port, requests)
    return Timed(load, cpu_of(port) - before)


def compare(port: int, bodies: list[list[bytes]], rounds: int) -> tuple[list[Timed], list[Timed]]:
    """(advice, constant), one pair a round, in alternating order."""
    advice: list[Timed] = []
    constant: list[Timed] = []
    for k in range(rounds):
        here = [post("/recommend", body) for body in bodies[k]]
        there = [post("/constant", body) for body in bodies[k]]
        for first in (k % 2, 1 - k % 2):
            (advice if first else constant).append(timed(port, here if first else there))
    return advice, constant


def ratios(advice: list[Timed], constant: list[Timed]) -> dict[str, float]:
    """Medians over rounds."""
    here, there = [one.load for one in advice], [one.load for one in constant]
    pairs = list(zip(here, there, strict=True))
    return {
        "throughput": float(np.median([a.per_second / b.per_second for a, b in pairs])),
        "cpu": float(np.median([b.cpu / a.cpu for a, b in zip(advice, constant, strict=True)])),
        "p99": float(np.median([a.p99 / b.p99 for a, b in pairs])),
        "per_second": float(np.median([a.per_second for a in here])),
        "constant_per_second": float(np.median([b.per_second for b in there])),
        "p50_ms": float(np.median([a.p50 for a in here])) * 1e3,
        "p99_ms": float(np.median([a.p99 for a in here])) * 1e3,
    }


def measure(url: str, size: int, requests: int, rounds: int) -> dict[str, dict[str, float]]:
    """All loads on one store."""
    rng = np.random.default_rng(0)
    same = json.dumps({"family": FAMILY, "target": {"name": TARGETS[0]}}).encode()
    loads = {
        "repeated": [[same] * requests] * rounds,
        "differing": [questions(requests, rng, filters=False) for _ in range(rounds)],
        "differing, filtered": [questions(requests, rng, filters=True) for _ in range(rounds)],
    }
    with serving(url, size) as port:
        time.sleep(BOARDS)
        run(port, [post("/recommend", b) for b in questions(2_000, rng, filters=True)])  # warm up
        return {name: ratios(*compare(port, bodies, rounds)) for name, bodies in loads.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=1_000_000, help="size of the large store")
    parser.add_argument("--requests", type=int, default=4_000, help="per load and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for checkpoints in (SMALL, options.checkpoints):
            url = f"sqlite:///{Path(folder) / f'{checkpoints}.db'}"
            print(f"filling a store with {checkpoints:,} checkpoints", file=sys.stderr)
            fill(url, checkpoints).close()
            print("measuring", file=sys.stderr)
            found[f"{checkpoints}"] = measure(url, answer_size(url), options.requests, options.rounds)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


def show(found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the ratios as a table."""
    table = Table(title="POST /recommend, one process; ratios to a constant route of the same app")
    for column in (
        "checkpoints",
        "questions",
        "throughput",
        "CPU",
        "p99",
        "answers/s",
        "constant/s",
        "against small",
    ):
        table.add_column(column, justify="left" if column == "questions" else "right")
    small = next(iter(found.values()))
    for checkpoints, loads in found.items():
        for name, r in loads.items():
            against = small[name]["throughput"] / r["throughput"]
            table.add_row(
                f"{int(checkpoints):,}",
                name,
                f"{r['throughput']:.2f}",
                f"{r['cpu']:.2f}",
                f"{r['p99']:.2f}",
                f"{r['per_second']:,.0f}",
                f"{r['constant_per_second']:,.0f}",
                f"{against:.2f} x slower",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
