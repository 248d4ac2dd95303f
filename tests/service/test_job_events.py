from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from job_service import advanced, claimed, failed, finished, measuring, submitted
from live_service import fill

from headstart.entities import JobDraft
from headstart.errors import StoreUnavailable
from headstart.store import Store, upgrade_schema
from service.feed import Feed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from live_service import Live


@pytest.fixture
def live(store: Store) -> Iterator[Live]:
    """A service over a store of its own."""
    with measuring(store) as live:
        yield live


class Stream:
    """An open stream of events, read as they come."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()
        self.comments = 0

    def next(self) -> tuple[str, int, dict[str, Any]] | None:
        """(event, id, data); None at the end of the stream."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                data = json.loads(fields["data"])
                assert int(fields["id"]) == data["revision"]
                return fields["event"], int(fields["id"]), data
        return None

    def rest(self) -> list[tuple[str, int, dict[str, Any]]]:
        found = []
        while (event := self.next()) is not None:
            found.append(event)
        return found


@contextmanager
def following(live: Live, job_id: int, **arguments: Any) -> Iterator[Stream]:
    with live.http.stream("GET", f"/jobs/{job_id}/events", **arguments) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        yield Stream(response)


def states(events: list[tuple[str, int, dict[str, Any]]]) -> list[tuple[str, str, int]]:
    return [(kind, data["state"], data["attempt"]) for kind, _, data in events]


def open_streams(live: Live) -> float:
    (line,) = [
        line
        for line in live.http.get("/metrics").text.splitlines()
        if line.startswith("headstart_event_streams")
    ]
    return float(line.split()[1])


def until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it does not come true")


def test_a_job_is_followed_to_its_end(live: Live) -> None:
    job_id = submitted(live)["id"]
    with following(live, job_id) as stream:
        first = stream.next()
        assert first is not None
        kind, revision, data = first
        assert (kind, revision) == ("state", 1)
        assert data == {
            "job_id": job_id,
            "revision": 1,
            "at": live.http.get(f"/jobs/{job_id}").json()["created_at"],
            "state": "queued",
            "attempt": 0,
            "progress": {"fraction": 0.0, "stage": "", "message": "", "seconds_left": None},
            "failure": None,
        }
        job = claimed(live.store)
        running = stream.next()
        assert running is not None
        assert running[2]["state"] == "running"
        advanced(live.store, job, 0.25)
        quarter = stream.next()
        assert quarter is not None
        assert (quarter[0], quarter[2]["state"], quarter[2]["attempt"]) == ("progress", "running", 1)
        assert quarter[2]["progress"] == {
            "fraction": 0.25,
            "stage": "measuring",
            "message": "a line",
            "seconds_left": 3.0,
        }
        assert live.store.end_cancelled(job.id, job.attempt)
        (last,) = stream.rest()
    assert states([last]) == [("state", "cancelled", 1)]
    assert last[1] == 4
    until(lambda: open_streams(live) == 0)


def test_of_an_ended_job_all_moves_are_told_at_once(live: Live) -> None:
    job_id = submitted(live)["id"]
    failed(live.store)
    live.http.post(f"/jobs/{job_id}/retry")
    finished(live.store)
    with following(live, job_id) as stream:
        told = stream.rest()
    assert states(told) == [
        ("state", "queued", 0),
        ("state", "running", 1),
        ("state", "failed", 1),
        ("state", "queued", 1),
        ("state", "running", 2),
        ("state", "succeeded", 2),
    ]
    assert [data["failure"] for _, _, data in told] == [None, None, "Unexpected", None, None, None]
    assert told[-1][2]["progress"]["fraction"] == 1.0


@pytest.mark.parametrize(
    ("headers", "params"),
    [({"last-event-id": "2"}, {}), ({}, {"after": "2"}), ({"last-event-id": "2"}, {"after": "0"})],
)
def test_a_stream_goes_on_where_it_broke_off(
    live: Live, headers: dict[str, str], params: dict[str, str]
) -> None:
    job_id = submitted(live)["id"]
    job = claimed(live.store)
    for fraction in (0.1, 0.2, 0.3):
        advanced(live.store, job, fraction)
    with following(live, job_id, headers=headers, params=params) as stream:
        newest = stream.next()
        assert newest is not None
        assert (newest[0], newest[1], newest[2]["progress"]["fraction"]) == ("progress", 5, 0.3)
        assert live.store.end_cancelled(job.id, job.attempt)
        assert states(stream.rest()) == [("state", "cancelled", 1)]


def test_of_an_end_that_was_seen_there_is_nothing_more(live: Live) -> None:
    job_id = submitted(live)["id"]
    live.http.post(f"/jobs/{job_id}/cancel")
    for seen in ("2", "99"):
        answer = live.http.get(f"/jobs/{job_id}/events", headers={"last-event-id": seen})
        assert (answer.status_code, answer.content) == (204, b"")  # an EventSource does not come back
    assert live.http.get(f"/jobs/{job_id}/events", headers={"last-event-id": "1"}).status_code == 200


def test_an_id_from_the_future_waits_for_what_comes(live: Live) -> None:
    job_id = submitted(live)["id"]
    with following(live, job_id, params={"after": "99"}) as stream:
        until(lambda: open_streams(live) == 1)
        live.http.post(f"/jobs/{job_id}/cancel")
        assert states(stream.rest()) == [("state", "cancelled", 0)]


