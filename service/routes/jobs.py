"""POST /jobs and /jobs/batch; jobs listed, shown, cancelled, tried again, and followed as they run."""

import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, BackgroundTasks, Depends, Header, Path, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel
from pydantic.json_schema import SkipJsonSchema
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from headstart.entities import JobDraft, JobState, RecordedResponse, Submission, SubmissionStatus
from headstart.method import Method
from headstart.settings import Settings
from headstart.store import Store
from service import job_schemas as wire
from service.deps import DoorbellDep, FeedDep, SettingsDep, StoreDep
from service.doorbell import Doorbell
from service.errors import REQUEST_ID, documented
from service.feed import ENDED, Listener
from service.idempotency import IdempotencyKey, RequestKey, answer_once
from service.jobs import Known, foresee, submit
from service.pricing import Price, Quote, quotes, rates_of, together
from service.schemas import Id

HEADERS: dict[str, Any] = {
    "Location": {"description": "Where to look.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait before looking.", "schema": {"type": "integer"}},
}
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"description": "Accepted. Follow it at `Location`.", "headers": HEADERS}
}
RETRY_AFTER = {"Retry-After": "1"}

router = APIRouter(tags=["jobs"])
JobId = Annotated[Id, Path(examples=[1])]
_log = structlog.get_logger("headstart.service")


@dataclass(frozen=True, slots=True)
class Desk:
    """Takes what is to be measured: what POST /jobs and POST /jobs/batch share."""

    store: Store
    settings: Settings
    methods: Mapping[str, Method]
    doorbell: Doorbell
    request_id: str
    idempotency_key: RequestKey | None

    def answer(
        self,
        body: BaseModel,
        route: str,
        wanted: Sequence[wire.JobRequest],
        places: Sequence[str],
        written: Callable[[Sequence[Submission]], RecordedResponse],
    ) -> Response:
        """Submit all of `wanted` or none, once, and wake workers after the answer is sent."""
        return self.once(body, route, lambda: self._submit(wanted, places), written)

    def once(
        self,
        body: BaseModel,
        route: str,
        take: Callable[[], Sequence[Submission]],
        written: Callable[[Sequence[Submission]], RecordedResponse],
    ) -> Response:
        """Answer by what `take` submits, once, and wake workers after the answer is sent."""
        new: list[tuple[int, str]] = []

        def make() -> RecordedResponse:
            answers = take()
            self._note(answers)
            new.extend(
                (one.job.id, one.job.queue)
                for one in answers
                if one.job is not None and one.status is SubmissionStatus.QUEUED
            )
            return written(answers)

        same = json.dumps(body.model_dump(), sort_keys=True).encode()
        digest = hashlib.sha256(same).hexdigest()
        recorded, replayed = answer_once(self.store, self.idempotency_key, route, digest, make)
        headers = recorded.headers | ({"Idempotent-Replayed": "true"} if replayed else {})
        ring = BackgroundTask(self.doorbell.ring, new) if new else None
        return Response(recorded.body, recorded.status, headers, "application/json", ring)

    def take(self, draft: JobDraft) -> tuple[Submission, ...]:
        """Submit a draft that was checked."""
        return self.store.submit_jobs(
            [draft], attempts=self.settings.job_attempts, request_id=self.request_id
        )

    def quotes(self, wanted: Sequence[wire.JobRequest], places: Sequence[str]) -> tuple[Quote, ...]:
        """What all of `wanted` would take; it is checked as ever, and nothing is stored."""
        known = Known.of(self.store, self.methods, wanted, signed=self.signed)
        return quotes(rates_of(self.store), foresee(known, wanted, places))

    @property
    def signed(self) -> bool:
        """Whether webhooks are signed, so that jobs may have one."""
        return bool(self.settings.webhook_secret.get_secret_value())

    def _submit(self, wanted: Sequence[wire.JobRequest], places: Sequence[str]) -> tuple[Submission, ...]:
        known = Known.of(self.store, self.methods, wanted, signed=self.signed)
        return submit(known, wanted, places, attempts=self.settings.job_attempts, request_id=self.request_id)

    def _note(self, answers: Sequence[Submission]) -> None:
        log = _log.bind(request_id=self.request_id)
        if len(answers) == 1 and answers[0].job is not None:
            log = log.bind(job_id=answers[0].job.id)
        log.info("jobs_submitted", **Counter(one.status.value for one in answers))


