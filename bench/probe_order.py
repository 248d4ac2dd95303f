"""Do probes order checkpoints as finetuning does? Ours and TransformerRanker's, on the same rows.

    python -m bench.finetunes DATASETS FOLDER [--mpnet PATH]     the truth, once
    python -m bench.probe_order DATASETS FOLDER [--mpnet PATH] [--json]

A handful of checkpoints and targets: it shows whether one package orders worse, not how good probes are.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr, weightedtau

from bench.finetunes import ROWS, SEEDS, SOURCES, TARGETS, minilm
from bench.probe import THREE, ours, peer_embeddings, rows_of, same_estimates
from headstart.rows import RowsFile


def ranking(datasets: Path, folder: Path, mpnet: Path | None) -> list[dict[str, Any]]:
    """For each target and score: agreement of its order of the checkpoints with finetuned accuracy.

    Both packages read the same rows.
    """
    kept = json.loads((folder / "finetunes.json").read_text())
    starts = {"minilm": minilm(), "damaged": folder / "damaged"}
    starts |= {f"minilm on {source}": folder / source for source in SOURCES}
    starts |= {"mpnet": mpnet} if mpnet is not None else {}
    table = []
    for target in TARGETS:
        truth = np.array(
            [np.mean([kept[f"{name} | {target} | {seed}"] for seed in SEEDS]) for name in starts]
        )
        scores: dict[str, list[float]] = defaultdict(list)
        path = rows_of(datasets, target, folder)
        file = RowsFile(path)
        texts = [text for batch, _ in file.texts("train", ROWS) for text in batch]
        labels = [str(label) for label in file.labels("train", ROWS)]
        for start in starts.values():
            for layer in ("last", "mean"):
                _, found = ours(start, path, (*THREE, "linear_probe"), layers=(layer,), max_rows=ROWS)
                for name, one in found.items():
                    scores[f"{name} ({layer})"].append(one.value)
            for name, (_, theirs) in same_estimates(peer_embeddings(start, texts), labels).items():
                scores[f"peer's {name}"].append(theirs)
        for name, values in scores.items():
            table.append(
                {
                    "target": target,
                    "score": name,
                    "weighted_tau": float(weightedtau(truth, values).statistic),
                    "spearman": float(spearmanr(truth, values).statistic),
                    "lost": float(truth.max() - truth[int(np.argmax(values))]),
                }
            )
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mpnet", type=Path, help="folder of all-mpnet-base-v2")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = ranking(options.datasets, options.folder, options.mpnet)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    table = Table("target", "score", "weighted tau", "Spearman", "lost by its first, points")
    for row in found:
        cells = (f"{row['weighted_tau']:.2f}", f"{row['spearman']:.2f}", f"{100 * row['lost']:.1f}")
        table.add_row(row["target"], row["score"], *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