@pytest.mark.parametrize("seen", ["x", "-1", "1.5", "9" * 30])
def test_an_id_that_is_none(live: Live, seen: str) -> None:
    job_id = submitted(live)["id"]
    problem = live.problem("GET", f"/jobs/{job_id}/events", 422, headers={"last-event-id": seen})
    assert problem["errors"][0]["field"] == "last-event-id"
    problem = live.problem("GET", f"/jobs/{job_id}/events", 422, params={"after": seen})
    assert problem["errors"][0]["field"] == "after"


def test_a_silent_stream_sends_comments(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.05)
    with measuring(store) as live:
        job_id = submitted(live)["id"]
        with following(live, job_id) as stream:
            assert stream.next() is not None
            timer = threading.Timer(0.5, store.cancel_job, [job_id])
            timer.start()
            assert stream.next() is not None
            assert stream.next() is None
            assert stream.comments >= 3
            timer.join()


def test_the_framework_sends_them_every_fifteen_seconds() -> None:
    from fastapi import routing

    assert routing._PING_INTERVAL == 15.0


def test_a_listener_that_hangs_up_is_forgotten(live: Live) -> None:
    job_id = submitted(live)["id"]
    with following(live, job_id) as stream, following(live, job_id) as other:
        assert stream.next() is not None
        assert other.next() is not None
        assert open_streams(live) == 2
    until(lambda: open_streams(live) == 0)


def test_one_look_serves_all_listeners(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = submitted(live)["id"], submitted(live, seed=1)["id"]
    looks: list[set[int]] = []
    original = live.store.job_revisions

    def counted(job_ids: Any) -> dict[int, int]:
        looks.append(set(job_ids))
        return original(job_ids)

    monkeypatch.setattr(live.store, "job_revisions", counted)
    with following(live, first) as one, following(live, second) as two, following(live, second) as three:
        streams = (one, two, three)
        assert all(stream.next() is not None for stream in streams)
        began = time.monotonic()
        until(lambda: looks.count({first, second}) >= 4)
        assert len(looks) <= (time.monotonic() - began) / 0.25 + 8  # and not three times as many
        for job_id in (first, second):
            live.store.cancel_job(job_id)
        assert [states(stream.rest()) for stream in streams] == [[("state", "cancelled", 0)]] * 3
    until(lambda: open_streams(live) == 0)
    seen = len(looks)
    time.sleep(0.6)
    assert len(looks) <= seen + 1, "nobody listens, nobody looks"


@pytest.mark.parametrize("verb", ["job_revisions", "job_events"])
def test_a_store_that_goes_away_and_comes_back_is_survived(
    live: Live, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    job_id = submitted(live)["id"]
    failures = []

    def gone(*_: object, **__: object) -> Any:
        failures.append(1)
        raise StoreUnavailable("The store does not answer. Try again.")

    with following(live, job_id) as stream:
        assert stream.next() is not None
        with monkeypatch.context() as patch:
            patch.setattr(live.store, verb, gone)
            live.store.cancel_job(job_id)
            until(lambda: len(failures) >= 2)
        assert states(stream.rest()) == [("state", "cancelled", 0)]


def test_a_feed_that_closes_ends_its_streams_at_once(store: Store) -> None:
    with measuring(store) as live:
        job_id = submitted(live)["id"]

    async def follow() -> tuple[list[str], float]:
        feed = Feed(store, seconds=60.0)  # none of this waits for the next look
        told: list[str] = []

        async def listen() -> None:
            with feed.listen(job_id) as listener:
                async for kind, _ in listener.events(0):
                    told.append(kind)

        tasks = [asyncio.create_task(listen()) for _ in range(3)]
        while len(told) < 3:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        feed.close()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert feed.listening == 0
        with feed.listen(job_id) as late:
            assert [kind async for kind, _ in late.events(0)] == []
        return told, time.monotonic() - began

    told, seconds = asyncio.run(follow())
    assert told == ["state"] * 3
    assert seconds < 1


def test_a_service_that_is_stopped_ends_its_streams(tmp_path: Path) -> None:
    """As `headstart serve`: uvicorn waits for open connections, and would for ever."""
    url = f"sqlite:///{tmp_path}/store.db"
    upgrade_schema(url)
    with closing(Store(url)) as store:
        fill(store)
        draft = JobDraft(method="gauge", method_version="2", checkpoint_id=1, target_id=1, params={})
        store.submit_jobs([draft])
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HEADSTART_")}
    env = clean | {"HEADSTART_STORE": url, "HEADSTART_STARTER": "", "HEADSTART_EMBEDDED_WORKER": "false"}
    command = (sys.executable, "-m", "service", "serve", "--port", "0")
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            base = re.findall(r"http://localhost:[0-9]+", greeting)[0]
            with httpx.stream("GET", f"{base}/jobs/1/events", trust_env=False, timeout=10) as response:
                stream = Stream(response)
                assert stream.next() is not None
                process.send_signal(signal.SIGTERM)
                assert stream.next() is None  # ended as it should be, not broken off
            process.wait(5)
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()