def desk_of(request: Request, idempotency_key: RequestKey | None = None) -> Desk:
    """The desk that a request is served at."""
    scope = request.scope
    state = scope["state"]
    return Desk(
        state["store"],
        state["settings"],
        state["methods"],
        state["doorbell"],
        scope[REQUEST_ID],
        idempotency_key,
    )


async def _desk(request: Request, idempotency_key: IdempotencyKey = None) -> Desk:
    return desk_of(request, idempotency_key)


DeskDep = Annotated[Desk, Depends(_desk)]


@router.post(
    "/jobs",
    summary="Measure a checkpoint on a target",
    status_code=202,
    response_model=wire.Submission,
    responses={
        **documented(400, 404, 409, 415),
        **ACCEPTED,
        200: {
            "model": wire.Submission | wire.DryRun,
            "description": "The score is there: no job is needed. Or, with `dry_run`, what it would take.",
        },
    },
)
def create_job(desk: DeskDep, body: wire.SingleRequest) -> Response:
    """Queue a job; or join the equal one that is under way; or answer with the score, if there is one.

    A worker runs it. The answer does not wait for one. With `dry_run`, tell what it would take instead.
    """
    if body.dry_run:
        return _priced(wire.DryRun, desk.quotes([body], [""]))
    return desk.answer(body, "POST /jobs", [body], [""], written)


@router.post(
    "/jobs/batch",
    summary="Measure many at once",
    status_code=202,
    response_model=wire.SubmissionBatch,
    responses={
        **documented(400, 404, 409, 415),
        200: {"model": wire.BatchDryRun, "description": "With `dry_run`: what they would take."},
        202: {"description": "All of them were taken."},
    },
)
def create_jobs(desk: DeskDep, body: wire.BatchRequest) -> Response:
    """Submit up to 1,000 in one transaction: all of them, or none where one is wrong. See POST /jobs."""
    places = [f"jobs.{at}." for at in range(len(body.jobs))]
    if body.dry_run:
        found = desk.quotes(body.jobs, places)
        items = [wire.PricedJob(status=one.status, **_price(one.price)) for one in found]
        return _priced(wire.BatchDryRun, found, items=items)
    return desk.answer(body, "POST /jobs/batch", body.jobs, places, _all_written)


@router.get("/jobs", summary="List the jobs", responses=documented(404))
def list_jobs(store: StoreDep, query: Annotated[wire.JobQuery, Query()]) -> wire.JobPage:
    """All jobs, oldest first; the ended ones are kept."""
    page = store.jobs(
        state=query.state,
        method=query.method,
        checkpoint_id=query.checkpoint_id,
        target_id=query.target_id,
        page_size=query.page_size,
        page_token=query.page_token,
    )
    return wire.JobPage(
        items=[wire.Job.model_validate(one) for one in page.items], next_page_token=page.next_token
    )


@router.get("/jobs/{job_id:int}", summary="Show a job", responses=documented(404))
def show_job(store: StoreDep, job_id: JobId) -> wire.Job:  # the path takes numbers alone: not "batch"
    """How far a job is and, when it has ended, what came of it."""
    return wire.Job.model_validate(store.job(job_id))


@router.post(
    "/jobs/{job_id}/cancel",
    summary="Cancel a job",
    responses={
        **documented(404, 409),
        200: {"description": "It is cancelled."},
        202: {"model": wire.Job, "description": "Its worker is asked to stop.", "headers": HEADERS},
    },
)
def cancel_job(request: Request, store: StoreDep, response: Response, job_id: JobId) -> wire.Job:
    """End a waiting job, or ask the worker of a running one to stop. Doing so again changes nothing."""
    job = store.cancel_job(job_id)
    if job.state is JobState.RUNNING:
        response.status_code = 202
        response.headers.update({"Location": f"/jobs/{job_id}"} | RETRY_AFTER)
    _log.info("job_cancelled", request_id=request.scope[REQUEST_ID], job_id=job_id, state=job.state)
    return wire.Job.model_validate(job)


