"""A real service on a free port: uvicorn in a thread, a real store behind it."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

from headstart.entities import CheckpointDraft, ImportBatch, ImportReport, ScoreDraft, TargetDraft
from headstart.settings import Settings
from service.app import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstart.store import Store


@dataclass
class Live:
    url: str
    store: Store
    http: httpx.Client

    def problem(self, method: str, path: str, status: int, **arguments: Any) -> dict[str, Any]:
        """Send a request that must be answered by a problem of this status."""
        response = self.http.request(method, path, **arguments)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        body: dict[str, Any] = response.json()
        assert set(body) == {"type", "title", "status", "detail", "code", "request_id", "errors"}
        assert body["status"] == status
        assert body["request_id"] == response.headers["x-request-id"]
        assert body["detail"].endswith((".", "?"))
        return body

    def finished(self, import_id: int) -> dict[str, Any]:
        """Wait for an import to end."""
        for _ in range(200):
            body: dict[str, Any] = self.http.get(f"/imports/{import_id}").json()
            if body["finished_at"] is not None:
                return body
            time.sleep(0.05)
        raise AssertionError(f"import {import_id} does not end: {body}")


def settings(**given: Any) -> Settings:
    defaults: dict[str, Any] = {"starter": "", "embedded_worker": False, "snapshot_seconds": 0.05}
    return Settings(**defaults | given)


@contextmanager
def serving(store: Store, given: Settings) -> Iterator[Live]:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        create_app(given, store), http="httptools", log_level="critical", access_log=False, lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    for _ in range(500):
        if server.started:
            break
        time.sleep(0.01)
    assert server.started
    try:
        with httpx.Client(base_url=url, trust_env=False, timeout=20) as http:
            yield Live(url, store, http)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


def fill(store: Store) -> None:
    """Two families; one score in force on each checkpoint and target, one quarantined."""
    families = {"roberta-base": ("roberta-base", "alice/rob-mnli"), "org/bert": ("org/bert", "bob/bert-qa")}
    targets = ("rte", "mnli", "org/set")
    checkpoints = tuple(
        CheckpointDraft(family=family, name=name, is_vanilla=name == family, parameters=124_645_632)
        for family, names in families.items()
        for name in names
    )
    scores = tuple(
        ScoreDraft(family=c.family, checkpoint=c.name, target=target, method="finetune", value=0.5 + n / 20)
        for n, c in enumerate(checkpoints)
        for target in targets
    )
    doubtful = ScoreDraft(
        family="roberta-base",
        checkpoint="alice/rob-mnli",
        target="rte",
        method="finetune",
        value=0.123,
        quarantine="off_grid",
        quarantine_note="0.123 is not k/277.",
    )
    batch = ImportBatch(
        checkpoints=checkpoints,
        targets=tuple(TargetDraft(name=name) for name in targets),
        scores=(*scores, doubtful),
        report=ImportReport(rows_read=13),
    )
    created = store.create_import("table", "upload")
    store.queue_import(created.id)
    claimed = store.claim_import(60)
    assert claimed is not None
    assert store.finish_import(claimed.id, claimed.attempt, batch) is not None
