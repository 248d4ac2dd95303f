"""Whatever bytes come in, they end in an import or in a sentence."""

from __future__ import annotations

import io
import json
import string
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_memory import HEADER, RECORD, ROW, Files
from pyarrow import parquet

from headstart.errors import HeadstartError
from headstart.evidence.table import read_table

if TYPE_CHECKING:
    from headstart.entities import ImportBatch


def read(data: bytes, name: str) -> ImportBatch:
    return read_table(Files({name: data}), name, max_rows=50, progress=lambda *_: None)


def csv_of(*rows: str, header: str = HEADER) -> bytes:
    return "\n".join((header, *rows)).encode()


def jsonl_of(*records: dict[str, Any]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def parquet_of(rows: int) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table({key: [value] * rows for key, value in RECORD.items()}), file)
    return file.getvalue()


def ends_well(data: bytes, name: str) -> None:
    try:
        batch = read(data, name)
    except HeadstartError as e:
        sentence = e.message
        sentence.encode()
    else:
        sentence = ""
        assert batch.scores
    assert sentence.endswith((".", "?")) or not sentence


CELL = st.one_of(
    st.sampled_from(["finetune", "a", "", " ", '"', "nan", "1e400", "-1", "0.5", "\0", "\r", "é"]),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.floats().map(str),
)
TABLES = st.lists(st.lists(CELL, max_size=7).map(",".join), max_size=6).map(
    lambda rows: csv_of(*rows, header=f"{HEADER},seed,stderr")
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
RECORDS = st.lists(
    st.fixed_dictionaries({}, optional={**dict.fromkeys(RECORD, VALUES), "seed": VALUES}).map(
        lambda changes: RECORD | changes
    ),
    max_size=4,
).map(lambda records: jsonl_of(*records))
PARQUET = parquet_of(20)
SPOILED = st.tuples(st.integers(0, len(PARQUET) - 1), st.binary(max_size=4)).map(
    lambda spoil: PARQUET[: spoil[0]] + spoil[1] + PARQUET[spoil[0] + len(spoil[1]) :]
)
NAMES = st.sampled_from(["t.csv", "t.jsonl", "t.parquet", "t"])


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=200), TABLES, RECORDS, SPOILED), NAMES)
def test_any_bytes_end_in_a_batch_or_a_sentence(data: bytes, name: str) -> None:
    ends_well(data, name)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_values_come_through_exactly(values: list[float]) -> None:
    rows = [ROW.replace("0.75", repr(value)) for value in values]
    assert [s.value for s in read(csv_of(*rows), "t.csv").scores] == values


def test_printable_names_come_through() -> None:
    for char in set(string.printable) - set(string.whitespace):
        (score,) = read(jsonl_of(RECORD | {"target": f"a{char}b"}), "t.jsonl").scores
        assert score.target == f"a{char}b"