@router.post(
    "/jobs/{job_id}/retry",
    summary="Try a job again",
    status_code=202,
    responses={**documented(404, 409), **ACCEPTED},
)
def retry_job(
    request: Request,
    store: StoreDep,
    settings: SettingsDep,
    doorbell: DoorbellDep,
    background: BackgroundTasks,
    response: Response,
    job_id: JobId,
) -> wire.Job:
    """Queue a failed or cancelled job again, with all its attempts; 409 for any other."""
    request_id: str = request.scope[REQUEST_ID]
    job = store.retry_job(job_id, attempts=settings.job_attempts, request_id=request_id)
    background.add_task(doorbell.ring, [(job.id, job.queue)])
    response.headers.update({"Location": f"/jobs/{job_id}"} | RETRY_AFTER)
    _log.info("job_retried", request_id=request_id, job_id=job_id)
    return wire.Job.model_validate(job)


LastEventId = Annotated[
    wire.Revision | SkipJsonSchema[None],
    Header(description="Id of the last event seen: what came after it is sent, and what comes."),
]
After = Annotated[
    wire.Revision | SkipJsonSchema[None],
    Query(description="The same, for clients that cannot set the header, which goes before."),
]


@dataclass(frozen=True, slots=True)
class Resumed:
    """Someone who listens to a job, from a revision on."""

    listener: Listener
    after: int


async def _resumed(
    store: StoreDep,
    feed: FeedDep,
    response: Response,
    job_id: JobId,
    last_event_id: LastEventId = None,
    after: After = None,
) -> AsyncIterator[Resumed]:
    # Outside of the stream, where an error still has an answer and the end is certain to be noticed.
    with feed.listen(job_id) as listener:
        job = await run_in_threadpool(store.job, job_id)
        seen = min(job.revision, last_event_id if last_event_id is not None else after or 0)
        if seen == job.revision and job.state in ENDED:
            response.status_code = 204
        yield Resumed(listener, seen)


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow a job",
    response_class=EventSourceResponse,
    responses={
        **documented(404),
        200: {"description": "Server-sent events; a comment every 15 seconds keeps the connection."},
        204: {"description": "The job has ended, and nothing came after: do not connect again."},
    },
)
async def follow_job(resumed: Annotated[Resumed, Depends(_resumed)]) -> AsyncIterator[wire.JobEvent]:
    """Every change of state (`event: state`), and of progress the newest (`event: progress`), as they come.

    The stream ends when the job has. Broken off, it goes on by `Last-Event-ID`.
    """
    async for kind, event in resumed.listener.events(resumed.after):
        yield ServerSentEvent(  # type: ignore[misc]
            data=wire.JobEvent.model_validate(event), event=kind, id=str(event.revision)
        )


def written(answers: Sequence[Submission]) -> RecordedResponse:
    """The answer to a single request."""
    (answer,) = answers
    status, headers = 202, dict(RETRY_AFTER)
    if answer.score is not None:
        status, headers = 200, {"Location": f"/scores/{answer.score.id}"}
    elif answer.job is not None:
        headers["Location"] = f"/jobs/{answer.job.id}"
    body = wire.Submission.model_validate(answer).model_dump_json().encode()
    return RecordedResponse(status=status, headers=headers, body=body)


def _priced(answer: type[wire.DryRun], found: Sequence[Quote], **more: Any) -> Response:
    counts = Counter(one.status for one in found)
    body = answer(
        **_price(together(one.price for one in found)),
        jobs=counts[SubmissionStatus.QUEUED],
        joined=counts[SubmissionStatus.JOINED],
        scored=counts[SubmissionStatus.SCORED],
        **more,
    )
    return Response(body.model_dump_json(), media_type="application/json")


def _price(price: Price) -> dict[str, Any]:
    """A price as it is told."""
    return {
        "seconds": round(price.seconds, 1),
        "interval": (round(price.low, 1), round(price.high, 1)),
        "basis": price.basis,
        "device": price.device,
    }


def _all_written(answers: Sequence[Submission]) -> RecordedResponse:
    counts = Counter(one.status.value for one in answers)
    batch = wire.SubmissionBatch(
        items=[wire.Submission.model_validate(one) for one in answers],
        counts=wire.Counts(**{status.value: counts[status.value] for status in SubmissionStatus}),
    )
    return RecordedResponse(status=202, headers={}, body=batch.model_dump_json().encode())
