from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from live_service import Live, serving, settings
from structlog.testing import capture_logs
from typer.testing import CliRunner

from service.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

    from headstart.store import Store

TRAIN = "".join(
    json.dumps({"premise": f"p {k}", "hypothesis": f"h {k}", "label": ("no", "yes")[k % 2]}) + "\n"
    for k in range(100)
)


@pytest.fixture
def working(store: Store, tmp_path: Path) -> Iterator[Live]:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text(TRAIN)
    given = settings(embedded_worker=True, roots=(tmp_path / "set",))
    with capture_logs(), serving(store, given) as live:
        yield live


def run(live: Live, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["targets", *arguments], env={"HEADSTART_URL": live.url, "COLUMNS": "200"})


def printed(live: Live, *arguments: str) -> str:
    result = run(live, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(live: Live, *arguments: str) -> str:
    result = run(live, *arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_folder_is_added_and_its_profile_printed(working: Live, tmp_path: Path) -> None:
    shown = printed(working, "add", "tickets", "--path", str(tmp_path / "set"))
    assert "Target 1: tickets (pairs, classification, accuracy)" in shown
    assert "2 classes" in shown
    assert "test: 20.0% of train.jsonl, split off by seed 0" in shown
    assert "Note: The test role has 20 rows" in shown
    assert printed(working, "show", "tickets") == printed(working, "show", "1") == shown
    assert "tickets" in printed(working, "--search", "tick")


def test_files_are_uploaded(working: Live, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(TRAIN.replace("p ", "q "))
    files = ("--file", str(tmp_path / "set" / "train.jsonl"), "--file", str(tmp_path / "test.jsonl"))
    columns = ("--text", "hypothesis", "--label", "label", "--seed", "4")
    target = json.loads(printed(working, "add", "tickets", *files, *columns, "--json"))
    assert target["profile"]["rows"] == {"train": 90, "validation": 10, "test": 100}
    assert target["profile"]["columns"] == {"text": "hypothesis", "text_pair": None, "label": "label"}
    assert target["profile"]["seed"] == 4
    assert target == working.http.get("/targets/1").json()
    assert "share" not in printed(working, "show", "tickets")


def test_a_hub_dataset_is_asked_for(working: Live) -> None:
    hub = ("--hub", "nyu-mll/glue", "--config", "rte", "--split", "train=train", "--split", "test=validation")
    assert "Import 1 is accepted." in printed(working, "add", "rte", *hub, "--no-wait")
    kept = working.store.get_import(1).params["hub"]
    assert kept == {
        "id": "nyu-mll/glue",
        "config": "rte",
        "splits": {"train": "train", "test": "validation"},
    }


def test_what_goes_wrong_is_one_sentence(working: Live, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("text,label\na,b\nc,b\n")
    assert "there is nothing to tell apart" in refused(
        working, "add", "x", "--file", str(tmp_path / "one.csv")
    )
    assert "HEADSTART_ROOTS" in refused(working, "add", "x", "--path", "/etc/passwd")
    assert "Check the path" in refused(working, "add", "x", "--file", str(tmp_path / "nothing.csv"))
    assert "headstart targets" in refused(working, "show", "nothing")
    assert "There is no target" in refused(working, "show", "99")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--path", "a", "--hub", "b"),
        ("--path", "a", "--config", "c"),
        ("--hub", "b", "--split", "test"),
        ("--hub", "b", "--split", "dev=validation"),
    ],
)
def test_wrong_usage_exits_with_2(working: Live, arguments: tuple[Any, ...]) -> None:
    assert run(working, "add", "x", *arguments).exit_code == 2


def test_a_target_without_rows_says_how_to_give_it_some(catalogue: Live) -> None:
    assert "headstart targets add" in printed(catalogue, "show", "1")
