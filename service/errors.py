"""Errors on the wire: one table from error class to status, one shape for every problem.

Every error answer is RFC 9457 `application/problem+json`. The detail is a sentence that names the value
and the remedy; it never holds a traceback, and every string in it is clean UTF-8 of bounded length.

UnreadableBody, UnsupportedMediaType are the two errors of HTTP itself that have no place in
`headstart.errors`: the bytes of the request could not be read, or are of another kind.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from headstart import errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import FastAPI
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.types import Scope

REQUEST_ID = "headstart.request_id"  # key of the scope, set by the middleware
DETAIL_LENGTH = 1000
MESSAGE_LENGTH = 500
MOST_PROBLEMS = 50


class UnreadableBody(errors.InvalidInput):
    """A body whose bytes are not what they claim to be: not UTF-8, not JSON, not multipart."""

    code = "unreadable_body"


class UnsupportedMediaType(errors.InvalidInput):
    """A body of another kind than the route takes."""

    code = "unsupported_media_type"


STATUS: dict[type[errors.HeadstartError], int] = {
    errors.NotFound: 404,
    errors.InvalidInput: 422,
    errors.BrokenFile: 422,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.RateLimited: 429,
    errors.Unreachable: 502,
    errors.StoreUnavailable: 503,
    UnreadableBody: 400,
    UnsupportedMediaType: 415,
    errors.HeadstartError: 500,
}
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "2"}}
_CODES = {400: "unreadable_body", 404: "no_route", 405: "method_not_allowed", 413: "too_large"}


def clean(text: str, length: int) -> str:
    """Return `text` as it can stand in JSON: no lone surrogates, no control characters, bounded."""
    text = text if len(text) <= length else text[: length - 1] + "…"
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c >= " " or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def problem(
    scope: Scope,
    status: int,
    code: str,
    detail: str,
    *,
    problems: Sequence[errors.Problem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Build the one shape of every error answer."""
    body = {
        "type": f"urn:headstart:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": clean(detail, DETAIL_LENGTH),
        "code": code,
        "request_id": scope.get(REQUEST_ID, ""),
        "errors": [
            {"field": clean(p.field, 200), "message": clean(p.message, MESSAGE_LENGTH)}
            for p in problems[:MOST_PROBLEMS]
        ],
    }
    return Response(
        json.dumps(body, ensure_ascii=False).encode(),
        status_code=status,
        headers={**HEADERS.get(status, {}), **(headers or {})},
        media_type="application/problem+json",
    )


def status_of(error: errors.HeadstartError) -> int:
    """Look the error's class, or its nearest base, up in the table."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def from_error(scope: Scope, error: errors.HeadstartError) -> Response:
    """Answer with an error that is meant for people."""
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, errors.RateLimited) else None
    status = status_of(error)
    return problem(scope, status, error.code, error.message, problems=error.problems, headers=headers)


def unexpected(scope: Scope) -> Response:
    """Answer where we failed: the request id is what the log is searched by."""
    request_id = scope.get(REQUEST_ID, "")
    detail = f"The service failed on this request. Please report it with the request id {request_id}."
    return problem(scope, 500, "internal", detail)


async def _on_headstart_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.HeadstartError)  # noqa: S101 - registered for this class
    return from_error(request.scope, error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    from service.validation import from_request_validation  # noqa: PLC0415 - it imports this module

    return from_error(request.scope, from_request_validation(request, error))  # type: ignore[arg-type]


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the framework refused: no route, no such method, a body it could not read."""
    exc: HTTPException = error  # type: ignore[assignment]
    scope, status = request.scope, exc.status_code
    path = clean(request.url.path, 200)
    headers = dict(exc.headers or {})
    code = _CODES.get(status, HTTPStatus(status).phrase.lower().replace(" ", "_"))
    if status == 404:
        detail = f"There is no route {path!r}. The routes are listed at GET /docs and GET /openapi.json."
    elif status == 405:
        headers["Allow"] = ", ".join(allowed_methods(request))
        detail = f"{request.method} is not allowed on {path!r}; allowed: {headers['Allow']}."
    elif isinstance(cause := exc.__cause__, errors.HeadstartError):
        return from_error(scope, cause)
    elif status == 400 and isinstance(cause, Exception):
        from service.validation import unreadable  # noqa: PLC0415 - it imports this module

        return from_error(scope, unreadable(cause))
    else:
        detail = exc.detail if exc.detail.endswith(".") else f"{exc.detail}."
    return problem(scope, status, code, detail, headers=headers)


def allowed_methods(request: Request) -> list[str]:
    """List every method that some route takes on this path (RFC 9110 wants all of them)."""
    matching = [route for route in request.app.routes if route.path_regex.match(request.url.path)]
    allowed: set[str] = set()
    for route in matching:
        if route.path == matching[0].path:  # the first one that matches is asked, here too
            allowed |= route.methods or set()
    return sorted(allowed)


def add_error_handlers(app: FastAPI) -> None:
    """Register the handlers; unexpected exceptions are the middleware's."""
    from fastapi.exceptions import RequestValidationError  # noqa: PLC0415 - keeps CLI imports light
    from starlette.exceptions import HTTPException  # noqa: PLC0415

    app.add_exception_handler(errors.HeadstartError, _on_headstart_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries of the problems a route can answer with, beside those every route can."""
    reference = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": _DESCRIPTIONS[status], "content": {"application/problem+json": reference}}
        for status in sorted({*statuses, 401, 403, 413, 422, 429, 500, 503})
    }


_DESCRIPTIONS = {
    400: "The body cannot be read; the detail says where.",
    401: "An API key is needed, or the one given is not in force.",
    403: "The API key's scope is too small, or the settings do not allow it.",
    404: "No such thing; the nearest known names are in the detail.",
    409: "At odds with what the store holds.",
    413: "The body is over the limit.",
    415: "The body is of another content type than the route takes.",
    422: "Input that can never work; each field is named in `errors`.",
    429: "More requests than the API key may send; try again after `Retry-After` seconds.",
    500: "A failure of ours; the request id finds it in the log.",
    502: "A source cannot be read.",
    503: "The store does not answer; try again after `Retry-After` seconds.",
}
