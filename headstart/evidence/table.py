"""Importer of a platform's own score table: CSV, JSONL or Parquet, one measurement a row.

The format is documented for users in docs/import.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstart.entities import CheckpointDraft, ImportBatch, ImportReport, ScoreDraft, TargetDraft
from headstart.errors import BrokenFile, InvalidInput, TooLarge
from headstart.evidence.quality import gate
from headstart.evidence.table_cells import Cells, TableRow
from headstart.evidence.table_formats import read_rows
from headstart.methods import METHODS

if TYPE_CHECKING:
    from headstart.evidence.source import Progress, Source

ENDINGS = tuple(f".{kind}{pack}" for kind in ("csv", "jsonl", "ndjson", "parquet") for pack in ("", ".gz"))
PROGRESS_ROWS = 1000
READING = 0.7  # the share of reading in the whole; checking and storing follow


def read_table(source: Source, name: str, *, max_rows: int, progress: Progress) -> ImportBatch:
    """Read one file.

    Raises: BrokenFile (a row that cannot be read: line and column), TooLarge (more than `max_rows` rows),
    InvalidInput, and whatever the source raises.
    """
    return _read(source, (name,), max_rows, progress)


def read_tables(source: Source, *, max_rows: int, progress: Progress) -> ImportBatch:
    """Read every table of the source as one, in the order of their names.

    A single file is read whatever its name; of several, those that end in one of ENDINGS.
    """
    names = source.names()
    tables = names if len(names) == 1 else tuple(name for name in names if name.lower().endswith(ENDINGS))
    if not tables:
        raise InvalidInput(
            f"There is no table in {source.origin}. Give a file whose name ends in {', '.join(ENDINGS[::2])} "
            "(.gz may follow), or a folder with such files."
        )
    return _read(source, tables, max_rows, progress)


def _read(source: Source, names: tuple[str, ...], max_rows: int, progress: Progress) -> ImportBatch:
    table = _Table(max_rows)
    for i, name in enumerate(names):
        before = table.rows
        progress(READING * i / len(names), f"reading {name}")
        with source.open(name) as stream:
            for line, cells in read_rows(name, stream):
                table.add(name, line, Cells(name, line, cells).row())
                if table.rows % PROGRESS_ROWS == 0:
                    share = (i + source.fraction()) / len(names)
                    progress(READING * share, f"reading {name}: {table.rows} rows")
        if table.rows == before:
            raise BrokenFile(name, 1, "checkpoint", "the file has no rows. Add at least one.")
    progress(READING, "checking the scores")
    scores = gate(table.scores)
    progress(0.8, "storing")
    return ImportBatch(
        checkpoints=tuple(table.checkpoints.values()),
        targets=tuple(
            TargetDraft(name=name, rows_tested=n if n > 0 else None) for name, n in table.targets.items()
        ),
        scores=scores,
        report=ImportReport(rows_read=table.rows),
    )


class _Table:
    """What the rows read so far say."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._runs: dict[tuple[str, ...], int] = {}  # runs without a seed, by cell; -1: seeds are given
        self._params: dict[str, dict[str, str]] = {"": {}}
        self._provenance: dict[str, dict[str, str]] = {}
        self.rows = 0
        self.checkpoints: dict[tuple[str, str], CheckpointDraft] = {}
        self.targets: dict[str, int] = {}  # rows tested; 0 while unknown, -1 once rows disagree
        self.scores: list[ScoreDraft] = []

    def add(self, file: str, line: int, row: TableRow) -> None:
        """Take in one row.

        Raises: TooLarge, BrokenFile (some runs of the cell have a seed and some have none).
        """
        self.rows += 1
        if self.rows > self._max_rows:
            raise TooLarge(f"{file} goes over {self._max_rows} rows, the most one import may hold. Split it.")
        key = (row.family, row.checkpoint)
        if key not in self.checkpoints:
            self.checkpoints[key] = CheckpointDraft(
                family=row.family, name=row.checkpoint, is_vanilla=row.checkpoint == row.family
            )
        known = self.targets.setdefault(row.target, row.rows_tested or 0)
        if row.rows_tested is not None and known != row.rows_tested:
            self.targets[row.target] = -1 if known else row.rows_tested
        self.scores.append(
            ScoreDraft(
                family=row.family,
                checkpoint=row.checkpoint,
                target=row.target,
                method=row.method,
                method_version=METHODS[row.method].version,
                value=row.value,
                stderr=row.stderr,
                seed=self._seed(file, line, row),
                rows_tested=row.rows_tested,
                params=self._params.setdefault(row.source, {"source": row.source}),
                source=row.source,
                provenance=self._provenance.setdefault(file, {"file": file}),
            )
        )

    def _seed(self, file: str, line: int, row: TableRow) -> int:
        """Return the row's seed, or its number among the runs of its cell that were read before."""
        cell = (row.checkpoint, row.family, row.target, row.method, row.source)
        runs = self._runs.get(cell, -1 if row.seed is not None else 0)
        if (row.seed is None) != (runs >= 0):
            raise BrokenFile(
                file,
                line,
                "seed",
                f"some runs of {row.checkpoint!r} on {row.target!r} have a seed and some have none. "
                "Give every run of a cell a seed, or none.",
            )
        self._runs[cell] = runs if row.seed is not None else runs + 1
        return runs if row.seed is None else row.seed
