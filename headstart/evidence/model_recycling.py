"""Importer of the published model-recycling results (github IBM/model-recycling, folder results/).

`models_tested.csv`: one row a candidate, with `mnli_lp` (linear probe on MNLI) and one finetune score per
target, one run each. `models_results_<family>_pretrain.csv`: 20 runs of the vanilla of each family.
Values are fractions (0..1); STS-B is a Spearman correlation, the rest are accuracies.

The published table has damaged rows (paper digest: Choshen et al. 2023, arXiv 2211.00107; the faults are
ours to show, see the README): left-shifted rows are re-aligned where the alignment is unique, rows of
another split, ambiguous cells and stale cells are quarantined.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.entities import CheckpointDraft, ImportBatch, ImportReport, ScoreDraft, TargetDraft
from headstart.errors import BrokenFile, InvalidInput, TooLarge
from headstart.evidence.damage import RowVerdict, judge_rows, off_grid_cells
from headstart.evidence.lines import csv_rows
from headstart.evidence.published_targets import PUBLISHED_TARGETS
from headstart.evidence.quality import gate, infer_rows_tested, printed_in_full
from headstart.evidence.source import Missing, Progress, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float

TESTED = "models_tested.csv"
SOURCE = "model-recycling"
PROBE_TARGET = "mnli"


@dataclass(slots=True)
class _Table:
    """models_tested.csv, read and checked."""

    targets: tuple[str, ...]
    checkpoints: list[CheckpointDraft] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    cells: list[Float[np.ndarray, "t"]] = field(default_factory=list)
    repeats: list[str | None] = field(default_factory=list)  # where a checkpoint stands again: what to note


def read_results(source: Source, *, max_rows: int, progress: Progress) -> ImportBatch:
    """Read all families found in the source.

    Raises: Unreachable (no models_tested.csv), BrokenFile (a row that cannot be read), InvalidInput,
    TooLarge (more than max_rows rows).
    """
    progress(0.0, f"reading {TESTED}")
    table = _read_tested(source, max_rows)
    vanilla: list[ScoreDraft] = []
    rows_read, notes = len(table.checkpoints), []
    families = sorted({c.family for c in table.checkpoints})
    for i, family in enumerate(families):
        progress(0.1 + 0.3 * i / len(families), f"reading the vanilla runs of {family}")
        try:
            runs, rows, lost = _read_vanilla(source, family, max_rows)
        except Missing:
            notes.append(f"No vanilla runs for {family}: {_pretrain_file(family)} is not in the source.")
            continue
        vanilla += runs
        notes += lost
        rows_read += rows
    progress(0.4, "checking the scores")
    sizes = _test_sizes(table, vanilla)
    scores = [*vanilla, *_probe_scores(table), *_finetune_scores(table, sizes)]
    progress(0.7, "checking the scores")
    gated = gate(scores, sizes)
    progress(0.8, "storing")
    return ImportBatch(
        checkpoints=tuple(_with_vanillas(table, families)),
        targets=tuple(_target_draft(name, sizes) for name in table.targets),
        scores=gated,
        report=ImportReport(rows_read=rows_read, notes=tuple(notes)),
    )


# -- reading ---------------------------------------------------------------------------------------------


def _rows(source: Source, name: str, delimiter: str, max_rows: int) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of a CSV file."""
    with source.open(name) as stream:
        for count, (line, fields) in enumerate(csv_rows(name, stream, delimiter)):
            if count > max_rows:
                raise TooLarge(f"{name} has more than {max_rows} rows, the limit of one import.")
            yield line, fields


