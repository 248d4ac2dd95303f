from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from job_service import (
    NOT_FOR_IT,
    advanced,
    claimed,
    failed,
    finished,
    measuring,
    submitted,
)
from structlog.testing import capture_logs
from typer.testing import CliRunner

from service import jobs_cli
from service.cli import app
from service.client import BrokenOff, Client, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from click.testing import Result
    from live_service import Live

    from headstart.store import Store

SUBMIT = ("submit", "gauge", "--checkpoint", "roberta-base", "--target", "rte")


@pytest.fixture
def live(store: Store) -> Iterator[Live]:
    """A service over a store of its own, whose log keeps out of what the command prints."""
    with capture_logs(), measuring(store) as live:
        yield live


def run(live: Live | str, *arguments: str) -> Result:
    url = live if isinstance(live, str) else live.url
    return CliRunner().invoke(app, ("jobs", *arguments), env={"HEADSTART_URL": url, "COLUMNS": "200"})


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
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_submit_says_how_to_follow(live: Live) -> None:
    assert "headstart jobs watch 1" in printed(live, *SUBMIT)
    assert "Job 1 measures the same and is queued" in printed(live, *SUBMIT)
    finished(live.store, value=0.75)
    table = printed(live, *SUBMIT)
    assert "measured already" in table
    assert "0.7500" in table
    printed(live, *SUBMIT, "--seed", "1")
    failed(live.store, NOT_FOR_IT)
    assert "NotApplicable: The target has one class only." in printed(live, *SUBMIT, "--seed", "1")


def test_submit_takes_ids_and_everything_else(live: Live) -> None:
    given = ("--param", "rows=7", "--seed", "3", "--priority", "-9", "--webhook", "https://example.org")
    answer = as_json(live, "submit", "gauge", "--checkpoint", "1", "--target", "2", *given)
    job = answer["job"]
    assert (job["checkpoint_id"], job["target_id"], job["params"]["rows"]) == (1, 2, 7)
    assert (job["seed"], job["priority"]) == (3, -9)
    assert live.store.deliveries(job_id=job["id"]).items[0].url == "https://example.org"
    again = as_json(live, *SUBMIT, "--family", "roberta-base", "--params-json", '{"rows": 9}')
    assert again["job"]["params"] == {"rows": 9, "penalty": 0.5}


def test_parameters_are_json_or_text() -> None:
    pairs = ["a=1", "b=1e-5", "c=true", "d=[1,2]", "e=adam", "f=x=y", "g=", 'h="1"']
    assert jobs_cli.read_params('{"a": 0, "z": null}', pairs) == {
        "a": 1,
        "b": 1e-5,
        "c": True,
        "d": [1, 2],
        "e": "adam",
        "f": "x=y",
        "g": "",
        "h": "1",
        "z": None,
    }


@pytest.mark.parametrize(
    "wrong", [("--param", "rows"), ("--param", "=7"), ("--params-json", "{"), ("--params-json", "[1]")]
)
def test_wrong_usage_exits_with_2(live: Live, wrong: tuple[str, str]) -> None:
    assert run(live, *SUBMIT, *wrong).exit_code == 2


def test_a_problem_is_one_sentence(live: Live) -> None:
    assert "roberta-base" in refused(live, "submit", "gauge", "--checkpoint", "roberta-bse", "--target", "1")
    assert "There is no job '9'" in refused(live, "show", "9")
    assert "There is no job '9'" in refused(live, "watch", "9")
    assert "headstart serve" in refused("http://127.0.0.1:9", "watch", "1")
    assert "headstart serve" in refused("http://127.0.0.1:9", "list")


def test_list_and_show(live: Live) -> None:
    submitted(live)
    submitted(live, seed=1)
    job = claimed(live.store)
    advanced(live.store, job, 0.5, stage="halfway [there]")
    table = printed(live, "list")
    assert "50%" in table
    assert "halfway [there]" in table
    assert [one["id"] for one in as_json(live, "list", "--state", "queued")["items"]] == [2]
    assert "raise --limit" in printed(live, "list", "--limit", "1")
    assert as_json(live, "show", "1") == live.http.get("/jobs/1").json()
    page = printed(live, "show", "1")
    assert "50%, halfway [there], a line, 3 s left" in page
    assert "roberta-base (id 1)" in page
    live.store.end_cancelled(job.id, job.attempt)
    finished(live.store, value=0.25)
    assert "0.2500" in printed(live, "show", "2")


