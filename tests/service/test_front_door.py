"""Which seconds /metrics counts of a request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse

from service.metrics import RequestMetrics
from service.middleware import STREAM, FrontDoor

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send


class Route:
    def __init__(self, path_format: str) -> None:
        self.path_format = path_format


class Open:
    """A gate that lets everybody in."""

    def admit(self, *_: object) -> None:
        pass


def observed(path_format: str, status: int = 200) -> dict[tuple[str, str, int], float]:
    """Seconds by route, method and status, of one request whose answer is followed by 0.2 s of work."""
    metrics = RequestMetrics()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = Route(path_format)
        later = BackgroundTask(time.sleep, 0.2)
        await PlainTextResponse("x", status, background=later)(scope, receive, send)

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(_: Message) -> None:
        pass

    door = FrontDoor(app, metrics=metrics, gate=Open(), max_body_bytes=9, max_upload_bytes=9)  # type: ignore[arg-type]
    scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
    anyio.run(door, scope, receive, send)
    _, latency = metrics.collect()
    return {
        (one.labels["route"], one.labels["method"], int(one.labels["status"])): one.value
        for one in latency.samples
        if one.name.endswith("_sum")
    }


def test_a_request_ends_with_its_answer() -> None:
    ((key, seconds),) = observed("/families/{id}").items()
    assert key == ("/families/{id}", "GET", 200)
    assert 0 < seconds < 0.2


def test_how_long_a_job_is_followed_is_no_latency() -> None:
    assert observed(STREAM) == {}
    assert set(observed(STREAM, 404)) == {(STREAM, "GET", 404)}
