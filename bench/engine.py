"""How long a fit takes, a new score, and a million names; beside it what the machine cannot go below.

    python -m bench.engine [--json] [--plot FILE] [--quick]

Evidence is drawn from the model: 40 targets, names made of 300 words. Processor time of one core. Targets:
3,000 x 40 cells under 5 s, 100,000 x 40 under 60 s, a million checkpoints of which 300 are measured under
10 s, a target conditioned on 5 new scores and 128 rows foretold under 5 ms, cost linear in checkpoints.

The limit is the larger of two times: that of the products the model asks for, at the rate of this machine's
matrix product, and that of reading what has to be read and writing what has to be written once an iteration,
at its memory's rate. The peers fit the same table in the same run: least squares of the same rank and
iterations with missing cells, which knows neither noise nor covariates nor doubt, and scikit-learn's
FactorAnalysis, where it is installed, on the table without a gap.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from itertools import islice, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from headstart.recommend.condition import conditioned, view_of
from headstart.recommend.decide import predict
from headstart.recommend.evidence import LINEAR_PROBE, FamilyEvidence
from headstart.recommend.factors import ITERATIONS
from headstart.recommend.fit import fit
from headstart.recommend.posterior import RANK, Posterior

if TYPE_CHECKING:
    from collections.abc import Callable

TARGETS = 40
VANILLA_RUNS = 20
LEVEL = 0.7  # of the vanilla on every target
PROBED = 0.9  # share of the checkpoints
NEW, ROWS = 5, 128  # scores that a target is conditioned on, checkpoints foretold
WORDS = (
    "mnli", "qnli", "squad", "rte", "sst", "cola", "stsb", "qqp", "mrpc", "boolq", "imdb", "emotion", "ner",
    "pos", "news", "yelp", "toxic", "hate", "irony", "stance", "bio", "clinical", "legal", "law", "finance",
    "tweet", "review", "question", "answer", "intent", "slot", "topic", "claim", "fever",
)  # fmt: skip
SYLLABLES = ("ba", "de", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu")
VOCABULARY = np.array([*WORDS, *islice(map("".join, product(SYLLABLES, repeat=3)), 300 - len(WORDS))])


class Measured(NamedTuple):
    """One line of the table, in seconds."""

    name: str
    seconds: float
    target: float | None = None
    limit: float | None = None
    memory: float | None = None  # most that the process has held so far, GB


class Machine(NamedTuple):
    """What one core does."""

    flops: float  # a second, of a matrix product
    bandwidth: float  # bytes a second, copied

    def limit(self, flops: float, traffic: float) -> float:
        """Seconds that so many operations and bytes take at the least, side by side."""
        return max(flops / self.flops, traffic / self.bandwidth)


def drawn(checkpoints: int, measured: int, *, unseen: int = 0, seed: int = 0) -> FamilyEvidence:
    """A vanilla and `checkpoints` others, the first `measured` of them finetuned on all targets.

    The last `unseen` of the targets have runs of the vanilla only.
    """
    rng = np.random.default_rng(seed)
    share = 1 / (np.arange(len(VOCABULARY)) + 100.0)
    words = rng.choice(len(VOCABULARY), size=(checkpoints, 4), p=share / share.sum())
    factors = rng.normal(size=(checkpoints, RANK))
    factors += (0.3 * rng.normal(size=(len(VOCABULARY), RANK)))[words].sum(axis=1)
    loadings = np.array([0.6, 0.2, 0.1]) + 0.2 * rng.normal(size=(TARGETS, RANK))
    z = factors[:measured] @ loadings.T + 0.3 * rng.normal(size=TARGETS)
    z += np.sqrt(0.5) * rng.standard_t(6, size=z.shape)
    gain = rng.uniform(0.003, 0.02, TARGETS) * np.sinh(np.clip(z, -3, 3))
    row, target = (one.ravel() for one in np.indices(gain[:, : TARGETS - unseen].shape))
    vanilla = LEVEL + 0.005 * rng.normal(size=(TARGETS, VANILLA_RUNS))
    probe = 0.6 + 0.05 * np.append(0.0, factors[:, 0]) + 0.05 * rng.normal(size=checkpoints + 1)
    probed = np.flatnonzero(rng.random(checkpoints + 1) < PROBED)
    count, size = len(row) + vanilla.size, checkpoints + 1
    return FamilyEvidence(
        family="base",
        evidence_version=1,
        checkpoint_ids=np.arange(size),
        checkpoint_names=("base", *_names(words)),
        vanilla=0,
        parameters=np.full(size, 1.1e8),
        layers=rng.choice([6.0, 12.0], size),
        classification=rng.choice([0.0, 1.0, np.nan], size),
        modified=1.6e9 + 3e7 * rng.random(size),
        target_ids=np.arange(TARGETS),
        target_names=tuple(f"target-{t}" for t in range(TARGETS)),
        target_rows=np.full(TARGETS, 2_000.0),
        checkpoint=np.append(row + 1, np.zeros(vanilla.size, dtype=np.int64)),
        target=np.append(target, np.repeat(np.arange(TARGETS), VANILLA_RUNS)),
        protocol=np.zeros(count, dtype=np.int64),
        seed=np.append(np.zeros(len(row), dtype=np.int64), np.tile(np.arange(VANILLA_RUNS), TARGETS)),
        value=np.clip(np.append(LEVEL + gain[row, target], vanilla), 0, 1),
        stderr=np.full(count, np.nan),
        rows_tested=np.full(count, np.nan),
        created=np.zeros(count),
        probe_methods=(LINEAR_PROBE,),
        probed_checkpoint=probed,
        probed_target=np.zeros(len(probed), dtype=np.int64),
        probe_method=np.zeros(len(probed), dtype=np.int64),
        probe_protocol=np.zeros(len(probed), dtype=np.int64),
        probe_value=np.clip(probe[probed], 0, 1),
        probe_stderr=np.full(len(probed), np.nan),
        probe_created=np.zeros(len(probed)),
    )


def _names(words: np.ndarray) -> list[str]:
    spelt = map("-".join, VOCABULARY[words].tolist())
    return [f"author-{i % 997}/bert-base-finetuned-{some}-{i}" for i, some in enumerate(spelt)]


def fastest(act: Callable[[], object], repeats: int) -> float:
    """Seconds that the fastest call kept the processor busy: what else runs on the machine does not count."""
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        act()
        taken.append(time.process_time() - started)
    return min(taken)


def rates() -> Machine:
    """Rates of a 1,500 x 1,500 product and of a copy of 128 MB, read and written."""
    square, block = np.random.default_rng(0).random((1_500, 1_500)), np.ones(1 << 24)
    to = np.empty_like(block)
    flops = 2 * len(square) ** 3 / fastest(lambda: square @ square, 5)
    return Machine(flops, 2 * block.nbytes / fastest(lambda: np.copyto(to, block), 5))


def of_fit(machine: Machine, rows: int, covariates: int) -> float:
    """Limit of the EM iterations over rows x TARGETS cells.

    Operations: 23 products and sums a cell for what it adds to the factors and the targets, 20 for its
    expected squared error; the inverse of P x P. Bytes: z and both indices are read, the Student weight is
    read and written.
    """
    cells = rows * TARGETS
    flops = ITERATIONS * (2 * cells * (23 + 20) + 2 * covariates**3)
    return machine.limit(flops, ITERATIONS * cells * (8 + 2 * 4 + 2 * 8))


def of_names(machine: Machine, evidence: FamilyEvidence, covariates: int) -> float:
    """Limit of placing every checkpoint: its x (12 entries) by the slopes, x'Qx by pairs of entries; names
    read once, what is told of it written once."""
    count, entries = len(evidence.checkpoint_names), 12
    flops = count * (2 * entries * RANK + 2 * entries**2) + ITERATIONS * 2 * covariates**3
    letters = sum(map(len, evidence.checkpoint_names))
    return machine.limit(flops, letters + count * (entries * 12 + 8 * (RANK + 1)))


def fits(machine: Machine, sizes: list[int]) -> list[Measured]:
    """Of families of these sizes, every checkpoint measured on every target."""
    wanted, found = {3_000: 5.0, 100_000: 60.0}, []
    for size in sizes:
        evidence = drawn(size, size)
        seconds = fastest(lambda: fit(evidence), 2 if size > 30_000 else 4)  # noqa: B023 - called at once
        limit = of_fit(machine, size, len(VOCABULARY) + 7)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        name = f"fit {size:,} x {TARGETS} cells"
        found.append(Measured(name, seconds, wanted.get(size), limit, memory))
        print(f"{name}: {seconds:.2f} s", file=sys.stderr)
    return found


def exponent(sizes: list[int], measured: list[Measured]) -> float:
    """b of seconds = a size^b."""
    return float(np.polyfit(np.log(sizes), np.log([one.seconds for one in measured]), 1)[0])


def names(machine: Machine, count: int) -> Measured:
    """A family of so many names, 300 of them measured."""
    evidence = drawn(count, 300)
    seconds = fastest(lambda: fit(evidence), 3)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    limit = of_names(machine, evidence, len(VOCABULARY) + 7)
    return Measured(f"fit {count:,} names, 300 x {TARGETS} cells", seconds, 10.0, limit, memory)


def new_scores(machine: Machine, checkpoints: int = 3_000) -> list[Measured]:
    """NEW scores on a target that only the vanilla was run on, and on one that all but 100 were run on."""
    posterior = fit(drawn(checkpoints + 100, checkpoints, unseen=1))
    rng, found = np.random.default_rng(0), []
    for name, target, rows in (
        ("a new target", TARGETS - 1, 1 + np.arange(NEW)),
        ("a known target", 0, checkpoints + 1 + np.arange(NEW)),
    ):
        found += _parts(machine, posterior, target, rows, rng.normal(size=NEW), name)
    return found


def _parts(
    machine: Machine, posterior: Posterior, target: int, rows: np.ndarray, gains: np.ndarray, name: str
) -> list[Measured]:
    after = conditioned(posterior, target, rows, gains)
    view, asked = view_of(after, target), np.arange(1, ROWS + 1)
    parts = {
        "conditioned": lambda: conditioned(posterior, target, rows, gains),
        "view": lambda: view_of(after, target),
        f"{ROWS} rows foretold": lambda: predict(after, view, asked),
    }
    lines = [Measured(f"{name}: {part}", fastest(act, 50)) for part, act in parts.items()]
    # every checkpoint's f and quality are copied, and the columns of the cells: read and written
    traffic = 2 * (len(posterior.factors) * (RANK + 1) * 4 + len(posterior.cell_z) * 7 * 8)
    total = sum(one.seconds for one in lines)
    whole = Measured(f"{name}, {NEW} new scores", total, 5e-3, machine.limit(0, traffic))
    return [whole, *lines]


def least_squares(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The peer: rank RANK with missing cells by alternating least squares, all rows at once."""
    known = np.isfinite(table)
    weight, rng = known.astype(float), np.random.default_rng(0)
    centred = np.where(known, table - np.nanmean(table, axis=0), 0.0)
    f, s = np.zeros((len(table), RANK)), rng.normal(size=(table.shape[1], RANK))

    def solved(weight: np.ndarray, centred: np.ndarray, other: np.ndarray) -> np.ndarray:
        squares = (other[:, :, None] * other[:, None, :]).reshape(len(other), RANK**2)
        information = (weight @ squares).reshape(-1, RANK, RANK) + np.eye(RANK)
        return np.linalg.solve(information, (centred @ other)[:, :, None])[:, :, 0]

    for _ in range(ITERATIONS):
        f = solved(weight, centred, s)
        s = solved(weight.T, centred.T, f)
    return f, s


