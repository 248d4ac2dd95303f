"""Cosines between task vectors, from their sketches. Pure functions.

A sketch of d dimensions tells a cosine with a standard error of about 1 / sqrt(d): 0.004 at 65,536. The
dimensions of a seeded random projection are interchangeable, so a Gram matrix can be had in parts, one of
each block of dimensions: their sum is the whole, and drawing blocks with replacement shows what the
projection alone may change (headstart/regions/stability.py).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from headstart.failures import NonFinite

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

BLOCKS = 8  # of dimensions
WIDTH = 8192  # dimensions multiplied at a time: at 1,000 sketches 32 MiB are copied, never all


def cosine_matrix(sketches: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Cosine of every two sketches, -1..1, the diagonal 1; a sketch of zeros has 0 with all, itself too.

    Raises NonFinite where a sketch has a value that is not a number.
    """
    return cosine_of(block_grams(sketches, 1)[0])


def block_grams(sketches: Float[np.ndarray, "n d"], blocks: int = BLOCKS) -> Float32[np.ndarray, "b n n"]:
    """Inner products of the sketches, at length 1, over each of at most `blocks` parts of the dimensions.

    Products in fp32, a part's sums of WIDTH products in fp64. `sketches` may be mapped from a file.
    """
    count, dims = sketches.shape
    cuts = np.linspace(0, dims, min(blocks, max(dims, 1)) + 1).astype(int)
    scale = _inverse_norms(sketches)
    grams = np.zeros((len(cuts) - 1, count, count), dtype=np.float32)
    for block, (start, stop) in enumerate(pairwise(cuts.tolist())):
        total = np.zeros((count, count))
        for part in range(start, stop, WIDTH):
            columns = sketches[:, part : min(part + WIDTH, stop)]
            unit = np.multiply(columns, scale, dtype=np.float64).astype(np.float32)
            total += unit @ unit.T
        grams[block] = total
    return grams


def _inverse_norms(sketches: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 1"]:
    """1 / length of each sketch, 0 for one of zeros; in fp64, where no square of an fp32 value overflows."""
    squares = np.zeros(len(sketches))
    for start in range(0, sketches.shape[1], WIDTH):
        part = sketches[:, start : start + WIDTH].astype(np.float64)
        squares += np.einsum("ij,ij->i", part, part)
    if not np.isfinite(squares).all():
        which = ", ".join(str(k) for k in np.flatnonzero(~np.isfinite(squares))[:5])
        raise NonFinite(f"Sketches hold values that are NaN or infinite (rows {which}).")
    scale = np.divide(1.0, np.sqrt(squares), out=np.zeros(len(squares)), where=squares > 0)
    return np.asarray(scale[:, None])


def summed(grams: Float32[np.ndarray, "b n n"]) -> Float[np.ndarray, "n n"]:
    """The inner products over all blocks."""
    return np.asarray(np.sum(grams, axis=0, dtype=np.float64))


def cosine_of(gram: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """From inner products: symmetric to the bit, clipped to -1..1, the diagonal 1 (0 where a length is 0)."""
    gram = np.asarray(gram, dtype=np.float64)
    squares = np.maximum(np.diag(gram), 0.0)
    scale = np.divide(1.0, np.sqrt(squares), out=np.zeros(len(squares)), where=squares > 0)
    cosine: Float[np.ndarray, "n n"] = np.clip((gram + gram.T) / 2 * np.outer(scale, scale), -1.0, 1.0)
    np.fill_diagonal(cosine, (squares > 0).astype(np.float64))
    return cosine


def sketch_noise(dims: int) -> float:
    """Standard error of a cosine near 0 told by a sketch of so many dimensions."""
    return 1 / math.sqrt(max(dims, 1))
