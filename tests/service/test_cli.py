from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
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

TABLE = """checkpoint,family,target,method,value
roberta-base,roberta-base,rte,finetune,0.75
me/x,roberta-base,rte,finetune,0.78
"""


def run(live: Live | str, *arguments: str) -> Result:
    url = live if isinstance(live, str) else live.url
    return CliRunner().invoke(app, arguments, env={"HEADSTART_URL": url, "COLUMNS": "200"})


def printed(live: Live, *arguments: str) -> str:
    result = run(live, *arguments)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    return result.stdout


def as_json(live: Live, *arguments: str) -> Any:
    return json.loads(printed(live, *arguments, "--json"))


def refused(live: Live | str, *arguments: str) -> str:
    result = run(live, *arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def working(store: Store) -> Iterator[Live]:
    """A service with its worker, over an empty store; its log keeps out of what the command prints."""
    with capture_logs(), serving(store, settings(embedded_worker=True)) as live:
        yield live


def test_lists_are_tables(catalogue: Live) -> None:
    assert "org/bert" in printed(catalogue, "families")
    assert "124.6M" in printed(catalogue, "checkpoints", "--family", "roberta-base")
    assert "mnli" in printed(catalogue, "targets", "--search", "nli")
    table = printed(catalogue, "scores", "--quarantined")
    assert "off_grid" in table
    assert "0.1230" in table


@pytest.mark.parametrize("noun", ["families", "checkpoints", "targets", "scores"])
def test_json_is_the_answer_of_the_service(catalogue: Live, noun: str) -> None:
    assert as_json(catalogue, noun) == catalogue.http.get(f"/{noun}").json()


def test_across_families_each_candidate_shows_its_own(catalogue: Live) -> None:
    both = printed(catalogue, "recommend", "--target", "rte")
    assert "family" in both
    assert "org/bert" in both
    assert "own vanilla" in both
    one = printed(catalogue, "recommend", "--family", "org/bert", "--target", "rte")
    assert "family" not in one
    assert "100 %" not in both + one, "a probability is never rounded to certainty"


def test_advice_shows_what_is_best_what_is_next_and_why(working: Live, tmp_path: Path) -> None:
    measured = {"roberta-base": 0.5, "alice/rob-mnli": 0.55, "carol/near": 0.548}
    rows = [
        f"{name},roberta-base,{target},finetune,{value}"
        for name, value in measured.items()
        for target in ("rte", "mnli", "qnli")
    ]
    (tmp_path / "t.csv").write_text("\n".join([TABLE.splitlines()[0], *rows]))
    printed(working, "import", "table", str(tmp_path / "t.csv"))
    question = ("recommend", "--family", "roberta-base", "--target", "rte")
    deadline = time.monotonic() + 10
    while "carol/near" not in (plain := run(working, *question).stdout):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for shown in ("P(best)", "expect to miss the best of all by", "measure next", "regret it saves"):
        assert shown in plain
    assert "Where the gains come from" not in plain
    assert "No other beats" not in plain
    told = printed(working, *question, "--explain", "--pareto", "--next-jobs", "0")
    for shown in ("Where the gains come from", "finetunes", "No other beats these", "alice/rob-mnli"):
        assert shown in told
    assert "measure next" not in told
    assert "(once more)" in plain, "it was finetuned there before"
    advice = as_json(working, *question, "--explain", "--next-jobs", "1")
    assert len(advice["next_jobs"]) == 1
    assert advice["candidates"][0]["explanation"]["moved_by"]
    assert "--next-jobs" in run(working, "recommend", "--help").stdout


def test_a_name_may_hold_brackets_and_colons(working: Live, tmp_path: Path) -> None:
    name = "m[/b]x:ok:"
    (tmp_path / "t.csv").write_text(TABLE.replace("roberta-base", name))
    printed(working, "import", "table", str(tmp_path / "t.csv"))
    assert name in printed(working, "checkpoints")
    assert name in printed(working, "scores")
    deadline = time.monotonic() + 10
    while "me/x" not in run(working, "families", name).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert f"{name}, on targets like those known" in printed(working, "families", name)


def test_limits_cross_pages(catalogue: Live) -> None:
    page = as_json(catalogue, "scores", "--limit", "3")
    assert len(page["items"]) == 3
    assert page["next_page_token"] is not None
    assert "raise --limit" in printed(catalogue, "scores", "--limit", "3")


def test_a_problem_is_one_sentence(catalogue: Live) -> None:
    assert refused(catalogue, "families", "roberta-bse").count("\n") == 1
    assert refused(catalogue, "scores", "lift", "999999", "--note", "x").count("\n") == 1


def test_wrong_usage_exits_with_2(catalogue: Live) -> None:
    assert run(catalogue, "families", "--limit", "-1").exit_code == 2
    assert run(catalogue, "nonsense").exit_code == 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://localhost:9"])
def test_without_a_service_it_says_how_to_start_one(url: str) -> None:
    assert "headstart serve" in refused(url, "families")


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://[", "http://127.0.0.1:x"])
def test_a_url_that_is_none(url: str) -> None:
    refused(url, "families")


def test_quarantine_and_lift(store: Store, working: Live, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    printed(working, "import", "table", str(tmp_path / "t.csv"))
    score = as_json(working, "scores")["items"][0]
    note = ("--note", "Wrong split.")
    assert "other_split" in printed(
        working, "scores", "quarantine", str(score["id"]), "--reason", "other_split", *note
    )
    assert as_json(working, "scores", "--quarantined")["items"][0]["quarantine_note"] == "Wrong split."
    assert as_json(working, "scores", "lift", str(score["id"]), *note)["quarantine"] is None


def test_import_recommend_and_ranking(working: Live, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    report = printed(working, "import", "table", str(tmp_path / "t.csv"))
    assert "scores stored" in report
    again = printed(working, "import", "table", str(tmp_path / "t.csv"))
    assert "Nothing" in again
    deadline = time.monotonic() + 10
    while "me/x" not in run(working, "recommend", "--family", "roberta-base").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    table = printed(working, "recommend", "--family", "roberta-base", "--target", "rte", "--limit", "5")
    assert "80 % interval" in table
    advice = as_json(working, "recommend", "--target", "rte", "--max-parameters", "5", "--exclude", "me/x")
    assert advice["candidates"] == []
    assert "me/x" in printed(working, "families", "roberta-base")
    assert "rte" in refused(working, "recommend", "--target", "rt")


def test_a_broken_table_is_refused_with_its_place(working: Live, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE + "me/y,roberta-base,rte,finetune,much\n")
    sentence = refused(working, "import", "table", str(tmp_path / "t.csv"))
    assert "line 4" in sentence
    assert as_json(working, "scores")["items"] == []


def test_an_import_need_not_be_waited_for(working: Live, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    accepted = as_json(working, "import", "table", str(tmp_path / "t.csv"), "--no-wait")
    assert working.finished(accepted["id"])["state"] == "succeeded"


def test_sources_that_are_not_there(working: Live, tmp_path: Path) -> None:
    assert "no file" in refused(working, "import", "table", str(tmp_path / "nothing.csv"))
    assert "models_tested.csv" in refused(working, "import", "model-recycling", str(tmp_path))
    assert "public" in refused(working, "import", "table", f"{working.url}/t.csv")


SERVE = (sys.executable, "-m", "service", "serve", "--port", "0")


def environment(folder: Path, **more: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HEADSTART_")}
    return clean | {"HEADSTART_STORE": f"sqlite:///{folder}/new/store.db", "HEADSTART_STARTER": ""} | more


def test_serve_prints_a_question_to_paste_and_ends_on_a_signal(tmp_path: Path) -> None:
    env = environment(tmp_path, HEADSTART_STARTER=str(tmp_path / "nothing"))
    with subprocess.Popen(
        SERVE, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[2].startswith("curl -s localhost:")
        base = "http://" + lines[2].split()[2].removesuffix("/recommend")
        question = {"family": "roberta-base", "target": {"name": "rte"}}
        assert httpx.post(base + "/recommend", json=question, trust_env=False).status_code == 404
        starter = process.stderr.readline()
        assert "serving without it" in starter
        assert httpx.get(base + "/imports", trust_env=False).json()["items"][0]["state"] == "failed"
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert time.monotonic() - started < 5
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"HEADSTART_HOST": "0.0.0.0"}, "HEADSTART_OPEN_BIND"),
        ({"HEADSTART_HOST": "example.org"}, "HEADSTART_OPEN_BIND"),
        ({"HEADSTART_PORT": "many"}, "HEADSTART_PORT"),
        ({"HEADSTART_STORE": "sqlite:////proc/none/x.db"}, "HEADSTART_STORE"),
        ({"HEADSTART_STORE": "postgresql+psycopg://nobody:secret@127.0.0.1:9/x"}, "store"),
        ({"HEADSTART_STORE": "nonsense"}, "HEADSTART_STORE"),
    ],
)
def test_serve_refuses_with_a_sentence(tmp_path: Path, more: dict[str, str], sentence: str) -> None:
    command = SERVE if "HEADSTART_PORT" not in more else SERVE[:-2]
    done = subprocess.run(
        command, env=environment(tmp_path, **more), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_client_commands_need_nothing_of_the_server() -> None:
    heavy = ("fastapi", "sqlalchemy", "numpy", "torch")
    probe = f"import sys, service.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
