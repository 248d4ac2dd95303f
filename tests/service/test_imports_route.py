from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from live_service import Live, serving, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headstart.store import Store

TABLE = b"checkpoint,family,target,method,value\nme/x,roberta-base,rte,finetune,0.5\n"


@pytest.fixture
def live(store: Store, roots: Path) -> Iterator[Live]:
    """A service of its own over an empty store, without a worker: what is released stays queued."""
    with serving(store, settings(roots=(roots,), max_upload_bytes=3_000_000)) as live:
        yield live


def upload(live: Live, kind: str = "table", name: str = "t.csv", data: bytes = TABLE, **more: Any) -> Any:
    return live.http.post("/imports", data={"kind": kind}, files=[("files", (name, data))], **more)


def stored(live: Live, import_id: int) -> dict[str, bytes]:
    store = live.store
    return {name: b"".join(store.read_upload(import_id, name)) for name in store.uploads(import_id)}


def test_an_upload_is_stored_and_accepted(live: Live) -> None:
    response = upload(live)
    assert response.status_code == 202, response.text
    body = response.json()
    assert response.headers["location"] == f"/imports/{body['id']}"
    assert response.headers["retry-after"] == "1"
    assert (body["kind"], body["source"], body["state"]) == ("table", "upload", "queued")
    assert live.http.get(response.headers["location"]).json() == body
    assert stored(live, body["id"]) == {"t.csv": TABLE}


def test_several_files_of_several_chunks(live: Live) -> None:
    big = bytes(range(256)) * 9_000
    files = [("files", ("models_tested.csv", big)), ("files", ("C:\\x\\models_results.csv", TABLE))]
    response = live.http.post("/imports", data={"kind": "model-recycling"}, files=files)
    assert response.status_code == 202, response.text
    assert stored(live, response.json()["id"]) == {"models_tested.csv": big, "models_results.csv": TABLE}


def test_an_unknown_kind_names_the_known(live: Live) -> None:
    for response in (
        upload(live, kind="csv"),
        live.http.post("/imports", json={"kind": "csv", "source": "x"}),
    ):
        assert response.status_code == 422
        problem = response.json()
        assert "model-recycling" in problem["detail"]
        assert "table" in problem["detail"]
        assert problem["errors"][0]["field"] == "kind"
    assert live.http.get("/imports").json()["items"] == []


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"files": [("files", ("t.csv", TABLE))]}, "kind"),
        ({"data": {"kind": "table"}, "files": [("file", ("t.csv", TABLE))]}, "file"),
        ({"data": {"kind": "table", "more": "x"}, "files": [("files", ("t.csv", TABLE))]}, "more"),
        ({"data": {"kind": ["table", "table"]}, "files": [("files", ("t.csv", TABLE))]}, "kind"),
        ({"files": [("kind", ("k", b"table")), ("files", ("t.csv", TABLE))]}, "kind"),
        ({"files": [("kind", (None, b"table"))]}, "files"),
        ({"files": [("kind", (None, b"table")), ("files", (None, b"x"))]}, "files"),
        ({"data": {"kind": "table"}, "files": [("files", ("t.csv", b""))]}, "files"),
        ({"data": {"kind": "table"}, "files": [("files", ("t.csv", TABLE))] * 2}, "files"),
        ({"data": {"kind": "table"}, "files": [("files", ("x" * 201, TABLE))]}, "files"),
    ],
)
def test_a_form_that_is_wrong(live: Live, form: dict[str, Any], field: str) -> None:
    problem = live.problem("POST", "/imports", 422, **form)
    assert problem["errors"][0]["field"] == field
    assert live.http.get("/imports").json()["items"] == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=a", b"not a form"),
        ("multipart/form-data; boundary=a", b"--a\r\nContent-Disposition: form-data\r\n\r\nx\r\n--a--\r\n"),
        ("multipart/form-data; boundary=a", b'--a\r\nContent-Disposition: form-data; name="kind"\r\n\r\ntab'),
        ("multipart/form-data; boundary=" + "a" * 300, b"x"),
        ("multipart/form-data; boundary=\xff", b"x"),
        ("multipart/form-data; boundary=a", b""),
    ],
)
def test_a_form_that_cannot_be_read(live: Live, content_type: str, body: bytes) -> None:
    headers = [(b"content-type", content_type.encode("latin-1"))]
    response = live.http.post("/imports", content=body, headers=headers)
    assert response.status_code in (400, 422), response.text
    assert response.headers["content-type"] == "application/problem+json"


def test_a_page_of_another_site_cannot_upload(live: Live) -> None:
    assert upload(live, headers={"origin": live.url}).status_code == 202
    for origin in ("https://example.org", "null", "http://localhost:1"):
        assert upload(live, headers={"origin": origin}).status_code == 403


