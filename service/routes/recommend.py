"""POST /recommend, and the static ranking of a family."""

import csv
import io
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from headstart.errors import InvalidInput, NotFound, Problem, StoreUnavailable
from service import refining
from service.advice import answer
from service.advice_schemas import Advice, Question, RankedCheckpoint
from service.best import Best, Found
from service.board import ANY, Board
from service.deps import SnapshotsDep
from service.errors import documented
from service.outcome import Outcome
from service.schemas import Name, Page, PageQuery
from service.snapshot import FamilySnapshot, Snapshot, Snapshots

CHUNK = 500  # ranked rows written at a time
COLUMNS = (
    "rank",
    "checkpoint",
    "expected_gain",
    "low",
    "high",
    "p_beats_vanilla",
    "p_best",
    "expected_score",
    "targets_finetuned",
    "probed",
    "age_days",
    "parameters",
    "license",
)

router = APIRouter(tags=["advice"])


class _Answer(Response):
    """JSON bytes and an ETag, with the headers made by hand: half the cost of a plain Response."""

    def __init__(self, body: bytes, etag: str) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"etag", etag.encode()),
        ]


IF_NONE_MATCH: dict[str, Any] = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "ETags of answers at hand, or *: 304 if one of them still holds.",
    "schema": {"type": "string"},
}


class RankingQuery(PageQuery):
    """How much of a ranking, and in which form."""

    format: Literal["json", "csv"] = Field("json", description="csv holds the whole ranking, in one file.")


class Ranking(Page[RankedCheckpoint]):
    """One page of a static ranking."""

    evidence_version: int


def current(snapshots: Snapshots) -> Snapshot:
    """The snapshot to answer from."""
    if snapshots.current is None:
        raise StoreUnavailable(
            "The evidence is not loaded yet, since the store did not answer. Try again soon."
        )
    return snapshots.current


@router.post(
    "/recommend",
    summary="Which base model should I start from?",
    response_model=Advice,
    openapi_extra={"parameters": [IF_NONE_MATCH]},
    responses={
        **documented(400, 404, 409, 415),
        200: {
            "headers": {
                "ETag": {"schema": {"type": "string"}, "description": "Of this answer; none with `refine`."},
                "Location": {
                    "schema": {"type": "string"},
                    "description": "With `refine`: of the race's job.",
                },
            }
        },
        304: {"description": "The answer named by If-None-Match still holds."},
    },
)
async def recommend(question: Question, request: Request) -> Response:
    """Rank the checkpoints for a target known, described or not told at all.

    Answered from memory: gains with an 80 % interval, the probability to beat the vanilla, and a verdict.
    With `refine` a race is started as well; that takes a key of scope `run`, and has no ETag.
    """
    # State and header are read by hand: as dependencies they cost more than the answer itself.
    scope = request.scope
    if question.refine or question.budget_seconds or question.budget_runs:
        return await _refined(question, request)
    body, etag = answer(current(scope["state"]["snapshots"]), question, await request.body())
    for name, held in scope["headers"]:
        if name == b"if-none-match" and _names(held.decode("latin-1"), etag):
            return Response(status_code=304, headers={"etag": etag})
    return _Answer(body, etag)


async def _refined(question: Question, request: Request) -> Response:
    """The answer, made first and as ever, and the race that is asked for beside it. Never a 304."""
    plain = refining.check(question, request)
    snapshot = current(request.scope["state"]["snapshots"])
    body, _ = answer(snapshot, plain, plain.model_dump_json(exclude_none=True).encode())
    return await run_in_threadpool(refining.refined, question, request, snapshot, body)


def _names(held: str, etag: str) -> bool:
    """Whether an If-None-Match names the tag: among several, weakly, or as any at all (RFC 9110, 13.1.2)."""
    tags = [one.strip().removeprefix("W/") for one in held.split(",")]
    return etag in tags or tags == ["*"]


@router.get(
    "/families/{name:path}/ranking",
    summary="The static ranking of a family",
    response_model=Ranking,
    responses={
        **documented(404),
        200: {"content": {"text/csv": {"schema": {"type": "string"}}}},
    },
)
def show_ranking(
    snapshots: SnapshotsDep,
    name: Annotated[Name, Path(description="Its name, slashes included.", examples=["roberta-base"])],
    query: Annotated[RankingQuery, Query()],
) -> Response:
    """All checkpoints of the family for a target nobody described, best first; as JSON pages or one CSV."""
    snapshot = current(snapshots)
    family = snapshot.families.get(name)
    if family is None:
        raise NotFound("family", name, snapshot.families)
    shared = family.board()
    board = Board(family, shared.view, shared.standing)  # its own: this runs beside the event loop
    best = Best([board], Outcome([board], [board.entrants(ANY)]))
    if query.format == "csv":
        return StreamingResponse(_csv(family, best), media_type="text/csv; charset=utf-8")
    (board,), start = best.boards, _start(query.page_token, snapshot.evidence_version)
    stop = start + query.page_size
    items = [
        {"rank": start + k + 1, **orjson.loads(best.candidate(Found(0, entry)))}
        for k, entry in enumerate(board.entries(board.ranking()[start:stop].tolist()))
    ]
    more = stop < len(board.ranking())
    page = {
        "items": items,
        "next_page_token": f"{snapshot.evidence_version}-{stop}" if more else None,
        "evidence_version": snapshot.evidence_version,
    }
    return Response(orjson.dumps(page), media_type="application/json")


def _start(token: str | None, evidence_version: int) -> int:
    if token is None:
        return 0
    version, _, start = token.partition("-")
    if not (
        version.isascii() and version.isdigit() and start.isascii() and start.isdigit() and len(start) < 12
    ):
        what = "It is not a token of this list. Leave it out to start at the first page."
        raise InvalidInput(f"page_token {token[:80]!r}: {what}", [Problem("page_token", what)])
    if int(version) != evidence_version:
        what = "The ranking has changed since. Leave it out to start again."
        raise InvalidInput(f"page_token {token[:80]!r}: {what}", [Problem("page_token", what)])
    return int(start)


def _csv(family: FamilySnapshot, best: Best) -> Iterator[str]:
    """The whole ranking, some rows at a time. The family is held to the end, since no board holds it."""
    (board,) = best.boards
    ranking = board.ranking()
    yield ",".join(COLUMNS) + "\r\n"
    for start in range(0, len(family.order), CHUNK):
        text = io.StringIO()
        writer = csv.writer(text)
        for k, entry in enumerate(board.entries(ranking[start : start + CHUNK].tolist())):
            writer.writerow(_csv_row(start + k + 1, orjson.loads(best.candidate(Found(0, entry)))))
        yield text.getvalue()


def _csv_row(rank: int, one: dict[str, Any]) -> list[Any]:
    checkpoint, evidence = one["checkpoint"], one["evidence"]
    return [
        rank,
        checkpoint["name"],
        one["expected_gain"],
        *one["gain_interval"],
        one["p_beats_vanilla"],
        one["p_best"],
        one["expected_score"],
        evidence["targets_finetuned"],
        evidence["probed"],
        evidence["age_days"],
        checkpoint["parameters"],
        checkpoint["license"],
    ]
