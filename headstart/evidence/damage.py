"""Judge the rows of a published table: sound, shifted to the left, or of another split. Pure functions.

A row is damaged when some cell is off the grid of its column (an accuracy on N rows is k/N).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstart.evidence.realign import Alignment, realign

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

MARGIN = 0.02  # a column's plausible range is that of the sound rows, widened by this
EXPLAINED_INTACT = 1  # off-grid cells an alignment must explain where the tail is intact,
EXPLAINED_STALE = 5  # and where it is stale (clean rows with one corrupted cell: 1 in 400 explains any)
ROW_CELLS = 3  # off-grid cells, unexplained, that put the whole row in doubt
SPLIT_CELLS = 5  # off-grid cells, nearly all plausible, that mark a row of another split
SPLIT_SHARE = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class RowVerdict:
    """What to do with each cell of a damaged row.

    `column[i]` is the column cell i belongs to (i itself where it stands right or cannot be told);
    `reason[i]` is None for a cell to trust, else a reason of `quality.REASONS`.
    """

    column: Int[np.ndarray, "n"]
    reason: tuple[str | None, ...]
    note: str


def judge_rows(
    cells: Float[np.ndarray, "m n"], rows_tested: Float[np.ndarray, "n"]
) -> list[RowVerdict | None]:
    """One verdict a row; None for a sound one.

    Args:
        cells: scores in 0..1, NaN where there is none.
        rows_tested: test size of each column; NaN where there is no grid (a correlation, say).
    """
    off = off_grid_cells(cells, rows_tested)
    sound = ~off.any(axis=1)
    low, high = _plausible_range(cells[sound] if sound.any() else cells)
    verdicts: list[RowVerdict | None] = []
    for row, bad in zip(cells, off, strict=True):
        verdicts.append(_judge(row, bad, rows_tested, low, high) if bad.any() else None)
    return verdicts


def off_grid_cells(
    cells: Float[np.ndarray, "m n"], rows_tested: Float[np.ndarray, "n"]
) -> Bool[np.ndarray, "m n"]:
    """Cells that are no k/N. A missing cell or an unknown N is never off."""
    k = cells * rows_tested
    return np.asarray(np.abs(k - np.round(k)) > 1e-3)  # NaN compares false


def _plausible_range(
    cells: Float[np.ndarray, "m n"],
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    known = np.isfinite(cells)
    low = np.where(known, cells, np.inf).min(axis=0, initial=np.inf) - MARGIN
    high = np.where(known, cells, -np.inf).max(axis=0, initial=-np.inf) + MARGIN
    return low, high


def _judge(
    row: Float[np.ndarray, "n"],
    off: Bool[np.ndarray, "n"],
    rows_tested: Float[np.ndarray, "n"],
    low: Float[np.ndarray, "n"],
    high: Float[np.ndarray, "n"],
) -> RowVerdict:
    fits = _fits(row, rows_tested, low, high)
    alignment = _proven(row, fits)
    if alignment is not None:
        return _shifted(alignment)
    own = np.arange(len(row))
    plausible = (row >= low) & (row <= high)
    count = int(off.sum())
    if count >= SPLIT_CELLS and plausible[off].mean() >= SPLIT_SHARE:
        note = f"{count} cells of the row are off the grids of their targets, yet plausible scores of them."
        return RowVerdict(own, ("other_split",) * len(row), note)
    rest = "shifted" if count >= ROW_CELLS else None
    note = f"{count} cells of the row are off the grids of their targets, and no shift explains them."
    return RowVerdict(own, tuple("off_grid" if bad else rest for bad in off), note)


def _fits(
    row: Float[np.ndarray, "n"],
    rows_tested: Float[np.ndarray, "n"],
    low: Float[np.ndarray, "n"],
    high: Float[np.ndarray, "n"],
) -> Bool[np.ndarray, "n n"]:
    """fits[i, j]: cell i can be a score of column j, by its grid and its range."""
    off = off_grid_cells(np.repeat(row[:, None], len(row), axis=1), rows_tested)
    return ~off & (row[:, None] >= low) & (row[:, None] <= high)


def _proven(row: Float[np.ndarray, "n"], fits: Bool[np.ndarray, "n n"]) -> Alignment | None:
    """The alignment of the row, if it explains enough cells that cannot stand where they are printed."""
    alignment = realign(row, fits)
    if alignment is None:
        return None
    explained = int((~np.diagonal(fits) & (alignment.column >= 0)).sum())
    needed = EXPLAINED_INTACT if alignment.intact else EXPLAINED_STALE
    return alignment if explained >= needed else None


def _shifted(alignment: Alignment) -> RowVerdict:
    told = alignment.column >= 0
    note = f"The row is shifted left by up to {alignment.missing} columns; this cell's column is ambiguous"
    note += "." if alignment.intact else " or its value stale."
    return RowVerdict(
        np.where(told, alignment.column, np.arange(len(told))),
        tuple(None if known else "shifted" for known in told),
        note,
    )
