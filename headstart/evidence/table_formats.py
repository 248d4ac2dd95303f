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
from headstart.evidence.streams import FREE_EXPANSION, MOST_EXPANSION
from headstart.evidence.table_cells import COLUMNS, NUMBERS, check_columns

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Collection, Iterator, Sequence

    import pyarrow as pa
    from pyarrow import parquet

    Rows = Iterator[tuple[int, dict[str, object]]]

PARQUET_MAGIC = b"PAR1"
PARQUET_ROWS = 4096  # rows held at once, fewer where their fields are long
LARGEST_BATCH = 64 << 20  # bytes of those rows
MOST_PARQUET_BYTES = 2 << 30  # of the columns that are read, unpacked, as the file itself declares
LARGEST_GROUP = 256 << 20  # likewise, of one row group: a page of it is unpacked whole
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
            yield from _parquet_rows(name, file, form)
    except HeadstartError:
        raise
    except Exception as e:  # whatever a parser of untrusted bytes may raise
        raise InvalidInput(
            f"{name} is not a Parquet file that can be read ({str(e)[:200]}). Write it again. "
            "Nothing of the file was stored."
        ) from e


def _parquet_rows(name: str, file: IO[bytes], form: Form) -> Rows:
    import pyarrow as pa  # noqa: PLC0415  (costs 0.2 s, and only this format needs it)
    from pyarrow import parquet, types  # noqa: PLC0415

    packed = file.tell()
    file.seek(0)
    schema = parquet.read_schema(file)
    kept = form.columns(name, 1, schema.names)
    wanted = [field for field in schema if field.name in kept]
    for field in wanted:
        if types.is_nested(field.type):
            raise _nested(name, 1, field.name)
        if "binary" in str(field.type) or types.is_string_view(field.type):  # not read as dictionaries
            what = f"the column is of type {field.type}. Write it as string or number."
            raise BrokenFile(name, 1, field.name[:80], what)
    # As dictionaries, since a short file can hold one long text in each of a million rows.
    texts = [f.name for f in wanted if types.is_string(f.type) or types.is_large_string(f.type)]
    with parquet.ParquetFile(file, read_dictionary=texts) as table:
        columns = [field.name for field in wanted]
        row = 0
        for batch in _batches(table, columns, _group_sizes(name, table.metadata, columns, packed)):
            longest = max(map(_longest, batch.columns), default=0)
            if longest > form.longest_field:
                raise TooLarge(f"{name} holds fields {form.too_long}. Remove them.")
            step = max(1, min(PARQUET_ROWS, LARGEST_BATCH // max(1, longest)))
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                widened = pa.record_batch(list(map(_widened, part.columns)), part.schema.names)
                for cells in widened.to_pylist():
                    row += 1
                    yield row, cells


def _group_sizes(name: str, told: parquet.FileMetaData, columns: Collection[str], packed: int) -> list[int]:
    """Bytes of these columns in each row group, unpacked but as encoded: a dictionary counts once.

    It is what the file declares. A file of `packed` bytes that was made to declare too little is not found
    out here, for the pages tell their sizes to the decoder alone.

    Raises: TooLarge.
    """
    sizes = []
    for group in map(told.row_group, range(told.num_row_groups)):
        chunks = map(group.column, range(group.num_columns))
        sizes.append(sum(max(0, c.total_uncompressed_size) for c in chunks if c.path_in_schema in columns))
    if sum(sizes) > MOST_PARQUET_BYTES:
        raise TooLarge(f"{name} unpacks to more than {MOST_PARQUET_BYTES} bytes. Split it.")
    if sum(sizes) > max(FREE_EXPANSION, MOST_EXPANSION * packed):
        raise TooLarge(
            f"{name} unpacks to more than {MOST_EXPANSION} times its size. Write it without compression."
        )
    if max(sizes, default=0) > LARGEST_GROUP:
        raise TooLarge(
            f"A row group of {name} unpacks to more than {LARGEST_GROUP} bytes. Write it with "
            "smaller ones, of 10,000 rows say."
        )
    return sizes


def _batches(
    table: parquet.ParquetFile, columns: list[str], sizes: Sequence[int]
) -> Iterator[pa.RecordBatch]:
    """The rows in batches of at most PARQUET_ROWS, and of about LARGEST_BATCH bytes."""
    for at, size in enumerate(sizes):
        rows = LARGEST_BATCH * table.metadata.row_group(at).num_rows // max(1, size)
        yield from table.iter_batches(
            max(1, min(PARQUET_ROWS, rows)), row_groups=[at], columns=columns, use_threads=False
        )


def _widened(column: pa.Array) -> pa.Array:
    """A column of short floats as doubles of the same digits: 0.1 is 0.1 in every format."""
    import pyarrow as pa  # noqa: PLC0415 - see above

    return column.cast(pa.string()).cast(pa.float64()) if column.type == pa.float32() else column


def _longest(column: pa.Array) -> int:
    """Bytes of the longest text of a column; 0 for numbers."""
    from pyarrow import compute, types  # noqa: PLC0415 - see above

    texts = column.dictionary if types.is_dictionary(column.type) else column
    if not (types.is_string(texts.type) or types.is_large_string(texts.type)):
        return 0
    return compute.max(compute.binary_length(texts)).as_py() or 0
