"""The three formats of a table, read row by row as (line, cells). Lines count from 1.

A cell is None, text, or a number as the format holds it; whoever asked for it judges it. CSV holds text only:
in a score table the cells of number columns are turned into numbers, and stay text where they are none.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from headstart.errors import BrokenFile, HeadstartError, InvalidInput, TooLarge
from headstart.evidence.lines import BOM, LINE, LONGEST_LINE, Lines, csv_rows
from headstart.evidence.table_cells import COLUMNS, NUMBERS, check_columns

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Collection, Iterator, Sequence

    import pyarrow as pa

    Rows = Iterator[tuple[int, dict[str, object]]]

PARQUET_MAGIC = b"PAR1"
PARQUET_ROWS = 4096  # rows held at once, fewer where their fields are long
LARGEST_BATCH = 64 << 20  # bytes of those rows
MOST_PARQUET_BYTES = 2 << 30  # unpacked, as the file itself declares
SPOOL_BYTES = 8 << 20  # a Parquet file up to this size is read in memory, a larger one from disk

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,5})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What is wanted of a table, whatever its format."""

    columns: Callable[[str, int, Sequence[str]], Collection[str]]
    """(file, line, the columns there) -> those to read. Raises BrokenFile for columns it does not take."""
    cell: Callable[[str, str], object]
    """(column, text) -> the cell of a CSV file."""
    needed: str  # the columns to name where a file is empty
    longest_line: int = LONGEST_LINE  # bytes
    longest_field: int = LARGEST_BATCH // PARQUET_ROWS  # bytes, of a Parquet file
    too_long: str = "far longer than a name"  # what a field over that is


def _score_columns(name: str, line: int, columns: Sequence[str]) -> Collection[str]:
    check_columns(name, line, columns)
    return columns


def _score_cell(column: str, text: str) -> object:
    text = text.strip()
    if not text:
        return None
    if column in NUMBERS and _NUMBER.fullmatch(text):
        return float(text)
    return text


SCORES = Form(columns=_score_columns, cell=_score_cell, needed=", ".join(COLUMNS[:5]))


def read_rows(name: str, stream: io.BufferedReader, form: Form = SCORES) -> Rows:
    """Yield (line, cells) of a table; for Parquet the line is the row's number.

    The format is that of the name's ending (.csv, .jsonl, .ndjson, .json, .parquet, each perhaps with .gz);
    for another ending it is told from the first bytes.

    Raises: BrokenFile, InvalidInput, TooLarge.
    """
    return _format(name, stream)(name, stream, form)


def _format(name: str, stream: io.BufferedReader) -> Callable[[str, io.BufferedReader, Form], Rows]:
    ending = name.lower().removesuffix(".gz").rpartition(".")[2]
    start = stream.peek(64)
    if ending == "parquet" or start.startswith(PARQUET_MAGIC):
        return _parquet
    if ending in {"jsonl", "ndjson", "json"}:
        return _jsonl
    if ending != "csv" and start.removeprefix(BOM.encode()).lstrip()[:1] in {b"{", b"["}:
        return _jsonl
    return _csv


def _csv(name: str, stream: io.BufferedReader, form: Form) -> Rows:
    header: list[str] | None = None
    wanted: list[tuple[int, str]] = []
    for line, fields in csv_rows(name, stream, longest=form.longest_line):
        if not fields:  # a blank line
            continue
        if header is None:
            header = [column.strip() for column in fields]
            kept = form.columns(name, line, header)
            wanted = [(at, column) for at, column in enumerate(header) if column in kept]
            continue
        if len(fields) != len(header):
            column = header[min(len(fields), len(header) - 1)]
            counts = f"{len(fields)} fields where the header has {len(header)}"
            raise BrokenFile(name, line, column, f"the row has {counts}. Quote a field that holds commas.")
        yield line, {column: form.cell(column, fields[at]) for at, column in wanted}
    if header is None:
        what = f"the file is empty. Its header needs {form.needed}."
        raise BrokenFile(name, 1, form.needed.partition(",")[0], what)


