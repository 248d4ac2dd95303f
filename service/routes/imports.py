"""POST /imports from a source or an upload; GET /imports and one import, with its progress and report."""

from typing import Annotated, Any, get_args

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from service import schemas
from service.accepting import ACCEPTED, accept_source
from service.deps import SettingsDep, StoreDep, WakeDep
from service.errors import documented
from service.forms import accept_upload, invalid, read_form
from service.idempotency import IdempotencyKey
from service.uploads import check_source, is_multipart, read_body
from service.validation import is_json, read_json, wrong_content_type

KINDS: tuple[str, ...] = get_args(schemas.Kind)
LONGEST_KIND = 4096  # bytes of the field `kind` of a form
REMEDY = (
    "Send a field 'kind' and one or more files named 'files', as `curl -F kind=table -F files=@FILE` does."
)
TAKES = "application/json with a source, or multipart/form-data with files. Send one of them."
UPLOAD_FORM = {
    "type": "object",
    "required": ["kind", "files"],
    "properties": {
        "kind": {
            "type": "string",
            "enum": list(KINDS),
            "description": "The form of the files.",
        },
        "files": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "format": "binary", "minLength": 1},
            "description": "One part per file, with its file name.",
        },
    },
    "additionalProperties": False,
}
REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/ImportRequest"}},
        "multipart/form-data": {"schema": UPLOAD_FORM},
    },
}

router = APIRouter(tags=["evidence"])


@router.post(
    "/imports",
    summary="Import scores",
    status_code=202,
    response_model=schemas.Import,
    responses={**documented(400, 403, 409, 415), **ACCEPTED},
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def create_import(
    request: Request,
    store: StoreDep,
    settings: SettingsDep,
    wake: WakeDep,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Import from a URL or folder (JSON), or from uploaded files (multipart). Runs in the background.

    Idempotent by content: what is stored already is counted as unchanged. All or nothing per import.
    """
    content_type = request.headers.get("content-type")
    if is_multipart(content_type):
        async with read_form(request, "kind", LONGEST_KIND, REMEDY) as form:
            if form.value not in KINDS:
                raise invalid("kind", f"Should be one of {', '.join(KINDS)}, but is {form.value[:80]!r}.")
            response = await run_in_threadpool(
                accept_upload, store, idempotency_key, "POST /imports", form, kind=form.value
            )
    elif is_json(content_type):
        body = await read_body(request, settings.max_body_bytes)
        wanted = read_json(body, content_type, schemas.ImportRequest)
        source = await run_in_threadpool(check_source, wanted.source, settings.roots)
        response = await run_in_threadpool(
            accept_source, store, idempotency_key, "POST /imports", kind=wanted.kind, source=source
        )
    else:
        raise wrong_content_type(content_type, TAKES)
    wake()
    return response


@router.get("/imports", summary="List the imports", responses=documented())
def list_imports(store: StoreDep, query: Annotated[schemas.PageQuery, Query()]) -> schemas.ImportPage:
    """All imports, oldest first."""
    page = store.imports(page_size=query.page_size, page_token=query.page_token)
    return schemas.ImportPage(
        items=[schemas.Import.model_validate(one) for one in page.items], next_page_token=page.next_token
    )


@router.get("/imports/{import_id}", summary="Show an import", responses=documented(404))
def show_import(store: StoreDep, import_id: Annotated[schemas.Id, Path(examples=[1])]) -> schemas.Import:
    """How far an import is and, when it has ended, what came of it."""
    return schemas.Import.model_validate(store.get_import(import_id))
