"""Is the advice right? Leave-one-target-out order and held-out-cell calibration on published scores.

    python -m bench.advice SOURCE [--json]

SOURCE is a model-recycling folder. Beside the posterior stand the static leaderboard (mean of raw gains),
the mean of standardised gains, the linear probe, size and chance, on the same cleaned cells. A difference
is given with a 95 % interval by a paired bootstrap over targets (families averaged first).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from headstart.evidence.model_recycling import read_results
from headstart.evidence.source import FolderSource
from headstart.recommend import decide
from headstart.recommend.evidence import LINEAR_PROBE, FamilyEvidence
from headstart.recommend.gains import gain_cells, vanilla_levels
from headstart.recommend.posterior import Posterior, fit
from headstart.recommend.probes import probe_covariate, reference
from headstart.recommend.t_noise import t_cdf

if TYPE_CHECKING:
    from headstart.entities import ImportBatch

FOLDS = 5
LEVELS = np.linspace(0.01, 0.99, 99)


def evidence_of(batch: ImportBatch, family: str) -> tuple[FamilyEvidence, np.ndarray]:
    """What the store would hand out for the family, and the parameters of its checkpoints."""
    checkpoints = [c for c in batch.checkpoints if c.family == family]
    row = {c.name: i for i, c in enumerate(checkpoints)}
    column = {t.name: j for j, t in enumerate(batch.targets)}
    kept = defaultdict(list)
    for s in batch.scores:
        if s.family == family and s.quarantine is None:
            table = s.params.get("table") == "pretrain"
            kept[s.method].append((row[s.checkpoint], column[s.target], int(table), s.seed, s.value))
    finetune, probe = (np.array(kept[m], dtype=float).reshape(-1, 5) for m in ("finetune", "linear_probe"))
    count = len(finetune)
    evidence = FamilyEvidence(
        family=family,
        evidence_version=1,
        checkpoint_ids=np.arange(len(checkpoints)),
        checkpoint_names=tuple(row),
        vanilla=row[family],
        target_ids=np.arange(len(column)),
        target_names=tuple(column),
        target_rows=np.array([t.rows_tested or np.nan for t in batch.targets], dtype=float),
        checkpoint=finetune[:, 0].astype(int),
        target=finetune[:, 1].astype(int),
        protocol=finetune[:, 2].astype(int),
        seed=finetune[:, 3].astype(int),
        value=finetune[:, 4],
        stderr=np.full(count, np.nan),
        rows_tested=np.full(count, np.nan),
        created=np.zeros(count),
        probe_methods=(LINEAR_PROBE,),
        probe_method=np.zeros(len(probe), dtype=int),
        probe_protocol=np.zeros(len(probe), dtype=int),
        probe_stderr=np.full(len(probe), np.nan),
        probed_checkpoint=probe[:, 0].astype(int),
        probed_target=probe[:, 1].astype(int),
        probe_value=probe[:, 4],
        probe_created=np.zeros(len(probe)),
    )
    return evidence, np.array([c.parameters or np.nan for c in checkpoints], dtype=float)


def without(evidence: FamilyEvidence, hidden: np.ndarray) -> FamilyEvidence:
    """The evidence less the finetune scores at `hidden`."""
    names = ("checkpoint", "target", "protocol", "seed", "value", "stderr", "rows_tested", "created")
    return dataclasses.replace(evidence, **{n: getattr(evidence, n)[~hidden] for n in names})


def gain_matrix(evidence: FamilyEvidence) -> np.ndarray:
    """Measured gains in points, NaN elsewhere."""
    cells = gain_cells(evidence, vanilla_levels(evidence))
    gains = np.full((len(evidence.checkpoint_ids), len(evidence.target_ids)), np.nan)
    gains[cells.checkpoint, cells.target] = cells.gain
    return gains


def cold_targets(evidence: FamilyEvidence, parameters: np.ndarray) -> dict[str, np.ndarray]:
    """Spearman with the measured gains of a target left out entirely, for every order; one value a target."""
    gains = gain_matrix(evidence)
    probe = probe_covariate(evidence, reference(evidence))
    probe = np.where(np.isnan(probe), np.nanmedian(probe), probe)
    rng = np.random.default_rng(0)
    found = defaultdict(list)
    for t in range(gains.shape[1]):
        candidate = evidence.checkpoint != evidence.vanilla
        fitted = fit(without(evidence, candidate & (evidence.target == t)))
        others = np.delete(gains, t, axis=1)
        measured = np.isfinite(gains[:, t]) & np.isfinite(others).any(axis=1)
        spread = np.nanstd(others, axis=0)
        orders = {
            "headstart": fitted.quality,
            "mean of standardised gains": _row_mean(others / spread),
            "static leaderboard": _row_mean(others),
            "linear probe": probe,
            "size": np.nan_to_num(parameters, nan=np.nanmedian(parameters)),
            "random": rng.random(len(probe)),
        }
        for name, order in orders.items():
            found[name].append(spearmanr(order[measured], gains[measured, t])[0])
    return {name: np.nan_to_num(np.array(values)) for name, values in found.items()}


def _row_mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def held_out_cells(evidence: FamilyEvidence, seed: int = 0) -> dict[str, float]:
    """How well a held-out measured gain is foretold: coverage, CRPS (points), Brier beside the base rate."""
    gains = gain_matrix(evidence)
    fold = np.random.default_rng(seed).integers(0, FOLDS, gains.shape)
    candidate = evidence.checkpoint != evidence.vanilla
    found = defaultdict(list)
    for k in range(FOLDS):
        fitted = fit(without(evidence, candidate & (fold[evidence.checkpoint, evidence.target] == k)))
        rows, columns = np.nonzero(np.isfinite(gains) & (fold == k))
        truth = gains[rows, columns]
        mean, spread = _of_measurements(fitted, rows, columns)
        z = np.arcsinh(truth / fitted.scale[columns])
        rank = t_cdf((z - mean) / spread)
        quantiles = _quantiles(fitted, mean, spread, columns)
        loss = np.maximum(LEVELS * (truth[:, None] - quantiles), (LEVELS - 1) * (truth[:, None] - quantiles))
        seen = np.where(fold == k, np.nan, gains)
        rate = np.nanmean(np.where(np.isfinite(seen), seen > 0, np.nan), axis=0)[columns]
        found["coverage of the 80 % interval"].append(np.abs(rank - 0.5) <= 0.4)
        found["coverage of the 95 % interval"].append(np.abs(rank - 0.5) <= 0.475)
        found["CRPS, points"].append(2 * loss.mean(axis=1))
        found["Brier of P(beats the vanilla)"].append((t_cdf(mean / spread) - (truth > 0)) ** 2)
        found["Brier of the target's base rate"].append((rate - (truth > 0)) ** 2)
    return {name: float(np.concatenate(values).mean()) for name, values in found.items()}


def _of_measurements(
    fitted: Posterior, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread, in z, of one new measurement: the true gain and the noise of one run."""
    mean, spread = np.empty(len(rows)), np.empty(len(rows))
    for t in np.unique(columns):
        at = columns == t
        view = decide.known_view(fitted, int(t))
        found = decide.predict(fitted, view, rows[at])
        noise = fitted.residual[t] - view.repeatable_var[0] - view.level_var[0]
        mean[at], spread[at] = found.mean[:, 0], np.sqrt(found.spread[:, 0] ** 2 + noise)
    return mean, spread


