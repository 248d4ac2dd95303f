from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from live_service import Live, serving, settings
from structlog.testing import capture_logs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headstart.store import Store

TRAIN = "text,label\n" + "".join(f"text {k},{'no' if k % 2 else 'yes'}\n" for k in range(100))
SET = {"name": "tickets"}


@pytest.fixture
def data(roots: Path) -> Path:
    """A target under the roots."""
    folder = roots / "tickets"
    folder.mkdir(exist_ok=True)
    (folder / "train.csv").write_text(TRAIN)
    return folder


@pytest.fixture
def live(store: Store, roots: Path) -> Iterator[Live]:
    """A service of its own without a worker: what is accepted stays queued."""
    with serving(store, settings(roots=(roots,), max_upload_bytes=3_000_000)) as live:
        yield live


@pytest.fixture
def working(store: Store, roots: Path) -> Iterator[Live]:
    with capture_logs(), serving(store, settings(roots=(roots,), embedded_worker=True)) as live:
        yield live


def upload(live: Live, target: dict[str, Any] | str, **more: Any) -> Any:
    text = target if isinstance(target, str) else json.dumps(target)
    files = more.pop("files", [("files", ("train.csv", TRAIN.encode()))])
    return live.http.post("/targets", data={"target": text}, files=files, **more)


def no_imports(live: Live) -> bool:
    return live.http.get("/imports").json()["items"] == []


def test_an_upload_becomes_a_target_with_a_profile(working: Live) -> None:
    files = [("files", (f"{role}.csv", TRAIN.encode())) for role in ("train", "test")]
    response = upload(working, SET | {"seed": 3}, files=files)
    assert response.status_code == 202, response.text
    body = response.json()
    assert response.headers["location"] == f"/imports/{body['id']}"
    assert (body["kind"], body["source"]) == ("target", "upload")
    done = working.finished(body["id"])
    assert done["state"] == "succeeded", done["error"]
    assert set(done["report"]["files"]) == {"train.csv", "test.csv"}
    target = working.http.get(f"/targets/{done['report']['target_id']}").json()
    assert (target["name"], target["task"], target["metric"]) == ("tickets", "classification", "accuracy")
    assert target["profile"]["rows"] == {"train": 90, "validation": 10, "test": 100}
    assert target["profile"]["seed"] == 3
    assert any("stand in train too" in warning for warning in target["profile"]["warnings"])
    [listed] = working.http.get("/targets").json()["items"]
    assert listed["fingerprint"] == target["fingerprint"]
    assert len(target["fingerprint"]) == 64
    assert "profile" not in listed


def test_an_upload_may_be_larger_than_another_body(store: Store) -> None:
    with serving(store, settings(max_body_bytes=10_000, max_upload_bytes=100_000)) as live:
        for size, status in ((50_000, 202), (150_000, 413)):
            files = [("files", ("train.csv", b"x" * size))]
            assert upload(live, SET, files=files).status_code == status
        body = SET | {"path": "x" * 20_000}
        live.problem("POST", "/targets", 413, json=body)


def test_a_path_becomes_a_target(working: Live, data: Path) -> None:
    for name, path in (("a", data), ("b", data / "train.csv")):
        response = working.http.post("/targets", json={"name": name, "path": str(path)})
        assert response.status_code == 202, response.text
        assert response.json()["source"] == str(path.resolve())
        assert working.finished(response.json()["id"])["state"] == "succeeded"
    first, second = working.http.get("/targets").json()["items"]
    assert first["fingerprint"] == second["fingerprint"]


def test_a_url_is_accepted_as_it_is(live: Live) -> None:
    response = live.http.post("/targets", json=SET | {"path": "https://example.org/train.csv"})
    assert response.status_code == 202, response.text
    assert (response.json()["kind"], response.json()["source"]) == ("target", "https://example.org/train.csv")


def test_a_target_without_rows_has_no_profile(catalogue: Live) -> None:
    target = catalogue.http.get("/targets/1").json()
    assert (target["fingerprint"], target["profile"]) == (None, None)


def test_the_hub_waits_for_a_worker(live: Live) -> None:
    hub = {"id": "nyu-mll/glue", "config": "rte", "revision": "main", "splits": {"train": "train"}}
    response = live.http.post("/targets", json=SET | {"hub": hub, "columns": {"label": "label"}})
    assert response.status_code == 202, response.text
    assert (response.json()["kind"], response.json()["source"]) == ("hub-target", "nyu-mll/glue")
    kept = live.store.get_import(response.json()["id"]).params
    assert kept["hub"] == hub
    assert kept["columns"] == {"label": "label"}
    assert (kept["seed"], kept["validation_share"], kept["test_share"]) == (0, 0.1, 0.2)