def test_cancel_and_retry(live: Live) -> None:
    submitted(live)
    assert "Job 1 is cancelled." in printed(live, "cancel", "1")
    assert "Job 1 is queued." in printed(live, "retry", "1")
    claimed(live.store)
    assert "Job 1 is running, asked to stop." in printed(live, "cancel", "1")
    assert "Cancel it first" in refused(live, "retry", "1")
    assert as_json(live, "cancel", "1")["cancel_requested"] is True


def test_watch_follows_to_the_end(live: Live) -> None:
    submitted(live)
    timer = threading.Timer(0.4, finished, [live.store])
    timer.start()
    page = printed(live, "watch", "1")
    timer.join()
    assert "succeeded" in page
    assert "0.7500" in page


def test_submit_can_wait(live: Live) -> None:
    timer = threading.Timer(0.6, finished, [live.store])
    timer.start()
    job = as_json(live, *SUBMIT, "--wait")
    timer.join()
    assert (job["id"], job["state"]) == (1, "succeeded")


def test_watch_fails_with_the_job(live: Live) -> None:
    submitted(live)
    failed(live.store)
    sentence = refused(live, "watch", "1")
    assert "Job 1 has failed: The method broke off with KeyError: 'label'." in sentence
    assert "report it" in sentence
    result = run(live, "watch", "1", "--json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (1, "failed")
    submitted(live, seed=1)
    printed(live, "cancel", "2")
    assert "Job 2 is cancelled." in refused(live, "watch", "2")


# -- the stream


class Scripted(Client):
    """A service whose streams are written down: text, silences in seconds, and where they break off."""

    def __init__(self, *streams: list[str | float | Exception]) -> None:
        self.streams = list(streams)
        self.asked: list[str] = []

    def streamed(self, path: str, headers: Mapping[str, str]) -> Iterator[str]:
        self.asked.append(headers["Last-Event-ID"])
        for part in self.streams.pop(0):
            if isinstance(part, Exception):
                raise part
            if isinstance(part, float):
                time.sleep(part)
            else:
                yield part


def event(revision: int, state: str) -> str:
    return f'event: state\ndata: {{"state": "{state}", "text": "a\\nb\u2028c"}}\nid: {revision}\n\n'


def test_a_broken_stream_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_cli, "RECONNECT_SECONDS", 0.0)
    gone = BrokenOff("The service went away.")
    client = Scripted(
        [gone],
        [": ping\n\n", event(1, "queued"), event(2, "running")[:20], gone],
        [],  # the service stops, and says nothing
        [event(2, "running"), event(5, "running")[:-1]],
        [event(5, "running") + event(6, "succeeded"), event(7, "queued")],
    )
    states = [one["state"] for one in jobs_cli.followed(client, 1)]
    assert states == ["queued", "running", "running", "succeeded"]
    assert client.asked == ["0", "0", "1", "1", "2"]


def test_a_service_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_cli, "RECONNECT_SECONDS", 0.01)
    monkeypatch.setattr(jobs_cli, "PATIENCE_SECONDS", 0.05)
    gone: list[str | float | Exception] = [BrokenOff("The service went away.")]
    client = Scripted([event(1, "queued")], *([gone] * 100))
    with pytest.raises(BrokenOff, match="went away"):
        list(jobs_cli.followed(client, 1))
    assert 3 <= len(client.asked) < 50


def test_patience_is_with_a_service_that_is_gone_not_with_one_that_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs_cli, "RECONNECT_SECONDS", 0.0)
    monkeypatch.setattr(jobs_cli, "PATIENCE_SECONDS", 0.2)
    gone = BrokenOff("The service went away.")
    client = Scripted(
        [event(1, "queued"), 0.3, gone],
        [": ping\n\n", 0.3, gone],
        [gone],
        [],
        [0.3, gone],
        [event(2, "succeeded")],
    )
    assert [one["state"] for one in jobs_cli.followed(client, 1)] == ["queued", "succeeded"]


def test_a_refusal_is_not_asked_again() -> None:
    client = Scripted([Refused("There is no such job.")])
    with pytest.raises(Refused):
        list(jobs_cli.followed(client, 1))
    assert client.asked == ["0"]


def test_events_are_read_however_they_are_cut() -> None:
    text = event(1, "queued") + ": ping\n\n" + event(2, "running") + event(3, "failed")[:-1]
    for size in (1, 2, 7, 1000):
        chunks = [text[at : at + size] for at in range(0, len(text), size)]
        found = list(jobs_cli.read_events(chunks))
        assert [revision for revision, _ in found] == [1, 2]
        assert found[0][1]["text"] == "a\nb\u2028c"
