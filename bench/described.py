"""Does a description of an unseen target help? CRPS of its measured gains under several weightings.

    python -m bench.described SOURCE

Each target is left out and foretold as a mixture of the others, weighted alike, by training rows, by
classes, by task, and as the service does. Differences to equal weights come with a 95 % interval by a
bootstrap over targets (families averaged first).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.backtest.held_out import LEVELS, pinball
from headstart.recommend.backtest.material import without_target
from headstart.recommend.backtest.report import Report
from headstart.recommend.backtest.tables import Table, comparisons
from headstart.recommend.decide import forecast, likeness, unseen_view
from headstart.recommend.fit import fit
from service import backtest_evidence, backtest_tables

if TYPE_CHECKING:
    from headstart.recommend.backtest.material import Material
    from headstart.recommend.backtest.tables import Found

CANDIDATES = 40  # per target, at random
EQUAL = "equal"
Weighting = Callable[[int], np.ndarray]


def weightings(material: Material) -> dict[str, Weighting]:
    """Name -> weights of all targets as guides to one of them."""
    sizes, classes, tasks = material.train_sizes, material.classes, np.array(material.tasks)

    def known(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    return {
        EQUAL: lambda _: np.ones(len(tasks)),
        "training rows": lambda t: likeness(sizes, classes, known(sizes[t]), None),
        "classes": lambda t: likeness(sizes, classes, None, known(classes[t])),
        "rows and classes (served)": lambda t: likeness(sizes, classes, known(sizes[t]), known(classes[t])),
        "same task counts 3 times": lambda t: np.where(tasks == tasks[t], 3.0, 1.0),
        "same task counts 10 times": lambda t: np.where(tasks == tasks[t], 10.0, 1.0),
    }


def left_out(material: Material, target: int) -> Found:
    """CRPS of one run on the target, by weighting; the mean over some of its measured checkpoints."""
    evidence = material.evidence
    fitted = fit(without_target(evidence, evidence.target_names[target]))
    measured = np.flatnonzero(material.measured[:, target])
    rows = np.random.default_rng(target).permutation(measured)[:CANDIDATES]
    losses = {}
    for name, weigh in weightings(material).items():
        run = forecast(fitted, unseen_view(fitted, weigh(target)), rows)
        losses[name] = float(pinball(run.quantile(LEVELS), material.gains[rows, target]).mean())
    return {"crps": losses}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", help="folder with models_tested.csv")
    options = parser.parse_args()
    found = {}
    for material in backtest_evidence.materials(options.source):
        for t in np.flatnonzero(material.measured.any(axis=0)):
            evidence = material.evidence
            found[evidence.family, evidence.target_names[t]] = left_out(material, int(t))
    families = list(dict.fromkeys(family for family, _ in found))
    asked = {"crps": Table("p1", "Gains on a target left out, less is better", "CRPS, points", lead=EQUAL)}
    made = tuple(comparisons(asked, found, families, seed=0))
    report = Report(families=(), seed=0, comparisons=made, reliability=(), seconds={}, notes=())
    print(backtest_tables.markdown(report))


if __name__ == "__main__":
    main()