@pytest.mark.parametrize(
    ("change", "field", "sentence"),
    [
        ({"path": None}, "body", "give either path or hub"),
        ({"hub": {"id": "a/b"}}, "body", "give either path or hub"),
        ({"name": ""}, "name", "1 character"),
        ({"task": "ranking"}, "task", "'classification' or 'regression'"),
        ({"metric": "f1"}, "metric", "'accuracy'"),
        ({"columns": {"text_pair": "b"}}, "columns", "text_pair needs text"),
        ({"columns": {"lable": "b"}}, "columns.lable", "Did you mean 'label'?"),
        ({"test_share": 0.5}, "test_share", "less than 0.5"),
        ({"validation_share": 0}, "validation_share", "greater than 0"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"path": "ftp://example.org/t.csv"}, "path", "Use an http or https URL."),
        ({"path": "{roots}/nothing"}, "path", "There is no file or folder"),
        ({"path": None, "hub": {"id": "../x"}}, "hub.id", "pattern"),
        ({"path": None, "hub": {"id": "a/b", "splits": {"test": "test"}}}, "hub.splits.train", "required"),
    ],
)
def test_a_wish_that_can_never_be(
    live: Live, roots: Path, data: Path, change: dict[str, Any], field: str, sentence: str
) -> None:
    body = SET | {"path": str(data)} | change
    if body["path"] is None:
        del body["path"]
    else:
        body["path"] = body["path"].format(roots=roots)
    problem = live.problem("POST", "/targets", 422, json=body)
    assert problem["errors"][0]["field"] == field
    assert sentence in problem["detail"]
    assert no_imports(live)


@pytest.mark.parametrize("path", ["/etc/passwd", "{roots}/../x", "{roots}/escape/passwd", "train.csv"])
def test_a_path_outside_the_roots(live: Live, roots: Path, path: str) -> None:
    problem = live.problem("POST", "/targets", 403, json=SET | {"path": path.format(roots=roots)})
    assert "HEADSTART_ROOTS" in problem["detail"]
    assert problem["errors"][0]["field"] == "path"
    assert no_imports(live)


def test_a_path_that_cannot_be_resolved(live: Live, roots: Path) -> None:
    (roots / "loop").symlink_to(roots / "loop")
    (roots / os.fsdecode(b"\xff")).mkdir()
    (roots / "stray").symlink_to(roots / os.fsdecode(b"\xff"))
    for name in ("loop", "stray"):
        problem = live.problem("POST", "/targets", 422, json=SET | {"path": str(roots / name)})
        assert "cannot be resolved. Check it." in problem["detail"]
        assert problem["errors"][0]["field"] == "path"
    assert no_imports(live)


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ("", "target"),
        ("tickets", "target"),
        ("[]", "target.body"),
        ("{}", "target.name"),
        ('{"name": "x", "path": "/x"}', "target.path"),
        ('{"name": "x", "metrik": "f1"}', "target.metrik"),
    ],
)
def test_a_field_that_is_wrong(live: Live, target: str, field: str) -> None:
    response = upload(live, target)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"] == field
    assert no_imports(live)


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"files": [("files", ("t.csv", b"x"))]}, "target"),
        ({"data": {"target": "{}"}, "files": [("file", ("t.csv", b"x"))]}, "file"),
        ({"data": {"target": "{}", "kind": "table"}, "files": [("files", ("t.csv", b"x"))]}, "kind"),
        ({"files": [("target", (None, b"{}"))]}, "files"),
        ({"data": {"target": "{}"}, "files": [("files", ("t.csv", b""))]}, "files"),
        ({"data": {"target": "{}"}, "files": [("files", ("t.csv", b"x"))] * 2}, "files"),
    ],
)
def test_a_form_that_is_wrong(live: Live, form: dict[str, Any], field: str) -> None:
    problem = live.problem("POST", "/targets", 422, **form)
    assert problem["errors"][0]["field"] == field
    assert no_imports(live)


def test_another_kind_of_body(live: Live) -> None:
    live.problem("POST", "/targets", 415, content=b"text,label\n", headers={"content-type": "text/csv"})
    live.problem("POST", "/targets", 400, json=None, headers={"content-type": "application/json"})


def test_the_same_key_and_body_are_answered_once(live: Live, data: Path) -> None:
    for key, send in (
        ("one", lambda headers: upload(live, SET, headers=headers)),
        ("two", lambda headers: live.http.post("/targets", json=SET | {"path": str(data)}, headers=headers)),
    ):
        first, again = send({"idempotency-key": key}), send({"idempotency-key": key})
        assert first.status_code == again.status_code == 202
        assert first.content == again.content
        assert again.headers["idempotent-replayed"] == "true"
    assert len(live.http.get("/imports").json()["items"]) == 2
    other = upload(live, SET | {"seed": 1}, headers={"idempotency-key": "one"})
    assert other.status_code == 422


def test_rows_of_another_target_are_refused_by_name(working: Live) -> None:
    first = working.finished(upload(working, SET).json()["id"])
    assert first["state"] == "succeeded"
    again = working.finished(upload(working, SET).json()["id"])
    assert again["report"]["target_id"] == first["report"]["target_id"]
    other = working.finished(upload(working, SET | {"seed": 1}).json()["id"])
    assert other["state"] == "failed"
    assert "choose another name" in other["error"]
