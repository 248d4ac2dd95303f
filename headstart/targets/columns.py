"""Which column of a table holds what: by the names that were given, or else by the usual ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headstart.errors import BrokenFile, nearest_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstart.targets.spec import Columns

PAIRS = (
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text", "text_pair"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
)
TEXTS = ("text", "sentence", "content", "review", "tweet", "utterance", "question", "query")
LABELS = ("label", "labels", "class", "category", "score")
USUAL = frozenset((*(name for pair in PAIRS for name in pair), *TEXTS, *LABELS))


@dataclass(frozen=True, slots=True)
class Found:
    """The columns of one table."""

    text: str
    text_pair: str | None
    label: str | None  # None: no row has one

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(name for name in (self.text, self.text_pair, self.label) if name is not None)


def find_columns(
    file: str, line: int, names: Sequence[str], wanted: Columns, *, labelled: bool = True
) -> Found:
    """Find the columns of a table; case is ignored for the usual names.

    Args:
        labelled: there has to be a column of labels.

    Raises: BrokenFile (a column twice, one that was asked for and is not there, none of a usual name).
    """
    for column, count in Counter(names).items():
        if count > 1:
            raise BrokenFile(file, line, column[:80], "the column stands there twice. Keep one.")
    given = _Given(file, line, tuple(names))
    text, pair = given.named(wanted.text), given.named(wanted.text_pair)
    if text is None and pair is None:
        text, pair = given.usual_texts()
    if wanted.label is None:
        label = given.usual(LABELS)
    else:
        label = given.named(wanted.label) if labelled or wanted.label in names else None
    if text is None:
        raise given.missing("text", (*TEXTS, *(f"{a} and {b}" for a, b in PAIRS)))
    if label is None and labelled:
        raise given.missing("label", LABELS)
    columns = Found(text, pair, label)
    if len(set(columns.names)) < len(columns.names):
        raise BrokenFile(file, line, text[:80], "one column is to be two things. Name a column for each.")
    return columns


@dataclass(frozen=True, slots=True)
class _Given:
    """The columns that a table has."""

    file: str
    line: int
    names: tuple[str, ...]

    def named(self, column: str | None) -> str | None:
        """The column that was asked for, which has to be there."""
        if column is None or column in self.names:
            return column
        nearest = nearest_names(column, self.names)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else f"There are {self._shown()}."
        raise BrokenFile(self.file, self.line, column[:80], f"there is no such column. {hint}")

    def usual(self, known: Sequence[str]) -> str | None:
        """The first of the usual names that is there."""
        folded = {name.strip().casefold(): name for name in reversed(self.names)}
        return next((folded[name] for name in known if name in folded), None)

    def usual_texts(self) -> tuple[str | None, str | None]:
        """The first usual pair that is there, or else the first usual text alone."""
        for first, second in PAIRS:
            found = self.usual((first,)), self.usual((second,))
            if None not in found:
                return found
        return self.usual(TEXTS), None

    def missing(self, role: str, known: Sequence[str]) -> BrokenFile:
        """The error where no usual name is there."""
        what = (
            f"no column is known to hold the {role}: there are {self._shown()}. "
            f"Say which by columns.{role}, or name it one of {', '.join(known)}."
        )
        return BrokenFile(self.file, self.line, role, what)

    def _shown(self) -> str:
        more = f" and {len(self.names) - 12} more" if len(self.names) > 12 else ""
        return ", ".join(repr(name[:40]) for name in self.names[:12]) + more if self.names else "none"
