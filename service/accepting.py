"""What the routes share that start an import: it is stored, answered 202, and answered once."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from fastapi import Response

from headstart.entities import Import, RecordedResponse
from service import schemas
from service.idempotency import RequestKey, answer_once

if TYPE_CHECKING:
    from headstart.store import Store

ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "Accepted. Follow it at `Location`.",
        "headers": {
            "Location": {"description": "Where the import is.", "schema": {"type": "string"}},
            "Retry-After": {"description": "Seconds to wait before looking.", "schema": {"type": "integer"}},
        },
    }
}


def accept_source(
    store: Store,
    key: RequestKey | None,
    route: str,
    *,
    kind: str,
    source: str,
    params: dict[str, Any] | None = None,
) -> Response:
    """Start an import of a source, unless the key was answered before."""

    def create() -> RecordedResponse:
        return accepted(store.queue_import(store.create_import(kind, source, params).id))

    same = [kind, source] if params is None else [kind, source, params]
    digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
    return answered(*answer_once(store, key, route, digest, create))


def accepted(created: Import) -> RecordedResponse:
    """The answer of an import that was released."""
    return RecordedResponse(
        status=202,
        headers={"Location": f"/imports/{created.id}", "Retry-After": "1"},
        body=schemas.Import.model_validate(created).model_dump_json().encode(),
    )


def answered(recorded: RecordedResponse, replayed: bool) -> Response:
    """The response, and whether it was given before."""
    headers = {**recorded.headers, "Idempotent-Replayed": "true"} if replayed else recorded.headers
    return Response(recorded.body, recorded.status, headers, media_type="application/json")
