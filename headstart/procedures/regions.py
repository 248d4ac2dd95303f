"""Regions: which checkpoints of a family moved away from its vanilla in one direction, and which are its own.

What: every checkpoint's weights are read once and kept as a sketch of their task vector; the lineage of each
is told from what was read, and those of the family are clustered by the cosines of their task vectors.
Source: Gueta, Venezian, Raffel, Slonim, Katz, Choshen, "Knowledge is a Region in Weight Space for Fine-tuned
Language Models", Findings of EMNLP 2023 (arXiv 2302.04863): checkpoints finetuned on one dataset lie
together, those of one task less so. Deviations: the number of regions is chosen, not given, and a checkpoint
may be in none (`headstart.regions.partition`); cosines are those of sketches (`headstart.regions.sketch`).

It does not apply to fewer than three checkpoints that can be read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from headstart.checkpoints.descent import is_mean, source_of
from headstart.entities import Lineage
from headstart.failures import CheckpointNotFound, Interrupted, NotApplicable
from headstart.method import Params, Procedure
from headstart.regions.cluster import regions_of
from headstart.regions.cosine import sketch_noise
from headstart.regions.lineage import copies, verdict
from headstart.regions.purity import adjusted_rand, counts_by_region, purity
from headstart.regions.sketch import DIMS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float32, Int

    from headstart.entities import Checkpoint, Failure
    from headstart.regions.cluster import Regions
    from headstart.regions.lineage import Verdict
    from headstart.workbench import Workbench

FEWEST = 3
READING = 0.9  # of the job


class RegionsParams(Params):
    """Whose weights are read, and how many regions there are to be."""

    family: str
    candidates: tuple[int, ...] = Field(min_length=2, description="Checkpoints by id, the vanilla first.")
    clusters: int | None = Field(None, ge=1, description="How many regions; left out: as many as there are.")


@dataclass(frozen=True, slots=True)
class _Read:
    """A checkpoint whose weights were read."""

    checkpoint: Checkpoint
    norm: float
    verdict: Verdict
    sketch: Float32[np.ndarray, "d"]

    @property
    def lineage(self) -> str | None:
        """What its weights say, unless a person said otherwise."""
        return self.checkpoint.lineage if self.told_by_person else str(self.verdict.state)

    @property
    def reason(self) -> str:
        """What the lineage rests on."""
        return str(self.checkpoint.lineage_reason) if self.told_by_person else self.verdict.reason

    @property
    def told_by_person(self) -> bool:
        """Whether a person has judged the lineage, or taken a verdict back."""
        return self.checkpoint.lineage_by == "person"

    @property
    def placeable(self) -> bool:
        """Whether it is of the family, moved at all, and is no mean: those would pull regions together."""
        ruled_out = self.lineage == Lineage.CONTRADICTED
        return not ruled_out and bool(np.any(self.sketch)) and not is_mean(self.checkpoint)


def run(bench: Workbench, params: RegionsParams) -> dict[str, Any]:
    """Read, tell the lineages, and find the regions.

    Raises: CheckpointNotFound (the vanilla has gone), NotApplicable (fewer than FEWEST could be read),
    Interrupted (so few since the network or the disk broke off), and what reading the vanilla raises.
    """
    read, left_out = _read_all(bench, params)
    bench.report(READING, "looking for regions", f"among {len(read)} checkpoints")
    placed = [one for one in read if one.placeable]
    firsts, copied = _distinct(placed)
    sketches = np.stack([placed[row].sketch for row in firsts]) if firsts else np.zeros((0, DIMS), np.float32)
    found = regions_of(sketches, clusters=params.clusters, seed=bench.seed)
    at = {placed[row].checkpoint.id: firsts.index(first) for row, first in copied.items()}
    sources = [source_of(one.checkpoint) for one in read]
    labels = np.array([found.labels[at[o.checkpoint.id]] if o.checkpoint.id in at else -1 for o in read], int)
    return {
        "family": params.family,
        "dims": sketches.shape[1],
        "noise": sketch_noise(sketches.shape[1]),
        "members": _members(read, sources, labels, found, at),
        "regions": _regions(read, labels, sources, found),
        "purity": purity(labels, sources),
        "rand": adjusted_rand(labels, sources),
        "copies": _copies(placed, copied),
        "chosen_by": found.chosen_by.sentence,
        "diagnostics": _diagnostics(found),
        "left_out": [
            {"id": one.id, "name": one.name, "failure": why.name, "sentence": why.sentence}
            for one, why in left_out
        ],
        "cosine": {
            "within": found.within if found.regions else None,
            "between": found.between if len(found.regions) > 1 else None,
        },
    }


def _read_all(
    bench: Workbench, params: RegionsParams
) -> tuple[list[_Read], list[tuple[Checkpoint, Failure]]]:
    """The checkpoints that could be read, with their lineages told, and the others."""
    by_id = {one.id: one for one in bench.briefing.candidates}
    vanilla = by_id.pop(params.candidates[0], None)
    if vanilla is None:
        raise CheckpointNotFound(
            f"The vanilla of {params.family!r}, checkpoint {params.candidates[0]}, has left the store.",
            "Register it again with POST /checkpoints, and ask for regions again.",
        )
    read: list[_Read] = []
    left_out: list[tuple[Checkpoint, Failure]] = []
    for found in bench.task_vectors(tuple(by_id.values()), vanilla):
        checkpoint = by_id[found.checkpoint_id]
        if found.failure is not None:
            left_out.append((checkpoint, found.failure))
        if found.vector is None:
            continue
        told = verdict(found.vector)
        bench.tell_lineage(checkpoint, told.state, told.reason)
        read.append(_Read(checkpoint, float(found.vector.norm), told, found.vector.sketch))
    if len(read) < FEWEST:
        raise _too_few(params.family, len(read), left_out)
    return read, left_out


def _too_few(
    family: str, count: int, left_out: Sequence[tuple[Checkpoint, Failure]]
) -> NotApplicable | Interrupted:
    first = next(iter(left_out), None)
    why = "" if first is None else f" {first[0].name} could not be: {first[1].sentence}"
    said = (
        f"Of {family!r} {count} checkpoints beside the vanilla could be read, and regions take {FEWEST}.{why}"
    )
    if any(one.name == Interrupted.__name__ for _, one in left_out):
        return Interrupted(said)
    return NotApplicable(said, "Put the files where they were registered, then POST /jobs/{id}/retry.")


def _distinct(placed: Sequence[_Read]) -> tuple[list[int], dict[int, int]]:
    """Rows of `placed` without copies of others, and for each row the one that stands for it.

    Copies would be a region of their own, the tightest of all.
    """
    stands = {row: row for row in range(len(placed))}
    if placed:
        for group in copies(np.stack([one.sketch for one in placed])):
            stands |= dict.fromkeys(group, group[0])
    return sorted(set(stands.values())), stands


def _copies(placed: Sequence[_Read], stands: dict[int, int]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for row, first in stands.items():
        groups.setdefault(first, []).append(placed[row].checkpoint.id)
    return [group for group in groups.values() if len(group) > 1]


def _diagnostics(found: Regions) -> dict[str, Any]:
    told = asdict(found.chosen_by) | {"starts": [one._asdict() for one in found.chosen_by.starts]}
    del told["sentence"]
    return told


def _members(
    read: Sequence[_Read],
    sources: Sequence[str | None],
    labels: Int[np.ndarray, "n"],
    found: Regions,
    at: Mapping[int, int],
) -> list[dict[str, Any]]:
    """All that were read. A mean lies at the mean of its members, in the region that has most of it."""
    number = {one.checkpoint.id: int(label) for one, label in zip(read, labels, strict=True)}
    told = []
    for one, source in zip(read, sources, strict=True):
        of = _of(one.checkpoint) if is_mean(one.checkpoint) else {one.checkpoint.id: 1.0}
        place, label = None, -1
        if of and all(member in at for member in of):
            place = sum(weight * found.coordinates[at[member]] for member, weight in of.items())
            share: dict[int, float] = {}
            for member, weight in of.items():
                share[number[member]] = share.get(number[member], 0.0) + abs(weight)
            most = max(share, key=lambda region: share[region])
            label = most if share[most] > sum(share.values()) / 2 else -1
        told.append(_member(one, source, label, place))
    return told


def _of(mean: Checkpoint) -> dict[int, float]:
    """What it is a mean of, and how much of each; nothing where its details do not say."""
    ids, weights = (mean.details.get(name) or () for name in ("centroid_of", "centroid_weights"))
    return dict(zip(ids, weights, strict=True)) if len(ids) == len(weights) else {}


def _member(one: _Read, source: str | None, label: int, place: Any) -> dict[str, Any]:
    x, y = (None, None) if place is None else (float(part) for part in place)
    return {
        "id": one.checkpoint.id,
        "name": one.checkpoint.name,
        "source": source,
        "region": None if label < 0 else label + 1,
        "norm": one.norm,
        "x": x,
        "y": y,
        "lineage": one.lineage,
        "reason": one.reason,
    }


def _regions(
    read: Sequence[_Read], labels: Int[np.ndarray, "n"], sources: Sequence[str | None], found: Regions
) -> list[dict[str, Any]]:
    """Numbered from 1, and named by the source of most of their members."""
    by_region = counts_by_region(labels, sources)
    told, used = [], Counter[str]()
    for one in found.regions:
        counts = by_region[one.number]
        name = next(iter(counts), f"region {one.number + 1}")
        used[name] += 1
        told.append(
            {
                "number": one.number + 1,
                "name": name if used[name] == 1 else f"{name}, {used[name]}",
                "members": [read[row].checkpoint.id for row in np.flatnonzero(labels == one.number).tolist()],
                "tightness": one.tightness,
                "separation": one.separation,
                "stability": one.stability,
                "sources": counts,
            }
        )
    return told


REGIONS = Procedure(
    name="regions",
    version="1",
    needs=("weights",),
    summary="Which checkpoints of a family lie together in weight space, and whether each is of the family.",
    params=RegionsParams,
    run=run,
)
