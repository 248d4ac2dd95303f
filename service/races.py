"""From a request to race to a job draft: names looked up, candidates chosen, all that is wrong at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from headstart.checkpoints.place import why_no_weights
from headstart.entities import JobDraft, Lineage
from headstart.errors import HeadstartError, InvalidInput, NotFound, Problem
from headstart.procedures import PROCEDURES
from headstart.store.paging import all_items
from service.asked import Grounds, at, conflict, named, tried, vanilla_of, with_rows
from service.board import ANY, Board
from service.jobs import check_webhook, refusal
from service.pricing import price_of, rates_of, together
from service.race_schemas import CandidatePrice, RacePrice
from service.validation import invalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstart.entities import Checkpoint, Family, Target
    from headstart.store import Store
    from service.board import Filter
    from service.race_schemas import RaceRequest

T = TypeVar("T")
RACE = "race"  # the name of the procedure
SEEN = 500  # places of a board looked at in one go


@dataclass(frozen=True, slots=True)
class Race:
    """A race that can be run."""

    draft: JobDraft
    target: Target
    candidates: tuple[Checkpoint, ...]  # the vanilla first


def plan(grounds: Grounds, target_id: int, wanted: RaceRequest, among: Filter = ANY) -> Race:
    """The race that is asked for; where it names no candidates, of those that pass the filter `among`.

    Raises all that is wrong at once: NotFound (target, family, candidates), InvalidInput (recipe, webhook,
    candidates of another family), Conflict (a target without rows, a vanilla or candidates without weights).
    """
    wrong: list[tuple[str, HeadstartError]] = []

    target = grounds.store.target(target_id)
    tried(lambda: with_rows(target, "a race finetunes on them"), wrong)
    family = tried(lambda: _family(grounds.store, wanted.family), wrong)
    vanilla = None
    if family is not None:
        vanilla = tried(lambda: vanilla_of(grounds.store, family, "gains are over it"), wrong)
    tried(lambda: _params(wanted, ()), wrong)
    if wanted.webhook is not None:
        tried(lambda: check_webhook(str(wanted.webhook), signed=grounds.signed), wrong)
    chosen = [] if family is None else named(grounds.store, family, wanted.candidates, "candidates", wrong)
    if wrong or family is None or vanilla is None:
        raise refusal(wrong)
    others = chosen or _ranked(grounds, family, target, wanted.most_candidates, among)
    candidates = tuple({one.id: one for one in (vanilla, *others)}.values())
    if len(candidates) == 1:
        raise _nobody(family, wanted, among)
    return Race(_draft(wanted, target, candidates), target, candidates)


def price(store: Store, race: Race) -> RacePrice:
    """The most that the race is expected to cost: every candidate finetuned to its end, or the budget."""
    rates, params = rates_of(store), race.draft.params
    vanilla = race.candidates[0]
    each = [
        price_of(rates, "finetune", params["finetune"], one.parameters or vanilla.parameters, race.target)
        for one in race.candidates
    ]
    dearest = [each[0], *sorted(each[1:], key=lambda one: -one.seconds)]
    begun, every = together(dearest[: params["budget_runs"]]), together(dearest)
    most = math.inf if params["budget_seconds"] is None else params["budget_seconds"]
    return RacePrice(
        seconds=min(most, begun.seconds),
        interval=(min(most, begun.low), min(most, begun.high)),
        seconds_of_all=every.seconds,
        basis=every.basis,
        device=every.device,
        candidates=[
            CandidatePrice(
                id=one.id,
                name=one.name,
                vanilla=one is vanilla,
                seconds=cost.seconds,
                interval=(cost.low, cost.high),
            )
            for one, cost in zip(race.candidates, each, strict=True)
        ],
    )


def _draft(wanted: RaceRequest, target: Target, candidates: tuple[Checkpoint, ...]) -> JobDraft:
    race = PROCEDURES[RACE]
    return JobDraft(
        method=race.name,
        method_version=race.version,
        checkpoint_id=None,
        target_id=target.id,
        params=_params(wanted, tuple(one.id for one in candidates)),
        seed=wanted.seed,
        queue=race.queue,
        priority=wanted.priority,
        webhook=wanted.webhook,
    )


def _params(wanted: RaceRequest, candidates: tuple[int, ...]) -> dict[str, Any]:
    """The parameters of the job, defaults filled in. Without candidates yet, a check of the recipe."""
    given = {
        "family": wanted.family,
        "candidates": candidates or (1, 2),
        "finetune": wanted.finetune,
        "budget_seconds": wanted.budget_seconds,
        "budget_runs": wanted.budget_runs,
        "worth": wanted.worth,
        "least_chance": wanted.least_chance,
    }
    params = PROCEDURES[RACE].params
    try:
        return params.model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        raise invalid(error.errors(include_url=False), params) from None


def _family(store: Store, name: str) -> Family:
    try:
        return store.family(name)
    except NotFound as error:
        raise at(error, "family") from None


def _ranked(grounds: Grounds, family: Family, target: Target, most: int, among: Filter) -> list[Checkpoint]:
    """The first `most` of the family that can be run, the vanilla left out, best first.

    Ranked as for a target of this size that nobody has measured: scores on the target itself are of its
    test rows, and those choose nothing in a race. Checkpoints newer than the ranking come after it.
    """
    found: dict[int, Checkpoint] = {}
    for one in _in_order(grounds, family, target, among):
        is_ours = one.id != family.vanilla_id and one.lineage != Lineage.CONTRADICTED
        if is_ours and why_no_weights(one) is None:
            found.setdefault(one.id, one)
        if len(found) == most:
            break
    return list(found.values())


def _in_order(grounds: Grounds, family: Family, target: Target, among: Filter) -> Iterator[Checkpoint]:
    ranked = grounds.snapshot.families.get(family.name)
    if ranked is not None:
        shared = ranked.board(None, target.train_size, target.classes)
        board = Board(ranked, shared.view, shared.standing)  # its own: this runs beside the event loop
        seen, step = 0, SEEN
        while len(rows := board.passing(among, seen + step)) > seen:
            for row in rows[seen:].tolist():
                yield grounds.store.checkpoint(int(ranked.posterior.checkpoint_ids[row]))
            seen, step = len(rows), 4 * step
    ids = set() if ranked is None else set(ranked.posterior.checkpoint_ids.tolist())
    yield from (
        one
        for one in all_items(grounds.store.checkpoints, family=family.name)
        if one.id not in ids and _passes(one, among)
    )


def _passes(checkpoint: Checkpoint, among: Filter) -> bool:
    """Whether a checkpoint that no board has yet passes a filter."""
    if checkpoint.name in among.exclude:
        return False
    size, license = checkpoint.parameters, (checkpoint.license or "").casefold()
    small = among.max_parameters is None or (size is not None and size <= among.max_parameters)
    return small and (not among.licenses or license in among.licenses)


def _nobody(family: Family, wanted: RaceRequest, among: Filter) -> HeadstartError:
    if wanted.candidates:
        message = f"They name the vanilla of {family.name!r} alone. Name checkpoints to race against it."
        return InvalidInput(f"candidates: {message}", [Problem("candidates", message)])
    if among != ANY:
        return conflict(
            "family",
            f"No checkpoint of {family.name!r} but its vanilla both passes the filters and can be run. Ask "
            "with fewer filters.",
        )
    return conflict(
        "family",
        f"The family {family.name!r} has no checkpoint but its vanilla whose weights can be had: register "
        "one by POST /checkpoints, or headstart checkpoints add.",
    )