def test_more_files_than_allowed(live: Live) -> None:
    files = [("files", (f"{n}.csv", TABLE)) for n in range(40)]
    problem = live.problem("POST", "/imports", 400, data={"kind": "table"}, files=files)
    assert "32" in problem["detail"]


def test_an_upload_over_the_limit_leaves_nothing(live: Live) -> None:
    assert upload(live, data=b"x" * 3_000_001).status_code == 413
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    chunks = (head if n == 0 else b"x" * 100_000 for n in range(40))
    headers = {"content-type": "multipart/form-data; boundary=b"}
    live.problem("POST", "/imports", 413, content=chunks, headers=headers)
    assert live.http.get("/imports").json()["items"] == []


def test_an_upload_that_breaks_off_leaves_nothing(live: Live) -> None:
    parts = urlsplit(live.url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0))) as connection:
        connection.sendall(
            b"POST /imports HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: 100000\r\n\r\n"
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nhalf'
        )
    assert live.http.get("/imports").json()["items"] == []
    assert upload(live).status_code == 202  # and the service is well


def test_a_store_that_fails_in_the_middle_leaves_nothing(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(live.store, "append_upload", full)
        assert upload(live, headers={"idempotency-key": "k"}).status_code == 500
    assert live.http.get("/imports").json()["items"] == []
    assert upload(live, headers={"idempotency-key": "k"}).status_code == 202  # the key was given back


@pytest.mark.parametrize("source", ["https://example.org/t.csv", "HTTP://example.org/"])
def test_a_url_is_accepted_as_it_is(live: Live, source: str) -> None:
    response = live.http.post("/imports", json={"kind": "table", "source": source})
    assert response.status_code == 202
    assert response.json()["source"] == source


@pytest.mark.parametrize(
    "source",
    [
        "ftp://example.org/t.csv",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://user:secret@example.org/",
        "http://example.org:port/",
        "http://[::1/",
        "a\u0000b",
        "",
        "x" * 2001,
    ],
)
def test_a_source_that_can_never_work(live: Live, source: str) -> None:
    problem = live.problem("POST", "/imports", 422, json={"kind": "table", "source": source})
    assert problem["errors"][0]["field"] == "source"
    assert "secret" not in problem["detail"]


def test_a_path_under_the_roots(live: Live, roots: Path) -> None:
    body = {"kind": "table", "source": str(roots / "scores.csv")}
    response = live.http.post("/imports", json=body)
    assert response.status_code == 202
    assert response.json()["source"] == str((roots / "scores.csv").resolve())
    body["source"] = str(roots / "nothing.csv")
    live.problem("POST", "/imports", 422, json=body)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "{roots}/../x", "{roots}/escape/passwd", "scores.csv", "x/" * 900]
)
def test_a_path_outside_the_roots(live: Live, roots: Path, path: str) -> None:
    body = {"kind": "table", "source": path.format(roots=roots)}
    problem = live.problem("POST", "/imports", 403, json=body)
    assert "HEADSTART_ROOTS" in problem["detail"]


def test_the_same_key_and_body_are_answered_once(live: Live) -> None:
    for send in (
        lambda: upload(live, headers={"idempotency-key": "one"}),
        lambda: live.http.post(
            "/imports", json={"kind": "table", "source": "http://a.b/c"}, headers={"idempotency-key": "two"}
        ),
    ):
        first, again = send(), send()
        assert first.status_code == again.status_code == 202
        assert first.content == again.content
        assert again.headers["location"] == first.headers["location"]
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
    assert len(live.http.get("/imports").json()["items"]) == 2


def test_the_same_key_with_another_body_is_refused(live: Live) -> None:
    assert upload(live, headers={"idempotency-key": "k"}).status_code == 202
    for response in (
        upload(live, data=TABLE + b"\n", headers={"idempotency-key": "k"}),
        upload(live, name="other.csv", headers={"idempotency-key": "k"}),
        upload(live, kind="model-recycling", headers={"idempotency-key": "k"}),
    ):
        assert response.status_code == 422, response.text


def test_a_key_whose_first_request_still_runs_is_a_conflict(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    append = live.store.append_upload

    def slow(import_id: int, file: str, data: bytes) -> None:
        entered.set()
        assert leave.wait(10)
        append(import_id, file, data)

    monkeypatch.setattr(live.store, "append_upload", slow)
    first = threading.Thread(target=upload, args=(live,), kwargs={"headers": {"idempotency-key": "k"}})
    first.start()
    assert entered.wait(10)
    try:
        assert upload(live, headers={"idempotency-key": "k"}).status_code == 409
    finally:
        leave.set()
        first.join(10)
    assert len(live.http.get("/imports").json()["items"]) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "ÿ"])
def test_a_key_that_is_none(live: Live, key: str) -> None:
    headers = [(b"idempotency-key", key.encode("latin-1"))]
    problem = live.problem("POST", "/imports", 422, json={"kind": "table", "source": "x"}, headers=headers)
    assert problem["errors"][0]["field"] == "idempotency-key"
