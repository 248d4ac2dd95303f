"""Checkpoints, vanillas and targets that a request about a family names, and errors at its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from headstart.checkpoints.place import why_no_weights
from headstart.entities import Lineage
from headstart.errors import Conflict, HeadstartError, InvalidInput, NotFound, Problem
from service.job_schemas import JobRequest
from service.jobs import Known, SeveralUnknown, weighty_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headstart.entities import Checkpoint, Family, Target
    from headstart.store import Store
    from service.snapshot import Snapshot

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Grounds:
    """Where a request is looked up."""

    store: Store
    snapshot: Snapshot
    signed: bool  # webhooks are signed, so that jobs may have one


def tried(step: Callable[[], T], wrong: list[tuple[str, HeadstartError]]) -> T | None:
    """What the step gives; what it refuses is added to `wrong`, so that all of it can be told at once."""
    try:
        return step()
    except (InvalidInput, NotFound, Conflict) as error:
        wrong.append(("", error))
        return None


def named(
    store: Store,
    family: Family,
    wanted: Sequence[int | str],
    field: str,
    wrong: list[tuple[str, HeadstartError]],
    *,
    contradicted: bool = False,
) -> list[Checkpoint]:
    """The checkpoints of the family that a list of ids and names means, each of which has weights.

    What is wrong with them is added to `wrong`, at their places in the field. With `contradicted`, those may
    be named too whose weights say that they are not of the family.
    """
    names = {one for one in wanted if isinstance(one, str)}
    known = Known(store, {}, store.checkpoints_named(names) if names else {}, {}, signed=False)
    found = []
    for place, name in enumerate(wanted):
        try:
            found.append(_of_family(name, family, known, contradicted=contradicted))
        except (InvalidInput, NotFound, Conflict) as error:
            wrong.append(("", at(error, f"{field}.{place}")))
    return found


def _of_family(name: int | str, family: Family, known: Known, *, contradicted: bool) -> Checkpoint:
    asked = JobRequest.model_construct(method="", checkpoint=name, family=family.name, target=0)
    found = weighty_checkpoint(asked, known)
    if found.family != family.name:
        raise InvalidInput(
            f"Checkpoint {found.name!r} is not of the family {family.name!r}, but of {found.family!r}."
        )
    if found.lineage == Lineage.CONTRADICTED and not contradicted:
        raise Conflict(
            f"Checkpoint {found.name!r} is not of the family: {_ended(found.lineage_reason or '')} If that "
            f"is wrong, say so by PATCH /checkpoints/{found.id}."
        )
    return found


def _ended(note: str) -> str:
    """What a person may have written without a full stop, with one."""
    note = note.rstrip()
    return note if note.endswith((".", "!", "?")) else f"{note}."


def vanilla_of(store: Store, family: Family, why_needed: str) -> Checkpoint:
    """The family's vanilla; Conflict where there is none, or nobody has its weights.

    Args:
        store: where it is looked up.
        family: whose.
        why_needed: a clause without a full stop, such as "gains are over it".
    """
    if family.vanilla_id is None:
        raise conflict(
            "family",
            f"The family {family.name!r} has no vanilla yet, and {why_needed}: register it by POST "
            "/checkpoints with is_vanilla.",
        )
    vanilla = store.checkpoint(family.vanilla_id)
    why = why_no_weights(vanilla)
    if why is not None:
        raise conflict(
            "family",
            f"The vanilla of {family.name!r} is needed, since {why_needed}. {why} Register its weights by "
            "POST /checkpoints.",
        )
    return vanilla


def with_rows(target: Target, why_needed: str) -> Target:
    """The target; Conflict where the store holds no rows of it. `why_needed`: as of `vanilla_of`."""
    if target.fingerprint is None:
        raise conflict(
            "target",
            f"The store holds no rows of {target.name!r}, and {why_needed}. Add them by POST /targets under "
            "this name, or headstart targets add.",
        )
    return target


def conflict(field: str, message: str) -> Conflict:
    """A Conflict at a field."""
    return Conflict(f"{field}: {message}", [Problem(field, message)])


def at(error: HeadstartError, field: str) -> HeadstartError:
    """The same error, at a field of this request."""
    message = error.problems[0].message if error.problems else error.message
    said, problems = f"{field}: {message}", [Problem(field, message)]
    return SeveralUnknown(said, problems) if isinstance(error, NotFound) else type(error)(said, problems)
