"""GET /deliveries, one delivery, and sending it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from live_service import fill, serving, settings

from headstart.entities import JobDraft

if TYPE_CHECKING:
    from collections.abc import Iterator

    from live_service import Live

    from headstart.store import Store

HOOK = "https://receiver.example/hook"


@pytest.fixture
def live(store: Store) -> Iterator[Live]:
    """Three jobs with a webhook each: delivered (1), failed after a try (2), waiting (3)."""
    fill(store)
    draft = {"method": "logme", "method_version": "1", "checkpoint_id": 1, "target_id": 1, "params": {}}
    store.submit_jobs([JobDraft(**draft, seed=seed, webhook=HOOK) for seed in range(3)])  # type: ignore[arg-type]
    for job_id, arrives in ((1, True), (2, False)):
        store.cancel_job(job_id)
        claimed = store.claim_delivery(60)
        assert claimed is not None
        status, error = (204, None) if arrives else (None, "The receiver cannot be told: no answer in time.")
        store.record_try(claimed, status=status, error=error, seconds=0.25, delivered=arrives, next_in=None)
    with serving(store, settings()) as served:
        yield served


def test_they_are_listed_in_pages_by_job_and_state(live: Live) -> None:
    page = live.http.get("/deliveries", params={"page_size": 2}).raise_for_status().json()
    assert [one["id"] for one in page["items"]] == [1, 2]
    rest = live.http.get("/deliveries", params={"page_size": 2, "page_token": page["next_page_token"]}).json()
    assert [one["id"] for one in rest["items"]] == [3]
    assert rest["next_page_token"] is None
    for query, found in (
        ("job_id=2", [2]),
        ("state=failed", [2]),
        ("state=waiting", [3]),
        ("state=pending", []),
        ("job_id=1&state=failed", []),
    ):
        assert [one["id"] for one in live.http.get(f"/deliveries?{query}").json()["items"]] == found


def test_one_shows_every_try(live: Live) -> None:
    shown = live.http.get("/deliveries/2").raise_for_status().json()
    (tried,) = shown.pop("log")
    assert tried.pop("at") >= shown.pop("created_at")
    assert tried == {
        "status": None,
        "error": "The receiver cannot be told: no answer in time.",
        "seconds": 0.25,
    }
    assert shown == {"id": 2, "job_id": 2, "url": HOOK, "state": "failed", "tries": 1, "next_at": None}


@pytest.mark.parametrize("delivery_id", [1, 2])
def test_one_that_has_ended_is_sent_again(live: Live, delivery_id: int) -> None:
    response = live.http.post(f"/deliveries/{delivery_id}/redeliver")
    assert response.status_code == 202
    assert response.headers["location"] == f"/deliveries/{delivery_id}"
    assert response.json() == live.http.get(response.headers["location"]).json()
    assert (response.json()["state"], response.json()["tries"]) == ("pending", 0)
    assert len(response.json()["log"]) == 1
    claimed = live.store.claim_delivery(60)
    assert claimed is not None
    assert claimed.id == delivery_id


def test_one_that_waits_for_its_job_is_not(live: Live) -> None:
    problem = live.problem("POST", "/deliveries/3/redeliver", 409)
    assert "waits for job 3" in problem["detail"]


def test_what_is_not_there(live: Live) -> None:
    for verb, path in (
        ("GET", "/deliveries/99"),
        ("POST", "/deliveries/99/redeliver"),
        ("GET", "/deliveries?job_id=99"),
    ):
        assert "99" in live.problem(verb, path, 404)["detail"]


@pytest.mark.parametrize("query", ["state=lost", "job_id=0", "job_id=x", "page_token=x", "status=500"])
def test_a_query_that_cannot_be(live: Live, query: str) -> None:
    problem = live.problem("GET", f"/deliveries?{query}", 422)
    assert problem["errors"][0]["field"] == query.partition("=")[0]
