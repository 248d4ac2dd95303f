"""From requests for centroids and studies of regions to job drafts: who is a member, and counts how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from headstart.checkpoints.descent import is_mean, source_of, tuned_on
from headstart.checkpoints.lineage import same_name
from headstart.entities import Lineage
from headstart.errors import HeadstartError, InvalidInput, NotFound, Problem, nearest_names
from headstart.procedures.centroid import check_mixture
from headstart.procedures.keep import NAMES, is_plain_name
from headstart.recommend import decide
from headstart.recommend.shares import shares_by_gain
from service.asked import Grounds, at, conflict, named, tried, vanilla_of, with_rows
from service.family_probe import with_weights
from service.jobs import SeveralUnknown, check_webhook, refusal
from service.keeping import under_way
from service.regions import MEASURED_FROM, draft_of, newest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstart.entities import Checkpoint, Family, JobDraft, Target
    from headstart.store import Store
    from service.region_schemas import CentroidRequest, RegionStudyRequest

T = TypeVar("T")

CENTROID, STUDY = "centroid", "region_study"  # names of procedures
FEWEST = 2  # members
MOST_SHOWN = 10  # names in one sentence
MOST_STUDIED = 200  # of a region, and of those outside of it: a study makes a probe for each


def plan(grounds: Grounds, name: str, wanted: CentroidRequest) -> JobDraft:
    """The job that makes a centroid.

    Raises: NotFound (family, members, target, region), InvalidInput (name, weights, webhook, members of
    another family), Conflict (a name that is taken, a family without a vanilla, fewer than two members,
    members that were all tuned on the target, no posterior to weigh by).
    """
    store = grounds.store
    family = store.family(name)
    wrong: list[tuple[str, HeadstartError]] = []
    tried(lambda: _check_name(store, family, wanted.name), wrong)
    tried(lambda: _check_hook(grounds, wanted), wrong)
    target = None if wanted.target is None else tried(lambda: _target(store, wanted.target), wrong)
    vanilla = tried(lambda: vanilla_of(store, family, MEASURED_FROM), wrong)
    members = tried(lambda: _members(store, family, wanted, wrong), wrong)
    if wrong or vanilla is None or members is None:
        raise refusal(wrong)
    members, means = _without_means(members) if wanted.region is not None else (members, [])
    kept, left_out = _without_target(store, members, None if wanted.include_target_members else target)
    _check_enough(kept, left_out, target, "Choose others, or send include_target_members.")
    weights = _weights(grounds, family, wanted, kept, left_out)
    draft = draft_of(
        CENTROID,
        vanilla,
        {
            "family": family.name,
            "name": wanted.name,
            "candidates": [vanilla.id, *(one.id for one in kept)],
            "weights": weights,
            "told": {
                "rule": _rule(wanted),
                "weights": "given" if isinstance(wanted.weights, list) else wanted.weights,
                "region": wanted.region,
                "target": None if target is None else target.name,
                "left_out": [
                    *(f"{one.name}: tuned on {target.name}" for one in left_out if target is not None),
                    *(f"{one.name}: a mean of others" for one in means),
                ],
            },
        },
        priority=wanted.priority,
        webhook=wanted.webhook,
    )
    _check_not_made(store, draft)
    return draft


def plan_study(grounds: Grounds, name: str, wanted: RegionStudyRequest) -> JobDraft:
    """The job that studies a region on a target.

    Raises: NotFound (family, target, region), InvalidInput (webhook), Conflict (a target without rows, a
    family without a vanilla, fewer than two members inside or none outside that are not tuned on the target).
    """
    store = grounds.store
    family = store.family(name)
    wrong: list[tuple[str, HeadstartError]] = []
    tried(lambda: _check_hook(grounds, wanted), wrong)
    target = tried(lambda: with_rows(_target(store, wanted.target), "a study measures on them"), wrong)
    vanilla = tried(lambda: vanilla_of(store, family, MEASURED_FROM), wrong)
    inside = tried(lambda: _of_region(store, family, wanted.region), wrong)
    if wrong or vanilla is None or inside is None or target is None:
        raise refusal(wrong)
    result = newest(store, family.name).result or {}
    ids = {one.id for one in inside}
    outside = [
        store.checkpoint(one["id"])
        for one in result["members"]
        if one["id"] not in ids and one["lineage"] != Lineage.CONTRADICTED
    ]
    kept, left_out = _without_target(store, _without_means(inside)[0], target)
    _check_enough(kept, left_out, target, "Choose another region or target.")
    others, _ = _without_target(store, _without_means(outside)[0], target)
    if not others:
        raise conflict(
            "region",
            f"Nobody of {family.name!r} outside of region {wanted.region} could be compared with it: nobody "
            f"is there, or all are tuned on {target.name!r} or means of others. Keep finetunes on other "
            "targets, and ask for regions again.",
        )
    kept, others = _drawn(kept, wanted.seed), _drawn(others, wanted.seed)
    return draft_of(
        STUDY,
        vanilla,
        {
            "family": family.name,
            "candidates": [vanilla.id, *(one.id for one in (*kept, *others))],
            "inside": [one.id for one in kept],
            "region": wanted.region,
            "pairs": wanted.pairs,
            "hull_samples": wanted.hull_samples,
            "max_rows": wanted.max_rows,
        },
        seed=wanted.seed,
        priority=wanted.priority,
        webhook=wanted.webhook,
        target_id=target.id,
    )


# -- members


def _members(
    store: Store, family: Family, wanted: CentroidRequest, wrong: list[tuple[str, HeadstartError]]
) -> list[Checkpoint] | None:
    """Who is asked for, once each; None where something is wrong with a list, which `wrong` says."""
    if wanted.region is not None:
        return _of_region(store, family, wanted.region)
    if wanted.rule is not None:
        return _of_sources(store, family, wanted.rule.source)
    before = len(wrong)
    found = named(store, family, wanted.members, "members", wrong)
    if len(wrong) > before:
        return None
    ids = [one.id for one in found]
    for place, one in enumerate(found):
        if one.id in ids[:place]:
            what = f"{one.name!r} is there twice. Name every member once."
            raise InvalidInput(f"members.{place}: {what}", [Problem(f"members.{place}", what)])
    return found


def _of_region(store: Store, family: Family, number: int) -> list[Checkpoint]:
    try:
        result = newest(store, family.name).result or {}
    except NotFound as error:
        raise at(error, "region") from None
    regions = {one["number"]: one["members"] for one in result["regions"]}
    if number not in regions:
        known = f"There are {_some(sorted(map(str, regions)))}." if regions else "The weights show none."
        what = f"{family.name!r} has no region {number}. {known} See GET /families/{family.name}/regions."
        raise SeveralUnknown(f"region: {what}", [Problem("region", what)])
    found = [store.checkpoint(one) for one in regions[number]]
    return [one for one in found if one.lineage != Lineage.CONTRADICTED]


def _of_sources(store: Store, family: Family, sources: Sequence[str]) -> list[Checkpoint]:
    """Checkpoints of the family that were finetuned on one of the sources; no vanilla, no mean of others."""
    having: dict[str, list[Checkpoint]] = {}
    for one in with_weights(store, family.name)[0]:
        source = source_of(one)
        if source is not None and not one.is_vanilla and one.lineage != Lineage.CONTRADICTED:
            having.setdefault(source, []).append(one)
    for place, source in enumerate(sources):
        if source not in having:
            near = ", ".join(nearest_names(source, having)) or _some(sorted(having))
            known = f"Known sources: {near}." if near else "No source of any checkpoint of it is known."
            what = f"No checkpoint of {family.name!r} was finetuned on {source!r}. {known}"
            raise SeveralUnknown(f"rule.source.{place}: {what}", [Problem(f"rule.source.{place}", what)])
    found = {one.id: one for source in sources for one in having[source]}
    return sorted(found.values(), key=lambda one: one.id)


def _without_means(members: Sequence[Checkpoint]) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Who was tuned, and the means of others, which lie in a region without being what it is made of."""
    return [one for one in members if not is_mean(one)], [one for one in members if is_mean(one)]


