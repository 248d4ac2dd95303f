"""Families, checkpoints and targets: reading them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, and_, cast, func, or_, select

from headstart.entities import Catalogue, Checkpoint, Family, Target
from headstart.errors import NotFound
from headstart.store.bulk import in_chunks
from headstart.store.paging import read_page
from headstart.store.tables import checkpoints, families, targets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Row, Select, Table

    from headstart.entities import Page

_FAMILIES: Select[Any] = select(
    families.c.id,
    families.c.name,
    select(checkpoints.c.id)
    .where(checkpoints.c.family_id == families.c.id, checkpoints.c.is_vanilla.is_(True))
    .scalar_subquery()
    .label("vanilla_id"),
    select(func.count())
    .select_from(checkpoints)
    .where(checkpoints.c.family_id == families.c.id)
    .scalar_subquery()
    .label("checkpoints"),
)

_CHECKPOINTS: Select[Any] = select(
    checkpoints.c.id,
    families.c.name.label("family"),
    checkpoints.c.name,
    checkpoints.c.revision,
    checkpoints.c.is_vanilla,
    checkpoints.c.parameters,
    checkpoints.c.license,
    checkpoints.c.details,
    checkpoints.c.lineage,
    checkpoints.c.lineage_reason,
    checkpoints.c.lineage_by,
).join_from(checkpoints, families)


def read_families(connection: Connection) -> tuple[Family, ...]:
    """Every family, ascending id."""
    return tuple(_family(row) for row in connection.execute(_FAMILIES.order_by(families.c.id)))


def read_family(connection: Connection, name: str) -> Family:
    """The family of this name; NotFound names the nearest."""
    return _family(connection.execute(_FAMILIES.where(families.c.id == family_id(connection, name))).one())


def family_id(connection: Connection, name: str) -> int:
    """The id of the family of this name; NotFound names the nearest."""
    found: int | None = connection.scalar(select(families.c.id).where(families.c.name == name))
    if found is None:
        raise NotFound("family", name, connection.scalars(select(families.c.name)))
    return found


def read_checkpoint(connection: Connection, checkpoint_id: int) -> Checkpoint:
    """The checkpoint of this id."""
    return _checkpoint(row_of(connection, _CHECKPOINTS, checkpoints, "checkpoint", checkpoint_id))


def read_checkpoints_after(connection: Connection, family: str, checkpoint_id: int) -> tuple[Checkpoint, ...]:
    """The checkpoints of a family that were stored after this one, ascending id."""
    later = checkpoints.c.family_id == family_id(connection, family), checkpoints.c.id > checkpoint_id
    query = _CHECKPOINTS.where(*later).order_by(checkpoints.c.id)
    return tuple(_checkpoint(row) for row in connection.execute(query))


def read_checkpoints_named(connection: Connection, names: Iterable[str]) -> dict[str, tuple[Checkpoint, ...]]:
    """Every checkpoint of each of these names, ascending id; a name that no checkpoint has is left out."""
    found: dict[str, tuple[Checkpoint, ...]] = {}
    # The index begins with the family: naming all of them spares looking at a million rows.
    of_any_family = checkpoints.c.family_id.in_(select(families.c.id))
    for chunk in in_chunks(set(names)):
        query = _CHECKPOINTS.where(of_any_family, checkpoints.c.name.in_(chunk)).order_by(checkpoints.c.id)
        for row in connection.execute(query):
            found[row.name] = (*found.get(row.name, ()), _checkpoint(row))
    return found


def read_checkpoints_pinned(connection: Connection, revision: str) -> tuple[Checkpoint, ...]:
    """Every checkpoint of this revision, its own or that in its details, ascending id."""
    # As text: Postgres takes no JSON apart in which any text holds a NUL or half of a surrogate pair.
    holds_it = cast(checkpoints.c.details, Text).contains(revision, autoescape=True)
    pinned = or_(checkpoints.c.revision == revision, and_(checkpoints.c.revision == "", holds_it))
    rows = connection.execute(_CHECKPOINTS.where(pinned).order_by(checkpoints.c.id))
    found = (_checkpoint(row) for row in rows)
    return tuple(one for one in found if revision in (one.revision, one.details.get("revision")))


def page_of_checkpoints(
    connection: Connection, family: str | None, search: str | None, size: int, token: str | None
) -> Page[Checkpoint]:
    """One page of the checkpoints of a family, or of all, whose name contains `search`."""
    query = _CHECKPOINTS
    if family is not None:
        query = query.where(checkpoints.c.family_id == family_id(connection, family))
    if search is not None:
        query = query.where(checkpoints.c.name.icontains(search, autoescape=True))
    scope = ("checkpoints", family, search)
    return read_page(connection, query, checkpoints.c.id, _checkpoint, scope=scope, size=size, token=token)


def read_catalogue(connection: Connection, family: str) -> Catalogue:
    """The checkpoints of the family in columns, ascending id."""
    query = (
        select(checkpoints.c.id, checkpoints.c.name, checkpoints.c.parameters, checkpoints.c.license)
        .where(checkpoints.c.family_id == family_id(connection, family))
        .order_by(checkpoints.c.id)
    )
    ids, names, parameters, licenses = columns_of(connection, query)
    return Catalogue(
        ids=tuple(ids), names=tuple(names), parameters=tuple(parameters), licenses=tuple(licenses)
    )


def read_target(connection: Connection, target_id: int) -> Target:
    """The target of this id."""
    return _target(row_of(connection, select(targets), targets, "target", target_id))


def read_target_named(connection: Connection, name: str) -> Target:
    """The target of this name; NotFound names the nearest."""
    row = connection.execute(select(targets).where(targets.c.name == name)).one_or_none()
    if row is None:
        raise NotFound("target", name, connection.scalars(select(targets.c.name)))
    return _target(row)


def read_targets_named(connection: Connection, names: Iterable[str]) -> dict[str, Target]:
    """The targets of these names; a name that no target has is left out."""
    found: dict[str, Target] = {}
    for chunk in in_chunks(set(names)):
        query = select(targets).where(targets.c.name.in_(chunk))
        found |= {row.name: _target(row) for row in connection.execute(query)}
    return found


def page_of_targets(connection: Connection, search: str | None, size: int, token: str | None) -> Page[Target]:
    """One page of the targets whose name contains `search`."""
    query = select(targets)
    if search is not None:
        query = query.where(targets.c.name.icontains(search, autoescape=True))
    scope = ("targets", search)
    return read_page(connection, query, targets.c.id, _target, scope=scope, size=size, token=token)


def read_all_targets(connection: Connection) -> tuple[Target, ...]:
    """Every target, ascending id."""
    return tuple(_target(row) for row in connection.execute(select(targets).order_by(targets.c.id)))


def count_target_details(connection: Connection) -> tuple[int, ...]:
    """How many targets know each column. None is ever forgotten, so equal counts mean equal targets."""
    return tuple(connection.execute(select(*(func.count(column) for column in targets.c))).one())


def columns_of(connection: Connection, query: Select[Any]) -> list[list[Any]]:
    """The result by columns. Rows live briefly, or the garbage collector would visit a million of them."""
    columns: list[list[Any]] = [[] for _ in query.selected_columns]
    for rows in connection.execute(query).partitions(500):
        for column, part in zip(columns, zip(*rows, strict=True), strict=True):
            column.extend(part)
    return columns


def row_of(connection: Connection, query: Select[Any], table: Table, kind: str, identity: int) -> Row[Any]:
    """The row of this id in the query; NotFound if there is none, even if no row could have the id."""
    row = None
    if 0 < identity < 2**63:
        row = connection.execute(query.where(table.c.id == identity)).one_or_none()
    if row is None:
        raise NotFound(kind, identity)
    return row


def _family(row: Row[Any]) -> Family:
    return Family(id=row.id, name=row.name, vanilla_id=row.vanilla_id, checkpoints=row.checkpoints)


def _checkpoint(row: Row[Any]) -> Checkpoint:
    return Checkpoint(**row._mapping)


def _target(row: Row[Any]) -> Target:
    return Target(**row._mapping)
