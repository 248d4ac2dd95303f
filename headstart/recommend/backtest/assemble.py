"""From the results of all tasks to the report."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.backtest import cold_target, sequence, warm_target
from headstart.recommend.backtest.baselines import HEADSTART
from headstart.recommend.backtest.bootstrap import compared, over_authors
from headstart.recommend.backtest.cold_checkpoint import KEPT, Fold
from headstart.recommend.backtest.held_out import Cells, cell_comparisons, joined, reliability
from headstart.recommend.backtest.material import authors
from headstart.recommend.backtest.report import FamilySize, Report
from headstart.recommend.backtest.study import lacking
from headstart.recommend.backtest.tables import comparisons

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headstart.recommend.backtest.report import Comparison
    from headstart.recommend.backtest.study import Result, Study, Task

TARGET_TABLES = cold_target.TABLES | warm_target.TABLES | sequence.TABLES
ASKED = {
    "p2": "Checkpoints never finetuned",
    "p3": "Checkpoints finetuned on three targets",
}


def report(study: Study, found: Iterable[tuple[Task, Result]]) -> Report:
    """What the tasks found, in the order of the protocols; the order of `found` does not matter."""
    results = sorted(found, key=lambda one: one[0])
    families = tuple(study.materials[f].evidence.family for f in study.families)
    made = [*_targets(study, results), *_checkpoints(study, results)]
    cells = _cells(study, results)
    if cells:
        names = {one.evidence.family: one.evidence.target_names for one in study.materials}
        made += cell_comparisons(cells, names, families, study.seed)
    shown = [reliability(one, family) for family, one in cells.items()]
    if len(shown) > 1:
        shown.append(reliability(joined(list(cells.values())), ""))
    seconds: dict[str, float] = defaultdict(float)
    for _, result in results:
        for what, spent in result.seconds.items():
            seconds[what] += spent
    return Report(
        families=tuple(_size(study, f) for f in study.families),
        seed=study.seed,
        comparisons=tuple(sorted(made, key=lambda one: one.protocol)),
        reliability=tuple(shown),
        seconds={what: round(spent, 3) for what, spent in sorted(seconds.items())},
        notes=_notes(study),
    )


def _targets(study: Study, results: Sequence[tuple[Task, Result]]) -> list[Comparison]:
    found = {}
    for task, result in results:
        if task.kind == "target" and isinstance(result.found, dict):
            evidence = study.materials[task.family].evidence
            found[evidence.family, evidence.target_names[task.part]] = result.found
    families = list(dict.fromkeys(family for family, _ in found))
    return comparisons(TARGET_TABLES, found, families, study.seed)


def _checkpoints(study: Study, results: Sequence[tuple[Task, Result]]) -> list[Comparison]:
    """One table for each of P2 and P3 and way to split the checkpoints; authors are drawn."""
    made = []
    for protocol in KEPT:
        for by_author in (False, True):
            parts: dict[int, list[Fold]] = defaultdict(list)
            for task, result in results:
                asked = (task.protocol, task.by_author) == (protocol, by_author)
                if asked and isinstance(result.found, Fold):
                    parts[task.family].append(result.found)
            if parts:
                made.append(_order(study, parts, protocol, by_author=by_author))
    return made


def _order(study: Study, parts: dict[int, list[Fold]], protocol: str, *, by_author: bool) -> Comparison:
    rows = {f: np.concatenate([one.rows for one in folds]) for f, folds in parts.items()}
    truths = [np.concatenate([one.truth for one in folds]) for folds in parts.values()]
    names = {f: authors(study.materials[f].evidence) for f in parts}
    drawn = [[names[f][row] for row in rows[f]] for f in parts]
    statistics = {}
    for method in next(iter(parts.values()))[0].predicted:
        predicted = [np.concatenate([one.predicted[method] for one in folds]) for folds in parts.values()]
        statistics[method] = over_authors(predicted, truths, drawn, study.seed)
    return compared(
        f"{ASKED[protocol]}: their order, {'authors' if by_author else 'checkpoints'} held out in tenths",
        statistics,
        [study.materials[f].evidence.family for f in parts],
        protocol=protocol,
        measure="Spearman",
        lead=HEADSTART,
    )


def _cells(study: Study, results: Sequence[tuple[Task, Result]]) -> dict[str, Cells]:
    parts: dict[str, list[Cells]] = defaultdict(list)
    for task, result in results:
        if isinstance(result.found, Cells):
            parts[study.materials[task.family].evidence.family].append(result.found)
    return {family: joined(some) for family, some in parts.items()}


def _size(study: Study, family: int) -> FamilySize:
    material = study.materials[family]
    known = material.measured
    return FamilySize(
        family=material.evidence.family,
        checkpoints=len(known),
        measured=int(known.any(axis=1).sum()),
        targets=int(known.any(axis=0).sum()),
        cells=int(known.sum()),
    )


def _notes(study: Study) -> tuple[str, ...]:
    """One sentence for each family whose evidence is too small for some protocols: for which, and why."""
    notes = []
    for material in (study.materials[f] for f in study.families):
        why: dict[str, list[str]] = defaultdict(list)
        for protocol, reason in lacking(material).items():
            if protocol in study.protocols:
                why[reason].append(protocol)
        if why:
            clauses = "; ".join(f"for {', '.join(some)} it has {reason}" for reason, some in why.items())
            notes.append(f"{material.evidence.family} is too small: {clauses}.")
    return tuple(notes)
