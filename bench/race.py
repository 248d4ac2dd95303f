"""Does a race find the best start, and at what share of finetuning every candidate?

    python -m bench.race [--worlds 60] [--tables ../shared/data/model-recycling] [--targets 8] [--json]
    python -m bench.race --recorded evidence/study.jsonl.gz

Worlds of 12 candidates and the vanilla: true gains, seed noise, and learning curves drawn on top of them
(`tests.race.worlds`), so that the best is known. Gains are drawn with what is known of them beforehand
("drawn"), with nothing known ("unknown"), with curves that cross, from a target that hardly reacts ("flat"),
and from one that reacts three times as strongly as foretold ("strong"). With the published tables also as
they were measured in the three families: the 12 that most is expected of by a fit without the target, their
published gains taken for the truth, each with SEEDS draws of curves. Curves are synthetic there too: nobody
published any.

With --recorded, races over finetunes that really ran (`bench.recorded`), and nothing else.

Regret is the true gain of the best less that of the pick, in points; the race picks the vanilla where it
expects less than 0.5 points ("race"), or whoever it expects most of ("race, worth 0"). Cost counts
evaluations, as a share of all 13 runs to their ends; intervals are of 90 %, by bootstrap over worlds.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.recorded import recorded
from headstart.race.belief import believe
from headstart.race.policy import pick
from headstart.race.prior import prior_of
from service.backtest_evidence import materials
from tests.race.worlds import EVALUATIONS, World, drawn, raced, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headstart.recommend.backtest.material import Material

CANDIDATES, RESAMPLES, FEWEST_ROWS, SEEDS = 12, 2000, 200, 3


def race(world: World, worth: float = 0.5) -> tuple[int, float]:
    """The pick (a place), and what it cost (evaluations x parameters)."""
    field, _, _ = raced(world, worth=worth)
    belief = believe(field)
    found = pick(field, belief)
    worth = bool(found) and belief.gain[found - 1] >= field.worth
    return (found if worth else 0), sum(run.seconds for run in field.runs)


def best_of(world: World, places: list[int]) -> tuple[int, float]:
    """Each of these once to its end, and the one that validates best."""
    runs = {place: world.run(place, 0) for place in places}
    return max(runs, key=lambda place: runs[place].best), sum(run.seconds for run in runs.values())


def everything(world: World) -> tuple[int, float]:
    return best_of(world, list(range(len(world.gain))))


def first(count: int) -> Callable[[World], tuple[int, float]]:
    """The vanilla and the first by prior."""
    return lambda world: best_of(world, [0, *(1 + np.argsort(-world.prior.gain[1:])[:count]).tolist()])


def halving(world: World) -> tuple[int, float]:
    """All for one evaluation, the better half for two, ... (Jamieson & Talwalkar 2016)."""
    left, rung, runs = list(range(len(world.gain))), 1, {}
    while True:
        runs |= {place: world.run(place, 0, rung) for place in left}
        if rung >= EVALUATIONS:
            return max(left, key=lambda place: runs[place].best), sum(run.seconds for run in runs.values())
        left = sorted(left, key=lambda place: -runs[place].best)[: -(-len(left) // 2)]
        rung = 2 * rung if len(left) > 1 else EVALUATIONS


def at_random(world: World) -> tuple[int, float]:
    place = int(np.random.default_rng([world.seed, 5]).integers(len(world.gain)))
    return place, 0.0


STRATEGIES: dict[str, Callable[[World], tuple[int, float]]] = {
    "race": race,
    "race, worth 0": lambda world: race(world, 0.0),
    "finetune everything": everything,
    "first by prior, and vanilla": first(1),
    "first three by prior, and vanilla": first(3),
    "successive halving, no prior": halving,
    "one at random": at_random,
}
SYNTHETIC: dict[str, Callable[[int], World]] = {
    "drawn": drawn,
    "crossing curves": lambda seed: drawn(seed, spread=0.9, ahead=0.0),
    "strong": lambda seed: replace(drawn(seed), gain=3 * drawn(seed).gain),
    "flat": lambda seed: replace(drawn(seed), gain=0.15 * drawn(seed).gain),
    "unknown": unknown,
}


def published(tables: Path, targets: int) -> Iterator[World]:
    """Worlds of the published families, a few targets of each."""
    found = materials(str(tables))
    for material in found:
        others = [one.evidence for one in found if one is not material]
        rows = material.evidence.target_rows
        enough = np.flatnonzero((rows >= FEWEST_ROWS) & (material.measured.sum(axis=0) > 10 * CANDIDATES))
        at = np.linspace(0, len(enough) - 1, min(targets, len(enough))).astype(int)
        for target in enough[np.unique(at)].tolist():
            world = published_world(material, others, target)
            yield from (replace(world, seed=1000 * seed + target) for seed in range(SEEDS))


def published_world(material: Material, others: list[Any], target: int) -> World:
    """The 12 that most is expected of, of those measured."""
    evidence = material.evidence
    measured = np.flatnonzero(material.measured[:, target])
    ids = evidence.checkpoint_ids[np.append(evidence.vanilla, measured)].tolist()
    asked = int(evidence.target_ids[target])
    prior = prior_of(evidence, others, asked, ids, material.train_sizes, material.classes)
    best = np.sort(1 + np.argsort(-prior.gain[1:], kind="stable")[:CANDIDATES])
    chosen = [ids[0], *(ids[k] for k in best)]
    level = 100 * np.median(
        evidence.value[(evidence.checkpoint == evidence.vanilla) & (evidence.target == target)]
    )
    return World(
        gain=np.append(0.0, material.gains[measured[best - 1], target]),
        prior=prior.among(chosen),
        level=float(level),
        noise=float(material.noise[target]),
        names=tuple(chosen),
        start=100 / max(float(np.nan_to_num(material.classes[target], nan=2.0)), 2.0),
        seed=target,
        rows=int(evidence.target_rows[target]),
    )


def compared(worlds: list[World]) -> list[dict[str, Any]]:
    """Every strategy on the same worlds."""
    rng, table = np.random.default_rng(0), []
    draws = rng.integers(0, len(worlds), (RESAMPLES, len(worlds)))
    for name, strategy in STRATEGIES.items():
        ends = [strategy(world) for world in worlds]
        cost = np.array([c / w.cost_of_all for w, (_, c) in zip(worlds, ends, strict=True)])
        lost = np.array([w.regret(p) for w, (p, _) in zip(worlds, ends, strict=True)])
        near = np.array([w.regret(p) <= w.noise for w, (p, _) in zip(worlds, ends, strict=True)])
        row: dict[str, Any] = {"strategy": name}
        for measure, values in (("cost", cost), ("regret", lost), ("within_noise", near)):
            means = values[draws].mean(axis=1)
            row[measure] = [float(values.mean()), *np.quantile(means, [0.05, 0.95]).tolist()]
        table.append(row)
    return table


def main() -> None:
    """Print a table for each kind of world."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=60, help="of each synthetic kind")
    parser.add_argument("--tables", type=Path, default=Path("../shared/data/model-recycling"))
    parser.add_argument("--targets", type=int, default=8, help="of each published family")
    parser.add_argument("--recorded", type=Path, help="what bench.study wrote; then nothing is drawn")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    kinds: dict[str, list[World]] = {}
    if options.recorded is not None:
        kinds.update(recorded(options.recorded))
    else:
        kinds |= {name: [make(seed) for seed in range(options.worlds)] for name, make in SYNTHETIC.items()}
    if options.recorded is None and options.tables.is_dir() and options.targets:
        kinds["published gains, synthetic curves"] = list(published(options.tables, options.targets))
    found = {name: compared(worlds) for name, worlds in kinds.items()}
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for name, rows in found.items():
        table = Table(
            "strategy",
            "cost share",
            "regret, points",
            "within one seed sd",
            title=f"{name} ({len(kinds[name])})",
        )
        for row in rows:
            told = [
                f"{mean:.2f} ({low:.2f} .. {high:.2f})"
                for mean, low, high in (row["cost"], row["regret"], row["within_noise"])
            ]
            table.add_row(row["strategy"], *told)
        Console().print(table)


if __name__ == "__main__":
    main()
