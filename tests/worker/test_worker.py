"""`python -m worker`, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headstart.entities import ImportState
from headstart.store import Store, upgrade_schema

ROOT = Path(__file__).parents[2]
TABLE = b"checkpoint,family,target,method,value\nacme/a,roberta-base,rte,finetune,0.75\n"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


def start(url: str, *options: str, starter: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "worker", *options],
        cwd=ROOT,
        env={**os.environ, "HEADSTART_STORE": url, "HEADSTART_STARTER": starter},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def queue(store: Store) -> int:
    item = store.create_import("table", "upload")
    store.append_upload(item.id, "history.csv", TABLE)
    return store.queue_import(item.id).id


def test_once_drains_the_store_and_exits(url: str) -> None:
    upgrade_schema(url)
    store = Store(url)
    ids = [queue(store), queue(store)]
    with start(url, "--once") as worker:
        _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 0, errors
    assert errors.count("import_done") == 2
    assert [store.get_import(i).state for i in ids] == [ImportState.SUCCEEDED] * 2
    assert "refitted" in errors
    store.close()


def test_an_empty_store_gets_the_starter_evidence(url: str, tmp_path: Path) -> None:
    upgrade_schema(url)
    store = Store(url)
    with start(url, starter=str(tmp_path / "none")) as worker:
        until = time.monotonic() + 60
        while not (found := store.imports().items) or found[0].finished_at is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        worker.terminate()
        worker.communicate(timeout=60)
    assert (found[0].kind, found[0].state) == ("model-recycling", ImportState.FAILED)
    assert "There is no file or folder" in (found[0].error or "")
    store.close()


def test_it_works_until_it_is_told_to_stop(url: str) -> None:
    upgrade_schema(url)
    store = Store(url)
    with start(url) as worker:
        import_id = queue(store)
        until = time.monotonic() + 60
        while store.get_import(import_id).state is not ImportState.SUCCEEDED:
            assert time.monotonic() < until
            time.sleep(0.05)
        worker.send_signal(signal.SIGTERM)
        _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 0, errors
    assert "worker_stopped" in errors
    store.close()


def test_a_store_without_schema_is_said_in_a_sentence(url: str) -> None:
    with start(url, "--check") as worker:
        output, errors = worker.communicate(timeout=60)
    assert (worker.returncode, output) == (1, "")
    assert errors.count("\n") == 1
    assert "Traceback" not in errors
    upgrade_schema(url)
    with start(url, "--check") as worker:
        output, errors = worker.communicate(timeout=60)
    assert (worker.returncode, output, errors) == (0, "", "")
