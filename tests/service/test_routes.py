from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from live_service import fill, serving, settings

from headstart.errors import StoreUnavailable
from headstart.methods import METHODS

if TYPE_CHECKING:
    from pathlib import Path

    from live_service import Live

    from headstart.store import Store


def all_pages(live: Live, path: str, **params: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    token: str | None = None
    while True:
        query = params | {"page_size": 2} | ({} if token is None else {"page_token": token})
        page = live.http.get(path, params=query).raise_for_status().json()
        assert len(page["items"]) <= 2
        items += page["items"]
        token = page["next_page_token"]
        if token is None:
            return items


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("/families", 2),
        ("/checkpoints", 4),
        ("/targets", 3),
        ("/scores", 13),
        ("/imports", 1),
        ("/methods", len(METHODS)),
    ],
)
def test_pages_hold_every_item_once(catalogue: Live, path: str, count: int) -> None:
    items = all_pages(catalogue, path)
    keys = [item.get("id", item.get("name", None)) for item in items]
    assert len(keys) == len(set(keys))
    assert len(items) == count


def test_a_family_with_a_slash(catalogue: Live) -> None:
    family = catalogue.http.get("/families/org/bert").json()
    assert family["name"] == "org/bert"
    assert family["checkpoints"] == 2
    assert family == catalogue.http.get("/families/org%2Fbert").json()


def test_checkpoints_by_family_and_search(catalogue: Live) -> None:
    names = [c["name"] for c in all_pages(catalogue, "/checkpoints", family="roberta-base")]
    assert sorted(names) == ["alice/rob-mnli", "roberta-base"]
    names = [c["name"] for c in all_pages(catalogue, "/checkpoints", search="BERT")]
    assert sorted(names) == ["bob/bert-qa", "org/bert", "roberta-base"]


@pytest.mark.parametrize("noun", ["checkpoints", "targets", "scores", "imports"])
def test_one_item_is_as_in_the_list(catalogue: Live, noun: str) -> None:
    item = catalogue.http.get(f"/{noun}").json()["items"][0]
    alone = catalogue.http.get(f"/{noun}/{item['id']}").json()
    assert {name: alone[name] for name in item} == item
    assert alone.keys() - item.keys() == ({"profile"} if noun == "targets" else set())  # too long for a list


def test_scores_by_filter(catalogue: Live) -> None:
    doubtful = all_pages(catalogue, "/scores", quarantined=True)
    assert [s["quarantine"] for s in doubtful] == ["off_grid"]
    assert len(all_pages(catalogue, "/scores", quarantined=False)) == 12
    one = doubtful[0]
    by_subject = all_pages(
        catalogue,
        "/scores",
        checkpoint_id=one["checkpoint_id"],
        target_id=one["target_id"],
        method="finetune",
    )
    assert one in by_subject
    assert len(by_subject) == 2


def test_quarantine_is_set_and_lifted(store: Store) -> None:
    fill(store)
    with serving(store, settings()) as live:
        score = live.http.get("/scores", params={"quarantined": False}).json()["items"][0]
        path = f"/scores/{score['id']}"
        change = {"quarantine": "other_split", "note": "Scored on the dev split."}
        changed = live.http.patch(path, json=change).raise_for_status().json()
        assert changed == score | {"quarantine": "other_split", "quarantine_note": "Scored on the dev split."}
        lifted = live.http.patch(path, json={"quarantine": None, "note": "It was not."}).json()
        assert lifted["quarantine"] is None
        assert live.http.get(path).json() == lifted


def test_lifting_into_an_occupied_key_is_a_conflict(catalogue: Live) -> None:
    doubtful = all_pages(catalogue, "/scores", quarantined=True)[0]
    body = {"quarantine": None, "note": "It is fine."}
    problem = catalogue.problem("PATCH", f"/scores/{doubtful['id']}", 409, json=body)
    assert problem["code"] == "conflict"


