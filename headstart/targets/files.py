"""Importer of a target from files: a folder with a file for each role, or a single file.

A file is `train`, `validation` (`dev`, `val`, `valid`) or `test` by its name before the first dot. A single
file is all train, whatever its name. Subfolders are not read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from headstart.errors import InvalidInput
from headstart.evidence.table_formats import Form, read_rows
from headstart.rows import ROLES
from headstart.targets.assemble import assemble
from headstart.targets.columns import Found, find_columns
from headstart.targets.gather import Gathering
from headstart.targets.spec import TargetSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headstart.entities import ImportBatch
    from headstart.evidence.ingest import Errand
    from headstart.evidence.source import Source
    from headstart.targets.spec import Columns
    from headstart.workbench import Role

ROLE_NAMES: dict[str, Role] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
ENDINGS = ("csv", "jsonl", "ndjson", "json", "parquet")
LONGEST_LINE = 16 << 20  # bytes: a text of a million characters, escaped
PROGRESS_ROWS = 1000
READING = 0.6  # where reading ends in the whole, and `assemble` begins
STORING = 0.8  # where that ends


def read_target(errand: Errand) -> ImportBatch:
    """Read a target from the files of a folder or an upload.

    Raises: BrokenFile (line and column), InvalidInput, TooLarge, and whatever the source raises.
    """
    spec = TargetSpec.model_validate(errand.params)
    source = errand.open()
    files, passed_over = role_files(source.names(), source.origin)
    gathering = Gathering(errand.limits.max_rows, errand.limits.max_bytes)
    finder = Finder(spec.columns)
    for at, (role, name) in enumerate(files.items()):

        def reading(part: float, said: str, at: int = at) -> None:
            errand.progress(READING * (at + part) / len(files), said)

        _read_file(gathering, finder, source, role, name, reading)

    def assembling(part: float, said: str) -> None:
        errand.progress(READING + (STORING - READING) * part, said)

    path = errand.folder / "rows.parquet"
    batch = assemble(gathering, spec, files, finder.columns, path, assembling)
    return batch if not passed_over else _noting(batch, passed_over)


def role_files(names: Sequence[str], origin: str) -> tuple[dict[Role, str], tuple[str, ...]]:
    """Role -> file, train first, and the tables that are of no role.

    Raises: InvalidInput (no table, two files of a role, none of train).
    """
    tables = [name for name in names if name.lower().removesuffix(".gz").rpartition(".")[2] in ENDINGS]
    if len(names) == 1 or len(tables) == 1:
        return {"train": (tables or list(names))[0]}, ()
    if not tables:
        raise InvalidInput(
            f"There is no table in {origin}. Give files whose names end in .{', .'.join(ENDINGS)} "
            "(.gz may follow)."
        )
    roles: dict[Role, str] = {}
    passed_over = []
    for name in tables:
        role = ROLE_NAMES.get(name.partition(".")[0].lower())
        if role is None:
            passed_over.append(name)
        elif role in roles:
            raise InvalidInput(
                f"{roles[role]} and {name} are both the {role} role. Give one file for each role."
            )
        else:
            roles[role] = name
    if "train" not in roles:
        raise InvalidInput(
            f"None of the files is train: there are {', '.join(tables[:8])}. Name one train.{ENDINGS[1]} or "
            "the like, the others validation and test; or give a single file."
        )
    return {role: roles[role] for role in ROLES if role in roles}, tuple(passed_over)


class Finder:
    """Finds the columns of each file once, at its header or first object."""

    def __init__(self, wanted: Columns) -> None:
        self._wanted = wanted
        self._file = ""
        self.columns = Found("", None, "")  # of the file read last

    def __call__(self, file: str, line: int, names: Sequence[str]) -> tuple[str, ...]:
        """The names of the columns to read; see `Form.columns`."""
        if file != self._file:
            self.columns, self._file = find_columns(file, line, names, self._wanted), file
        return self.columns.names


def _read_file(
    gathering: Gathering,
    finder: Finder,
    source: Source,
    role: Role,
    name: str,
    progress: Callable[[float, str], None],
) -> None:
    form = Form(
        columns=finder,
        cell=lambda _, text: text,
        needed="text, label",
        longest_line=LONGEST_LINE,
        longest_field=LONGEST_LINE,
        too_long=f"of more than {LONGEST_LINE} bytes",
    )
    progress(0.0, f"reading {name}")
    with source.open(name) as stream:
        for line, cells in read_rows(name, stream, form):
            gathering.add(role, name, line, finder.columns, cells)
            if gathering.rows_read % PROGRESS_ROWS == 0:
                progress(source.fraction(), f"reading {name}: {gathering.rows_read} rows")


def _noting(batch: ImportBatch, passed_over: Sequence[str]) -> ImportBatch:
    note = f"Passed over, since their names are of no role: {', '.join(passed_over)}."
    return replace(batch, report=replace(batch.report, notes=(*batch.report.notes, note)))
