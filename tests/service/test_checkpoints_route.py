from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from live_service import Live, serving, settings

from tests.checkpoint_folders import CARD, PARAMETERS, make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headstart.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "checkpoints" / "mine", card=CARD)


@pytest.fixture
def live(store: Store, folder: Path) -> Iterator[Live]:
    """A service of its own over an empty store, with the embedded worker."""
    with serving(store, settings(roots=(folder.parent,), embedded_worker=True)) as live:
        yield live


def accepted(live: Live, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = live.http.post("/checkpoints", json=body, **more)
    assert answer.status_code == 202, answer.text
    item: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/imports/{item['id']}"
    assert answer.headers["retry-after"] == "1"
    return item


def test_a_folder_is_registered_as_an_import(live: Live, folder: Path) -> None:
    item = accepted(live, {"path": str(folder), "name": "mine", "family": "f", "is_vanilla": True})
    assert (item["kind"], item["source"]) == ("checkpoint", str(folder))
    done = live.finished(item["id"])
    assert (done["state"], done["report"]["checkpoints_new"]) == ("succeeded", 1)
    found = live.http.get(f"/checkpoints/{done['report']['checkpoint_id']}").json()
    assert (found["name"], found["family"], found["is_vanilla"]) == ("mine", "f", True)
    assert (found["parameters"], found["license"]) == (PARAMETERS, "apache-2.0")


def test_what_is_wrong_in_the_folder_ends_the_import(live: Live, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 9)
    done = live.finished(accepted(live, {"path": str(folder)})["id"])
    assert done["state"] == "failed"
    assert "model.safetensors" in done["error"]
    assert live.http.get("/checkpoints").json()["items"] == []


def test_a_checkpoint_of_the_hub_waits_for_a_worker(live: Live) -> None:
    item = accepted(live, {"hub": {"id": "me/mine", "revision": "v1"}, "family": "f"})
    stored = live.store.get_import(item["id"])
    assert (stored.kind, stored.source) == ("hub-checkpoint", "me/mine")
    assert stored.params == {"name": None, "family": "f", "is_vanilla": False, "revision": "v1"}
    assert live.store.claim_import(60, ("checkpoint",)) is None


def test_the_same_key_gives_the_same_import(live: Live, folder: Path) -> None:
    headers = {"idempotency-key": "once"}
    first = accepted(live, {"path": str(folder)}, headers=headers)
    assert accepted(live, {"path": str(folder)}, headers=headers)["id"] == first["id"]
    body = {"path": str(folder), "family": "g"}
    live.problem("POST", "/checkpoints", 422, json=body, headers=headers)


def test_a_folder_out_of_the_roots(live: Live, folder: Path) -> None:
    (folder.parent / "link").symlink_to("/etc")
    for path in ("/etc", str(folder.parent / "link"), f"{folder}/../../other", "relative", "https://x.org/y"):
        problem = live.problem("POST", "/checkpoints", 403, json={"path": path})
        assert "HEADSTART_ROOTS" in problem["detail"]
        assert problem["errors"][0]["field"] == "path"


@pytest.mark.parametrize("name", ["none", "mine/config.json", "loop", "x" * 1000])
def test_a_path_that_is_no_folder(live: Live, folder: Path, name: str) -> None:
    (folder.parent / "loop").symlink_to(folder.parent / "loop")
    problem = live.problem("POST", "/checkpoints", 422, json={"path": str(folder.parent / name)})
    assert problem["errors"][0]["field"] == "path"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"path": "/x", "hub": {"id": "a"}}, "body"),
        ({"path": ""}, "path"),
        ({"path": "a\0b"}, "path"),
        ({"hub": {}}, "hub.id"),
        ({"hub": {"id": "a/b/c"}}, "hub.id"),
        ({"hub": {"id": "../a"}}, "hub.id"),
        ({"hub": {"id": "a", "revision": "-x"}}, "hub.revision"),
        ({"hub": {"id": "a"}, "name": ""}, "name"),
        ({"hub": {"id": "a"}, "famly": "f"}, "famly"),
        ({"hub": {"id": "a"}, "is_vanilla": "perhaps"}, "is_vanilla"),
    ],
)
def test_a_wrong_request_names_the_field(live: Live, body: dict[str, Any], field: str) -> None:
    problem = live.problem("POST", "/checkpoints", 422, json=body)
    assert [one["field"] for one in problem["errors"]] == [field]
    assert live.http.get("/imports").json()["items"] == []
