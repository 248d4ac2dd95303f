"""The tasks of a backtest, each by itself, and the report of what they found.

A task draws from a generator of its own, seeded by what it is: the results do not depend on the order of the
tasks, nor on how many run at a time.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import numpy as np

from headstart.recommend.backtest.cold_checkpoint import FEWEST as FEWEST_CHECKPOINTS
from headstart.recommend.backtest.cold_checkpoint import FOLDS, KEPT, cold_checkpoints, folds
from headstart.recommend.backtest.cold_target import FEWEST, cold_target, judged
from headstart.recommend.backtest.held_out import FEWEST as FEWEST_CELLS
from headstart.recommend.backtest.held_out import FOLDS as CELL_FOLDS
from headstart.recommend.backtest.held_out import fold_of_cells, held_out_cells
from headstart.recommend.backtest.material import patchy, well_measured, without_cells, without_target
from headstart.recommend.backtest.sequence import STEPS, drawn_worlds, sequence
from headstart.recommend.backtest.warm_target import LEFT, MEASURED, warm_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headstart.recommend.backtest.cold_checkpoint import Fold
    from headstart.recommend.backtest.engine import Engine, Fitted
    from headstart.recommend.backtest.held_out import Cells
    from headstart.recommend.backtest.material import Material
    from headstart.recommend.backtest.tables import Found
    from headstart.recommend.evidence import FamilyEvidence

PROTOCOLS = {
    "p1": "order for a target never seen",
    "p2": "order of checkpoints never finetuned",
    "p3": "order of checkpoints finetuned on three targets",
    "p4": "order for a target that a few were measured on",
    "p5": "honesty of the forecast of a run",
    "p6": "what to finetune next on a new target",
}
LEFT_OUT = ("p1", "p4", "p6")  # whole targets, which share their fits
FEWEST_TARGETS = 3
MOST_WANTED = {"p1": FEWEST, "p4": min(MEASURED) + LEFT, "p6": max(STEPS) + 1}  # checkpoints on a target


class Task(NamedTuple):
    """A fit or two, and what follows from them."""

    kind: str  # "target", "checkpoints" or "cells"
    family: int
    part: int  # position of the target, or number of the fold
    protocol: str = ""  # of checkpoints: p2 or p3
    by_author: bool = False


class Result(NamedTuple):
    """What a task found, and the seconds it took: "fit", and each protocol without its fits."""

    found: Found | Fold | Cells | None
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """What is measured, and with what."""

    materials: tuple[Material, ...]
    engine: Engine
    families: tuple[int, ...]  # positions of those to measure; the others are only looked at
    protocols: tuple[str, ...] = tuple(PROTOCOLS)
    seed: int = 0
    worlds: dict[int, Fitted] = field(default_factory=dict)  # of p6: fits of everything, to draw gains from

    def beside(self, family: int) -> list[FamilyEvidence]:
        """The evidence of the other families."""
        return [one.evidence for f, one in enumerate(self.materials) if f != family]


def prepared(
    materials: Sequence[Material],
    engine: Engine,
    *,
    families: Sequence[str] = (),
    protocols: Sequence[str] = tuple(PROTOCOLS),
    seed: int = 0,
) -> Study:
    """The study of these families, all by default, with the fits that many of its tasks need."""
    chosen = [f for f, one in enumerate(materials) if not families or one.evidence.family in families]
    study = Study(
        materials=tuple(materials),
        engine=engine,
        families=tuple(chosen),
        protocols=tuple(protocols),
        seed=seed,
    )
    if "p6" not in protocols:
        return study
    whole = [f for f in chosen if "p6" not in lacking(materials[f])]
    return replace(study, worlds={f: engine.fit(materials[f].evidence, study.beside(f)) for f in whole})


def tasks(study: Study) -> list[Task]:
    """Everything to be done, in any order."""
    made = []
    for f in study.families:
        material = study.materials[f]
        wanted = set(study.protocols) - lacking(material).keys()
        if wanted & set(LEFT_OUT):
            counts = material.measured.sum(axis=0)
            made += [Task("target", f, int(t)) for t in np.flatnonzero(counts >= FEWEST)]
        for protocol in KEPT.keys() & wanted:
            made += [
                Task("checkpoints", f, fold, protocol, by_author)
                for by_author in (False, True)
                for fold in range(FOLDS)
            ]
        if "p5" in wanted:
            made += [Task("cells", f, fold) for fold in range(CELL_FOLDS)]
    return sorted(made)


def done(study: Study, task: Task) -> Result:
    """Do one task."""
    clock = _Clock()
    engine = _Timed(study.engine, clock)
    if task.kind == "target":
        return Result(_target(study, engine, task, clock), dict(clock.spent))
    material, others = study.materials[task.family], [*study.materials]
    del others[task.family]
    if task.kind == "cells":
        with clock.on("p5"):
            fold = fold_of_cells(material, _rng(study, task._replace(part=0)))  # the same in every task
            hidden = (fold == task.part) & material.measured
            found = held_out_cells(engine, material, others, hidden) if hidden.any() else None
        return Result(found, dict(clock.spent))
    with clock.on(task.protocol):
        split = folds(material, by_author=task.by_author, rng=_rng(study, task._replace(part=0)))
        left = cold_checkpoints(
            engine,
            material,
            others,
            split == task.part,
            kept=KEPT[task.protocol],
            by_author=task.by_author,
            rng=_rng(study, task),
        )
    return Result(left, dict(clock.spent))


def _target(study: Study, engine: Engine, task: Task, clock: _Clock) -> Found:
    """P1, P4 and P6 on one target left out, in all families: they share the fit."""
    material, t = study.materials[task.family], task.part
    name = material.evidence.target_names[t]
    seen = material.gains.copy()
    seen[:, t] = np.nan
    beside = [without_target(other, name) for other in study.beside(task.family)]
    rows = np.flatnonzero(judged(material.gains, seen, t))
    found: Found = {}
    if len(rows) < FEWEST:
        return found
    fitted = engine.fit(without_target(material.evidence, name), beside)
    wanted = set(study.protocols) - lacking(material).keys()
    if "p1" in wanted:
        with clock.on("p1"):
            found |= cold_target(material, fitted, seen, rows, t, _rng(study, task, "p1"))
            found |= _patchy(study, engine, task, beside)
    if "p4" in wanted:
        with clock.on("p4"):
            found |= warm_target(material, fitted, rows, t, _rng(study, task, "p4"))
    if "p6" in wanted:
        with clock.on("p6"):
            rng = _rng(study, task, "p6")
            found |= sequence(material, fitted, seen, rows, t, rng)
            found |= drawn_worlds(study.worlds[task.family], fitted, rows, t, rng)
    return found


def _patchy(study: Study, engine: Engine, task: Task, beside: Sequence[FamilyEvidence]) -> Found:
    """P1 where most checkpoints were measured here and there, and a third nowhere."""
    material = study.materials[task.family]
    hidden = patchy(material.measured, _rng(study, task._replace(part=0), "patchy"))
    hidden[:, task.part] = True
    seen = np.where(hidden, np.nan, material.gains)
    fitted = engine.fit(without_cells(material.evidence, hidden), beside)
    rows = np.flatnonzero(material.measured[:, task.part])
    rng = _rng(study, task, "patchy")
    return cold_target(material, fitted, seen, rows, task.part, rng, prefix="patchy")


def lacking(material: Material) -> dict[str, str]:
    """Protocol -> how the family's evidence is too small for it: what it has, and what is needed."""
    counts = material.measured.sum(axis=0)
    targets, most, cells = int((counts >= FEWEST).sum()), int(counts.max(initial=0)), int(counts.sum())
    checkpoints = len(well_measured(material.gains)) if cells else 0
    found = {}
    for protocol in LEFT_OUT:
        wanted = MOST_WANTED[protocol]
        if targets < FEWEST_TARGETS:
            what = f"{_count(targets, 'target')} with {FEWEST} finetuned checkpoints"
            found[protocol] = f"{what} ({FEWEST_TARGETS} are needed)"
        elif most < wanted:
            what = f"{_count(most, 'finetuned checkpoint')} on a target at most"
            found[protocol] = f"{what} ({wanted} are needed)"
    if checkpoints < FEWEST_CHECKPOINTS:
        what = f"{_count(checkpoints, 'checkpoint')} with a mean gain to be trusted"
        found |= dict.fromkeys(KEPT, f"{what} ({FEWEST_CHECKPOINTS} are needed)")
    if cells < FEWEST_CELLS:
        found["p5"] = f"{_count(cells, 'measured gain')} ({FEWEST_CELLS} are needed)"
    return found


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


class _Clock:
    """Seconds by what they were spent on; what is timed inside counts there alone."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Time what is inside."""
        start, before = perf_counter(), sum(self.spent.values())
        try:
            yield
        finally:
            inside = sum(self.spent.values()) - before
            self.spent[what] += perf_counter() - start - inside


class _Timed:
    """The engine, its fits on the clock."""

    def __init__(self, engine: Engine, clock: _Clock) -> None:
        self._engine, self._clock = engine, clock

    def fit(self, evidence: FamilyEvidence, others: Sequence[FamilyEvidence]) -> Fitted:
        """See Engine."""
        with self._clock.on("fit"):
            return self._engine.fit(evidence, others)


def _rng(study: Study, task: Task, purpose: str = "") -> np.random.Generator:
    family = study.materials[task.family].evidence.family
    words = (family, task.kind, task.protocol, str(task.by_author), purpose)
    return np.random.default_rng([study.seed, task.part, *(crc32(word.encode()) for word in words)])
