"""Finetunes whose result is to become a checkpoint: from the draft of a finetune to that of a job `keep`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headstart.checkpoints.lineage import same_name
from headstart.entities import Checkpoint, Job, JobState, Lineage
from headstart.errors import Conflict, InvalidInput, Problem
from headstart.methods import finetune
from headstart.procedures.centroid import CENTROID
from headstart.procedures.keep import KEEP, NAMES, KeepParams, is_plain_name
from headstart.store.paging import all_items

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstart.entities import JobDraft
    from headstart.store import Store
    from service.job_schemas import JobRequest
    from service.jobs import Known


def check_keep(request: JobRequest, known: Known) -> None:
    """Refuse a name that cannot be given, or is (Conflict), and methods that leave nothing to keep."""
    name = request.keep or ""
    if request.method != finetune.METHOD.name:
        raise _wrong(f"Nothing of {request.method!r} can be kept, only a finetune. Leave keep out.")
    if not is_plain_name(name):
        raise _wrong(f"{name[:100]!r} will not do. {NAMES}")
    taken = known.checkpoints.get(name, ())
    if taken:
        raise _taken(f"The name {name!r} is that of checkpoint {taken[0].id}. Choose another.")


def to_keep(draft: JobDraft, request: JobRequest, known: Known) -> JobDraft:
    """The draft of a finetune whose result is kept.

    Raises Conflict where the name is the family's, or another job that is under way, or asked for beside
    this one, is to give it, and where the base is not of the family that the kept one would join.
    """
    name = request.keep or ""
    base = known.of_id("checkpoint", draft.checkpoint_id or 0)
    if isinstance(base, Checkpoint) and same_name(name, base.family):
        raise _taken(f"The name {name!r} is that of the family. Choose another.")
    if isinstance(base, Checkpoint) and base.lineage == Lineage.CONTRADICTED:
        raise _taken(
            f"What is kept joins the family {base.family!r}, and the lineage of {base.name!r} is "
            f"contradicted. Leave keep out, or say that it is of the family by PATCH /checkpoints/{base.id}."
        )
    params = KeepParams(name=name, finetune=finetune.FinetuneParams(**draft.params))
    kept = replace(
        draft,
        method=KEEP.name,
        method_version=KEEP.version,
        params=params.model_dump(mode="json"),
        queue=KEEP.queue,
    )
    if KEEP.name not in known.searched:
        known.searched.add(KEEP.name)
        known.keeping.update((str(one.params.get("name")), one) for one in under_way(known.store))
    other = known.keeping.setdefault(name, kept)
    if _asked(other) != _asked(kept):
        who = f"job {other.id}" if isinstance(other, Job) else "another job of this request"
        raise _taken(f"The name {name!r} will be that of what {who} keeps. Choose another.")
    return kept


def measured(draft: JobDraft) -> tuple[str, dict[str, Any]]:
    """The method that a job runs, and its parameters: of one that keeps a finetune, those of the finetune."""
    if draft.method == KEEP.name:
        return finetune.METHOD.name, draft.params["finetune"]
    return draft.method, draft.params


def under_way(store: Store) -> Iterator[Job]:
    """Jobs that wait or run and are to keep a checkpoint, of the `name` in their params."""
    for state in (JobState.QUEUED, JobState.RUNNING):
        for method in (KEEP.name, CENTROID.name):
            yield from all_items(store.jobs, state=state, method=method)


def _asked(one: Job | JobDraft) -> tuple[Any, ...]:
    return one.checkpoint_id, one.target_id, one.params, one.seed


def _wrong(message: str) -> InvalidInput:
    return InvalidInput(f"keep: {message}", [Problem("keep", message)])


def _taken(message: str) -> Conflict:
    return Conflict(f"keep: {message}", [Problem("keep", message)])