def _read_tested(source: Source, max_rows: int) -> _Table:
    rows = _rows(source, TESTED, ",", max_rows)
    _, header = next(rows, (0, []))
    known = ["model_name", "base_model", "mnli_lp"]
    for column in known:
        if column not in header:
            raise BrokenFile(TESTED, 1, column, f"the column is missing; {', '.join(known)} are needed.")
    first = header.index("mnli_lp") + 1
    table = _Table(targets=tuple(header[first:]))
    if not table.targets or len(set(header)) != len(header):
        raise BrokenFile(TESTED, 1, "mnli_lp", "target columns are missing, or a column name repeats.")
    seen: set[tuple[str, str]] = set()
    for line, row in rows:
        if len(row) != len(header):
            raise BrokenFile(
                TESTED, line, header[0], f"{len(row)} fields where the header has {len(header)}."
            )
        record = dict(zip(header, row, strict=True))
        draft = _checkpoint_draft(record, line)
        again = (draft.family, draft.name) in seen
        table.repeats.append(f"{TESTED}, line {line}: a second row of the checkpoint." if again else None)
        seen.add((draft.family, draft.name))
        table.checkpoints.append(draft)
        table.probes.append(_number(record["mnli_lp"], TESTED, line, "mnli_lp"))
        table.cells.append(np.array([_number(record[t], TESTED, line, t) for t in table.targets]))
    if not table.checkpoints:
        raise InvalidInput(f"{TESTED} has a header and no rows.")
    return table


def _number(text: str, file: str, line: int, column: str) -> float:
    """The number in a cell; NaN for an empty one."""
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BrokenFile(file, line, column, f"{text[:40]!r} is not a finite number.")
    return value


def _checkpoint_draft(record: dict[str, str], line: int) -> CheckpointDraft:
    name, family = record["model_name"].strip(), record["base_model"].strip()
    for column, text in (("model_name", name), ("base_model", family)):
        if not text or len(text) > 512 or not text.isprintable():
            raise BrokenFile(TESTED, line, column, f"{text[:40]!r} is no name.")
    size = _number(record.get("size", ""), TESTED, line, "size")
    details: dict[str, Any] = {
        key: record[key]
        for key in ("model_type", "tokenizer", "last_modified", "classification")
        if record.get(key)
    }
    layers = _number(record.get("layers", ""), TESTED, line, "layers")
    if not math.isnan(layers):
        details["layers"] = int(layers)
    return CheckpointDraft(
        family=family,
        name=name,
        is_vanilla=name == family,
        parameters=None if math.isnan(size) else int(size),
        details=details,
    )


def _pretrain_file(family: str) -> str:
    return f"models_results_{re.sub(r'[^A-Za-z0-9]+', '_', family)}_pretrain.csv"


def _read_vanilla(source: Source, family: str, max_rows: int) -> tuple[list[ScoreDraft], int, list[str]]:
    """The vanilla's runs, numbered per target in file order, the rows read, and what is to be noted."""
    name = _pretrain_file(family)
    rows = _rows(source, name, "\t", max_rows)
    _, header = next(rows, (0, []))
    for column in ("dataset name", "accuracy"):
        if column not in header:
            raise BrokenFile(name, 1, column, "the column is missing.")
    seeds: dict[str, int] = defaultdict(int)
    lost: dict[str, int] = defaultdict(int)
    scores: list[ScoreDraft] = []
    count = 0
    for line, row in rows:
        count += 1
        if len(row) != len(header):
            raise BrokenFile(name, line, header[0], f"{len(row)} fields where the header has {len(header)}.")
        record = dict(zip(header, row, strict=True))
        target = record["dataset name"].strip()
        value = _number(record["accuracy"], name, line, "accuracy")
        if math.isnan(value):
            value = _number(record.get("spearmanr", ""), name, line, "spearmanr")
        if not target:
            raise BrokenFile(name, line, "dataset name", "the target has no name.")
        if math.isnan(value):
            lost[target] += 1  # a run that ended without a number, such as the correlation of a constant
        else:
            scores.append(_draft(family, family, target, value, seed=seeds[target], table="pretrain"))
        seeds[target] += 1
    return scores, count, [f"{n} runs of {family} on {target} have no value." for target, n in lost.items()]


def _draft(family: str, checkpoint: str, target: str, value: float, *, seed: int, table: str) -> ScoreDraft:
    return ScoreDraft(
        family=family,
        checkpoint=checkpoint,
        target=target,
        method="finetune",
        value=value,
        seed=seed,
        params={"recipe": SOURCE, "table": table},
        source=SOURCE,
    )


# -- checking --------------------------------------------------------------------------------------------


