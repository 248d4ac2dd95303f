"""The regions of a family: who is in which, how tight, how surely, and where on the map. Pure functions.

partition.py says how the groups are found and their number chosen, stability.py what a stability is,
layout.py what the map shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstart.regions.cosine import block_grams, cosine_of, sketch_noise, summed
from headstart.regions.layout import coordinates
from headstart.regions.partition import ALPHA, APART, NOWHERE, Start, partition
from headstart.regions.sketch import DIMS
from headstart.regions.stability import DRAWS, stability

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int

    from headstart.regions.partition import Partition

TOLD = 32  # eigenvalues


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Two checkpoints or more whose task vectors point the same way."""

    number: int  # from 0, the largest first
    members: tuple[int, ...]  # rows of the cosine matrix, ascending
    tightness: float  # mean cosine of two members
    separation: float  # mean cosine of a member and a checkpoint outside; 0 where all are members
    stability: float  # 0..1, mean Jaccard similarity with its best match over the draws of a bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Why there are so many regions."""

    sentence: str
    background: float  # median cosine of two checkpoints that no region holds
    spread: float  # standard deviation of these, of their lower half
    noise: float  # standard error of a cosine, from the sketch alone
    edge: float  # eigenvalue that noise of this spread reaches
    eigenvalues: tuple[float, ...]  # of the cosine matrix, the largest TOLD
    starts: tuple[Start, ...]  # what was tried; `explained` says which was taken


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Regions:
    """What `find_regions` found among n checkpoints."""

    labels: Int[np.ndarray, "n"]  # -1: in no region
    regions: tuple[Region, ...]
    coordinates: Float[np.ndarray, "n 2"]  # the vanilla is the origin
    within: float  # mean cosine of two members of one region; 0 where there is none
    between: float  # mean cosine of two members of different regions; 0 where there are none
    chosen_by: Choice


def find_regions(
    cosine: Float[np.ndarray, "n n"],
    *,
    dims: int = DIMS,
    clusters: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    grams: Float32[np.ndarray, "b n n"] | None = None,
) -> Regions:
    """Cluster a family's task vectors by their cosines (cosine.cosine_matrix), told by sketches of `dims`.

    The number of regions is chosen, or is at most `clusters` if that is told; checkpoints that are like no
    others are in none, and there may be none at all. Deterministic: `seed` is the bootstrap's, which draws
    the sketch's dimensions beside the members if it gets `grams`, the inner products by block of dimensions.
    """
    cosine = np.asarray(cosine, dtype=np.float64)
    noise = sketch_noise(dims)
    found = partition(cosine, noise, clusters)
    parts = np.asarray(cosine, dtype=np.float32)[None] if grams is None else grams
    stable = stability(parts, found.labels, noise, seed=seed, draws=draws, clusters=clusters)
    regions = tuple(_region(cosine, found.labels, k, float(stable[k])) for k in range(found.regions))
    within, between = _within_and_between(cosine, found.labels)
    return Regions(
        labels=found.labels,
        regions=regions,
        coordinates=coordinates(cosine, found.regions),
        within=within,
        between=between,
        chosen_by=_choice(found, noise, clusters),
    )


def regions_of(
    sketches: Float[np.ndarray, "n d"], *, clusters: int | None = None, seed: int = 0, draws: int = DRAWS
) -> Regions:
    """The same from the sketches themselves, which the bootstrap then draws from too."""
    grams = block_grams(sketches)
    cosine = cosine_of(summed(grams))
    return find_regions(
        cosine, dims=sketches.shape[1], clusters=clusters, seed=seed, draws=draws, grams=grams
    )


def _region(
    cosine: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"], number: int, stable: float
) -> Region:
    members = np.flatnonzero(labels == number)
    inside = cosine[np.ix_(members, members)]
    outside = cosine[np.ix_(members, np.flatnonzero(labels != number))]
    pairs = len(members) * (len(members) - 1)
    return Region(
        number=number,
        members=tuple(members.tolist()),
        tightness=float(inside.sum() - np.trace(inside)) / pairs,
        separation=float(outside.mean()) if outside.size else 0.0,
        stability=stable,
    )


def _within_and_between(
    cosine: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"]
) -> tuple[float, float]:
    placed = np.flatnonzero(labels != NOWHERE)
    rows, columns = np.triu_indices(len(placed), 1)
    values = cosine[np.ix_(placed, placed)][rows, columns]
    same = labels[placed][rows] == labels[placed][columns]
    within, between = values[same], values[~same]
    return float(within.mean()) if within.size else 0.0, float(between.mean()) if between.size else 0.0


def _choice(found: Partition, noise: float, clusters: int | None) -> Choice:
    return Choice(
        sentence=_sentence(found, clusters),
        background=found.level.background,
        spread=found.level.spread,
        noise=noise,
        edge=found.edge,
        eigenvalues=tuple(found.eigenvalues[:TOLD].tolist()),
        starts=found.starts,
    )


def _sentence(found: Partition, clusters: int | None) -> str:
    """Why so many, in plain words."""
    count, nowhere = len(found.labels), int(np.sum(found.labels == NOWHERE))
    if count < 2:
        return "A region takes two checkpoints at least."
    if found.regions == 0:
        return (
            f"No region: no checkpoints of the {count} are more alike than chance makes some of them"
            f" (cosines of {found.level.background:.3f}, give or take {found.level.spread:.3f})."
        )
    signal = int(np.sum(found.eigenvalues > found.edge))
    told = "1 region" if found.regions == 1 else f"{found.regions} regions"
    rule = f"groups count as one where their centres have a cosine of {APART:g} or more"
    rest = f" In none, being like no others: {nowhere} of the {count} checkpoints." if nowhere else ""
    return (
        f"{told}: {rule if clusters is None else f'{clusters} were asked for'}, and not at all where noise"
        f" would show their like once in {1 / ALPHA:.0f} times.{rest} Eigenvalues of the cosine above the"
        f" edge of noise, {found.edge:.2f}: {signal}."
    )