def _quantiles(fitted: Posterior, mean: np.ndarray, spread: np.ndarray, columns: np.ndarray) -> np.ndarray:
    grid = np.linspace(-40, 40, 40_001)
    at = np.interp(LEVELS, t_cdf(grid), grid)
    return fitted.scale[columns][:, None] * np.sinh(mean[:, None] + spread[:, None] * at)


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Mean paired difference over targets and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    gap = ours - theirs
    means = gap[rng.integers(0, len(gap), (4_000, len(gap)))].mean(axis=1)
    return float(gap.mean()), *(float(q) for q in np.quantile(means, [0.025, 0.975]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with models_tested.csv")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    batch = read_results(FolderSource(options.source, 1 << 30), max_rows=1_000_000, progress=lambda *_: None)
    orders, cells = {}, {}
    for family in sorted({c.family for c in batch.checkpoints}):
        evidence, parameters = evidence_of(batch, family)
        orders[family] = cold_targets(evidence, parameters)
        cells[family] = held_out_cells(evidence)
    if options.json:
        means = {f: {n: float(v.mean()) for n, v in o.items()} for f, o in orders.items()}
        print(json.dumps({"cold_targets": means, "held_out_cells": cells}, indent=2))
        return
    show(orders, cells)


def show(orders: dict[str, dict[str, np.ndarray]], cells: dict[str, dict[str, float]]) -> None:
    """Print both tables."""
    console = Console(width=130)
    table = Table(title="Order of checkpoints for a target left out: mean Spearman over targets")
    for column in ("order", *orders, "mean", "headstart minus it [95 %]"):
        table.add_column(column, justify="left" if column == "order" else "right")
    pooled = {
        name: np.mean([o[name] for o in orders.values()], axis=0) for name in next(iter(orders.values()))
    }
    for name, values in pooled.items():
        gap, low, high = difference(pooled["headstart"], values)
        against = "" if name == "headstart" else f"{gap:+.3f} [{low:+.3f}, {high:+.3f}]"
        table.add_row(
            name, *(f"{o[name].mean():.3f}" for o in orders.values()), f"{values.mean():.3f}", against
        )
    console.print(table)
    table = Table(title="A held-out measured gain")
    for column in ("", *cells, "mean"):
        table.add_column(column, justify="right" if column else "left")
    for name in next(iter(cells.values())):
        values = [c[name] for c in cells.values()]
        table.add_row(name, *(f"{v:.3f}" for v in values), f"{np.mean(values):.3f}")
    console.print(table)


if __name__ == "__main__":
    main()
