"""UTF-8 text by lines, and CSV by rows, with the line of everything that is broken."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from headstart.errors import BrokenFile

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator

LONGEST_LINE = 1 << 20  # bytes, where a caller says nothing else
LONGEST_FIELD = 16 << 20  # characters of a CSV field, over all its lines
LINE = "(whole line)"
"""Stands for the column where a line as a whole is broken."""
BOM = "\ufeff"

csv.field_size_limit(LONGEST_FIELD)  # one for the whole process, and nobody else here reads CSV


class Lines:
    """The lines of a UTF-8 file, line ends kept; `number` is that of the line given last."""

    def __init__(self, name: str, stream: io.BufferedReader, longest: int = LONGEST_LINE) -> None:
        self._name = name
        self._stream = stream
        self._longest = longest
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while raw := self._stream.readline(self._longest + 1):
            self.number += 1
            if len(raw) > self._longest:
                raise self._broken(f"the line is longer than {self._longest} bytes. Is it a table?")
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as e:
                where = f"byte {raw[e.start]:#04x} at position {e.start + 1}"
                raise self._broken(f"{where} is not UTF-8. Save the file as UTF-8.") from None
            yield text.removeprefix(BOM) if self.number == 1 else text

    def _broken(self, what: str) -> BrokenFile:
        return BrokenFile(self._name, self.number, LINE, what)


def csv_rows(
    name: str, stream: io.BufferedReader, delimiter: str = ",", longest: int = LONGEST_LINE
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of a CSV file; a blank line has no fields. `longest` is of a line, in bytes.

    Raises: BrokenFile.
    """
    lines = Lines(name, stream, longest)
    reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
    while True:
        line = lines.number + 1  # a quoted field may hold line breaks: a row is where it starts
        try:
            fields = next(reader, None)
        except csv.Error as e:
            raise BrokenFile(name, line, LINE, f"the line is not CSV: {_csv_fault(e)}.") from None
        if fields is None:
            return
        yield line, fields


def _csv_fault(error: csv.Error) -> str:
    fault = str(error)
    if "new-line character" in fault:
        return "a carriage return without a line feed. Save it with line ends of one kind"
    if "unexpected end" in fault:
        return "a quote that is opened here is never closed"
    if "field limit" in fault:
        return f"a field is longer than {LONGEST_FIELD} characters. Is a quote not closed"
    return fault
