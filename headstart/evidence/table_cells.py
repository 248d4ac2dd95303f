"""The columns of a score table, and what may stand in a cell. docs/import.md says it for users."""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from headstart.errors import BrokenFile, nearest_names
from headstart.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

REQUIRED = ("checkpoint", "family", "target", "method", "value")
OPTIONAL = ("stderr", "seed", "rows_tested", "source")
COLUMNS = (*REQUIRED, *OPTIONAL)
NUMBERS = frozenset({"value", "stderr", "seed", "rows_tested"})

LONGEST_NAME = 512
LARGEST_INTEGER = 2**31 - 1

_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control, lone surrogate, line and paragraph break
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_PERCENT = re.compile(r"[+-]?\d+(\.\d*)?\s*%", re.ASCII)


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of a table, checked."""

    checkpoint: str
    family: str
    target: str
    method: str
    value: float
    stderr: float | None
    seed: int | None
    rows_tested: int | None
    source: str


class Cells:
    """The cells of one row, asked for by column; every refusal is a BrokenFile with line and column."""

    def __init__(self, file: str, line: int, cells: Mapping[str, object]) -> None:
        self._file = file
        self._line = line
        self._cells = cells

    def row(self) -> TableRow:
        """Return the row, checked."""
        method = self._name("method")
        if method not in METHODS:
            nearest = nearest_names(method, METHODS)
            hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Known methods: {', '.join(METHODS)}."
            raise self._broken("method", f"{_short(method)} is not a known method. {hint}")
        value = self._number("value")
        if value is None:
            raise self._missing("value")
        stderr = self._number("stderr")
        if stderr is not None and stderr < 0:
            raise self._broken("stderr", f"{stderr:g} is negative. A standard error is 0 or more.")
        return TableRow(
            checkpoint=self._name("checkpoint"),
            family=self._name("family"),
            target=self._name("target"),
            method=method,
            value=value,
            stderr=stderr,
            seed=self._integer("seed", 0),
            rows_tested=self._integer("rows_tested", 1),
            source=self._text("source") or "",
        )

    def _broken(self, column: str, what: str) -> BrokenFile:
        return BrokenFile(self._file, self._line, column, what)

    def _missing(self, column: str) -> BrokenFile:
        return self._broken(column, "the field is missing or empty. Every row needs one.")

    def _name(self, column: str) -> str:
        name = self._text(column)
        if not name:
            raise self._missing(column)
        return name

    def _text(self, column: str) -> str | None:
        """Return the text of a cell without surrounding blanks; None for an empty one."""
        cell = self._cells.get(column)
        if cell is None:
            return None
        if not isinstance(cell, str):
            raise self._broken(column, f"{_short(cell)} is not text. Write it as a string.")
        text = cell.strip()
        if len(text) > LONGEST_NAME:
            raise self._broken(
                column, f"{_short(text)} has {len(text)} characters; {LONGEST_NAME} are the most."
            )
        if not text.isprintable():  # isprintable is fast and strict: it also refuses harmless blanks
            for char in text:
                if unicodedata.category(char) in _UNPRINTABLE:
                    raise self._broken(
                        column, f"{_short(text)} holds the control character {char!a}. Remove it."
                    )
        return sys.intern(text)  # a name stands in many rows

    def _number(self, column: str) -> float | None:
        cell = self._cells.get(column)
        if cell is None:
            return None
        if isinstance(cell, bool) or not isinstance(cell, int | float | Decimal):
            raise self._broken(column, f"{_short(cell)} is not a number.{_number_hint(cell)}")
        try:
            number = float(cell)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._broken(
                column, f"{_short(cell)} is not a finite number. Leave the row out if nothing was measured."
            )
        return number

    def _integer(self, column: str, least: int) -> int | None:
        """Return a whole number; 3.0 is one, since a column with gaps is often written as fractions."""
        number = self._number(column)
        if number is None:
            return None
        if number != int(number) or not least <= number <= LARGEST_INTEGER:
            raise self._broken(
                column, f"{_short(self._cells[column])} is not a whole number from {least} to 2^31 - 1."
            )
        return int(number)


def check_columns(file: str, line: int, columns: Iterable[str]) -> None:
    """Raise BrokenFile unless every column is known, none repeats and none that is needed is missing."""
    seen = set()
    for column in columns:
        if column in seen:
            raise BrokenFile(file, line, column[:80], "the column stands there twice. Keep one.")
        if column not in COLUMNS:
            raise BrokenFile(file, line, column[:80], _unknown(column))
        seen.add(column)
    for column in REQUIRED:
        if column not in seen:
            needed = ", ".join(REQUIRED)
            raise BrokenFile(file, line, column, f"the column is missing. Needed are {needed}.")


def _unknown(column: str) -> str:
    if not column:
        return "a column without a name. Write the table without its row index."
    nearest = nearest_names(column, COLUMNS)
    hint = f"Did you mean {nearest[0]!r}?" if nearest else "Remove it."
    return f"the column is not known. {hint} Known are {', '.join(COLUMNS)}."


def _number_hint(cell: object) -> str:
    if not isinstance(cell, str):
        return ""
    if _DECIMAL_COMMA.fullmatch(cell):
        return " Write it with a decimal point."
    if _PERCENT.fullmatch(cell):
        return " Write a fraction, such as 0.85 for 85 %."
    try:
        float(cell)
    except ValueError:
        return ""
    return " Write it without quotes." if math.isfinite(float(cell)) else " Leave out what was not measured."


def _short(cell: object) -> str:
    text = repr(cell) if not isinstance(cell, int) or abs(cell) < 10**40 else "a very large number"
    return text if len(text) <= 80 else text[:77] + "..."