def test_methods_say_what_they_are(catalogue: Live) -> None:
    probe = catalogue.http.get("/methods/linear_probe").json()
    assert probe["higher_is_better"] is True
    assert (probe["low"], probe["high"]) == (-1.0, 1.0)
    assert probe["runnable"] is True
    assert probe["params"]["properties"]["max_rows"]["default"] == 20_000
    logme = catalogue.http.get("/methods/logme").json()
    assert (logme["low"], logme["high"]) == (None, None)
    problem = catalogue.problem("GET", "/methods/linear_prob", 404)
    assert "linear_probe" in problem["detail"]


def test_request_ids_are_given_and_propagated(catalogue: Live) -> None:
    given = catalogue.http.get("/healthz", headers={"x-request-id": "mine-1.2_3"})
    assert given.headers["x-request-id"] == "mine-1.2_3"
    for bad in ("x" * 65, "a b", "a\tb", ""):
        response = catalogue.http.get("/healthz", headers={"x-request-id": bad})
        assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", response.headers["x-request-id"])
    first, second = (catalogue.http.get("/healthz").headers["x-request-id"] for _ in range(2))
    assert first != second


def test_metrics_count_requests_by_route(catalogue: Live) -> None:
    catalogue.http.get("/families/org/bert")
    catalogue.http.get("/nowhere")
    text = catalogue.http.get("/metrics").raise_for_status().text
    line = r'headstart_requests_total\{method="GET",route="/families/\{name\}",status="200"\} [1-9]'
    assert re.search(line, text)
    assert re.search(r'headstart_requests_total\{method="any",route="other",status="404"\} [1-9]', text)
    assert re.search(r'headstart_request_seconds_bucket\{le="\+Inf",method="GET",route="/fam', text)
    assert 'headstart_scores_quarantined{reason="off_grid"} 1.0' in text
    assert 'headstart_imports{state="succeeded"} 1.0' in text
    assert "headstart_evidence_version" in text
    assert "headstart_snapshot_age_seconds" in text


def test_alive_and_ready(catalogue: Live) -> None:
    assert catalogue.http.get("/healthz").json()["status"] == "ok"
    ready = catalogue.http.get("/readyz")
    assert ready.status_code == 200, ready.text
    assert ready.json()["status"] == "ready"


def test_not_ready_without_the_schema(tmp_path: Path, store: Store) -> None:
    with serving(store, settings()) as live:
        assert live.http.get("/readyz").status_code == 200
        with closing(sqlite3.connect(tmp_path / "store.db")) as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'other'")
            connection.commit()
        problem = live.problem("GET", "/readyz", 503)
        assert live.http.get("/readyz").headers["retry-after"] == "2"
        assert problem["code"] == "store_unavailable"
        assert live.http.get("/healthz").status_code == 200


def test_a_failure_of_ours_is_a_problem_without_a_traceback(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(store, "families", broken)
    with serving(store, settings()) as live:
        problem = live.problem("GET", "/families", 500, headers={"x-request-id": "find-me"})
        assert "find-me" in problem["detail"]
        assert "secret" not in str(problem)
        assert 'route="/families",status="500"' in live.http.get("/metrics").text
    assert "find-me" in capsys.readouterr().out  # the log has it


def test_a_store_that_does_not_answer_is_503(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise StoreUnavailable("The store does not answer. Try again.")

    with serving(store, settings()) as live:
        monkeypatch.setattr(store, "families", gone)
        monkeypatch.setattr(store, "quarantine_counts", gone)
        response = live.http.get("/families")
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")
        assert live.http.get("/metrics").status_code == 200


def test_the_document_is_complete(catalogue: Live) -> None:
    document = catalogue.http.get("/openapi.json").json()
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', catalogue.http.get("/openapi.json").text))
    assert references <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["tags"], path
            problem = operation["responses"]["422"]["content"]
            assert list(problem) == ["application/problem+json"]


def test_pages_for_people(catalogue: Live) -> None:
    assert catalogue.http.get("/docs").status_code == 200
    assert isinstance(catalogue.http, httpx.Client)