def peers(size: int, engine: float) -> dict[str, float]:
    """Seconds of each on the same table."""
    evidence = drawn(size, size)
    table = np.full((size + 1, TARGETS), np.nan)
    table[evidence.checkpoint, evidence.target] = evidence.value
    found = {"engine": engine, "least squares": fastest(lambda: least_squares(table[1:]), 3)}
    try:
        from sklearn.decomposition import FactorAnalysis  # noqa: PLC0415 - where it is installed
    except ImportError:
        return found
    model = FactorAnalysis(RANK, max_iter=ITERATIONS, tol=1e-12, svd_method="lapack")
    found["scikit-learn FactorAnalysis"] = fastest(lambda: model.fit(table[1:]), 1)
    return found


def measure(quick: bool) -> dict[str, Any]:
    """Everything."""
    here, sizes = rates(), [1_000, 3_000, 10_000]
    sizes += [] if quick else [30_000, 100_000]
    fitted = fits(here, sizes)
    beside = {
        str(size): peers(size, one.seconds)
        for size, one in zip(sizes, fitted, strict=True)
        if size in {3_000, 100_000}
    }
    lines = [*fitted, names(here, 100_000 if quick else 1_000_000), *new_scores(here)]
    return {
        "GFLOP/s": here.flops / 1e9,
        "GB/s": here.bandwidth / 1e9,
        "measured": [one._asdict() for one in lines],
        "sizes": sizes,
        "exponent": exponent(sizes, fitted),
        "exponent from 3,000": exponent(sizes[1:], fitted[1:]),
        "peers": beside,
    }


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console(width=110)
    rates = f"{found['GFLOP/s']:.0f} GFLOP/s, {found['GB/s']:.0f} GB/s"
    table = Table(title=f"The engine on one core ({rates})")
    for column in ("", "ms", "target, ms", "limit, ms", "times the limit", "GB so far"):
        table.add_column(column, justify="right" if column else "left")
    for one in found["measured"]:
        limit, wanted, memory = one["limit"], one["target"], one["memory"]
        table.add_row(
            one["name"],
            f"{1e3 * one['seconds']:,.2f}",
            "" if wanted is None else f"{1e3 * wanted:,.0f}",
            "" if limit is None else f"{1e3 * limit:,.2f}",
            "" if limit is None else f"{one['seconds'] / limit:.1f}",
            "" if memory is None else f"{memory:.2f}",
        )
    console.print(table)
    console.print(
        f"seconds grow as checkpoints ** {found['exponent']:.2f}, from 3,000 on ** "
        f"{found['exponent from 3,000']:.2f}"
    )
    table = Table(title=f"Beside others of rank {RANK}, {ITERATIONS} iterations")
    for column in ("checkpoints", "", "seconds", "engine is slower by"):
        table.add_column(column, justify="right" if column else "left")
    for size, seconds in found["peers"].items():
        for name, taken in seconds.items():
            ratio = seconds["engine"] / taken
            table.add_row(f"{int(size):,}", name, f"{taken:.2f}", f"{ratio:.1f} x")
    console.print(table)


def plot(found: dict[str, Any], file: str) -> None:
    """Seconds of a fit by checkpoints, beside a line that is linear."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only where a plot is asked for

    sizes = np.array(found["sizes"])
    lines = found["measured"][: len(sizes)]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    seconds = np.array([one["seconds"] for one in lines])
    axes.loglog(sizes, seconds, "o-", label=f"fit: checkpoints ** {found['exponent']:.2f}")
    axes.loglog(sizes, seconds[-1] * sizes / sizes[-1], ":", color="grey", label="linear")
    axes.loglog(sizes, [one["limit"] for one in lines], "s--", label="limit of the machine")
    axes.set(xlabel=f"checkpoints, each measured on {TARGETS} targets", ylabel="seconds, one core")
    axes.legend()
    figure.savefig(file)


def main() -> None:
    """Measure and print, on one core."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plot", metavar="FILE", help="draw seconds by checkpoints")
    parser.add_argument("--quick", action="store_true", help="up to 10,000 x 40 cells and 100,000 names")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":  # read when numpy is loaded
        command = [sys.executable, "-m", "bench.engine", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode)
    found = measure(options.quick)
    if options.plot:
        plot(found, options.plot)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
