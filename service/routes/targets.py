"""GET /targets and one target; POST /targets makes one of a path, the hub, or uploaded files.

POST /targets/{target_id}/race finds out which checkpoint is the best start on one.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from headstart.errors import Forbidden, InvalidInput, Problem
from headstart.settings import Settings
from service import job_schemas, races, schemas
from service.accepting import ACCEPTED, accept_source
from service.asked import Grounds
from service.deps import SettingsDep, SnapshotsDep, StoreDep, WakeDep
from service.errors import documented
from service.forms import accept_upload, invalid, read_form
from service.idempotency import IdempotencyKey
from service.race_schemas import RacePrice, RaceRequest
from service.routes.jobs import ACCEPTED as JOB_ACCEPTED
from service.routes.jobs import DeskDep, written
from service.routes.recommend import current
from service.target_schemas import TargetDetail, TargetOptions, TargetRequest, inlined_schema
from service.uploads import check_source, is_multipart, read_body
from service.validation import is_json, read_json, wrong_content_type

JSON = "application/json"
LONGEST_OPTIONS = 1 << 16  # bytes of the field `target` of a form
TAKES = "application/json with a path or hub, or multipart/form-data with files. Send one of them."
REMEDY = (
    "Send a field 'target' and one or more files named 'files', as "
    """`curl -F 'target={"name": "NAME"}' -F files=@train.csv -F files=@test.csv` does."""
)
UPLOAD_FORM = {
    "type": "object",
    "required": ["target", "files"],
    "properties": {
        "target": inlined_schema(TargetOptions) | {"description": "As JSON text."},
        "files": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "format": "binary", "minLength": 1},
            "description": "A single one, or one named train, validation or test for each role: CSV, JSONL "
            "or Parquet, perhaps gzipped.",
        },
    },
    "additionalProperties": False,
}
REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        JSON: {"schema": inlined_schema(TargetRequest)},
        "multipart/form-data": {"schema": UPLOAD_FORM},
    },
}

router = APIRouter(tags=["catalogue"])


@router.get("/targets", summary="List the targets", responses=documented())
def list_targets(store: StoreDep, query: Annotated[schemas.TargetQuery, Query()]) -> schemas.TargetPage:
    """All known targets, oldest first; or by a part of the name."""
    page = store.targets(search=query.search, page_size=query.page_size, page_token=query.page_token)
    return schemas.TargetPage(
        items=[schemas.Target.model_validate(one) for one in page.items], next_page_token=page.next_token
    )


@router.post(
    "/targets",
    summary="Make a target of rows",
    status_code=202,
    response_model=schemas.Import,
    responses={**documented(400, 403, 409, 415), **ACCEPTED},
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def create_target(
    request: Request,
    store: StoreDep,
    settings: SettingsDep,
    wake: WakeDep,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Read rows from a path or the hub (JSON), or from uploaded files (multipart), so that it can be probed.

    Runs as an import; its report names the `target_id`. The same rows again change nothing. A dataset of the
    hub waits for a worker.
    """
    content_type = request.headers.get("content-type")
    if is_multipart(content_type):
        async with read_form(request, "target", LONGEST_OPTIONS, REMEDY) as form:
            options = _options(form.value)
            response = await run_in_threadpool(
                accept_upload,
                store,
                idempotency_key,
                "POST /targets",
                form,
                kind="target",
                params=options.spec(),
            )
    elif is_json(content_type):
        body = await read_body(request, settings.max_body_bytes)
        wanted = read_json(body, content_type, TargetRequest)
        kind, source = await run_in_threadpool(_source, wanted, settings)
        response = await run_in_threadpool(
            accept_source,
            store,
            idempotency_key,
            "POST /targets",
            kind=kind,
            source=source,
            params=wanted.spec(),
        )
    else:
        raise wrong_content_type(content_type, TAKES)
    wake()
    return response


@router.get("/targets/{target_id}", summary="Show a target", responses=documented(404))
def show_target(store: StoreDep, target_id: Annotated[schemas.Id, Path(examples=[1])]) -> TargetDetail:
    """One target by its id, with the profile of its rows."""
    return TargetDetail.model_validate(store.target(target_id))


@router.post(
    "/targets/{target_id}/race",
    summary="Race a family's checkpoints on a target",
    tags=["jobs"],
    status_code=202,
    response_model=job_schemas.Submission,
    responses={
        **documented(400, 404, 409, 415),
        **JOB_ACCEPTED,
        200: {"model": RacePrice, "description": "With `dry_run`: what it would cost."},
    },
)
def race_on_target(
    desk: DeskDep,
    snapshots: SnapshotsDep,
    target_id: Annotated[schemas.Id, Path(examples=[1])],
    body: RaceRequest,
) -> Response:
    """Queue a race: the vanilla first, then whoever may beat it, each only as far as it helps to decide.

    Its job ends with a verdict in `result` (RaceResult), and the score of every run that came to its end is
    evidence. An equal race that is under way is joined.
    """
    race = races.plan(Grounds(desk.store, current(snapshots), desk.signed), target_id, body)
    if body.dry_run:
        price = races.price(desk.store, race)
        return Response(price.model_dump_json(), media_type=JSON)
    route = f"POST /targets/{target_id}/race"
    return desk.once(body, route, lambda: desk.take(race.draft), written)


def _options(text: str) -> TargetOptions:
    """The field of a form; what is wrong in it is named as `target.FIELD`."""
    try:
        return read_json(text.encode("utf-8", "surrogateescape"), JSON, TargetOptions)
    except InvalidInput as error:
        if not error.problems:
            raise invalid("target", f"{error.message} {REMEDY}") from None
        problems = [Problem(f"target.{one.field}", one.message) for one in error.problems]
        raise InvalidInput(f"target.{error.message}", problems) from None


def _source(wanted: TargetRequest, settings: Settings) -> tuple[str, str]:
    """The kind of the import, and its source as it will be read."""
    if wanted.hub is not None:
        return "hub-target", wanted.hub.id
    try:
        return "target", check_source(wanted.path or "", settings.roots)
    except (Forbidden, InvalidInput) as error:
        message = error.message.removeprefix("source: ")
        raise type(error)(message, [Problem("path", message)]) from None
