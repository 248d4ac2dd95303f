"""Idempotency-Key on POSTs that create: the first answer is recorded and given again, to the same client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import structlog
from fastapi import Depends, Header
from pydantic import StringConstraints
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation

from headstart.errors import StoreUnavailable
from service.auth import KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import RecordedResponse
    from headstart.store import Store

_log = structlog.get_logger("headstart.service")

_Given = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._:-]+$")]
    | SkipJsonSchema[None],
    Header(
        description="Any name of yours for this request. Sent again with the same key and body, the first "
        "answer comes back with the header Idempotent-Replayed: true, and nothing is done twice."
    ),
]


@dataclass(frozen=True, slots=True)
class RequestKey:
    """An Idempotency-Key, and whose: two clients may think of the same one, and must not meet."""

    given: str
    owner: int | None  # id of the API key of who sent it

    def among(self, route: str) -> str:
        """The route as the store is told of it: one for each API key."""
        return route if self.owner is None else f"{route} by key {self.owner}"


async def _of_caller(request: Request, idempotency_key: _Given = None) -> RequestKey | None:
    if idempotency_key is None:
        return None
    key = request.scope.get(KEY)
    return RequestKey(idempotency_key, None if key is None else key.id)


IdempotencyKey = Annotated[RequestKey | None, Depends(_of_caller)]


def answer_once(
    store: Store, key: RequestKey | None, route: str, digest: str, make: Callable[[], RecordedResponse]
) -> tuple[RecordedResponse, bool]:
    """Return the answer and whether it is a replay. A request that fails gives its key back."""
    if key is None:
        return make(), False
    given, route = key.given, key.among(route)
    recorded = store.begin_request(given, route, digest)
    if recorded is not None:
        return recorded, True
    try:
        response = make()
    except BaseException:
        store.release_request(given, route)
        raise
    try:
        store.record_response(given, route, response)
    except StoreUnavailable as error:  # what was asked for is done, and whoever asked is to know
        _log.warning("answer_not_recorded", route=route, reason=error.message)
    return response, False
