"""The table importer: what it reads from three formats, and every sentence it refuses with."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from in_memory import HEADER, RECORD, ROW, Files
from pyarrow import parquet

from headstart.errors import BrokenFile, InvalidInput, TooLarge
from headstart.evidence.table import read_table, read_tables
from headstart.evidence.table_cells import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstart.entities import ImportBatch


def read(data: bytes | str, name: str = "t.csv", max_rows: int = 1000) -> ImportBatch:
    source = Files({name: data.encode() if isinstance(data, str) else data})
    return read_table(source, name, max_rows=max_rows, progress=lambda *_: None)


def csv_of(*rows: str, header: str = HEADER) -> str:
    return "\n".join((header, *rows)) + "\n"


def jsonl_of(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def parquet_of(**columns: Sequence[Any]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    return file.getvalue()


# -- what is read


def test_a_row_becomes_a_score() -> None:
    header = f"{HEADER},stderr,seed,rows_tested,source"
    batch = read(csv_of(f"{ROW},0.01,3,200,nightly", header=header))
    (score,) = batch.scores
    assert (score.checkpoint, score.family, score.target) == ("acme/a", "roberta-base", "rte")
    assert (score.method, score.value, score.stderr, score.seed) == ("finetune", 0.75, 0.01, 3)
    assert (score.rows_tested, score.source, score.params) == (200, "nightly", {"source": "nightly"})
    assert score.provenance == {"file": "t.csv"}
    assert score.quarantine is None
    (checkpoint,), (target,) = batch.checkpoints, batch.targets
    assert (checkpoint.name, checkpoint.family, checkpoint.is_vanilla) == ("acme/a", "roberta-base", False)
    assert (target.name, target.rows_tested) == ("rte", 200)
    assert batch.report.rows_read == 1


def test_all_formats_say_the_same() -> None:
    as_csv = read(csv_of(ROW))
    as_jsonl = read(jsonl_of(RECORD), "t.jsonl")
    as_parquet = read(parquet_of(**{key: [value] for key, value in RECORD.items()}), "t.parquet")
    for other in (as_jsonl, as_parquet):
        assert [(s.checkpoint, s.value, s.seed, s.params) for s in other.scores] == [
            (s.checkpoint, s.value, s.seed, s.params) for s in as_csv.scores
        ]
        assert other.checkpoints == as_csv.checkpoints
        assert other.targets == as_csv.targets


def test_the_format_of_a_file_without_ending_is_told_from_its_bytes() -> None:
    for data in (csv_of(ROW), jsonl_of(RECORD), parquet_of(**{k: [v] for k, v in RECORD.items()})):
        assert len(read(data, "scores").scores) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + csv_of(ROW).encode(),
        csv_of(ROW).replace("\n", "\r\n").encode(),
        csv_of("", ROW, "", "").encode(),
        csv_of(ROW).rstrip("\n").encode(),
        csv_of(" acme/a , roberta-base,rte ,finetune, 7.5e-1 ").encode(),
    ],
    ids=["bom", "crlf", "blank lines", "no last line end", "blanks"],
)
def test_harmless_differences_are_read_alike(data: bytes) -> None:
    (score,) = read(data).scores
    assert (score.checkpoint, score.target, score.value) == ("acme/a", "rte", 0.75)


def test_empty_optional_fields_are_unknown() -> None:
    header = f"{HEADER},stderr,seed,rows_tested,source"
    none = dict.fromkeys(("stderr", "seed", "rows_tested", "source"))
    for batch in (read(csv_of(f"{ROW},,,,", header=header)), read(jsonl_of(RECORD | none), "t.jsonl")):
        (score,) = batch.scores
        assert (score.stderr, score.seed, score.rows_tested, score.source) == (None, 0, None, "")
        assert score.params == {}


def test_the_vanilla_bears_the_name_of_its_family() -> None:
    batch = read(csv_of(ROW, "roberta-base,roberta-base,rte,finetune,0.7"))
    assert {c.name: c.is_vanilla for c in batch.checkpoints} == {"acme/a": False, "roberta-base": True}


def test_runs_without_a_seed_are_numbered_in_file_order() -> None:
    header = f"{HEADER},source"
    rows = [f"{ROW},x", f"{ROW},x", f"{ROW},y", ROW.replace("rte", "cola") + ",x", f"{ROW},x"]
    assert [s.seed for s in read(csv_of(*rows, header=header)).scores] == [0, 1, 0, 0, 2]


def test_an_appended_file_numbers_its_old_rows_as_before() -> None:
    def keys(*rows: str) -> list[tuple[str, int, float]]:
        return [(s.target, s.seed, s.value) for s in read(csv_of(*rows)).scores]

    old = (ROW, ROW.replace("0.75", "0.5"), ROW.replace("rte", "cola"))
    assert keys(*old, ROW.replace("0.75", "0.25"))[:3] == keys(*old)


def test_test_sizes_that_disagree_are_no_size_of_the_target() -> None:
    header = f"{HEADER},rows_tested"
    rows = [f"{ROW},100", f"{ROW},", f"{ROW},100", ROW.replace("rte", "cola") + ",100"]
    batch = read(csv_of(*rows, header=header))
    assert {t.name: t.rows_tested for t in batch.targets} == {"rte": 100, "cola": 100}
    batch = read(csv_of(*rows, f"{ROW},200", f"{ROW},100", header=header))
    assert {t.name: t.rows_tested for t in batch.targets} == {"rte": None, "cola": 100}


def test_whole_numbers_may_be_written_as_fractions() -> None:
    (score,) = read(csv_of(f"{ROW},3.0", header=f"{HEADER},seed")).scores
    assert score.seed == 3


def test_a_percentage_is_suspect_and_not_broken() -> None:
    (score,) = read(csv_of(ROW.replace("0.75", "75"))).scores
    assert score.quarantine == "out_of_range"


def test_a_folder_is_read_as_one_table() -> None:
    source = Files(
        {"b.csv": csv_of(ROW).encode(), "a.jsonl": jsonl_of(RECORD).encode(), "README.md": b"# Scores"}
    )
    stages: list[tuple[float, str]] = []
    batch = read_tables(source, max_rows=10, progress=lambda *step: stages.append(step))
    assert [(s.seed, s.provenance["file"]) for s in batch.scores] == [(0, "a.jsonl"), (1, "b.csv")]
    assert [stage for _, stage in stages] == [
        "reading a.jsonl",
        "reading b.csv",
        "checking the scores",
        "storing",
    ]
    assert [share for share, _ in stages] == sorted(share for share, _ in stages)
    with pytest.raises(InvalidInput, match=r"\.csv, \.jsonl"):
        read_tables(Files({"a.md": b"", "b.md": b""}), max_rows=10, progress=lambda *_: None)


def test_many_rows_of_parquet_are_read_in_batches() -> None:
    columns = {key: [value] * 10_000 for key, value in RECORD.items()}
    source = Files({"t.parquet": parquet_of(**columns, seed=list(range(10_000)))})
    stages: list[str] = []
    batch = read_tables(source, max_rows=10_000, progress=lambda _, stage: stages.append(stage))
    assert len(batch.scores) == 10_000
    assert "reading t.parquet: 3000 rows" in stages


def test_the_examples_of_the_docs_are_read() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
    examples = re.findall(r"^```(csv|jsonl)\n(.*?)^```", docs, re.MULTILINE | re.DOTALL)
    assert [len(read(text, f"t.{kind}").scores) for kind, text in examples] == [4, 2]
    assert all(f"| `{column}` |" in docs for column in COLUMNS)


# -- what is refused


def broken(data: bytes | str, name: str = "t.csv") -> tuple[int, str, str]:
    """(line, column, sentence) of the refusal."""
    with pytest.raises(BrokenFile) as caught:
        read(data, name)
    where, what = caught.value.problems[0].field, caught.value.problems[0].message
    assert what.endswith((".", "?"))
    line, _, column = where.removeprefix("line ").partition(", column ")
    return int(line), column, what


CELLS = {
    "value,": "missing or empty",
    "value,abc": "'abc' is not a number",
    "value,nan": "is not a number. Leave out",
    "value,inf": "is not a number. Leave out",
    "value,1e999": "is not a finite number",
    "value,1_0": "is not a number",
    'value,"0,85"': "decimal point",
    "value,85%": "0.85 for 85 %",
    "value,٣": "is not a number",
    "stderr,-0.1": "is negative",
    "seed,-1": "whole number from 0",
    "seed,1.5": "whole number from 0",
    "seed,2147483648": "whole number from 0",
    "rows_tested,0": "whole number from 1",
    "checkpoint,": "missing or empty",
    "checkpoint,   ": "missing or empty",
    "family,": "missing or empty",
    "target,a\x07b": "control character '\\x07'",
    "target,a\0b": "control character '\\x00'",
    f"target,{'x' * 513}": "has 513 characters; 512",
    "source,a\x1bb": "control character",
    "method,fine_tune": "Did you mean 'finetune'?",
    "method,zzz": "Known methods: ",
}


@pytest.mark.parametrize("cell", CELLS)
def test_a_broken_cell_is_named_by_line_and_column(cell: str) -> None:
    column, _, text = cell.partition(",")
    fields = {**dict(zip(HEADER.split(","), ROW.split(","), strict=True)), column: text}
    data = csv_of(
        ROW.ljust(len(ROW) + len(fields) - 5, ","), ",".join(fields.values()), header=",".join(fields)
    )
    line, where, what = broken(data)
    assert (line, where) == (3, column)
    assert CELLS[cell] in what


def test_a_row_of_another_length_is_refused() -> None:
    assert broken(csv_of(ROW, "acme/a,roberta-base,rte"))[:2] == (3, "method")
    assert broken(csv_of(f"{ROW},0.1"))[:2] == (2, "value")


def test_lines_are_counted_through_quoted_line_breaks() -> None:
    assert broken(csv_of('"acme\n\n/a",roberta-base,rte,finetune,0.75'))[:2] == (2, "checkpoint")
    quoted = csv_of('"a,""b""",roberta-base,rte,finetune,0.75', header='"checkpoint"' + HEADER[10:])
    assert read(quoted).scores[0].checkpoint == 'a,"b"'
    late = csv_of("", '"\nacme/a\n",roberta-base,rte,finetune,0.75', "", ROW.replace("0.75", "x"))
    assert broken(late)[:2] == (7, "value")


