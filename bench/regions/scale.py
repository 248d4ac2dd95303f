"""Regions of a thousand sketched checkpoints: seconds of each step, on planted regions.

    python -m bench.regions.scale [--checkpoints 1000] [--dims 65536] [--sources 50] [--json]

Nine in ten checkpoints are of a source, with a cosine of 0.25 to the others of theirs; the rest are of none.
Sketches are drawn, not made from weights. Seconds are of this machine; the sum is that of `regions_of`.
"""

from __future__ import annotations

import argparse
import json
import resource
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from headstart.linalg import spectrum
from headstart.regions.cluster import find_regions
from headstart.regions.cosine import block_grams, cosine_of, sketch_noise, summed
from headstart.regions.layout import coordinates
from headstart.regions.partition import MOST, partition
from headstart.regions.purity import adjusted_rand
from headstart.regions.stability import stability

if TYPE_CHECKING:
    from collections.abc import Callable

WITHIN = 0.25


def drawn(checkpoints: int, dims: int, sources: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Sketches in fp32, and what each checkpoint was tuned on; one in ten on something of its own."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((sources, dims), dtype=np.float32)
    sketches = np.empty((checkpoints, dims), dtype=np.float32)
    names = []
    for row in range(checkpoints):
        sketches[row] = rng.standard_normal(dims, dtype=np.float32)
        if row % 10 == 9:
            names.append(f"own {row}")
            continue
        source = int(rng.integers(sources))
        sketches[row] = np.sqrt(1 - WITHIN) * sketches[row] + np.sqrt(WITHIN) * centres[source]
        names.append(f"source {source}")
    return sketches, names


def measure(checkpoints: int, dims: int, sources: int) -> dict[str, float]:
    """Seconds by step, and how much of what was planted is found."""
    sketches, names = drawn(checkpoints, dims, sources)
    found: dict[str, float] = {}

    def timed(step: str, work: Callable[[], Any]) -> Any:
        start = perf_counter()
        result = work()
        found[step] = perf_counter() - start
        return result

    busy = process_time()
    grams = timed("Gram matrices, by block", lambda: block_grams(sketches))
    cosine = timed("cosine", lambda: cosine_of(summed(grams)))
    whole = timed("regions, stability and map", lambda: find_regions(cosine, dims=dims, grams=grams))
    busy = process_time() - busy
    noise = sketch_noise(dims)
    timed("  of it: eigenvectors", lambda: spectrum(cosine, MOST))
    parts = timed("  of it: eigenvectors and groups", lambda: partition(cosine, noise))
    timed("  of it: bootstrap", lambda: stability(grams, parts.labels, noise))
    timed("  of it: map", lambda: coordinates(cosine, parts.regions))
    found["all"] = sum(seconds for step, seconds in found.items() if not step.startswith("  "))
    found["all, of CPU"] = busy
    lone = np.array([name.startswith("own") for name in names])
    found["regions planted"] = len(set(names) - {name for name in names if name.startswith("own")})
    found["regions found"] = len(whole.regions)
    found["adjusted Rand index"] = adjusted_rand(whole.labels, names) or 0.0
    found["of none, told so"] = float(np.mean(whole.labels[lone] < 0)) if lone.any() else 1.0
    found["least stability"] = min((region.stability for region in whole.regions), default=0.0)
    found["peak memory, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["of it sketches, MiB"] = sketches.nbytes / 2**20
    return found


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=1000)
    parser.add_argument("--dims", type=int, default=65_536)
    parser.add_argument("--sources", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = measure(asked.checkpoints, asked.dims, asked.sources)
    if asked.json:
        print(json.dumps(found))
        return
    table = Table(title=f"{asked.checkpoints} sketches of {asked.dims} dimensions")
    table.add_column("step")
    table.add_column("seconds, or as named", justify="right")
    for name, value in found.items():
        table.add_row(name, f"{value:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
