"""Idempotency-Key on POSTs that create: the first answer is recorded and given again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Header
from pydantic import StringConstraints
from pydantic.json_schema import SkipJsonSchema

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import RecordedResponse
    from headstart.store import Store

IdempotencyKey = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._:-]+$")]
    | SkipJsonSchema[None],
    Header(
        description="Any name of yours for this request. Sent again with the same key and body, the first "
        "answer comes back with the header Idempotent-Replayed: true, and nothing is done twice."
    ),
]


def answer_once(
    store: Store, key: str | None, route: str, digest: str, make: Callable[[], RecordedResponse]
) -> tuple[RecordedResponse, bool]:
    """Return the answer and whether it is a replay. A request that fails gives its key back."""
    if key is None:
        return make(), False
    recorded = store.begin_request(key, route, digest)
    if recorded is not None:
        return recorded, True
    try:
        response = make()
    except BaseException:
        store.release_request(key, route)
        raise
    store.record_response(key, route, response)
    return response, False
