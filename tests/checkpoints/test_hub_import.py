"""The importer of the hub, against a hub of our own on this machine."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import HfApi

from headstart.checkpoints.place import place_of
from headstart.evidence.ingest import ImportLimits, run_next
from tests.checkpoint_folders import CARD, CONFIG, PARAMETERS, TENSORS, make_folder, weights
from worker import hub_checkpoints

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headstart.entities import Checkpoint, Import
    from headstart.store import Store

COMMIT = "c" * 40
LIMITS = ImportLimits(roots=(), allow_private=False, max_rows=1000, max_bytes=1 << 20, lease_seconds=60.0)


@dataclass
class Hub:
    """Checkpoints of a folder each; `refuses` says with what header the hub turns a name away."""

    folders: dict[str, Path] = field(default_factory=dict)
    refuses: dict[str, tuple[int, str]] = field(default_factory=dict)
    knows_ranges: bool = True
    modified: dict[str, str] = field(default_factory=dict)  # name -> last commit
    sent: list[tuple[str, int]] = field(default_factory=list)  # (file, bytes)


class Answers(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/").split("/")
        if path[:2] == ["api", "models"]:
            self._tell("/".join(path[2:4]), path[5] if len(path) > 5 else "main")
        else:
            self._send("/".join(path[:2]), path[-1])

    def _tell(self, name: str, revision: str) -> None:
        code, reason = self.hub.refuses.get(name, (404, "RepoNotFound"))
        if name not in self.hub.folders:
            self._answer(code, b"{}", {"X-Error-Code": reason})
        elif revision not in ("main", COMMIT):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            files = [
                {"rfilename": file.name, "size": file.stat().st_size}
                for file in sorted(self.hub.folders[name].iterdir())
            ]
            told = {"id": name, "sha": COMMIT, "siblings": files, "lastModified": self.hub.modified.get(name)}
            self._answer(200, json.dumps(told).encode(), {})

    def _send(self, name: str, file: str) -> None:
        data = (self.hub.folders[name] / file).read_bytes()
        asked = self.headers.get("Range")
        if asked and self.hub.knows_ranges:
            data = data[: int(asked.rpartition("-")[2]) + 1]
        self.hub.sent.append((file, len(data)))
        self._answer(206 if asked and self.hub.knows_ranges else 200, data, {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # who asked has read enough

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Answers,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(hub_checkpoints, "HfApi", partial(HfApi, endpoint=url, token=False))
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def run(store: Store, source: str, **params: Any) -> Import:
    item = store.queue_import(store.create_import("hub-checkpoint", source, params).id)
    assert run_next(store, LIMITS, hub_checkpoints.IMPORTERS)
    return store.get_import(item.id)


def registered(store: Store, source: str, **params: Any) -> Checkpoint:
    done = run(store, source, **params)
    assert done.error is None
    assert done.report is not None
    return store.checkpoint(done.report.checkpoint_id or 0)


def test_a_checkpoint_is_read_and_pinned_to_its_commit(memory: Store, hub: Hub, tmp_path: Path) -> None:
    hub.folders["me/mine"] = make_folder(tmp_path / "mine", card=CARD)
    found = registered(memory, "me/mine", revision="main")
    assert (found.name, found.revision, found.family) == ("me/mine", COMMIT, "roberta-base")
    assert (found.parameters, found.license) == (PARAMETERS, "apache-2.0")
    assert found.details["head"] == "sequence classification with 3 labels"
    assert found.details["files"]["model.safetensors"] == len(weights())
    assert "last_modified" not in found.details, "the hub did not tell"
    assert (place_of(found).where, place_of(found).revision) == ("me/mine", COMMIT)
    assert registered(memory, "me/mine", revision=COMMIT, name="me/mine") == found


def test_when_a_checkpoint_was_last_committed_to(memory: Store, hub: Hub, tmp_path: Path) -> None:
    hub.modified["me/mine"] = "2022-08-04T10:36:41.000Z"
    hub.folders["me/mine"] = make_folder(tmp_path / "mine")
    registered(memory, "me/mine", family="f")
    found = memory.evidence("f")
    at = found.checkpoint_names.index("me/mine")
    modified = datetime(2022, 8, 4, 10, 36, 41, tzinfo=UTC).timestamp()
    assert (found.layers[at], found.classification[at], found.modified[at]) == (2, 1, modified)


def test_a_checkpoint_may_have_another_name_than_on_the_hub(memory: Store, hub: Hub, tmp_path: Path) -> None:
    hub.folders["me/mine"] = make_folder(tmp_path / "mine")
    found = registered(memory, "me/mine", name="ours", family="f")
    assert (found.name, found.family, place_of(found).where) == ("ours", "f", "me/mine")


def test_the_weights_are_not_downloaded(memory: Store, hub: Hub, tmp_path: Path) -> None:
    large = TENSORS | {"more": ("F32", [1000, 1000])}
    hub.folders["me/mine"] = make_folder(tmp_path / "mine", tensors=large)
    assert registered(memory, "me/mine").parameters == PARAMETERS + 1_000_000
    assert dict(hub.sent)["model.safetensors"] == hub_checkpoints.FIRST_BYTES


def test_a_long_header_is_read_whole_with_or_without_ranges(memory: Store, hub: Hub, tmp_path: Path) -> None:
    many = TENSORS | {f"adapter.{n}.{'x' * 100}": ("F32", [1]) for n in range(1000)}
    hub.folders["me/mine"] = make_folder(tmp_path / "mine", tensors=many)
    assert registered(memory, "me/mine").parameters == PARAMETERS + 1000
    hub.knows_ranges = False
    assert registered(memory, "me/mine").parameters == PARAMETERS + 1000


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ((404, "RepoNotFound"), "no checkpoint 'me/mine'"),
        ((403, "GatedRepo"), "accepted its terms"),
        ((404, "RevisionNotFound"), "at the revision 'v2'"),
        ((500, "Oops"), "could not be asked"),
    ],
)
def test_what_the_hub_does_not_give(memory: Store, hub: Hub, reason: tuple[int, str], said: str) -> None:
    hub.refuses["me/mine"] = reason
    done = run(memory, "me/mine", revision="v2")
    assert said in (done.error or "")
    assert memory.checkpoints().items == ()


def test_a_hub_that_does_not_answer(memory: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_checkpoints, "HfApi", partial(HfApi, endpoint="http://127.0.0.1:9", token=False))
    assert "could not be asked for 'me/mine'" in (run(memory, "me/mine").error or "")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config__json": json.dumps(CONFIG | {"auto_map": {"AutoModel": "x.Y"}}).encode()}, "never run"),
        ({"model__safetensors": weights()[:-1]}, "should hold"),
        ({"model__safetensors": b"\xff" * 8 + b"{}"}, "its header alone"),
        ({"config__json": b"[" * 100_000}, "no JSON"),
    ],
)
def test_a_checkpoint_that_lies(
    memory: Store, hub: Hub, tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    hub.folders["me/mine"] = make_folder(tmp_path / "mine", **files)
    assert said in (run(memory, "me/mine").error or "")
    assert memory.checkpoints().items == ()


def test_pickles_alone_are_refused(memory: Store, hub: Hub, tmp_path: Path) -> None:
    hub.folders["me/mine"] = make_folder(tmp_path / "mine", pytorch_model__bin=b"\x80")
    (tmp_path / "mine" / "model.safetensors").unlink()
    assert "pickles" in (run(memory, "me/mine").error or "")
