"""The application: routes, one middleware, one error table, and a lifespan that yields typed state."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from headstart import __version__
from headstart.methods import known_methods
from headstart.queue import open_queue
from service import schemas
from service.auth import Gate, Keys
from service.deps import State
from service.doorbell import Doorbell
from service.errors import add_error_handlers
from service.feed import Feed
from service.importing import EmbeddedWorker
from service.metrics import Exposition, RequestMetrics
from service.middleware import FrontDoor
from service.race_schemas import RaceResult
from service.region_schemas import RegionsResult
from service.routes import (
    checkpoints,
    deliveries,
    families,
    health,
    imports,
    jobs,
    methods,
    recommend,
    regions,
    scores,
    targets,
)
from service.snapshot import Snapshots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headstart.settings import Settings
    from headstart.store import Store

DESCRIPTION = (
    "Which base model should I start my finetune from? Answers at once from stored scores, with an interval "
    "and a probability. Errors are RFC 9457 problems whose detail says what to do."
)
# In the order they are tried: the hot one first; recommend and regions before families, whose path takes any
# slash.
ROUTERS = (
    recommend.router,
    regions.router,
    families.router,
    checkpoints.router,
    targets.router,
    scores.router,
    methods.router,
    imports.router,
    jobs.router,
    deliveries.router,
    health.router,
)


def create_app(settings: Settings, store: Store) -> FastAPI:
    """Build the app around an open store."""
    requests = RequestMetrics()
    known = known_methods(settings.methods)
    keys = Keys(store, settings.snapshot_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        snapshots = Snapshots(store, settings.snapshot_seconds)
        snapshots.start()
        keys.start()
        queue = open_queue(settings.broker.get_secret_value())
        worker = EmbeddedWorker(store, settings, queue, _to_stderr) if settings.embedded_worker else None
        doorbell = Doorbell(queue)
        feed = app.state.feed = Feed(store)  # a server that stops closes it first, since it waits for streams
        if worker is not None:
            worker.start()
        try:
            yield State(
                settings=settings,
                store=store,
                snapshots=snapshots,
                metrics=Exposition(requests, store, snapshots, doorbell, feed),
                worker=worker,
                methods=known,
                doorbell=doorbell,
                feed=feed,
            )
        finally:
            feed.close()
            if worker is not None:
                worker.stop()
            keys.stop()
            snapshots.stop()

    app = FastAPI(
        title="Headstart",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,  # a path that is not there is a 404 that says so
    )
    app.add_middleware(
        FrontDoor,
        metrics=requests,
        gate=Gate(settings, keys),
        max_body_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
    )
    add_error_handlers(app)
    # Laid flat and in front of the documentation's own routes: an included router is matched twice.
    app.router.routes[:0] = [route for router in ROUTERS for route in router.routes]
    _complete_openapi(app)
    return app


def _complete_openapi(app: FastAPI) -> None:
    """Add the schemas that no route names to FastAPI, since it does not build their answers or bodies."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _, extra = models_json_schema(
                [
                    (schemas.Problem, "serialization"),
                    (RaceResult, "serialization"),
                    (RegionsResult, "serialization"),
                    (schemas.ImportRequest, "validation"),
                ],
                ref_template="#/components/schemas/{model}",
            )
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(extra["$defs"])
            components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"bearer": []}, {}]  # whether a key is needed is the settings' to say
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
