"""What routes are given: the typed state of the lifespan, and pages of lists held in memory."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, TypedDict, TypeVar

from fastapi import Depends, Request

from headstart.entities import Page
from headstart.errors import InvalidInput, Problem
from headstart.method import Method
from headstart.settings import Settings
from headstart.store import Store
from service.doorbell import Doorbell
from service.feed import Feed
from service.importing import EmbeddedWorker
from service.metrics import Exposition
from service.schemas import PageQuery
from service.snapshot import Snapshots

T = TypeVar("T")


class State(TypedDict):
    """What the lifespan yields; the framework copies it onto `request.state`."""

    settings: Settings
    store: Store
    snapshots: Snapshots
    metrics: Exposition
    worker: EmbeddedWorker | None
    methods: Mapping[str, Method]
    doorbell: Doorbell
    feed: Feed


# Coroutines, since a plain function would cost a hop to the thread pool for an attribute.


async def _settings(request: Request) -> Settings:
    return request.state.settings  # type: ignore[no-any-return]


async def _store(request: Request) -> Store:
    return request.state.store  # type: ignore[no-any-return]


async def _snapshots(request: Request) -> Snapshots:
    return request.state.snapshots  # type: ignore[no-any-return]


async def _metrics(request: Request) -> Exposition:
    return request.state.metrics  # type: ignore[no-any-return]


async def _methods(request: Request) -> Mapping[str, Method]:
    return request.state.methods  # type: ignore[no-any-return]


async def _doorbell(request: Request) -> Doorbell:
    return request.state.doorbell  # type: ignore[no-any-return]


async def _feed(request: Request) -> Feed:
    return request.state.feed  # type: ignore[no-any-return]


async def _wake(request: Request) -> Callable[[], None]:
    worker: EmbeddedWorker | None = request.state.worker
    return worker.wake if worker is not None else _nobody


def _nobody() -> None:
    """Wake no one: the worker is another process and looks for itself."""


SettingsDep = Annotated[Settings, Depends(_settings)]
StoreDep = Annotated[Store, Depends(_store)]
SnapshotsDep = Annotated[Snapshots, Depends(_snapshots)]
MetricsDep = Annotated[Exposition, Depends(_metrics)]
MethodsDep = Annotated[Mapping[str, Method], Depends(_methods)]
DoorbellDep = Annotated[Doorbell, Depends(_doorbell)]
FeedDep = Annotated[Feed, Depends(_feed)]
WakeDep = Annotated[Callable[[], None], Depends(_wake)]


def page_of(items: Sequence[T], key: Callable[[T], str], query: PageQuery) -> Page[T]:
    """Cut a page out of a list held in memory; its token names the last item, so additions do no harm."""
    ordered = sorted(items, key=key)
    if query.page_token is not None:
        after = _decode(query.page_token)
        ordered = [item for item in ordered if key(item) > after]
    page = tuple(ordered[: query.page_size])
    more = len(ordered) > len(page)
    return Page(items=page, next_token=_encode(key(page[-1])) if more else None)


def _encode(key: str) -> str:
    return base64.urlsafe_b64encode(f"after:{key}".encode()).decode().rstrip("=")


def _decode(token: str) -> str:
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    if not text.startswith("after:"):
        what = "is not a token of this list. Leave it out to start at the first page."
        raise InvalidInput(f"page_token {token[:80]!r} {what}", [Problem("page_token", f"It {what}")])
    return text.removeprefix("after:")
