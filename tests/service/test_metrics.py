from __future__ import annotations

from typing import TYPE_CHECKING, Any

from job_service import ASKED, NOT_FOR_IT, failed, finished, measuring, submitted
from structlog.testing import capture_logs

from headstart.errors import StoreUnavailable

if TYPE_CHECKING:
    import pytest
    from live_service import Live

    from headstart.store import Store


def lines(live: Live) -> set[str]:
    return set(live.http.get("/metrics").raise_for_status().text.splitlines())


def test_jobs_are_counted(store: Store) -> None:
    with measuring(store) as live:
        submitted(live, seed=1)
        finished(store, seconds=2.5)
        submitted(live, seed=2)
        finished(store, seconds=1.0)
        submitted(live, seed=3)
        failed(store)
        submitted(live, seed=4)
        failed(store, NOT_FOR_IT)
        submitted(live, seed=5, webhook="https://example.org/hook")
        submitted(live, seed=6)
        assert lines(live) >= {
            'headstart_jobs{state="queued"} 2.0',
            'headstart_jobs{state="running"} 0.0',
            'headstart_jobs{state="succeeded"} 2.0',
            'headstart_jobs{state="failed"} 2.0',
            'headstart_jobs_failed{failure="NotApplicable"} 1.0',
            'headstart_jobs_failed{failure="Unexpected"} 1.0',
            'headstart_queue_depth{queue="gpu"} 2.0',
            'headstart_queue_depth{queue="cpu"} 0.0',
            'headstart_queue_oldest_seconds{queue="cpu"} 0.0',
            'headstart_job_seconds_count{method="gauge"} 2.0',
            'headstart_job_seconds_sum{method="gauge"} 3.5',
            'headstart_deliveries{state="waiting"} 1.0',
            "headstart_event_streams 0.0",
        }
        (oldest,) = [line for line in lines(live) if 'oldest_seconds{queue="gpu"}' in line]
        assert 0.0 <= float(oldest.split()[1]) < 60.0
        assert "headstart_broker_up" not in live.http.get("/metrics").text


def test_the_store_is_not_counted_for_every_scrape(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with measuring(store) as live:
        before = lines(live)
        submitted(live)
        assert 'headstart_jobs{state="queued"} 0.0' in lines(live) & before
        monkeypatch.setattr("service.metrics.STORE_SECONDS", 0.0)
        assert 'headstart_jobs{state="queued"} 1.0' in lines(live)


def test_a_store_that_is_gone_leaves_the_other_metrics(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Any:
        raise StoreUnavailable("The store does not answer. Try again.")

    with measuring(store) as live:
        monkeypatch.setattr(store, "job_counts", gone)
        text = live.http.get("/metrics").text
        assert "headstart_jobs{" not in text
        assert "headstart_evidence_version" in text


def ready(live: Live) -> tuple[int, str, float]:
    answer = live.http.get("/readyz")
    return answer.status_code, answer.json()["broker"], answer.elapsed.total_seconds()


def test_ready_without_a_broker(store: Store) -> None:
    with measuring(store) as live:
        assert ready(live)[:2] == (200, "none")


def test_ready_with_a_broker_where_nothing_listens(store: Store) -> None:
    with measuring(store, broker="redis://127.0.0.1:9/0") as live:
        for _ in range(3):  # the first asks; the others find it asked
            status, broker, seconds = ready(live)
            assert (status, broker) == (200, "unreachable")
            assert seconds < 3  # the broker takes six to be given up
        assert "headstart_broker_up 0.0" in lines(live)


def test_a_broker_that_comes_back_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Queue:
        reached = False
        asked = 0

        def ring(self, jobs: Any) -> bool:
            return self.reached

        def depth(self, queue: str) -> int | None:
            self.asked += 1
            return 0 if self.reached else None

    queue = Queue()
    monkeypatch.setattr("service.app.open_queue", lambda _: queue)
    with measuring(store) as live:
        assert ready(live)[:2] == (200, "unreachable")
        queue.reached = True
        assert ready(live)[:2] == (200, "unreachable"), "asked every few seconds, not for every probe"
        assert queue.asked == 1
        monkeypatch.setattr("service.doorbell.FRESH_SECONDS", 0.0)
        assert ready(live)[:2] == (200, "ok")
        assert "headstart_broker_up 1.0" in lines(live)


def test_what_is_done_to_jobs_is_logged_under_its_request(store: Store) -> None:
    with capture_logs() as logged, measuring(store) as live:
        for path, request_id in (
            ("/jobs", "first"),
            ("/jobs/1/cancel", "second"),
            ("/jobs/1/retry", "third"),
        ):
            live.http.post(path, json=ASKED, headers={"x-request-id": request_id}).raise_for_status()
        live.http.post("/jobs/batch", json={"jobs": [ASKED, ASKED | {"seed": 1}]}).raise_for_status()
    found = [
        (line["event"], line["request_id"], line.get("job_id")) for line in logged if "request_id" in line
    ]
    assert found[:3] == [
        ("jobs_submitted", "first", 1),
        ("job_cancelled", "second", 1),
        ("job_retried", "third", 1),
    ]
    assert (logged[-1]["queued"], logged[-1]["joined"]) == (1, 1)
