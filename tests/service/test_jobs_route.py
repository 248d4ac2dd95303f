from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from job_service import ASKED, NOT_FOR_IT, claimed, failed, finished, measuring, post, submitted

from headstart.failures import FAILURES
from headstart.method import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from live_service import Live

    from headstart.store import Store

SECOND = "alice/rob-mnli"


@pytest.fixture
def live(store: Store) -> Iterator[Live]:
    """A service over a store of its own."""
    with measuring(store) as live:
        yield live


# -- submitting


def test_a_job_is_queued_with_everything_filled_in(live: Live) -> None:
    answer = live.http.post(
        "/jobs",
        json=ASKED | {"params": {"rows": 7}, "seed": 3, "priority": -5},
        headers={"x-request-id": "find-me"},
    )
    body = answer.json()
    job = body["job"]
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert answer.headers["retry-after"] == "1"
    assert (body["status"], body["score"]) == ("queued", None)
    assert job["params"] == {"rows": 7, "penalty": 0.5}
    assert (job["method"], job["method_version"], job["queue"]) == ("gauge", "2", "gpu")
    assert (job["checkpoint"], job["family"], job["target"]) == ("roberta-base", "roberta-base", "rte")
    assert (job["seed"], job["priority"], job["request_id"]) == (3, -5, "find-me")
    assert (job["state"], job["attempt"], job["failure"], job["score_id"]) == ("queued", 0, None, None)
    assert job["progress"] == {"fraction": 0.0, "stage": "", "message": "", "seconds_left": None}
    assert live.http.get(f"/jobs/{job['id']}").json() == job


def test_ids_and_names_mean_the_same(live: Live) -> None:
    job = submitted(live)
    again = post(live, "/jobs", ASKED | {"checkpoint": job["checkpoint_id"], "target": job["target_id"]})
    assert (again["status"], again["job"]["id"]) == ("joined", job["id"])


def test_defaults_given_or_left_out_are_one_job(live: Live) -> None:
    job = submitted(live, params={"rows": 100})
    assert post(live, "/jobs", ASKED)["job"]["id"] == job["id"]
    assert post(live, "/jobs", ASKED | {"seed": 1})["job"]["id"] != job["id"]


def test_what_is_scored_is_answered_at_once(live: Live) -> None:
    submitted(live)
    job = finished(live.store, value=0.75)
    answer = live.http.post("/jobs", json=ASKED)
    assert answer.status_code == 200
    assert answer.headers["location"] == f"/scores/{job.score_id}"
    assert (answer.json()["status"], answer.json()["job"]) == ("scored", None)
    assert answer.json()["score"] == live.http.get(f"/scores/{job.score_id}").json()
    assert answer.json()["score"]["value"] == 0.75


def test_what_is_not_applicable_is_joined_and_not_tried_again(live: Live) -> None:
    submitted(live)
    job = failed(live.store, NOT_FOR_IT)
    answer = post(live, "/jobs", ASKED)
    assert (answer["status"], answer["job"]["id"], answer["job"]["state"]) == ("joined", job.id, "failed")
    assert answer["job"]["failure"]["name"] == "NotApplicable"
    assert live.store.claim_job(("gpu",), 60) is None


def test_a_webhook_is_subscribed(live: Live) -> None:
    job = submitted(live, webhook="https://example.org/hook")
    (delivery,) = live.store.deliveries(job_id=job["id"]).items
    assert (delivery.url, delivery.state) == ("https://example.org/hook", "waiting")


def test_attempts_are_those_of_the_settings(store: Store) -> None:
    with measuring(store, job_attempts=7) as live:
        assert submitted(live)["last_attempt"] == 7


# -- idempotency


