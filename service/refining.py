"""POST /recommend with `refine`: the answer as ever, and a race that makes the next one better."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from headstart.entities import RecordedResponse
from headstart.errors import InvalidInput, Problem
from service import races
from service.asked import Grounds
from service.auth import KEY, check_scope
from service.board import Filter
from service.race_schemas import RaceRequest
from service.routes.jobs import desk_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from headstart.entities import Submission
    from service.advice_schemas import Question
    from service.snapshot import Snapshot

ASKS = ("refine", "budget_seconds", "budget_runs")  # fields of a question that are about the race


def check(question: Question, request: Request) -> Question:
    """The question without the race, once all is there that a race needs.

    Raises: Forbidden for a key that may not run jobs, InvalidInput.
    """
    key = request.scope[KEY]
    if key is not None:
        check_scope(key, "run")
    wrong = []
    if question.refine is None:
        wrong.append(Problem("refine", 'A budget is of a race. Send "refine": "finetune" with it.'))
    elif question.budget_seconds is None and question.budget_runs is None:
        wrong.append(
            Problem("refine", "A race needs a budget here. Add budget_seconds or budget_runs, or both.")
        )
    if question.family is None:
        wrong.append(Problem("family", "A race is run within one family. Name it."))
    target = question.target
    if target is None or (target.id is None and target.name is None):
        wrong.append(Problem("target", "A race finetunes on rows. Give a known target by its name or id."))
    if wrong:
        more = f" And {len(wrong) - 1} more, see errors." if len(wrong) > 1 else ""
        raise InvalidInput(f"{wrong[0].field}: {wrong[0].message}{more}", wrong)
    return question.model_copy(update=dict.fromkeys(ASKS))


def refined(question: Question, request: Request, snapshot: Snapshot, body: bytes) -> Response:
    """The answer `body` with the job of the race that the question asks for, which is submitted."""
    asked, known = question.target, snapshot.targets_by_name
    target_id = known[str(asked.name)].id if asked.id is None else asked.id  # type: ignore[union-attr]
    wanted = RaceRequest(
        family=str(question.family),
        budget_seconds=question.budget_seconds,
        budget_runs=question.budget_runs,
        worth=question.worth,
    )
    licenses = tuple(sorted({one.casefold() for one in question.licenses}))
    among = Filter(question.max_parameters, licenses, question.exclude)
    desk = desk_of(request)
    race = races.plan(Grounds(desk.store, snapshot, desk.signed), target_id, wanted, among)

    def written(answers: Sequence[Submission]) -> RecordedResponse:
        (answer,) = answers
        assert answer.job is not None  # noqa: S101 - a race has no score that could answer it
        location = f"/jobs/{answer.job.id}"
        said = {"job": answer.job.id, "location": location, "status": answer.status.value}
        whole = b'%s,"refine":%s}' % (body[:-1], orjson.dumps(said))
        return RecordedResponse(status=200, headers={"Location": location}, body=whole)

    return desk.once(wanted, "POST /recommend", lambda: desk.take(race.draft), written)