def _test_sizes(table: _Table, vanilla: list[ScoreDraft]) -> dict[str, int]:
    """Test size by target, from the vanilla runs of all families; else from the candidates'.

    A size is believed only if most candidates lie on its grid too.
    """
    cells = np.array(table.cells)
    exact = printed_in_full(cells[np.isfinite(cells)])
    runs: dict[str, list[float]] = defaultdict(list)
    for score in vanilla:
        runs[score.target].append(score.value)
    sizes: dict[str, int] = {}
    for j, target in enumerate(table.targets):
        column = cells[np.isfinite(cells[:, j]), j]
        size = infer_rows_tested(runs[target], exact=exact) or _column_size(column, exact)
        if size and off_grid_cells(column[:, None], np.array([float(size)])).mean() < 0.5:
            sizes[target] = size
    return sizes


def _column_size(column: Float[np.ndarray, "n"], exact: bool) -> int | None:
    """Test size from candidates alone: the size inferred most often from groups of 8 scores.

    Groups, because a single damaged row would spoil the inference from all.
    """
    starts = range(0, min(len(column), 200) - 7, 8)
    groups = [infer_rows_tested(column[i : i + 8], exact=exact) for i in starts]
    found = [size for size in groups if size]
    return max(set(found), key=found.count) if found else None


def _target_draft(name: str, sizes: dict[str, int]) -> TargetDraft:
    known = PUBLISHED_TARGETS.get(name)
    if known is None:
        return TargetDraft(name=name, rows_tested=sizes.get(name))
    return TargetDraft(
        name=name,
        task=known.task,
        metric=known.metric,
        train_size=known.train_size,
        classes=known.classes,
        rows_tested=sizes.get(name),
    )


def _with_vanillas(table: _Table, families: list[str]) -> Iterator[CheckpointDraft]:
    repeats = zip(table.checkpoints, table.repeats, strict=True)
    yield from (checkpoint for checkpoint, again in repeats if again is None)
    present = {c.family for c in table.checkpoints if c.is_vanilla}
    for family in families:
        if family not in present:
            yield CheckpointDraft(family=family, name=family, is_vanilla=True)


def _probe_scores(table: _Table) -> Iterator[ScoreDraft]:
    for checkpoint, value, again in zip(table.checkpoints, table.probes, table.repeats, strict=True):
        if math.isnan(value):
            continue
        yield ScoreDraft(
            family=checkpoint.family,
            checkpoint=checkpoint.name,
            target=PROBE_TARGET,
            method="linear_probe",
            value=value,
            params={"recipe": SOURCE},
            source=SOURCE,
            quarantine=again and "duplicate",
            quarantine_note=again,
        )


def _finetune_scores(table: _Table, sizes: dict[str, int]) -> Iterator[ScoreDraft]:
    """One draft per distinct measurement: re-aligned where proven, quarantined where in doubt."""
    rows_tested = np.array([float(sizes.get(t, math.nan)) for t in table.targets])
    cells = np.array(table.cells)
    verdicts = judge_rows(cells, rows_tested)
    for checkpoint, row, verdict, again in zip(
        table.checkpoints, cells, verdicts, table.repeats, strict=True
    ):
        for draft in _row_scores(table.targets, checkpoint, row, verdict):
            yield draft if again is None else replace(draft, quarantine="duplicate", quarantine_note=again)


def _row_scores(
    targets: tuple[str, ...],
    checkpoint: CheckpointDraft,
    row: Float[np.ndarray, "t"],
    verdict: RowVerdict | None,
) -> Iterator[ScoreDraft]:
    column = np.arange(len(row)) if verdict is None else verdict.column
    reasons = (None,) * len(row) if verdict is None else verdict.reason
    seen: set[tuple[int, float]] = set()  # a packed value and its copy in the tail are one measurement
    for j in sorted(np.flatnonzero(np.isfinite(row)), key=lambda j: reasons[j] is not None):
        at, value = int(column[j]), float(row[j])
        if (at, value) in seen:
            continue
        seen.add((at, value))
        draft = _draft(checkpoint.family, checkpoint.name, targets[at], value, seed=0, table="models_tested")
        if verdict is not None and reasons[j] is not None:
            draft = replace(draft, quarantine=reasons[j], quarantine_note=verdict.note)
        elif at != j:
            draft = replace(draft, provenance={"realigned_from": targets[j]})
        yield draft