def _jsonl(name: str, stream: io.BufferedReader, form: Form) -> Rows:
    lines = Lines(name, stream, form.longest_line)
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)
    for text in lines:
        stripped = text.strip()
        if not stripped:
            continue
        try:
            cells = decoder.decode(stripped)
        except (ValueError, RecursionError) as e:
            raise BrokenFile(name, lines.number, LINE, f"the line is not JSON: {_json_fault(e)}.") from None
        if not isinstance(cells, dict):
            raise BrokenFile(
                name, lines.number, LINE, "the line is no JSON object. Write one object a line, no list."
            )
        wanted = form.columns(name, lines.number, tuple(cells))
        for column in wanted:
            if isinstance(cells.get(column), dict | list):
                raise _nested(name, lines.number, column)
        yield lines.number, {column: cells.get(column) for column in wanted}
    if lines.number == 0:
        first = form.needed.partition(",")[0]
        raise BrokenFile(name, 1, first, "the file is empty. Write one JSON object a line.")


def _nested(name: str, line: int, column: str) -> BrokenFile:
    return BrokenFile(name, line, column[:80], "the field is nested. Write text or a number.")


def _json_fault(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at position {error.colno}"
    return str(error)[:200]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    cells = dict(pairs)
    if len(cells) != len(pairs):
        raise ValueError("a field stands there twice")
    return cells


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON; leave out what was not measured")


def _parquet(name: str, stream: io.BufferedReader, form: Form) -> Rows:
    try:
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as file:  # Parquet is read from its end
            while chunk := stream.read(1 << 18):
                file.write(chunk)
            file.seek(0)
            yield from _parquet_rows(name, file, form)
    except HeadstartError:
        raise
    except Exception as e:  # whatever a parser of untrusted bytes may raise
        raise InvalidInput(
            f"{name} is not a Parquet file that can be read ({str(e)[:200]}). Write it again. "
            "Nothing of the file was stored."
        ) from e


def _parquet_rows(name: str, file: IO[bytes], form: Form) -> Rows:
    from pyarrow import parquet, types  # noqa: PLC0415  (costs 0.2 s, and only this format needs it)

    schema = parquet.read_schema(file)
    kept = form.columns(name, 1, schema.names)
    wanted = [field for field in schema if field.name in kept]
    for field in wanted:
        if types.is_nested(field.type):
            raise _nested(name, 1, field.name)
    # As dictionaries, since a short file can hold one long text in each of a million rows.
    texts = [f.name for f in wanted if types.is_string(f.type) or types.is_large_string(f.type)]
    with parquet.ParquetFile(file, read_dictionary=texts) as table:
        groups = (table.metadata.row_group(i) for i in range(table.num_row_groups))
        if sum(max(0, group.total_byte_size) for group in groups) > MOST_PARQUET_BYTES:
            raise TooLarge(f"{name} unpacks to more than {MOST_PARQUET_BYTES} bytes. Split it.")
        row = 0
        columns = [field.name for field in wanted]
        for batch in table.iter_batches(PARQUET_ROWS, columns=columns, use_threads=False):
            longest = max(map(_longest, batch.columns), default=0)
            if longest > form.longest_field:
                raise TooLarge(f"{name} holds fields {form.too_long}. Remove them.")
            step = max(1, min(PARQUET_ROWS, LARGEST_BATCH // max(1, longest)))
            for start in range(0, batch.num_rows, step):
                for cells in batch.slice(start, step).to_pylist():
                    row += 1
                    yield row, cells


def _longest(column: pa.Array) -> int:
    """Bytes of the longest text of a column; 0 for numbers."""
    from pyarrow import compute, types  # noqa: PLC0415 - see above

    texts = column.dictionary if types.is_dictionary(column.type) else column
    if not (types.is_string(texts.type) or types.is_large_string(texts.type)):
        return 0
    return compute.max(compute.binary_length(texts)).as_py() or 0