def _drawn(members: list[Checkpoint], seed: int) -> list[Checkpoint]:
    """All of them, or MOST_STUDIED drawn at random, in their order."""
    if len(members) <= MOST_STUDIED:
        return members
    chosen = np.random.default_rng(seed).choice(len(members), MOST_STUDIED, replace=False)
    return [members[place] for place in np.sort(chosen).tolist()]


def _without_target(
    store: Store, members: Sequence[Checkpoint], target: Target | None
) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Who counts, and who was tuned on the target."""
    if target is None:
        return list(members), []
    tuned = {one.id for one in members if tuned_on(one, target, store.checkpoint)}
    return (
        [one for one in members if one.id not in tuned],
        [one for one in members if one.id in tuned],
    )


def _check_enough(
    kept: Sequence[Checkpoint], left_out: Sequence[Checkpoint], target: Target | None, remedy: str
) -> None:
    if len(kept) >= FEWEST:
        return
    names = _some([one.name for one in left_out])
    if left_out and target is not None:
        left = "None is" if not kept else f"{kept[0].name!r} alone is"
        raise conflict(
            "target",
            f"{left} left of the members, since others were tuned on {target.name!r}: {names}. {remedy}",
        )
    what = f"{kept[0].name!r} alone is meant" if kept else "Nobody is meant"
    raise conflict(
        "members",
        f"{what}, and a mean takes {FEWEST} members. Of a region those count that were tuned, and no "
        "means of others. Choose others.",
    )


def _rule(wanted: CentroidRequest) -> str:
    return "region" if wanted.region is not None else "source" if wanted.rule is not None else "list"


# -- weights


def _weights(
    grounds: Grounds,
    family: Family,
    wanted: CentroidRequest,
    kept: Sequence[Checkpoint],
    left_out: Sequence[Checkpoint],
) -> list[float]:
    """How much each of those kept counts."""
    if isinstance(wanted.weights, list):
        return _given(wanted, wanted.weights, left_out)
    if wanted.weights == "uniform":
        return [1.0 / len(kept)] * len(kept)
    ranked = grounds.snapshot.families.get(family.name)
    places = {} if ranked is None else {int(i): at for at, i in enumerate(ranked.posterior.checkpoint_ids)}
    unknown = [one.name for one in kept if one.id not in places]
    if ranked is None or unknown:
        raise conflict(
            "weights",
            f"The posterior of {family.name!r} does not know {_some(unknown)} yet: it is fitted within "
            "seconds once there is evidence. Try again, or ask for uniform weights.",
        )
    rows = np.array([places[one.id] for one in kept])
    found = decide.predict(ranked.posterior, ranked.board().view, rows)
    return [float(one) for one in shares_by_gain(found)]


def _given(wanted: CentroidRequest, weights: list[float], left_out: Sequence[Checkpoint]) -> list[float]:
    count = len(wanted.members)
    if not wanted.members:
        what = "Numbers are for `members`, in their order. Name them, or ask for uniform or posterior."
    elif len(weights) != count:
        what = f"There are {len(weights)} for {count} members. Give each of them one."
    elif left_out:
        what = (
            f"They count {_some([one.name for one in left_out])}, tuned on the target and left out. Leave "
            "them out of `members`, or send include_target_members."
        )
    else:
        try:
            check_mixture(tuple(range(count)), tuple(weights))
        except ValueError as error:
            what = str(error)
        else:
            return weights
    raise InvalidInput(f"weights: {what}", [Problem("weights", what)])


# -- the rest of a request


def _check_name(store: Store, family: Family, name: str) -> None:
    if not is_plain_name(name):
        what = f"{name[:100]!r} will not do. {NAMES}"
        raise InvalidInput(f"name: {what}", [Problem("name", what)])
    taken = store.checkpoints_named([name]).get(name, ())
    if taken:
        raise conflict("name", f"The name {name!r} is that of checkpoint {taken[0].id}. Choose another.")
    if same_name(name, family.name):
        raise conflict("name", f"The name {name!r} is that of the family. Choose another.")


def _check_not_made(store: Store, draft: JobDraft) -> None:
    """Refuse a name that another job that is under way is to give; an equal one is joined."""
    name = draft.params["name"]
    for job in under_way(store):
        if job.params.get("name") == name and (job.method, job.params) != (draft.method, draft.params):
            raise conflict(
                "name", f"The name {name!r} will be that of what job {job.id} keeps. Choose another."
            )


def _check_hook(grounds: Grounds, wanted: CentroidRequest | RegionStudyRequest) -> None:
    if wanted.webhook is not None:
        check_webhook(str(wanted.webhook), signed=grounds.signed)


def _target(store: Store, wanted: int | str | None) -> Target:
    try:
        return store.target_named(wanted) if isinstance(wanted, str) else store.target(int(wanted or 0))
    except NotFound as error:
        raise at(error, "target") from None


def _some(words: Sequence[str]) -> str:
    shown = ", ".join(words[:MOST_SHOWN])
    return shown if len(words) <= MOST_SHOWN else f"{shown} and {len(words) - MOST_SHOWN} more"
