"""From a request for a family's regions to a job draft, and from the newest result to an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headstart.checkpoints.place import is_registered
from headstart.entities import JobDraft, Lineage
from headstart.errors import Conflict, HeadstartError, InvalidInput, NotFound, Problem, TooLarge
from headstart.procedures import PROCEDURES
from service.asked import conflict, named, vanilla_of
from service.family_probe import with_weights
from service.jobs import check_webhook, refusal
from service.region_schemas import MOST_MEMBERS, FamilyRegions

if TYPE_CHECKING:
    from headstart.entities import Checkpoint, Family, Job
    from headstart.store import Store
    from service.region_schemas import RegionsRequest

REGIONS = "regions"  # the name of the procedure
FEWEST = 3  # checkpoints beside the vanilla
MEASURED_FROM = "task vectors are measured from it"


def plan(store: Store, name: str, wanted: RegionsRequest, *, signed: bool) -> JobDraft:
    """The job that finds the regions of the family.

    Raises all that is wrong at once: NotFound (family, checkpoints), InvalidInput (webhook, checkpoints of
    another family), Conflict (no vanilla, weights that nobody has, too few of them), TooLarge.
    """
    family = store.family(name)
    wrong: list[tuple[str, HeadstartError]] = []
    if wanted.webhook is not None:
        try:
            check_webhook(str(wanted.webhook), signed=signed)
        except InvalidInput as error:
            wrong.append(("", error))
    vanilla = None
    try:
        vanilla = vanilla_of(store, family, MEASURED_FROM)
    except Conflict as error:
        wrong.append(("", error))
    others = named(store, family, wanted.checkpoints, "checkpoints", wrong, contradicted=True)
    if wrong or vanilla is None:
        raise refusal(wrong)
    if not wanted.checkpoints:
        others = [one for one in with_weights(store, family.name)[0] if _is_looked_at(one)]
    members = {one.id: one for one in others if one.id != vanilla.id}
    _check_number(family, len(members), chosen=bool(wanted.checkpoints))
    return draft_of(
        REGIONS,
        vanilla,
        {"family": family.name, "candidates": [vanilla.id, *members], "clusters": wanted.clusters},
        seed=wanted.seed,
        priority=wanted.priority,
        webhook=wanted.webhook,
    )


def newest(store: Store, name: str) -> Job:
    """The job that found the newest regions of the family; NotFound where there is none."""
    family = store.family(name)
    job = None if family.vanilla_id is None else store.newest_job(REGIONS, family.vanilla_id)
    if job is None or job.result is None:
        error = NotFound(
            "result of regions for",
            name,
            remedy=f"Ask for it by POST /families/{name}/regions, or headstart regions {name}.",
        )
        error.problems = (Problem("name", error.message),)
        raise error
    return job


def answer(store: Store, name: str) -> FamilyRegions:
    """The newest regions of the family, and how many of its checkpoints they leave out."""
    job = newest(store, name)
    taken = set(job.params["candidates"])
    # All, and not the newer ones alone: a name that scores brought keeps its id when it is registered.
    since = sum(_is_looked_at(one) for one in store.checkpoints_after(name, 0) if one.id not in taken)
    told: dict[str, Any] = job.result or {}
    return FamilyRegions.model_validate(
        told
        | {
            "job_id": job.id,
            "finished_at": job.finished_at,
            "stale": since > 0,
            "registered_since": since,
        }
    )


def draft_of(
    procedure: str,
    vanilla: Checkpoint,
    params: dict[str, Any],
    *,
    seed: int = 0,
    priority: int = 0,
    webhook: str | None = None,
    target_id: int | None = None,
) -> JobDraft:
    """A job of a procedure about a family, whose vanilla stands for it."""
    asked = PROCEDURES[procedure]
    return JobDraft(
        method=asked.name,
        method_version=asked.version,
        checkpoint_id=vanilla.id,
        target_id=target_id,
        params=asked.params.model_validate(params).model_dump(mode="json"),
        seed=seed,
        queue=asked.queue,
        priority=priority,
        webhook=webhook,
    )


def _is_looked_at(checkpoint: Checkpoint) -> bool:
    """Whether a search that names nobody takes it: somebody registered it, and no person ruled it out.

    Names that published scores brought are left alone: their weights would be downloaded by the hundred. What
    a job said of the lineage is looked at again.
    """
    ruled_out = checkpoint.lineage == Lineage.CONTRADICTED and checkpoint.lineage_by == "person"
    return is_registered(checkpoint) and not ruled_out


def _check_number(family: Family, number: int, *, chosen: bool) -> None:
    if number > MOST_MEMBERS:
        raise TooLarge(
            f"The family {family.name!r} has {number} registered checkpoints, and one job "
            f"takes {MOST_MEMBERS}. Name those to look at in `checkpoints`."
        )
    if number < FEWEST:
        who = "They are" if chosen else f"The family {family.name!r} has"
        what = "" if chosen else " with registered weights"
        raise conflict(
            "checkpoints",
            f"{who} {number}{what} beside the vanilla, and regions take {FEWEST}. Register more by POST "
            "/checkpoints, keep finetunes (`keep` of POST /jobs), or name some of the hub in `checkpoints`.",
        )
