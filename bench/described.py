"""Does a description of an unseen target help? CRPS of its measured gains under several weightings.

    python -m bench.described SOURCE

Each target is left out and foretold as a mixture of the others, weighted alike, by training rows, by
classes, by task, and as the service does; and as the service could: each of the others standing for its own
reaction to quality too, and not only for its scale. Differences to equal weights come with a 95 % interval
by a bootstrap over targets (families averaged first). Coverage is that of the 80 % interval of one run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.backtest.held_out import LEVELS, pinball
from headstart.recommend.backtest.material import without_target
from headstart.recommend.backtest.tables import Table, comparisons
from headstart.recommend.decide import forecast, likeness, unseen_view
from headstart.recommend.fit import fit
from service import backtest_evidence

if TYPE_CHECKING:
    from headstart.recommend.backtest.material import Material
    from headstart.recommend.backtest.report import Comparison
    from headstart.recommend.backtest.tables import Found

CANDIDATES = 40  # per target, at random
EIGHTY = np.array([0.1, 0.9])
EQUAL, SERVED, OWN = "equal", "rows and classes (served)", ", own loadings"
ASKED = {
    "crps": Table("p1", "Gains on a target left out", "CRPS, points", lead=EQUAL),
    "covers": Table("p1", "Gains on a target left out", "in the 80 % interval", lead=EQUAL),
}
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
        SERVED: lambda t: likeness(sizes, classes, known(sizes[t]), known(classes[t])),
        "same task counts 3 times": lambda t: np.where(tasks == tasks[t], 3.0, 1.0),
        "same task counts 10 times": lambda t: np.where(tasks == tasks[t], 10.0, 1.0),
    }


def left_out(material: Material, target: int) -> Found:
    """CRPS and coverage of one run on the target, by weighting; means over some of its checkpoints."""
    evidence = material.evidence
    fitted = fit(without_target(evidence, evidence.target_names[target]))
    measured = np.flatnonzero(material.measured[:, target])
    rows = np.random.default_rng(target).permutation(measured)[:CANDIDATES]
    truth = material.gains[rows, target]
    found: Found = {question: {} for question in ASKED}
    for name, weigh in weightings(material).items():
        for own in (False, True) if name in {EQUAL, SERVED} else (False,):
            run = forecast(fitted, unseen_view(fitted, weigh(target), own_loadings=own), rows)
            low, high = run.quantile(EIGHTY).T
            method = name + OWN * own
            found["crps"][method] = float(pinball(run.quantile(LEVELS), truth).mean())
            found["covers"][method] = float(((low <= truth) & (truth <= high)).mean())
    return found


def markdown(crps: Comparison, covers: Comparison) -> str:
    """A row for each weighting: CRPS, how far above equal weights it is, and coverage."""
    lines = [
        "| weights | CRPS | minus equal weights [95 %] | 80 % interval covers |",
        "|---|---|---|---|",
    ]
    for one, share in zip(crps.lines, covers.lines, strict=True):
        if one.overall is None or share.overall is None:
            continue
        beside = ""
        if one.lead is not None:  # equal weights minus it
            value, low, high = -one.lead.value, -one.lead.high, -one.lead.low
            beside = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(f"| {one.method} | {one.overall.value:.3f} | {beside} | {share.overall.value:.3f} |")
    return "\n".join(lines)


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
    print(markdown(*comparisons(ASKED, found, families, seed=0)))


if __name__ == "__main__":
    main()