HEADERS = {
    "": ("checkpoint", "empty"),
    "\n\n": ("checkpoint", "empty"),
    HEADER: ("checkpoint", "no rows"),
    HEADER.replace("family,", ""): ("family", "missing. Needed are"),
    HEADER.replace("family", "famly"): ("famly", "Did you mean 'family'?"),
    HEADER + ",zzzzz": ("zzzzz", "Remove it. Known are"),
    HEADER + ",value": ("value", "twice"),
    "," + HEADER: ("", "row index"),
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_broken_header_is_on_line_1(header: str) -> None:
    column, sentence = HEADERS[header]
    line, where, what = broken(header)
    assert (line, where) == (1, column)
    assert sentence in what


def test_text_that_is_not_csv_is_refused() -> None:
    assert "never closed" in broken(csv_of(f'"{ROW}'))[2]
    assert broken(csv_of(ROW, '"a"b,c'))[0] == 3
    assert "carriage return" in broken(csv_of(ROW).replace("\n", "\r"))[2]
    assert "longer than" in broken(b"x" * (2 << 20))[2]
    assert broken(csv_of(ROW).encode() + b"caf\xe9,b,c,finetune,1\n")[:2] == (3, "(whole line)")
    assert "0xff at position 1 is not UTF-8" in broken(csv_of(ROW).encode("utf-16"))[2]


JSON_LINES = {
    '{"checkpoint": "a"}': ("family", "missing"),
    json.dumps(RECORD | {"value": "0.5"}): ("value", "without quotes"),
    json.dumps(RECORD | {"value": True}): ("value", "not a number"),
    json.dumps(RECORD | {"value": None}): ("value", "missing"),
    json.dumps(RECORD | {"value": float("nan")}): ("(whole line)", "NaN is not a number in JSON"),
    json.dumps(RECORD | {"value": float("-inf")}): ("(whole line)", "-Infinity is not a number"),
    json.dumps(RECORD).replace("0.75", "1e999"): ("value", "finite"),
    json.dumps(RECORD).replace("0.75", "9" * 400): ("value", "finite"),
    json.dumps(RECORD).replace("0.75", "9" * 5000): ("(whole line)", "not JSON"),
    json.dumps(RECORD | {"seed": 1.5}): ("seed", "whole number"),
    json.dumps(RECORD | {"target": 5}): ("target", "is not text"),
    json.dumps(RECORD | {"target": {"name": "rte"}}): ("target", "nested"),
    json.dumps(RECORD | {"target": ["rte"]}): ("target", "nested"),
    json.dumps(RECORD | {"checkpont": "a"}): ("checkpont", "Did you mean 'checkpoint'?"),
    json.dumps(RECORD | {"target": "\ud800"}): ("target", "control character '\\ud800'"),
    json.dumps(RECORD)[:-1] + ', "value": 1}': ("(whole line)", "twice"),
    json.dumps([RECORD]): ("(whole line)", "one object a line"),
    json.dumps(RECORD)[:-5]: ("(whole line)", "not JSON"),
    "[" * 100_000: ("(whole line)", "nested too deeply"),
    "5": ("(whole line)", "one object a line"),
}


@pytest.mark.parametrize("text", JSON_LINES)
def test_a_broken_json_line_is_named(text: str) -> None:
    column, sentence = JSON_LINES[text]
    line, where, what = broken(f"\n{json.dumps(RECORD)}\n{text}\n", "t.jsonl")
    assert (line, where) == (3, column)
    assert sentence in what


def test_an_empty_jsonl_is_refused() -> None:
    assert "empty" in broken("", "t.jsonl")[2]
    assert "no rows" in broken("\n\n", "t.jsonl")[2]


def test_broken_parquet_is_refused() -> None:
    columns = {key: [value] * 2 for key, value in RECORD.items()}
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"value": [0.5, float("nan")]}, 2, "value"),
        ({"value": [0.5, None]}, 2, "value"),
        ({"value": ["0.5", "0.5"]}, 1, "value"),
        ({"target": [b"a", b"b"]}, 1, "target"),
        ({"target": [datetime.now(UTC)] * 2}, 1, "target"),
        ({"target": [["a"], ["b"]]}, 1, "target"),
        ({"famly": ["a", "b"]}, 1, "famly"),
    ]
    for change, line, column in cases:
        assert broken(parquet_of(**columns | change), "t.parquet")[:2] == (line, column)
    assert (
        "no rows"
        in broken(parquet_of(**{key: values[:0] for key, values in columns.items()}), "t.parquet")[2]
    )
    whole = parquet_of(**columns)
    for spoiled in (b"", b"PAR1", whole[:-20], b"PAR1" + b"\0" * 100 + b"PAR1"):
        with pytest.raises(InvalidInput, match="not a Parquet file"):
            read(spoiled, "t.parquet")


def test_a_parquet_of_huge_fields_is_refused() -> None:
    columns = {key: [value] * 1000 for key, value in RECORD.items()} | {"target": ["x" * 100_000] * 1000}
    data = parquet_of(**columns)
    assert len(data) < 200_000  # it compresses well
    with pytest.raises(TooLarge, match="far longer than a name"):
        read(data, "t.parquet")


def test_too_many_rows_are_too_large() -> None:
    assert len(read(csv_of(ROW, ROW), max_rows=2).scores) == 2
    with pytest.raises(TooLarge, match="2 rows"):
        read(csv_of(ROW, ROW, ROW), max_rows=2)


def test_seeds_are_given_for_all_runs_of_a_cell_or_none() -> None:
    header = f"{HEADER},seed"
    assert broken(csv_of(f"{ROW},0", f"{ROW},", header=header))[:2] == (3, "seed")
    assert broken(csv_of(f"{ROW},", f"{ROW},1", header=header))[:2] == (3, "seed")
