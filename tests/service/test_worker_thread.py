from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from live_service import Live, serving, settings

from headstart.entities import ImportState
from headstart.queue import NullQueue
from service.importing import EmbeddedWorker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from headstart.store import Store

TABLE = b"checkpoint,family,target,method,value\nme/x,roberta-base,rte,finetune,0.5\n"


def until(seen: Callable[[], Any], seconds: float = 10) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def upload(live: Live) -> int:
    form: dict[str, Any] = {"data": {"kind": "table"}, "files": {"files": ("t.csv", TABLE)}}
    number: int = live.http.post("/imports", **form).json()["id"]
    return number


def test_an_upload_becomes_evidence(store: Store) -> None:
    with serving(store, settings(embedded_worker=True)) as live:
        done = live.finished(upload(live))
        assert done["state"] == "succeeded", done
        assert done["report"]["scores_stored"] == 1
        version = live.store.evidence_version()
        until(lambda: live.http.get("/readyz").json()["evidence_version"] == version)
        again = live.finished(upload(live))
        assert (again["report"]["scores_stored"], again["report"]["scores_unchanged"]) == (0, 1)


def test_a_patch_wakes_the_refit(store: Store) -> None:
    with serving(store, settings(embedded_worker=True)) as live:
        live.finished(upload(live))
        score = live.http.get("/scores").json()["items"][0]
        live.http.patch(f"/scores/{score['id']}", json={"quarantine": "manual", "note": "A doubt."})
        version = live.store.evidence_version()
        until(lambda: live.http.get("/readyz").json()["evidence_version"] == version)


def starter(tmp_path: Path) -> str:
    """A folder that is no root, with a table nobody can read as one."""
    folder = tmp_path / "starter"
    folder.mkdir()
    (folder / "models_tested.csv").write_text("not,the,columns\n1,2,3\n")
    return str(folder)


def test_starter_evidence_is_imported_into_an_empty_store_alone(store: Store, tmp_path: Path) -> None:
    source = starter(tmp_path)
    said: list[str] = []
    worker = EmbeddedWorker(store, settings(starter=source), NullQueue(), said.append)
    worker.start()
    until(lambda: said)
    worker.stop()
    (only,) = store.imports().items
    assert (only.kind, only.source, only.state) == ("model-recycling", source, ImportState.FAILED)
    assert only.error is not None
    assert "HEADSTART_ROOTS" not in only.error  # the settings' own source is trusted
    assert len(said) == 1
    assert said[0].count("\n") == 0

    again = EmbeddedWorker(store, settings(starter=source), NullQueue(), said.append)
    again.start()
    time.sleep(0.3)
    again.stop()
    assert len(store.imports().items) == 1


def test_an_error_does_not_end_the_thread(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def broken(*_: object) -> None:
        tries.append(1)
        raise RuntimeError("no")

    with monkeypatch.context() as patched:
        patched.setattr(store, "claim_import", broken)
        with serving(store, settings(embedded_worker=True)) as live:
            until(lambda: tries)
            patched.undo()
            assert live.finished(upload(live))["state"] == "succeeded"


def test_it_stops_at_once_when_idle(store: Store) -> None:
    worker = EmbeddedWorker(store, settings(), NullQueue(), print)
    worker.start()
    time.sleep(0.2)
    started = time.monotonic()
    worker.stop()
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("count", [8])
def test_uploads_at_once_all_end_right(store: Store, count: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with serving(store, settings(embedded_worker=True)) as live:
        with ThreadPoolExecutor(count) as pool:
            numbers = list(pool.map(lambda _: upload(live), range(count)))
        reports = [live.finished(number)["report"] for number in numbers]
        assert sum(report["scores_stored"] for report in reports) == 1
        assert len(live.http.get("/scores").json()["items"]) == 1
