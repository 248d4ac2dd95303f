"""POST /imports from a source or an upload; GET /imports and one import, with its progress and report."""

import hashlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from headstart.entities import Import, RecordedResponse
from headstart.store import Store
from service import schemas
from service.deps import SettingsDep, StoreDep, WakeDep
from service.errors import documented
from service.idempotency import IdempotencyKey, RequestKey, answer_once
from service.uploads import Upload, check_source, is_multipart, read_body, read_upload
from service.validation import is_json, read_json, wrong_content_type

CHUNK = 1 << 20
TAKES = "application/json with a source, or multipart/form-data with files. Send one of them."
UPLOAD_FORM = {
    "type": "object",
    "required": ["kind", "files"],
    "properties": {
        "kind": {
            "type": "string",
            "enum": ["model-recycling", "table"],
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
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "Accepted. Follow it at `Location`.",
        "headers": {
            "Location": {"description": "Where the import is.", "schema": {"type": "string"}},
            "Retry-After": {"description": "Seconds to wait before looking.", "schema": {"type": "integer"}},
        },
    }
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
        async with read_upload(request) as upload:
            recorded, replayed = await run_in_threadpool(_from_upload, store, idempotency_key, upload)
    elif is_json(content_type):
        body = await read_body(request, settings.max_body_bytes)
        wanted = read_json(body, content_type, schemas.ImportRequest)
        source = await run_in_threadpool(check_source, wanted.source, settings.roots)
        recorded, replayed = await run_in_threadpool(
            _from_source, store, idempotency_key, wanted.kind, source
        )
    else:
        raise wrong_content_type(content_type, TAKES)
    wake()
    headers = {**recorded.headers, "Idempotent-Replayed": "true"} if replayed else recorded.headers
    return Response(recorded.body, recorded.status, headers, media_type="application/json")


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


def _from_source(
    store: Store, key: RequestKey | None, kind: str, source: str
) -> tuple[RecordedResponse, bool]:
    def create() -> RecordedResponse:
        return _accepted(store.queue_import(store.create_import(kind, source).id))

    digest = hashlib.sha256(json.dumps([kind, source]).encode()).hexdigest()
    return answer_once(store, key, "POST /imports", digest, create)


def _from_upload(store: Store, key: RequestKey | None, upload: Upload) -> tuple[RecordedResponse, bool]:
    def create() -> RecordedResponse:
        created = store.create_import(upload.kind, "upload")
        try:
            for name, file in upload.files.items():
                file.seek(0)
                while chunk := file.read(CHUNK):
                    store.append_upload(created.id, name, chunk)
            return _accepted(store.queue_import(created.id))
        except BaseException:
            store.delete_import(created.id)
            raise

    return answer_once(store, key, "POST /imports", upload.digest(), create)


def _accepted(created: Import) -> RecordedResponse:
    return RecordedResponse(
        status=202,
        headers={"Location": f"/imports/{created.id}", "Retry-After": "1"},
        body=schemas.Import.model_validate(created).model_dump_json().encode(),
    )
