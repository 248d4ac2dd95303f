"""Importer of a target from files: a folder with a file for each role, or a single file.

A file is `train`, `validation` (`dev`, `val`, `valid`) or `test` by its name before the first dot. A single
file is all train, whatever its name. Subfolders are not read. Other tables of a folder are passed over and
noted; an upload is read whole or refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from headstart.errors import BrokenFile, InvalidInput
from headstart.evidence.source import UPLOAD
from headstart.evidence.table_formats import Form, read_rows
from headstart.rows import ROLES
from headstart.targets.assemble import assemble
from headstart.targets.columns import USUAL, Found, find_columns
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
MOST_SHOWN = 8  # names of files in a sentence
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
    columns = Found("", None, None)
    for at, (role, name) in enumerate(files.items()):
        finder = Finder(spec.columns, labelled=role == "train")

        def reading(part: float, said: str, at: int = at) -> None:
            errand.progress(READING * (at + part) / len(files), said)

        _read_file(gathering, finder, source, role, name, reading)
        columns = finder.columns if role == "train" else columns

    def assembling(part: float, said: str) -> None:
        errand.progress(READING + (STORING - READING) * part, said)

    path = errand.folder / "rows.parquet"
    batch = assemble(gathering, spec, files, columns, path, assembling)
    return batch if not passed_over else _noting(batch, passed_over)


def role_files(names: Sequence[str], origin: str) -> tuple[dict[Role, str], tuple[str, ...]]:
    """Role -> file, train first, and the tables that are of no role.

    Raises: InvalidInput (no table, two files of a role, none of train; a file named like a role, or any of
    an upload, that would not be read).
    """
    if len(names) == 1:
        return {"train": names[0]}, ()
    tables = [name for name in names if _is_table(name)]
    endings = f".{', .'.join(ENDINGS)} (.gz may follow)"
    if not tables:
        raise InvalidInput(f"There is no table in {origin}. Give files whose names end in {endings}.")
    for name in names:
        if not _is_table(name) and (_role_of(name) or origin == UPLOAD):
            raise InvalidInput(
                f"{name} would not be read: its name ends in none of {endings}. Write it in one of these "
                "formats, or leave it out."
            )
    if len(tables) == 1:
        return {"train": tables[0]}, ()
    roles: dict[Role, str] = {}
    passed_over = []
    for name in tables:
        role = _role_of(name)
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
            f"None of the files is train: there are {_listed(tables)}. Name one train.{ENDINGS[1]} or "
            "the like, the others validation and test; or give a single file."
        )
    if passed_over and origin == UPLOAD:
        raise InvalidInput(
            f"Of no role by their names: {_listed(passed_over)}. Name each file train, validation or test, "
            "or leave it out."
        )
    return {role: roles[role] for role in ROLES if role in roles}, tuple(passed_over)


def _is_table(name: str) -> bool:
    return name.lower().removesuffix(".gz").rpartition(".")[2] in ENDINGS


def _role_of(name: str) -> Role | None:
    return ROLE_NAMES.get(name.partition(".")[0].lower())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + more


class Finder:
    """Finds the columns of a file at its header or first object; refuses objects that would change them."""

    def __init__(self, wanted: Columns, *, labelled: bool) -> None:
        self._wanted = wanted
        self._labelled = labelled
        self._names: dict[str, None] = {}  # met so far that matter, in order
        self.columns = Found("", None, None)

    def __call__(self, file: str, line: int, names: Sequence[str]) -> tuple[str, ...]:
        """The names of the columns to read; see `Form.columns`."""
        if not self._names:
            self.columns = find_columns(file, line, names, self._wanted, labelled=self._labelled)
            self._names = dict.fromkeys(names)
        elif new := [name for name in names if name not in self._names and self._matters(name)]:
            self._names |= dict.fromkeys(new)
            found = find_columns(file, line, tuple(self._names), self._wanted, labelled=self._labelled)
            if found != self.columns:
                what = (
                    "the column is new here, and the lines before were read without it. Write every column "
                    "in every line, or say which to read by columns."
                )
                raise BrokenFile(file, line, new[0][:80], what)
        return self.columns.names

    def _matters(self, name: str) -> bool:
        return name == self._wanted.label or name.strip().casefold() in USUAL


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
    note = f"Passed over, since their names are of no role: {_listed(passed_over)}."
    return replace(batch, report=replace(batch.report, notes=(*batch.report.notes, note)))
