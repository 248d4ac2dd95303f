"""The evidence of a family as arrays: a few queries, then numpy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import ARRAY, BigInteger, Text, and_, any_, bindparam, cast, select

from headstart.checkpoints.facts import Facts, facts_in
from headstart.evidence.quality import LARGEST_VALUE
from headstart.recommend.evidence import FINETUNE, FREE_ENERGY, ONE_PASS, PROBES, EnergyParts, FamilyEvidence
from headstart.store.catalogue import columns_of, family_id
from headstart.store.scores import read_version
from headstart.store.tables import IN_FAMILY, IN_FORCE, checkpoints, scores, targets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from jaxtyping import Float, Int
    from sqlalchemy import ColumnElement, Connection

# Checkpoints whose details are read in one query. By their ids they lie side by side; by the index that finds
# a family's they lie anywhere, which takes longer, as does sorting texts. More in one query are no faster.
ROWS_AT_ONCE = 500


def read_evidence(connection: Connection, family: str) -> FamilyEvidence:
    """The scores in force of the family and its catalogue, as of one evidence version.

    Without the checkpoints whose weights contradict that they are of the family.
    """
    identity = family_id(connection, family)
    in_family = and_(checkpoints.c.family_id == identity, IN_FAMILY)
    catalogue = _read_checkpoints(connection, in_family)
    vanilla = connection.scalar(select(checkpoints.c.id).where(in_family, checkpoints.c.is_vanilla.is_(True)))
    target_ids, target_names, target_rows = columns_of(
        connection, select(targets.c.id, targets.c.name, targets.c.rows_tested).order_by(targets.c.id)
    )
    checkpoint_column, target_column = catalogue["checkpoint_ids"], _integers(target_ids)
    finetune = columns_of(connection, _FINETUNES.where(in_family))
    checkpoint, target, version, digest, seed, value, stderr, rows_tested, created = finetune
    probes = columns_of(connection, _PROBES.where(in_family))
    probed_checkpoint, probed_target, method, probe_version, probe_digest, *probe_numbers = probes
    probe_value, probe_stderr, probe_created = probe_numbers
    protocols: dict[tuple[str, str], int] = {}
    probe_protocol = _codes(probe_version, probe_digest, protocols)
    return FamilyEvidence(
        family=family,
        evidence_version=read_version(connection),
        **catalogue,
        vanilla=None if vanilla is None else int(np.searchsorted(checkpoint_column, vanilla)),
        target_ids=target_column,
        target_names=tuple(target_names),
        target_rows=_floats(target_rows),
        checkpoint=np.searchsorted(checkpoint_column, _integers(checkpoint)),
        target=np.searchsorted(target_column, _integers(target)),
        protocol=_codes(version, digest, {}),
        seed=_integers(seed),
        value=_floats(value),
        stderr=_floats(stderr),
        rows_tested=_floats(rows_tested),
        created=_floats([moment.timestamp() for moment in created]),
        # a column that nobody has would still move the last bits of every answer
        probe_methods=PROBES if FREE_ENERGY in method else ONE_PASS,
        probed_checkpoint=np.searchsorted(checkpoint_column, _integers(probed_checkpoint)),
        probed_target=np.searchsorted(target_column, _integers(probed_target)),
        probe_method=_integers([PROBES.index(name) for name in method]),
        probe_protocol=probe_protocol,
        probe_value=_floats(probe_value),
        probe_stderr=_floats(probe_stderr),
        probe_created=_floats([moment.timestamp() for moment in probe_created]),
        probe_protocols=tuple(protocols),
        energy_parts=_energy_parts(connection, in_family, checkpoint_column, target_column, protocols)
        if FREE_ENERGY in method
        else None,
    )


# Details as text: Postgres takes no JSON apart in which any text holds a NUL or half of a surrogate pair.
_TOLD = select(checkpoints.c.parameters, cast(checkpoints.c.details, Text)).order_by(checkpoints.c.id)
_TOLD_OF = {
    "sqlite": _TOLD.where(checkpoints.c.id.in_(bindparam("ids", expanding=True))),
    # 500 parameters take five times as long to send as one
    "postgresql": _TOLD.where(checkpoints.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger)))),
}
_FINETUNES = (
    select(
        scores.c.checkpoint_id,
        scores.c.target_id,
        scores.c.method_version,
        scores.c.params_digest,
        scores.c.seed,
        scores.c.value,
        scores.c.stderr,
        scores.c.rows_tested,
        scores.c.created_at,
    )
    .join_from(scores, checkpoints)
    .where(IN_FORCE, scores.c.method == FINETUNE)
    .order_by(scores.c.id)
)
_PROBES = (
    select(
        scores.c.checkpoint_id,
        scores.c.target_id,
        scores.c.method,
        scores.c.method_version,
        scores.c.params_digest,
        scores.c.value,
        scores.c.stderr,
        scores.c.created_at,
    )
    .join_from(scores, checkpoints)
    .where(IN_FORCE, scores.c.method.in_(PROBES))
    .order_by(scores.c.id)
)
# Provenance as text, like details
_ENERGY_PARTS = (
    select(
        scores.c.checkpoint_id,
        scores.c.target_id,
        scores.c.method_version,
        scores.c.params_digest,
        cast(scores.c.provenance, Text),
    )
    .join_from(scores, checkpoints)
    .where(IN_FORCE, scores.c.method == FREE_ENERGY)
    .order_by(scores.c.id)
)


def _read_checkpoints(connection: Connection, in_family: ColumnElement[bool]) -> dict[str, Any]:
    """The columns of the evidence that are about the checkpoints, ascending id."""
    c = checkpoints.c
    ids, names = columns_of(connection, select(c.id, c.name).where(in_family).order_by(c.id))
    told = _TOLD_OF[connection.dialect.name]
    parameters: list[int | None] = []
    facts = [np.empty((0, len(Facts._fields)))]
    for start in range(0, len(ids), ROWS_AT_ONCE):
        rows = connection.execute(told, {"ids": ids[start : start + ROWS_AT_ONCE]}).all()
        some_parameters, details = zip(*rows, strict=True)
        parameters.extend(some_parameters)
        facts.append(facts_in(details))
    return {
        "checkpoint_ids": _integers(ids),
        "checkpoint_names": tuple(names),
        "parameters": _counts(parameters),
        **dict(zip(Facts._fields, np.concatenate(facts).T.copy(), strict=True)),
    }


def _energy_parts(
    connection: Connection,
    in_family: ColumnElement[bool],
    checkpoint_ids: Int[np.ndarray, " C"],
    target_ids: Int[np.ndarray, " T"],
    protocols: dict[tuple[str, str], int],
) -> EnergyParts:
    """What the free energies in force of the family say in their provenance."""
    checkpoint, target, version, digest, texts = columns_of(connection, _ENERGY_PARTS.where(in_family))
    told = np.array([_parts_in(text) for text in texts], dtype=np.float64).reshape(-1, 3)
    return EnergyParts(
        checkpoint=np.searchsorted(checkpoint_ids, _integers(checkpoint)),
        target=np.searchsorted(target_ids, _integers(target)),
        protocol=_codes(version, digest, protocols),
        loss=told[:, 0],
        trace=told[:, 1],
        llc=told[:, 2],
    )


def _parts_in(text: str) -> tuple[float | None, ...]:
    """Loss, trace and llc in the text of a provenance, of which nothing else is kept."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    return tuple(_value_in(told, part) for part in ("loss", "trace", "llc"))


def _value_in(provenance: object, part: str) -> float | None:
    """The value of a part, {"value": ..., "stderr": ...}; None where it is none, as in what was imported."""
    told = provenance.get(part) if isinstance(provenance, dict) else None
    value = told.get("value") if isinstance(told, dict) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if abs(value) <= LARGEST_VALUE else None


def _codes(
    versions: Sequence[str], digests: Sequence[str], known: dict[tuple[str, str], int]
) -> Int[np.ndarray, " N"]:
    """One code per distinct protocol (method version, params digest), in the order of appearance.

    `known` are those that have one already, and grows.
    """
    return _integers(
        [known.setdefault(protocol, len(known)) for protocol in zip(versions, digests, strict=True)]
    )


def _integers(column: Sequence[int]) -> Int[np.ndarray, " N"]:
    return np.array(column, dtype=np.int64)


def _floats(column: Sequence[float | None]) -> Float[np.ndarray, " N"]:
    """A float array; None becomes NaN."""
    return np.array(column, dtype=np.float64)


def _counts(column: Sequence[int | None]) -> Float[np.ndarray, " N"]:
    """A float array; None, and what counts nothing, becomes NaN."""
    counts = _floats(column)
    counts[~(counts > 0)] = np.nan
    return counts