@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch"])
def test_the_same_key_and_body_is_answered_once(live: Live, path: str) -> None:
    body = ASKED if path == "/jobs" else {"jobs": [ASKED]}
    headers = {"idempotency-key": "mine"}
    first = live.http.post(path, json=body, headers=headers)
    live.store.cancel_job(1)
    again = live.http.post(path, json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert again.headers.get("location") == first.headers.get("location")
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert [job.id for job in live.store.jobs().items] == [1]
    other = ASKED | {"seed": 5} if path == "/jobs" else {"jobs": [ASKED | {"seed": 5}]}
    assert "another body" in live.problem("POST", path, 422, json=other, headers=headers)["detail"]


def test_a_key_whose_request_still_runs_is_409(live: Live) -> None:
    original = live.store.submit_jobs

    def slow(
        *arguments: Any, **named: Any
    ) -> Any:  # asks again with the key in the middle of the first request
        live.problem("POST", "/jobs", 409, json=ASKED, headers={"idempotency-key": "k"})
        return original(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live.store, "submit_jobs", slow)
        answer = live.http.post("/jobs", json=ASKED, headers={"idempotency-key": "k"})
    assert answer.status_code == 202


def test_a_refused_request_gives_its_key_back(live: Live) -> None:
    headers = {"idempotency-key": "k"}
    live.problem("POST", "/jobs", 404, json=ASKED | {"target": 99}, headers=headers)
    assert live.http.post("/jobs", json=ASKED, headers=headers).status_code == 202


# -- looking


def test_pages_and_filters(live: Live) -> None:
    for seed in range(5):
        submitted(live, seed=seed)
    submitted(live, checkpoint=SECOND, target="mnli")
    done = finished(live.store)
    seen: list[int] = []
    token: dict[str, str] = {}
    while True:
        page = live.http.get("/jobs", params={"page_size": 2, **token}).json()
        seen += [job["id"] for job in page["items"]]
        if page["next_page_token"] is None:
            break
        token = {"page_token": page["next_page_token"]}
    assert seen == [1, 2, 3, 4, 5, 6]

    def listed(**filters: Any) -> list[int]:
        return [job["id"] for job in live.http.get("/jobs", params=filters).json()["items"]]

    assert listed(state="succeeded") == [done.id]
    assert listed(state="queued") == [i for i in seen if i != done.id]
    assert listed(checkpoint_id=live.store.job(6).checkpoint_id) == [6]
    assert listed(target_id=live.store.job(6).target_id) == [6]
    assert listed(method="gauge", state="failed") == []
    assert listed(method="other") == []
    live.problem("GET", "/jobs", 404, params={"checkpoint_id": 999})
    live.problem("GET", "/jobs", 422, params={"state": "done"})
    live.problem("GET", "/jobs", 422, params={"page_token": "x"})


def test_a_succeeded_job_names_its_score(live: Live) -> None:
    submitted(live)
    job = live.http.get(f"/jobs/{finished(live.store, seconds=2.5).id}").json()
    assert (job["state"], job["seconds"], job["progress"]["fraction"]) == ("succeeded", 2.5, 1.0)
    assert live.http.get(f"/scores/{job['score_id']}").json()["value"] == 0.75


def test_methods_say_whether_they_run_and_with_what(live: Live) -> None:
    gauge = live.http.get("/methods/gauge").json()
    assert (gauge["runnable"], gauge["queue"]) == (True, "gpu")
    assert gauge["params"]["properties"]["rows"]["default"] == 100
    assert live.http.get("/methods/survey").json()["runnable"] is False
    assert "gauge" in [one["name"] for one in live.http.get("/methods").json()["items"]]


# -- cancelling and trying again


def test_a_waiting_job_is_cancelled_at_once_and_again(live: Live) -> None:
    job = submitted(live)
    for _ in range(2):
        done = post(live, f"/jobs/{job['id']}/cancel", {}, status=200)
        assert (done["state"], done["cancel_requested"]) == ("cancelled", False)
    assert live.store.claim_job(("gpu",), 60) is None


def test_a_running_job_is_asked_to_stop(live: Live) -> None:
    path = f"/jobs/{submitted(live)['id']}"
    job = claimed(live.store)
    answer = live.http.post(f"{path}/cancel")
    assert (answer.status_code, answer.headers["location"]) == (202, path)
    assert (answer.json()["state"], answer.json()["cancel_requested"]) == ("running", True)
    assert live.store.heartbeat_job(job.id, job.attempt, 60) == "cancel"
    assert live.store.end_cancelled(job.id, job.attempt)
    assert live.http.post(f"{path}/cancel").status_code == 200


def test_an_ended_job_is_not_cancelled(live: Live) -> None:
    submitted(live)
    done = finished(live.store)
    assert "succeeded" in live.problem("POST", f"/jobs/{done.id}/cancel", 409)["detail"]
    submitted(live, seed=1)
    broken = failed(live.store)
    assert "failed" in live.problem("POST", f"/jobs/{broken.id}/cancel", 409)["detail"]


def test_a_job_that_ended_before_the_cancel_keeps_its_score(live: Live) -> None:
    path = f"/jobs/{submitted(live)['id']}"
    job = claimed(live.store)
    assert live.http.post(f"{path}/cancel").status_code == 202
    # The worker had measured when it was asked to stop: the score is worth keeping.
    assert live.store.finish_job(job.id, job.attempt, Measurement(value=0.5), seconds=1.0)
    assert live.http.get(path).json()["state"] == "succeeded"
    live.problem("POST", f"{path}/cancel", 409)


def test_a_failed_job_is_tried_again(live: Live) -> None:
    submitted(live)
    broken = failed(live.store)
    path = f"/jobs/{broken.id}"
    assert live.http.get(path).json()["failure"]["remedy"].endswith(".")
    answer = live.http.post(f"{path}/retry", headers={"x-request-id": "again"})
    assert (answer.status_code, answer.headers["location"]) == (202, path)
    job = answer.json()
    assert (job["state"], job["attempt"], job["last_attempt"]) == ("queued", 1, 4)
    assert job["request_id"] == "again"
    assert "Cancel it first" in live.problem("POST", f"{path}/retry", 409)["detail"]
    assert claimed(live.store).id == broken.id


def test_what_is_under_way_is_not_tried_twice(live: Live) -> None:
    submitted(live)
    broken = failed(live.store)
    fresh = submitted(live)
    assert f"job {fresh['id']}" in live.problem("POST", f"/jobs/{broken.id}/retry", 409)["detail"]
    finished(live.store)
    assert "GET its score" in live.problem("POST", f"/jobs/{fresh['id']}/retry", 409)["detail"]


# -- ringing


class HeldQueue:
    """A queue whose ringing takes as long as the test wants."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.reached = True
        self.rung: list[list[tuple[int, str]]] = []

    def ring(self, jobs: Iterable[tuple[int, str]]) -> bool:
        assert self.let_go.wait(10)
        self.rung.append(list(jobs))
        return self.reached

    def depth(self, queue: str) -> int | None:
        return 0 if self.reached else None


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> HeldQueue:
    held = HeldQueue()
    monkeypatch.setattr("service.app.open_queue", lambda _: held)
    return held


def until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it does not come true")


def test_new_jobs_are_rung_for_after_the_answer(queue: HeldQueue, store: Store) -> None:
    with measuring(store) as live:
        headers = {"idempotency-key": "k"}
        assert live.http.post("/jobs", json=ASKED, headers=headers).status_code == 202
        assert queue.rung == [], "the answer is here, and the ringing has not ended"
        assert live.http.post("/jobs", json=ASKED, headers=headers).status_code == 202  # a replay
        assert post(live, "/jobs", ASKED)["status"] == "joined"
        wanted = [ASKED | {"seed": seed} for seed in (0, 1, 2, 1)]
        post(live, "/jobs/batch", {"jobs": wanted})
        post(live, "/jobs/1/cancel", {}, status=200)
        post(live, "/jobs/1/retry", {})
        queue.let_go.set()
        until(lambda: len(queue.rung) == 3)
    assert queue.rung == [[(1, "gpu")], [(2, "gpu"), (3, "gpu")], [(1, "gpu")]]


def test_a_broker_that_is_gone_is_not_asked_for_every_job(
    queue: HeldQueue, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    queue.reached = False
    with measuring(store) as live:
        for seed in range(20):  # all wait behind the first ring, and none of them keeps a thread
            submitted(live, seed=seed)
        queue.let_go.set()
        until(lambda: queue.rung != [])
        submitted(live, seed=20)
    assert queue.rung == [[(1, "gpu")]]
    assert capsys.readouterr().out.count("broker_unreachable") == 1


# -- the page about it


def test_every_failure_is_documented_with_its_remedy() -> None:
    page = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (yes|no) \| ", page, re.MULTILINE))
    assert rows == {name: "yes" if failure.retryable else "no" for name, failure in FAILURES.items()}
    for name, failure in FAILURES.items():
        assert f"| {failure.remedy} |" in page, name
