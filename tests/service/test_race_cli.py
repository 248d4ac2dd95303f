from __future__ import annotations

import json
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import typer
from job_service import BROKEN, claimed, failed
from race_service import FAMILY, RUNNABLE, id_of, racing, result_of, run_of
from structlog.testing import capture_logs
from typer.testing import CliRunner

from headstart.store import Store, upgrade_schema
from service import race_cli, race_tables
from service.cli import app
from service.race_cli import read_candidates, read_duration, rests_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result
    from live_service import Live

ASKED = ("--target", "films", "--family", FAMILY)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One service for all, whose log keeps out of what the command prints."""
    folder = tmp_path_factory.mktemp("races")
    upgrade_schema(f"sqlite:///{folder}/store.db")
    with (
        closing(Store(f"sqlite:///{folder}/store.db")) as store,
        capture_logs(),
        racing(store, folder) as live,
    ):
        yield live


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_cli, "REFIT_SECONDS", 0.3)


def run(live: Live, *arguments: str, command: tuple[str, ...] = ("race",)) -> Result:
    return CliRunner().invoke(app, (*command, *arguments), env={"HEADSTART_URL": live.url, "COLUMNS": "200"})


def printed(live: Live, *arguments: str, command: tuple[str, ...] = ("race",)) -> str:
    result = run(live, *arguments, command=command)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    return result.stdout


def refused(live: Live, *arguments: str, code: int = 1) -> str:
    result = run(live, *arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


def ended(live: Live, *arguments: str, end: Callable[[Live], None]) -> Result:
    """What is printed of a race that a worker takes as soon as it is there, and ends so."""

    def work() -> None:
        while not live.store.jobs(state="queued").items:
            time.sleep(0.02)
        end(live)

    thread = threading.Thread(target=work)
    thread.start()
    result = run(live, *arguments)
    thread.join(10)
    return result


def succeed(live: Live) -> None:
    job = claimed(live.store)
    result = result_of(live, live.http.get(f"/jobs/{job.id}").json())
    assert live.store.finish_job(job.id, job.attempt, None, seconds=150.0, result=result)


def test_a_race_ends_with_a_table_a_verdict_and_its_cost(live: Live) -> None:
    result = ended(live, *ASKED, "--seed", "11", end=succeed)
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert "races 4 checkpoints against the vanilla." in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "roberta-base (vanilla)" in rows[FAMILY]
    assert "whole at 0.800" in rows[FAMILY]
    first = rows["org/c3"]
    for cell in ("+0.50", "+2.25", "+1.00 … +3.50", "97.0 %", "95 %", "whole at 0.800", "50"):
        assert cell in first, cell
    assert "25% at 0.800" in rows["org/c1"]
    assert "Start from org/c3." in text
    assert "It began 5 finetunes in 2 min, 25% of the 10 min that all would have taken" in text
    assert "org/gone left the race: CheckpointNotFound. It is gone." in text
    assert "The advice now: " in text
    assert "may not count all of this yet" in text  # no worker stored any score
    shown = printed(live, str(live.store.jobs(page_size=500).items[-1].id), command=("jobs", "show"))
    assert first in shown
    assert '"verdict"' not in shown


def test_json_has_the_job_and_the_advice(live: Live) -> None:
    result = ended(live, *ASKED, "--seed", "12", "--json", end=succeed)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["job"]["state"], told["job"]["result"]["verdict"]) == ("succeeded", "start_from")
    assert told["advice"]["families"][0]["family"] == FAMILY


def test_a_race_that_fails_or_is_cancelled_says_so(live: Live) -> None:
    broken = ended(live, *ASKED, "--seed", "13", end=lambda live: failed(live.store, BROKEN) and None)
    assert broken.exit_code == 1
    assert "has failed: The method broke off" in broken.stderr
    cancelled = ended(live, *ASKED, "--seed", "14", end=cancel)
    assert cancelled.exit_code == 1
    assert "is cancelled." in cancelled.stderr


def cancel(live: Live) -> None:
    (job,) = live.store.jobs(state="queued").items
    live.store.cancel_job(job.id)


def test_no_wait_says_how_to_follow_and_sends_everything(live: Live) -> None:
    given = ("--budget", "1h30m", "--runs", "6", "--candidates", f"org/c1, {id_of(live, 'org/c2')}")
    recipe = ("--tuning", "lora", "--param", "epochs=3", "--worth", "1.5", "--seed", "4", "--priority", "-9")
    hook = ("--webhook", "https://example.org")
    told = json.loads(printed(live, *ASKED, *given, *recipe, *hook, "--no-wait", "--json"))
    job = told["job"]
    params = job["params"]
    assert (params["budget_seconds"], params["budget_runs"], params["worth"]) == (5400, 6, 1.5)
    assert (params["finetune"]["tuning"], params["finetune"]["epochs"]) == ("lora", 3)
    assert params["candidates"] == [id_of(live, name) for name in (FAMILY, "org/c1", "org/c2")]
    assert (job["seed"], job["priority"]) == (4, -9)
    assert live.store.deliveries(job_id=job["id"]).items[0].url == "https://example.org"
    again = printed(live, *ASKED, *given, *recipe, "--no-wait")
    assert f"Job {job['id']} races 2 checkpoints against the vanilla already, and is queued." in again
    assert f"headstart jobs watch {job['id']}" in again
    assert "films" in printed(live, command=("jobs", "list"))
    live.store.cancel_job(job["id"])


def test_a_dry_run_shows_the_price(live: Live) -> None:
    before = len(live.store.jobs(page_size=500).items)
    text = printed(live, *ASKED, "--dry-run", "--most", "2", "--budget", "5s")
    assert "The race would take at most 5 s (5 s to 5 s), its budget" in text
    assert "Nothing was submitted." in text
    assert "roberta-base (vanilla)" in text
    assert len(json.loads(printed(live, *ASKED, "--dry-run", "--json"))["candidates"]) == 1 + len(RUNNABLE)
    assert len(live.store.jobs(page_size=500).items) == before


def test_what_is_wrong_is_a_sentence(live: Live) -> None:
    assert "no target 'film'" in refused(live, "--target", "film", "--family", FAMILY)
    assert "nearest known: roberta-base" in refused(live, "--target", "films", "--family", "roberta").lower()
    assert "no rows of 'rte'" in refused(live, "--target", "rte", "--family", FAMILY)
    assert "not a time" in refused(live, *ASKED, "--budget", "soon", code=2)
    assert "no time" in refused(live, *ASKED, "--budget", "0m", code=2)
    assert "KEY=VALUE" in refused(live, *ASKED, "--param", "epochs", code=2)


def test_help_has_examples() -> None:
    text = CliRunner().invoke(app, ("race", "--help"), env={"COLUMNS": "200"}).stdout
    assert "headstart race --target rte --family roberta-base --budget 20m" in " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20m", 1200), ("2h", 7200), ("900s", 900), ("900", 900), ("1h30m", 5400), ("0.5m", 30)],
)
def test_durations(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "20 minutes", "-5m", "1h x", "0s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        read_duration(text)


def test_candidates_are_names_and_ids() -> None:
    assert read_candidates("org/a, 12,,b") == ["org/a", 12, "b"]
    assert read_candidates(None) is None


def test_advice_rests_on_a_race_once_it_counts_every_run() -> None:
    candidates: list[dict[str, Any]] = [
        {"id": 1, "vanilla": True, "runs": [run_of()]},
        {"id": 2, "vanilla": False, "runs": [run_of(), run_of(seed=1), run_of(seed=2, collapsed=True)]},
        {"id": 3, "vanilla": False, "runs": [run_of(finished=False)]},
    ]

    def advice(vanilla: int, here: int) -> dict[str, Any]:
        seen = {"checkpoint": {"id": 2}, "evidence": {"measured_here": here}}
        return {"candidates": [seen], "families": [{"vanilla_runs": vanilla}]}

    raced = {"candidates": candidates}
    found = [rests_on(advice(*counts), raced) for counts in ((1, 2), (1, 1), (0, 2), (2, 3))]
    assert found == [True, False, False, True]


def test_runs_in_words() -> None:
    runs = [
        run_of(known=True, validation=0.75),
        run_of(finished=False, steps=0, steps_planned=0, validation=None),
        run_of(collapsed=True),
    ]
    row = race_tables._candidate(
        {"name": "x", "vanilla": True, "p_best": 1.0, "runs": runs},
    )
    assert row[-2:] == ["known at 0.750, 0 steps, collapsed", "100"]
