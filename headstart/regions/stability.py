"""How surely a region is found again, when other checkpoints had been uploaded and the sketch was another.

Hennig, Cluster-wise assessment of cluster stability, Computational Statistics & Data Analysis 52 (2007): draw
the members with replacement (those drawn count once), cluster again, and take for every region the Jaccard
similarity |A and B| / |A or B| with the best match, among the members drawn. The mean over the draws is its
stability: above 0.75 a region is to be believed, below 0.5 it dissolves. Here the dimensions of the sketch
are drawn too, in blocks: blocks of a random projection are projections themselves. That about doubles the
sketch's share in the variance, so stability is told on the low side where cosines are near its error.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from headstart.regions.cosine import cosine_of
from headstart.regions.partition import NOWHERE, partition

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int

DRAWS = 20
SPARE = 8  # fragments beyond twice the regions found


def stability(
    grams: Float32[np.ndarray, "b n n"],
    labels: Int[np.ndarray, "n"],
    noise: float,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    clusters: int | None = None,
) -> Float[np.ndarray, "k"]:
    """Of each region 0..k-1, 0..1: the mean Jaccard similarity of its best match over the draws.

    `grams` are inner products by block of dimensions (cosine.block_grams); with one block only members are
    drawn. `noise` is the standard error of the cosine of all blocks. A draw says nothing of a region of which
    it holds fewer than two members; a region of which no draw does has 0.
    """
    count = int(labels.max(initial=NOWHERE)) + 1
    total, told = np.zeros(count), np.zeros(count)
    rng = np.random.default_rng(seed)
    for _ in range(draws if count else 0):
        rows = np.unique(rng.integers(len(labels), size=len(labels)))
        times = rng.multinomial(len(grams), np.full(len(grams), 1 / len(grams)))
        inner = np.ix_(rows, rows)
        cosine = cosine_of(sum(k * grams[block][inner] for block, k in enumerate(times.tolist()) if k))
        wider = noise * math.sqrt(float(np.mean(times**2)))
        again = partition(cosine, wider, clusters, most=2 * count + SPARE).labels
        similar, asked = best_jaccard(labels[rows], again, count)
        total += np.where(asked, similar, 0.0)
        told += asked
    return total / np.maximum(told, 1)


def best_jaccard(
    labels: Int[np.ndarray, "m"], again: Int[np.ndarray, "m"], count: int
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Of each region 0..count-1 of `labels` with its best match in `again`; whether it has two members."""
    groups = int(again.max(initial=NOWHERE)) + 1
    both = np.zeros((count + 1, groups + 1))
    np.add.at(both, (labels, again), 1)  # NOWHERE, -1, is the last row and column
    sizes, found = both.sum(axis=1)[:count], both.sum(axis=0)[:groups]
    shared = both[:count, :groups]
    either = sizes[:, None] + found - shared
    similar = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
    return similar.max(axis=1, initial=0.0), sizes >= 2
