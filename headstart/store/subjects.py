"""What an import's scores are about: its families, checkpoints and targets, created and completed in bulk.

Callers hold the evidence lock: nobody else creates any meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import bindparam, insert, select, update

from headstart.entities import CheckpointDraft, TargetDraft
from headstart.errors import Conflict
from headstart.recommend.evidence import FINETUNE
from headstart.store.bulk import in_chunks, insert_many
from headstart.store.tables import IN_FORCE, checkpoints, families, scores, targets
from headstart.targets.spec import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Row, Table

    from headstart.entities import ImportBatch, RowsDraft

T = TypeVar("T")
Named = tuple[int, str, str]  # family id, name, revision


@dataclass(frozen=True, slots=True)
class Subjects:
    """Where the scores of a batch belong."""

    checkpoints: dict[tuple[str, str], int]  # (family, name) -> id
    targets: dict[str, int]  # name -> id
    checkpoints_new: int
    targets_new: int
    changed: bool  # of what the evidence holds of them: checkpoints, vanillas, test splits of known targets
    drafted: dict[tuple[str, str, str], int]  # (family, name, revision) of each drafted checkpoint -> id


def write_subjects(connection: Connection, batch: ImportBatch) -> Subjects:
    """Create what the batch names and the store lacks; complete what the store has."""
    family_ids = _write_families(connection, batch)
    ids, checkpoint_ids, checkpoints_new, completed = _write_checkpoints(connection, batch, family_ids)
    target_ids, targets_new, retold = _write_targets(connection, batch)
    drafted = {
        (c.family, c.name, c.revision): ids[family_ids[c.family], c.name, c.revision]
        for c in batch.checkpoints
    }
    changed = checkpoints_new > 0 or completed or retold
    return Subjects(checkpoint_ids, target_ids, checkpoints_new, targets_new, changed, drafted)


def _write_families(connection: Connection, batch: ImportBatch) -> dict[str, int]:
    wanted = dict.fromkeys([c.family for c in batch.checkpoints] + [s.family for s in batch.scores])
    ids = {name: identity for identity, name in connection.execute(select(families.c.id, families.c.name))}
    missing = [{"name": name} for name in wanted if name not in ids]
    if missing:
        created = insert(families).returning(families.c.id, families.c.name)
        ids |= {name: identity for identity, name in connection.execute(created, missing)}
    return ids


def _write_checkpoints(
    connection: Connection, batch: ImportBatch, family_ids: dict[str, int]
) -> tuple[dict[Named, int], dict[tuple[str, str], int], int, bool]:
    """Ids, ids by family and name, how many are new, and whether any known one was completed."""
    drafts: dict[Named, CheckpointDraft] = {}
    for draft in batch.checkpoints:
        named = (family_ids[draft.family], draft.name, draft.revision)
        drafts[named] = _merged(drafts[named], draft) if named in drafts else draft
    subjects = dict.fromkeys((s.family, s.checkpoint) for s in batch.scores)
    stored = _read_checkpoints(
        connection,
        [named[:2] for named in drafts] + [(family_ids[family], name) for family, name in subjects],
    )
    # A score does not say the revision: it belongs to the one drafted beside it, or else to the one the
    # store met first. Both answers are the same when the file comes again.
    revisions: dict[tuple[int, str], Named] = {}
    for named in (*drafts, *sorted(stored, key=lambda named: stored[named])):
        revisions.setdefault(named[:2], named)
    for family, name in subjects:
        identity = (family_ids[family], name)
        if identity not in revisions:
            revisions[identity] = (*identity, "")
            drafts[revisions[identity]] = CheckpointDraft(family=family, name=name)
    new = {named: draft for named, draft in drafts.items() if named not in stored}
    ids = stored | _insert_checkpoints(connection, new)
    known = {stored[named]: drafts[named] for named in drafts if named in stored}
    vanillas = [(named, ids[named]) for named, draft in drafts.items() if draft.is_vanilla]
    completed = [_complete_checkpoints(connection, known), _set_vanillas(connection, vanillas)]
    by_name = {subject: ids[revisions[family_ids[subject[0]], subject[1]]] for subject in subjects}
    return ids, by_name, len(new), any(completed)


def _merged(first: CheckpointDraft, second: CheckpointDraft) -> CheckpointDraft:
    """What either draft knows; the first where both do."""
    return replace(
        first,
        is_vanilla=first.is_vanilla or second.is_vanilla,
        parameters=second.parameters if first.parameters is None else first.parameters,
        license=second.license if first.license is None else first.license,
        details=second.details | first.details,
    )


def _read_checkpoints(connection: Connection, names: Iterable[tuple[int, str]]) -> dict[Named, int]:
    by_family: defaultdict[int, dict[str, None]] = defaultdict(dict)
    for family, name in names:
        by_family[family][name] = None
    found = {}
    columns = (checkpoints.c.id, checkpoints.c.name, checkpoints.c.revision)
    for family, wanted in by_family.items():
        for chunk in in_chunks(wanted):
            query = select(*columns).where(checkpoints.c.family_id == family, checkpoints.c.name.in_(chunk))
            found.update({(family, name, revision): i for i, name, revision in connection.execute(query)})
    return found


def _insert_checkpoints(connection: Connection, new: dict[Named, CheckpointDraft]) -> dict[Named, int]:
    rows = [
        {
            "family_id": family,
            "name": name,
            "revision": revision,
            "is_vanilla": False,
            "parameters": draft.parameters,
            "license": draft.license,
            "details": draft.details,
        }
        for (family, name, revision), draft in new.items()
    ]
    insert_many(connection, checkpoints, rows)
    return _read_checkpoints(connection, (named[:2] for named in new))


def _complete_checkpoints(connection: Connection, drafts: dict[int, CheckpointDraft]) -> bool:
    """Fill in what the store does not know yet, and say whether there was any. What it knows stays."""
    c = checkpoints.c
    changes = []
    for chunk in in_chunks(drafts):
        query = select(c.id, c.parameters, c.license, c.details).where(c.id.in_(chunk))
        for row in connection.execute(query):
            draft = drafts[row.id]
            stored = {"parameters": row.parameters, "license": row.license, "details": row.details}
            known = {
                "parameters": draft.parameters if row.parameters is None else row.parameters,
                "license": draft.license if row.license is None else row.license,
                "details": draft.details | {k: v for k, v in row.details.items() if v is not None},
            }
            if known != stored:
                changes.append(known | {"identity": row.id})
    _update(connection, checkpoints, changes)
    return bool(changes)


def _set_vanillas(connection: Connection, vanillas: Iterable[tuple[Named, int]]) -> bool:
    """Make each the vanilla of its family, unless that has one; say whether any was made one.

    What was said of its descent is dropped: a vanilla descends from no other, and cannot be contradicted.
    """
    c = checkpoints.c
    settled = set(connection.scalars(select(c.family_id).where(c.is_vanilla.is_(True))))
    before = len(settled)
    for (family, _, _), identity in vanillas:
        if family not in settled:
            said = dict.fromkeys(("lineage", "lineage_reason", "lineage_by"))
            connection.execute(update(checkpoints).where(c.id == identity).values(is_vanilla=True, **said))
            settled.add(family)
    return len(settled) > before


def _write_targets(connection: Connection, batch: ImportBatch) -> tuple[dict[str, int], int, bool]:
    """Ids by name, how many are new, and whether the test split of a known one became known."""
    drafts: dict[str, dict[str, Any]] = {}
    for draft in (*batch.targets, *(TargetDraft(name=name) for name in {s.target: 0 for s in batch.scores})):
        row = asdict(draft)
        first = drafts.setdefault(draft.name, row)
        first.update({k: v for k, v in row.items() if first[k] is None})
    ids, changes, split = {}, [], False
    for chunk in in_chunks(drafts):
        for stored in connection.execute(select(targets).where(targets.c.name.in_(chunk))):
            ids[stored.name] = stored.id
            draft_row = drafts[stored.name]
            known = {k: v if v is not None else draft_row.get(k) for k, v in stored._mapping.items()}
            if batch.rows is not None and batch.rows.target == stored.name:
                known |= _told_by_rows(connection, stored, draft_row, batch.rows)
            if known != stored._mapping:
                changes.append({k: known[k] for k in _TARGET_DETAILS} | {"identity": stored.id})
                split |= known["rows_tested"] != stored.rows_tested
    _update(connection, targets, changes)
    new = [row for name, row in drafts.items() if name not in ids]
    if new:
        created = insert(targets).returning(targets.c.name, targets.c.id)
        ids |= dict(connection.execute(created, new).all())
    return ids, len(new), split


_TARGET_DETAILS = ("task", "metric", "train_size", "classes", "rows_tested")


def _told_by_rows(
    connection: Connection, stored: Row[Any], draft: dict[str, Any], rows: RowsDraft
) -> dict[str, Any]:
    """What a known target's rows change of it: how many are learnt from, and its metric.

    The metric becomes the draft's where it was asked for, or where the known one does not fit the rows: a
    score table does not tell the metric, so that accuracy was assumed. Conflict where scores are by another.
    """
    known, wanted = stored.metric, draft["metric"]
    fits = (known in METRICS["regression"]) == (draft["task"] == "regression")
    told = {"train_size": draft["train_size"] or stored.train_size}
    if known == wanted or (fits and rows.profile.get("asked_metric") is None):
        return told
    assumed = not fits and stored.task in (None, draft["task"])
    scored = select(scores.c.id).where(scores.c.target_id == stored.id, scores.c.method == FINETUNE, IN_FORCE)
    if not assumed and connection.scalar(scored.limit(1)) is not None:
        raise Conflict(
            f"The target {stored.name!r} has scores by {known}, and {wanted} is wanted of its rows. Ask for "
            f"{known} where it fits them, or choose another name."
        )
    return told | {"metric": wanted}


def _update(connection: Connection, table: Table, changes: list[dict[str, Any]]) -> None:
    if changes:
        connection.execute(update(table).where(table.c.id == bindparam("identity")), changes)
