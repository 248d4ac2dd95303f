"""Races over finetunes that really ran: `bench.study --part race` records them, every candidate to its end.

A race is replayed: where it asks for a run up to an evaluation it is told what that run had seen by then. A
paused finetune is one that was not paused, bit for bit, so that this is the race that would have been run.
The truth is the mean test score of all seeds; each replay begins at another seed.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.study.plan import RACED, SOURCES, VANILLA, intermediate
from headstart.race.prior import ignorant, prior_of
from headstart.race.runs import Run
from service.backtest_evidence import materials
from tests.race.worlds import World

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headstart.race.prior import Prior

CANDIDATES = (VANILLA, *(intermediate(source, 0) for source in SOURCES[:12]))
COLUMNS = ("checkpoint", "family", "target", "method", "value", "stderr", "seed", "rows_tested")


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded(World):
    """`curves` by place and seed; the race's first seed is the `seed` of the world."""

    curves: Mapping[tuple[int, int], tuple[float, ...]]
    seeds: int

    def curve(self, place: int, seed: int) -> tuple[float, ...]:
        return self.curves[place, (seed + self.seed) % self.seeds]

    def run(self, place: int, seed: int, evaluations: int | None = None) -> Run:
        curve = self.curve(place, seed)
        told = curve if evaluations is None else curve[:evaluations]
        return Run(
            checkpoint_id=self.ids[place],
            seed=seed,
            curve=told,
            validation=max(told) if len(told) == len(curve) else None,
            collapsed=False,
            seconds=10.0 * len(told),
            steps=10 * len(told),
            steps_planned=10 * len(curve),
        )


def recorded(file: Path) -> dict[str, list[Recorded]]:
    """A world for each seed that all candidates ran with: knowing the other targets, and knowing nothing."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        scores = [one for one in map(json.loads, lines) if one["method"] == "finetune"]
    raced = [one for one in scores if one["target"] == RACED and one["checkpoint"] in CANDIDATES]
    recipe = raced[0]["params_digest"]
    values, curves = defaultdict(dict), {}
    for one in raced:
        place = CANDIDATES.index(one["checkpoint"])
        values[one["seed"]][place] = one["value"]
        curves[place, one["seed"]] = tuple(at["validation"] for at in one["provenance"]["curve"])
    whole = sorted(seed for seed, found in values.items() if len(found) == len(CANDIDATES))
    tests = 100 * np.array([[values[seed][place] for place in range(len(CANDIDATES))] for seed in whole])
    spread = float(np.sqrt(tests.var(axis=0, ddof=1).mean())) if len(whole) > 1 else 1.0
    shared: dict[str, Any] = {
        "gain": tests.mean(axis=0) - tests.mean(axis=0)[0],
        "noise": spread * np.sqrt(2 / len(whole)),  # of the difference of two means
        "level": float(tests.mean(axis=0)[0]),
        "rows": int(raced[0]["provenance"]["rows"]["validation"]),
        "curves": {
            (place, whole.index(seed)): told for (place, seed), told in curves.items() if seed in whole
        },
        "seeds": len(whole),
    }
    told = _prior([one for one in scores if one["params_digest"] == recipe])
    found = {"real runs, nothing known": ignorant(tuple(range(len(CANDIDATES))))}
    if told is not None:
        found["real runs, other targets known"] = told
    return {
        name: [
            Recorded(prior=prior, names=prior.checkpoint_ids, seed=seed, **shared)
            for seed in range(len(whole))
        ]
        for name, prior in found.items()
    }


def _prior(scores: list[dict[str, Any]]) -> Prior | None:
    """From what the candidates gained on other targets; None where nothing is known of any."""
    others = [one for one in scores if one["target"] != RACED and one["quarantine"] is None]
    if not others:
        return None
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "scores.jsonl"
        asked = [one for one in scores if one["target"] == RACED and one["checkpoint"] == VANILLA][:1]
        table.write_text("".join(_rows([*others, *asked])), encoding="utf-8")
        (material,) = materials(str(table), "table")
    evidence = material.evidence
    ids = dict(zip(evidence.checkpoint_names, evidence.checkpoint_ids.tolist(), strict=True))
    target = evidence.target_names.index(RACED)
    unknown = iter(range(-1, -len(CANDIDATES) - 1, -1))  # ids of those that the others tell nothing of
    return prior_of(
        evidence,
        [],
        int(evidence.target_ids[target]),
        [ids.get(name) or next(unknown) for name in CANDIDATES],
        material.train_sizes,
        material.classes,
    )


def _rows(scores: list[dict[str, Any]]) -> Iterator[str]:
    for one in scores:
        yield json.dumps({name: one[name] for name in COLUMNS if one.get(name) is not None}) + "\n"
