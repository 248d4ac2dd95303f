"""From gathered rows to what is stored: judged, split, counted, ordered, under one fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.entities import ImportBatch, ImportReport, RowsDraft, TargetDraft
from headstart.errors import InvalidInput
from headstart.rows import ROLES, RowsHead, write_rows
from headstart.targets import profile as counting
from headstart.targets.gather import DIGEST, Counts
from headstart.targets.spec import METRICS
from headstart.targets.split import split_off
from headstart.targets.texts import LONGEST_TEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pyarrow as pa
    from jaxtyping import Shaped

    from headstart.targets.columns import Found
    from headstart.targets.gather import Gathering, RoleRows
    from headstart.targets.spec import TargetSpec, Task
    from headstart.workbench import Role

    Roles = dict[Role, RoleRows]

MOST_CLASSES = 1000  # more need at least FEWEST_PER_CLASS rows each on average
FEWEST_PER_CLASS = 10


@dataclass(frozen=True, slots=True)
class _Labelled:
    """Rows whose codes are positions in `classes`, or in `values` for a regression."""

    roles: Roles
    task: Task
    classes: tuple[str, ...] | None
    values: list[float]

    @property
    def names(self) -> list[str]:
        """The label of each code as the digest of a row takes it."""
        return list(map(repr, self.values)) if self.classes is None else list(self.classes)


def assemble(
    gathering: Gathering,
    spec: TargetSpec,
    origins: Mapping[Role, str],
    columns: Found,
    path: Path,
    progress: Callable[[float, str], None],
) -> ImportBatch:
    """Make of the rows what is to be stored, and write them to `path`.

    Args:
        origins: where each role's rows came from, in words.
        columns: which columns were read last, for the profile.
        progress: is told 0..1 of this step.

    Raises: InvalidInput (no rows, no labels, one class, a class with one row, another metric than fits).
    """
    progress(0.0, "judging the labels")
    origins = dict(origins)
    roles = _with_test(_given(gathering), origins)
    labelled = _labelled(gathering, roles, spec)
    metric = _metric(labelled.task, spec.metric)
    progress(0.1, "splitting")
    roles = _complete(labelled.roles, spec, origins)
    labelled = _seen_in_train(replace(labelled, roles=roles), gathering)
    progress(0.2, "counting")
    profile = _profile(labelled, gathering, spec, origins) | {"columns": asdict(columns)}
    progress(0.5, "ordering")
    orders = {role: _digests(rows, labelled.names) for role, rows in labelled.roles.items()}
    fingerprint = _fingerprint(labelled, orders)
    head = RowsHead(
        fingerprint=fingerprint,
        task=labelled.task,
        pair=labelled.roles["train"].text_pair is not None,
        classes=labelled.classes,
        sizes=profile["rows"],
    )
    progress(0.7, "writing")
    write_rows(path, _table(labelled, orders), head)
    target = TargetDraft(
        name=spec.name,
        task=labelled.task,
        metric=metric,
        train_size=profile["rows"]["train"],
        classes=None if labelled.classes is None else len(labelled.classes),
        rows_tested=profile["rows"]["test"],
    )
    return ImportBatch(
        checkpoints=(),
        targets=(target,),
        scores=(),
        report=ImportReport(rows_read=gathering.rows_read, notes=tuple(profile["warnings"])),
        rows=RowsDraft(target=spec.name, fingerprint=fingerprint, profile=profile, file=path),
    )


def _given(gathering: Gathering) -> Roles:
    """The roles that have labelled rows; InvalidInput where train has none."""
    roles = gathering.roles()
    if gathering.rows_read == 0:
        raise InvalidInput("There are no rows: the set is empty. Give at least a few rows of each class.")
    if "train" not in roles:
        counts = gathering.counts.get("train")
        if counts is None:
            raise InvalidInput("The train role has no rows. Give some: they are what is learnt from.")
        dropped = counts.dropped
        lack = "a label" if dropped["no_label"] >= dropped["empty_text"] else "a text"
        raise InvalidInput(
            f"None of the {counts.read} rows of train has {lack}. Fill the column in, or name another one."
        )
    return roles


def _with_test(roles: Roles, origins: dict[Role, str]) -> Roles:
    """Where no row of test is labelled the validation role is the test, as is usual for benchmarks."""
    if "test" in roles or "validation" not in roles:
        return roles
    origins["test"] = f"{origins.pop('validation')} (validation, since there is no labelled test)"
    return {"train": roles["train"], "test": roles["validation"]}


def _labelled(gathering: Gathering, roles: Roles, spec: TargetSpec) -> _Labelled:
    labels = gathering.labels
    task = labels.task(spec.task)
    if task == "regression":
        values, member = np.unique(np.array(labels.values()), return_inverse=True)
        recoded = {role: replace(rows, code=member[rows.code]) for role, rows in roles.items()}
        if len(np.unique(recoded["train"].code)) < 2:
            raise InvalidInput(
                "Every label of train is the same number: there is nothing to learn. Check them."
            )
        return _Labelled(recoded, task, None, values.tolist())
    names = labels.classes()
    classes = sorted(set(names))
    position = {name: k for k, name in enumerate(classes)}
    member = np.array([position[name] for name in names], dtype=np.int64)
    recoded = {role: replace(rows, code=member[rows.code]) for role, rows in roles.items()}
    _check_classes(recoded, classes)
    return _Labelled(recoded, task, tuple(classes), [])


def _check_classes(roles: Roles, classes: list[str]) -> None:
    """Refuse labels that nothing can be learnt from."""
    counts = np.sum([np.bincount(rows.code, minlength=len(classes)) for rows in roles.values()], axis=0)
    present = np.flatnonzero(counts)
    if len(present) > MOST_CLASSES and counts.sum() < FEWEST_PER_CLASS * len(present):
        raise InvalidInput(
            f"The labels are of {len(present):,} classes with {counts.sum() / len(present):.1f} rows each on "
            "average. Is it a column of ids, or a regression? Name another column, or say task: regression."
        )
    train = np.unique(roles["train"].code)
    if len(train) < 2:
        raise InvalidInput(
            f"Every label of train is {classes[train[0]]!r}: there is nothing to tell apart. Add rows of "
            "another class."
        )
    single = [classes[k] for k in present if counts[k] == 1]
    if single:
        shown = ", ".join(map(repr, single[:5])) + (", ..." if len(single) > 5 else "")
        which = "The class has" if len(single) == 1 else f"{len(single):,} classes have"
        raise InvalidInput(
            f"{which} a single row: {shown}. Add rows, remove these, or merge them with another class."
        )


def _metric(task: Task, wanted: str | None) -> str:
    known = METRICS[task]
    if wanted is None or wanted in known:
        return wanted or known[0]
    raise InvalidInput(f"The metric {wanted!r} is none of a {task}. Choose {' or '.join(known)}.")


def _complete(roles: Roles, spec: TargetSpec, origins: dict[Role, str]) -> Roles:
    """Split what is missing off train."""
    wanted: dict[Role, float] = {"test": spec.test_share, "validation": spec.validation_share}
    shares = {role: share for role, share in wanted.items() if role not in roles}
    if not shares:
        return roles
    train = roles["train"]
    source = origins["train"]
    for role, rows in split_off(train.group, shares, spec.seed).items():
        roles = roles | {role: train.take(rows)}
        if role != "train":
            origins[role] = f"{len(rows) / len(train):.1%} of {source}, split off by seed {spec.seed}"
    origins["train"] = f"the rest of {source}"
    return roles


def _seen_in_train(labelled: _Labelled, gathering: Gathering) -> _Labelled:
    """Leave out what train does not have: rows of validation and test, and classes."""
    if labelled.classes is None:
        return labelled
    known = np.unique(labelled.roles["train"].code)
    if len(known) < 2:
        raise InvalidInput(
            "Train has one class left once test and validation are split off. Add rows of each."
        )
    roles: Roles = {}
    for role, rows in labelled.roles.items():
        seen = np.isin(rows.code, known)
        if not seen.any():
            strange = labelled.classes[rows.code[0]]
            raise InvalidInput(
                f"No row of {role} has a label that train has: {strange!r} is none. Write the labels alike, "
                f"or leave {role} out."
            )
        if not seen.all():
            gathering.counts.setdefault(role, Counts()).dropped["unseen_label"] += int((~seen).sum())
            rows = rows.take(np.flatnonzero(seen))  # noqa: PLW2901 - the rows of the role
        roles[role] = replace(rows, code=np.searchsorted(known, rows.code))
    return replace(labelled, roles=roles, classes=tuple(labelled.classes[k] for k in known))


def _profile(
    labelled: _Labelled, gathering: Gathering, spec: TargetSpec, origins: Mapping[Role, str]
) -> dict[str, Any]:
    roles = {role: labelled.roles[role] for role in ROLES}
    profile: dict[str, Any] = {
        "task": labelled.task,
        "pair": roles["train"].text_pair is not None,
        "rows": {role: len(rows) for role, rows in roles.items()},
        "origins": {role: origins[role] for role in ROLES},
        "seed": spec.seed,
        "asked_metric": spec.metric,
        "dropped": counting.dropped_counts(gathering.counts),
        "cut": {role: one.cut for role, one in gathering.counts.items() if one.cut},
        "longest_text": LONGEST_TEXT,
        "classes": None,
        "balance": None,
        "values": None,
    }
    profile |= counting.text_counts(roles)
    if labelled.classes is None:
        profile |= counting.value_counts(roles, np.array(labelled.values))
    else:
        profile |= counting.class_counts(roles, labelled.classes)
    return profile | {"warnings": counting.warnings_of(profile)}


def _digests(rows: RoleRows, names: list[str]) -> Shaped[np.ndarray, "n"]:
    """The SHA-256 of each row: of the digest of its texts, and its label."""
    raw, size = rows.key.tobytes(), DIGEST.itemsize
    labels = [name.encode() for name in names]
    found = b"".join(
        hashlib.sha256(raw[at * size : (at + 1) * size] + labels[code]).digest()
        for at, code in enumerate(rows.code.tolist())
    )
    return np.frombuffer(found, DIGEST)


def _fingerprint(labelled: _Labelled, digests: Mapping[Role, Shaped[np.ndarray, "n"]]) -> str:
    pair = labelled.roles["train"].text_pair is not None
    total = hashlib.sha256(json.dumps({"task": labelled.task, "pair": pair}).encode())
    for role in ROLES:
        total.update(f"\n{role} {len(digests[role])}\n".encode())
        total.update(np.sort(digests[role]).tobytes())
    return total.hexdigest()


def _table(labelled: _Labelled, digests: Mapping[Role, Shaped[np.ndarray, "n"]]) -> pa.Table:
    """All rows, each role in the order of its digests. Takes the roles out of `labelled`, one by one."""
    import pyarrow as pa  # noqa: PLC0415 - see headstart.targets.gather

    parts = []
    for role in ROLES:
        rows = labelled.roles.pop(role).take(np.argsort(digests[role], kind="stable"))
        columns: dict[str, Any] = {"role": pa.array([role] * len(rows)), "text": rows.text}
        if rows.text_pair is not None:
            columns["text_pair"] = rows.text_pair
        if labelled.classes is None:
            columns["label"] = pa.array(np.array(labelled.values)[rows.code])
        else:
            columns["label"] = pa.array(labelled.classes).take(pa.array(rows.code))
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)
