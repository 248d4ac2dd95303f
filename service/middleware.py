"""The one middleware: request ids, API keys, body limits, counting, and answers to unexpected exceptions.

Pure ASGI, and short, since it is on the path of every /recommend: a pass over the headers, one
closure around `send`, and one around `receive` only where the length of the body is not announced.
"""

from __future__ import annotations

import re
import secrets
from http import HTTPStatus
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from headstart.errors import HeadstartError, TooLarge
from service.auth import KEY, Caller
from service.errors import REQUEST_ID, from_error, unexpected

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from service.auth import Gate
    from service.metrics import RequestMetrics

UPLOADS = frozenset({"/imports", "/targets"})
STREAM = "/jobs/{job_id}/events"
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_log = structlog.get_logger("headstart.service")


class FrontDoor:
    """See the module."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: RequestMetrics,
        gate: Gate,
        max_body_bytes: int,
        max_upload_bytes: int,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._gate = gate
        self._max_body = max_body_bytes
        self._max_upload = max_upload_bytes
        self._prefix = secrets.token_hex(6)
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        length, request_id, caller = self._read_headers(scope)
        scope[REQUEST_ID] = request_id.decode()
        added = [(b"x-request-id", request_id)]
        status = 0
        answered = 0.0

        async def send_with_id(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *added]
                await send(message)
            else:
                await send(message)
                answered = perf_counter()  # in the end the last part, before what runs after it

        limit = self._max_upload if scope["path"] in UPLOADS and scope["method"] == "POST" else self._max_body
        try:
            refusal = self._refusal(scope, caller, added, length, limit)
            if refusal is not None:
                await from_error(scope, refusal)(scope, receive, send_with_id)
            elif length is None:
                await self._app(scope, _counted(receive, limit), send_with_id)
            else:  # the server holds the client to the length it announced
                await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or 499
        except Exception:
            key = scope.get(KEY)
            about = {"path": scope["path"], "key": key and key.name}
            _log.exception("request_failed", request_id=scope[REQUEST_ID], **about)
            if status:
                raise  # half an answer is out: the server closes the connection
            await unexpected(scope)(scope, receive, send_with_id)
        finally:
            route = scope.get("route")
            name, method = (route.path_format, scope["method"]) if route is not None else ("other", "any")
            if name != STREAM or status != HTTPStatus.OK:  # how long a job is followed is nobody's latency
                self._metrics.observe(name, method, status, (answered or perf_counter()) - started)

    def _refusal(
        self,
        scope: Scope,
        caller: Caller,
        added: list[tuple[bytes, bytes]],
        length: int | None,
        limit: int,
    ) -> HeadstartError | None:
        """Why the request goes no further, if it does not."""
        try:
            self._gate.admit(scope, caller, added)
        except HeadstartError as error:
            return error
        return _too_large(limit) if length is not None and length > limit else None

    def _read_headers(self, scope: Scope) -> tuple[int | None, bytes, Caller]:
        length: int | None = None
        request_id = authorization = host = origin = None
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = int(value) if value.isdigit() and len(value) <= 18 else 1 << 62
            elif name == b"x-request-id" and _GIVEN_ID.fullmatch(value):
                request_id = value
            elif name == b"authorization":
                authorization = value
            elif name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        request_id = request_id or b"%s-%x" % (self._prefix.encode(), next(self._numbers))
        return length, request_id, Caller(authorization, host, origin)


def _counted(receive: Receive, limit: int) -> Receive:
    total = 0

    async def receive_within_limit() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit:
            # An HTTPException, since FastAPI turns any other into a 400 while it reads a body.
            raise HTTPException(413) from _too_large(limit)
        return message

    return receive_within_limit


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The body is larger than the {limit} bytes this route takes. Send less, or raise "
        f"HEADSTART_MAX_BODY_BYTES (HEADSTART_MAX_UPLOAD_BYTES for POST {' and '.join(sorted(UPLOADS))})."
    )
