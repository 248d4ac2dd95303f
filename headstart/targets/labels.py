"""The labels of a target: read cell by cell, judged when all are known."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from headstart.errors import BrokenFile
from headstart.targets.texts import normalised

if TYPE_CHECKING:
    from headstart.targets.spec import Task

Kind = Literal["word", "whole", "fraction"]

LONGEST_LABEL = 200  # characters
MISSING = -1
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,5})?", re.ASCII)
_WRITTEN_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_SHOWN = {"word": "a word", "whole": "a whole number", "fraction": "a fraction"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cell stands."""

    file: str
    line: int
    column: str

    def broken(self, what: str) -> BrokenFile:
        """The error for this cell."""
        return BrokenFile(self.file, self.line, self.column[:80], what)


@dataclass(slots=True)
class Labels:
    """Every label met so far, under a code, and the first of each kind."""

    names: list[str] = field(default_factory=list)  # by code
    _codes: dict[str, int] = field(default_factory=dict)
    _first: dict[Kind, tuple[Place, str]] = field(default_factory=dict)
    _measured: tuple[Place, str] | None = None  # the first fraction that is a number, not text

    def code(self, cell: object, place: Place) -> int:
        """The code of a cell; MISSING for an empty one.

        Raises: BrokenFile (no text or number, not finite, too long).
        """
        if cell is None or (isinstance(cell, float) and math.isnan(cell)):
            return MISSING
        known = self._codes.get(cell) if isinstance(cell, str) else None
        if known is not None:
            return known
        name = self._name(cell, place)
        if not name:
            return MISSING
        known = self._codes.get(name)
        if known is not None:
            return known
        kind = _kind(name)
        if kind != "word" and math.isinf(float(name)):
            raise place.broken(f"the label {name[:80]!r} is not a finite number. Leave the row out.")
        self._first.setdefault(kind, (place, name))
        if kind == "fraction" and isinstance(cell, float) and self._measured is None:
            self._measured = (place, name)
        self._codes[name] = len(self.names)
        self.names.append(name)
        return self._codes[name]

    def task(self, stated: Task | None) -> Task:
        """The task that the labels are of, or what was stated where they fit it.

        Words, or whole numbers alone, are classes; fractions are the values of a regression.
        Raises: BrokenFile (words and numbers mixed, words for a regression, fractions for classes).
        """
        word, fraction = self._first.get("word"), self._first.get("fraction")
        number = fraction or self._first.get("whole")
        if stated == "classification":
            if self._measured is not None:
                place, name = self._measured
                raise place.broken(f"the label {name} is a fraction, and no class. Is the task a regression?")
            return stated
        if stated == "regression":
            if word is not None:
                place, name = word
                raise place.broken(
                    f"the label {name!r} is no number, and the task is a regression. Correct it."
                )
            return stated
        if word is not None and number is not None:
            raise _mixed(word, number)
        return "classification" if fraction is None else "regression"

    def classes(self) -> list[str]:
        """The class of each code. Where all labels are whole numbers, 1.0 and 1 are the same."""
        if set(self._first) != {"whole"}:
            return self.names
        return [n if _WRITTEN_WHOLE.fullmatch(n) else str(int(float(n))) for n in self.names]

    def values(self) -> list[float]:
        """The value of each code, for a regression."""
        return [float(name) + 0.0 for name in self.names]  # -0.0 is 0.0

    def _name(self, cell: object, place: Place) -> str:
        if isinstance(cell, str):
            name, _ = normalised(cell)
        elif isinstance(cell, float):
            if math.isinf(cell):
                raise place.broken(f"the label {cell} is not a finite number. Leave the row out.")
            name = str(int(cell)) if cell.is_integer() else repr(cell)
        elif isinstance(cell, int):
            name = str(cell)
        else:
            what = (
                f"a label is text or a number, and this is of type {type(cell).__name__}. Write it as text."
            )
            raise place.broken(what)
        if name.lower() in ("true", "false"):  # each writer of CSV has its own case for them
            name = name.lower()
        if len(name) > LONGEST_LABEL:
            raise place.broken(
                f"the label {name[:40]!r}... has {len(name)} characters, the most is {LONGEST_LABEL}. "
                "Is it the column of labels?"
            )
        return name


def _kind(name: str) -> Kind:
    if not _NUMBER.fullmatch(name):
        return "word"
    return "whole" if _WRITTEN_WHOLE.fullmatch(name) or float(name).is_integer() else "fraction"


def _mixed(word: tuple[Place, str], number: tuple[Place, str]) -> BrokenFile:
    """The error at whichever came second, since the column looked well until there."""
    first, second = sorted((word, number), key=lambda one: (one[0].file, one[0].line))
    place, name = second
    other, earlier = first
    return place.broken(
        f"the label {name[:80]!r} is {_SHOWN[_kind(name)]}, and {earlier[:80]!r} in {other.file}, line "
        f"{other.line}, is {_SHOWN[_kind(earlier)]}. Correct one; if both are names of classes, say task: "
        "classification."
    )
