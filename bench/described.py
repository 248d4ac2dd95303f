"""Does a description of an unseen target help? CRPS of its measured gains under several weightings.

    python -m bench.described SOURCE

Each target is left out and foretold as a mixture of the others, weighted alike, by training rows, by
classes, by task, and as the service does. Differences to equal weights come with a 95 % interval by a
bootstrap over targets (families averaged first).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.advice import difference, evidence_of, gain_matrix, without
from headstart.evidence.model_recycling import read_results
from headstart.evidence.source import FolderSource
from headstart.recommend.decide import likeness
from headstart.recommend.posterior import Posterior, fit

if TYPE_CHECKING:
    from headstart.entities import TargetDraft

DRAWS = 400
CANDIDATES = 80  # per target, at random
Weighting = Callable[[int], np.ndarray]


def weightings(targets: tuple[TargetDraft, ...]) -> dict[str, Weighting]:
    """Name -> weights of all targets as guides to one of them."""
    sizes = np.array([t.train_size or np.nan for t in targets], dtype=float)
    classes = np.array([t.classes or np.nan for t in targets], dtype=float)
    tasks = np.array([t.task or "" for t in targets])

    def known(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    return {
        "equal": lambda _: np.ones(len(targets)),
        "training rows": lambda t: likeness(sizes, classes, known(sizes[t]), None),
        "classes": lambda t: likeness(sizes, classes, None, known(classes[t])),
        "rows and classes (served)": lambda t: likeness(sizes, classes, known(sizes[t]), known(classes[t])),
        "same task counts 3 times": lambda t: np.where(tasks == tasks[t], 3.0, 1.0),
        "same task counts 10 times": lambda t: np.where(tasks == tasks[t], 10.0, 1.0),
    }


def crps(fitted: Posterior, weights: np.ndarray, rows: np.ndarray, truth: np.ndarray, seed: int) -> float:
    """Mean CRPS, in points, of one run's gain on a target drawn by `weights`; from DRAWS draws."""
    rng = np.random.default_rng(seed)
    t = rng.choice(len(weights), DRAWS, p=weights / weights.sum())
    f, v = fitted.quality[rows, None], fitted.quality_var[rows, None]
    s, u = fitted.sensitivity[t], fitted.uncertainty[t]
    variance = s * s * v + u[:, 0] + 2 * f * u[:, 1] + f * f * u[:, 2] + fitted.residual[t]
    z = fitted.mean[t] + s * f + np.sqrt(variance) * rng.standard_t(6, (len(rows), DRAWS))
    draws = np.sort(fitted.scale[t] * np.sinh(z), axis=1)
    rank = 2 * np.arange(1, DRAWS + 1) - DRAWS - 1
    return float(np.mean(np.abs(draws - truth[:, None]).mean(axis=1) - draws @ rank / DRAWS**2))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with models_tested.csv")
    options = parser.parse_args()
    batch = read_results(FolderSource(options.source, 1 << 30), max_rows=1_000_000, progress=lambda *_: None)
    schemes = weightings(batch.targets)
    found: dict[str, list[np.ndarray]] = {name: [] for name in schemes}
    for family in sorted({c.family for c in batch.checkpoints}):
        evidence, _ = evidence_of(batch, family)
        gains = gain_matrix(evidence)
        candidate = evidence.checkpoint != evidence.vanilla
        losses: dict[str, list[float]] = {name: [] for name in schemes}
        for t in range(gains.shape[1]):
            fitted = fit(without(evidence, candidate & (evidence.target == t)))
            rows = np.flatnonzero(np.isfinite(gains[:, t]))
            rows = np.random.default_rng(t).permutation(rows)[:CANDIDATES]
            for name, weigh in schemes.items():
                weights = np.where(np.arange(gains.shape[1]) == t, 0.0, weigh(t))
                losses[name].append(crps(fitted, weights, rows, gains[rows, t], seed=t))
        for name, values in losses.items():
            found[name].append(np.array(values))
    pooled = {name: np.mean(values, axis=0) for name, values in found.items()}
    table = Table(title="Gains on a target left out, foretold from the others")
    for column in ("weights", "CRPS, points", "minus equal weights [95 %]"):
        table.add_column(column, justify="left" if column == "weights" else "right")
    for name, values in pooled.items():
        gap, low, high = difference(values, pooled["equal"])
        table.add_row(name, f"{values.mean():.3f}", f"{gap:+.3f} [{low:+.3f}, {high:+.3f}]")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
