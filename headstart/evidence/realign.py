"""Undo a left shift: find the columns that the cells of a damaged row came from.

The damage. A writer dropped the missing results of a row and packed the rest to the left, in order; the
last cells kept what they held before. With d results missing from n columns, cell i < n - d holds the
value of some column c(i), with c strictly increasing and i <= c(i) <= i + d, and cells i >= n - d (the
tail) still hold their own column. So a packed value whose column lies in the tail is printed twice.

The proof. An accuracy on N rows is k/N, and columns have different N: most cells fit few columns. A cell
is re-aligned only where every alignment that explains the whole row agrees on its column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Where each cell of a shifted row belongs.

    `column[i]` is the column of cell i, or -1 where alignments disagree (or the cell is stale).
    `intact` tells that the tail was found intact; otherwise its cells are of unknown age and are -1.
    """

    column: Int[np.ndarray, "n"]
    missing: int  # how many results were dropped
    intact: bool


def realign(row: Float[np.ndarray, "n"], fits: Bool[np.ndarray, "n n"]) -> Alignment | None:
    """Explain a row by a left shift, or return None.

    A row whose last cells are blank was packed into a fresh row: there is no tail, only the packed cells.

    Args:
        row: the cells as printed; NaN only in blank last cells.
        fits: fits[i, j] tells whether the value of cell i can be a score of column j.

    The intact tail is tried first, all shifts d >= 1 together. Only if none explains the row is the tail
    taken as stale, with the least d that explains the rest.
    """
    n = len(row)
    filled = np.flatnonzero(np.isfinite(row))
    if len(filled) == 0 or filled[-1] != len(filled) - 1:
        return None
    blank = n - len(filled)
    if blank:
        found = _packed(row, fits, blank, tail_intact=False)
        return None if found is None else Alignment(_unique(found), blank, intact=True)
    possible = np.zeros((n, n), dtype=bool)
    least = 0
    for missing in range(1, n):
        found = _packed(row, fits, missing, tail_intact=True)
        if found is not None:
            least = least or missing
            possible |= found
    if least:
        return Alignment(_unique(possible), least, intact=True)
    for missing in range(1, n // 2):
        found = _packed(row, fits, missing, tail_intact=False)
        if found is not None:
            return Alignment(_unique(found), missing, intact=False)
    return None


def _packed(
    row: Float[np.ndarray, "n"], fits: Bool[np.ndarray, "n n"], missing: int, *, tail_intact: bool
) -> Bool[np.ndarray, "n n"] | None:
    """Every (cell, column) pair that some alignment with `missing` dropped results uses; None: no such."""
    n = len(row)
    packed = n - missing
    cells, columns = np.arange(n)[:, None], np.arange(n)[None, :]
    allowed = fits & (columns >= cells) & (columns <= cells + missing)
    allowed[packed:] = False
    if tail_intact:
        tail = np.arange(packed, n)
        if not fits[tail, tail].all():
            return None
        allowed &= (columns < packed) | (row[:, None] == row[None, :])
    used = _increasing(allowed[:packed])
    if used is None:
        return None
    possible = np.zeros((n, n), dtype=bool)
    possible[:packed] = used
    if tail_intact:
        possible[tail, tail] = True
    return possible


def _increasing(allowed: Bool[np.ndarray, "m n"]) -> Bool[np.ndarray, "m n"] | None:
    """Pairs that lie on a strictly increasing path through `allowed`, one column per row; None if no path."""
    m, n = allowed.shape
    forward = allowed.copy()
    for i in range(1, m):
        reached = np.zeros(n, dtype=bool)
        reached[1:] = np.logical_or.accumulate(forward[i - 1])[:-1]
        forward[i] &= reached
    if not forward[-1].any():
        return None
    backward = forward
    for i in range(m - 2, -1, -1):
        ahead = np.zeros(n, dtype=bool)
        ahead[:-1] = np.logical_or.accumulate(backward[i + 1][::-1])[::-1][1:]
        backward[i] &= ahead
    return backward


def _unique(possible: Bool[np.ndarray, "n n"]) -> Int[np.ndarray, "n"]:
    return np.where(possible.sum(axis=1) == 1, possible.argmax(axis=1), -1)
