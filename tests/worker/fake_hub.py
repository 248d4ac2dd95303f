"""A hub on this machine that knows what snapshot_download asks: the commit, the files, their bytes."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Serves folders as repositories, each with one revision, "main" = COMMIT, and keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.folders: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.broken = False  # every answer is 503
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving() -> Iterator[FakeHub]:
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Answers(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.server.asked.append(f"{self.command} {path}")
        if self.server.broken:
            return self.fail(503, "")
        parts = path.removeprefix("api/models/").split("/")
        name, verb, revision, rest = "/".join(parts[:2]), parts[2], parts[3], "/".join(parts[4:])
        folder = self.server.folders.get(name)
        if folder is None:
            return self.fail(401, "RepoNotFound")
        if name in self.server.gated:
            return self.fail(403, "GatedRepo")
        if revision not in {"main", COMMIT}:
            return self.fail(404, "RevisionNotFound")
        if verb == "revision":
            return self.tell({"id": name, "sha": COMMIT, "siblings": []})
        if verb == "tree":
            return self.tell([_entry(folder, file) for file in sorted(folder.rglob("*")) if file.is_file()])
        if not (folder / rest).is_file():
            return self.fail(404, "EntryNotFound")
        return self.send(200, (folder / rest).read_bytes(), "application/octet-stream")

    def tell(self, answer: Any) -> None:
        self.send(200, json.dumps(answer).encode(), "application/json")

    def fail(self, status: int, code: str) -> None:
        self.send(status, b"{}", "application/json", {"X-Error-Code": code} if code else {})

    def send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        own = {"Content-Type": kind, "Content-Length": str(len(body)), "X-Repo-Commit": COMMIT}
        for key, value in {**own, "ETag": f'"{_etag(body)}"', **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def _entry(folder: Path, file: Path) -> dict[str, Any]:
    body = file.read_bytes()
    return {
        "type": "file",
        "path": file.relative_to(folder).as_posix(),
        "size": len(body),
        "oid": _etag(body),
    }


def _etag(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()
