"""The three formats of a score table, read row by row as (line, cells). Lines count from 1.

A cell is None, text, or a number as the format holds it; `table_cells` judges it. CSV holds text only:
there the cells of number columns are turned into numbers, and stay text where they are none.
"""

from __future__ import annotations

import json
import re
import tempfile
from typing import IO, TYPE_CHECKING, Any

from headstart.errors import BrokenFile, HeadstartError, InvalidInput, TooLarge
from headstart.evidence.lines import BOM, LINE, Lines, csv_rows
from headstart.evidence.table_cells import COLUMNS, NUMBERS, check_columns

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator

    Rows = Iterator[tuple[int, dict[str, object]]]

PARQUET_MAGIC = b"PAR1"
PARQUET_ROWS = 4096  # rows held at once
LARGEST_BATCH = 64 << 20  # bytes of those rows; names of the allowed length need a quarter
MOST_PARQUET_BYTES = 2 << 30  # unpacked, as the file itself declares
SPOOL_BYTES = 8 << 20  # a Parquet file up to this size is read in memory, a larger one from disk

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,5})?", re.ASCII)


def read_rows(name: str, stream: io.BufferedReader) -> Rows:
    """Yield (line, cells) of a table; for Parquet the line is the row's number.

    The format is that of the name's ending (.csv, .jsonl, .ndjson, .json, .parquet, each perhaps with .gz);
    for another ending it is told from the first bytes.

    Raises: BrokenFile, InvalidInput, TooLarge.
    """
    return _format(name, stream)(name, stream)


def _format(name: str, stream: io.BufferedReader) -> Callable[[str, io.BufferedReader], Rows]:
    ending = name.lower().removesuffix(".gz").rpartition(".")[2]
    start = stream.peek(64)
    if ending == "parquet" or start.startswith(PARQUET_MAGIC):
        return _parquet
    if ending in {"jsonl", "ndjson", "json"}:
        return _jsonl
    if ending != "csv" and start.removeprefix(BOM.encode()).lstrip()[:1] in {b"{", b"["}:
        return _jsonl
    return _csv


def _csv(name: str, stream: io.BufferedReader) -> Rows:
    header: list[str] | None = None
    for line, fields in csv_rows(name, stream):
        if not fields:  # a blank line
            continue
        if header is None:
            header = [column.strip() for column in fields]
            check_columns(name, line, header)
            continue
        if len(fields) != len(header):
            column = header[min(len(fields), len(header) - 1)]
            counts = f"{len(fields)} fields where the header has {len(header)}"
            raise BrokenFile(name, line, column, f"the row has {counts}. Quote a field that holds commas.")
        cells = zip(header, fields, strict=True)
        yield line, {column: _typed(column, text) for column, text in cells}
    if header is None:
        raise BrokenFile(
            name, 1, COLUMNS[0], f"the file is empty. Its header needs {', '.join(COLUMNS[:5])}."
        )


def _typed(column: str, text: str) -> object:
    text = text.strip()
    if not text:
        return None
    if column in NUMBERS and _NUMBER.fullmatch(text):
        return float(text)
    return text


def _jsonl(name: str, stream: io.BufferedReader) -> Rows:
    lines = Lines(name, stream)
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
        for column, cell in cells.items():
            if isinstance(cell, dict | list):
                raise BrokenFile(
                    name, lines.number, column[:80], "the field is nested. Write text or a number."
                )
        check_columns(name, lines.number, cells)
        yield lines.number, cells
    if lines.number == 0:
        raise BrokenFile(name, 1, COLUMNS[0], "the file is empty. Write one JSON object a line.")


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


def _parquet(name: str, stream: io.BufferedReader) -> Rows:
    try:
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as file:  # Parquet is read from its end
            while chunk := stream.read(1 << 18):
                file.write(chunk)
            file.seek(0)
            yield from _parquet_rows(name, file)
    except HeadstartError:
        raise
    except Exception as e:  # whatever a parser of untrusted bytes may raise
        raise InvalidInput(
            f"{name} is not a Parquet file that can be read ({str(e)[:200]}). Write it again. "
            "Nothing of the file was stored."
        ) from e


def _parquet_rows(name: str, file: IO[bytes]) -> Rows:
    from pyarrow import parquet  # noqa: PLC0415  (costs 0.2 s, and only this format needs it)

    with parquet.ParquetFile(file) as table:
        check_columns(name, 1, table.schema_arrow.names)
        groups = (table.metadata.row_group(i) for i in range(table.num_row_groups))
        if sum(max(0, group.total_byte_size) for group in groups) > MOST_PARQUET_BYTES:
            raise TooLarge(f"{name} unpacks to more than {MOST_PARQUET_BYTES} bytes. Split it.")
        row = 0
        for batch in table.iter_batches(PARQUET_ROWS, use_threads=False):
            if batch.nbytes > LARGEST_BATCH:
                raise TooLarge(f"{name} holds fields far longer than a name. Remove them.")
            for cells in batch.to_pylist():
                row += 1
                yield row, cells
