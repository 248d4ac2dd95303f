"""Every line of bad input the service promises to answer with a 4xx problem that names field and remedy."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from live_service import Live

JSON = {"content-type": "application/json"}


@pytest.fixture
def score(catalogue: Live) -> str:
    return f"/scores/{catalogue.store.scores(page_size=1).items[0].id}"


def test_an_unknown_family_names_the_nearest(catalogue: Live) -> None:
    problem = catalogue.problem("GET", "/families/roberta-bse", 404)
    assert "'roberta-bse'" in problem["detail"]
    assert "roberta-base" in problem["detail"]
    assert problem["code"] == "not_found"


def test_a_filter_by_an_unknown_family_names_the_nearest_or_finds_nothing(catalogue: Live) -> None:
    response = catalogue.http.get("/checkpoints", params={"family": "roberta-bse"})
    assert response.status_code in (200, 404)


def test_an_unknown_field_names_the_nearest(catalogue: Live, score: str) -> None:
    body = {"quarantin": None, "quarantine": None, "note": "x"}
    problem = catalogue.problem("PATCH", score, 422, json=body)
    assert problem["errors"] == [
        {"field": "quarantin", "message": "There is no such field. Did you mean 'quarantine'?"}
    ]


def test_an_unknown_query_parameter_names_the_nearest(catalogue: Live) -> None:
    problem = catalogue.problem("GET", "/scores?familly=roberta-base", 422)
    assert "Did you mean 'family'" in problem["errors"][0]["message"]


def test_an_optional_field_has_one_problem_under_its_own_name(catalogue: Live) -> None:
    problem = catalogue.problem("GET", "/scores?quarantined=maybe", 422)
    assert [error["field"] for error in problem["errors"]] == ["quarantined"]
    assert '"maybe"' in problem["detail"]
    body = {"family": "roberta-base", "target": {"nam": "rte"}}
    problem = catalogue.problem("POST", "/recommend", 422, json=body)
    assert [error["field"] for error in problem["errors"]] == ["target.nam"]


def test_a_missing_field_is_named(catalogue: Live, score: str) -> None:
    problem = catalogue.problem("PATCH", score, 422, json={"quarantine": "other_split"})
    assert problem["errors"] == [{"field": "note", "message": "This field is required. Add it."}]


@pytest.mark.parametrize("size", ["-1", "0", "501", "9" * 400, "many", "NaN", "1e9"])
def test_a_page_size_out_of_range(catalogue: Live, size: str) -> None:
    problem = catalogue.problem("GET", "/scores", 422, params={"page_size": size})
    assert problem["errors"][0]["field"] == "page_size"
    assert len(problem["detail"]) <= 1000


@pytest.mark.parametrize("path", ["/scores", "/checkpoints", "/targets", "/imports", "/families", "/methods"])
@pytest.mark.parametrize("token", ["x", "!!", "A" * 300, "ÿ"])
def test_a_page_token_that_is_not_ours(catalogue: Live, path: str, token: str) -> None:
    problem = catalogue.problem("GET", path, 422, params={"page_token": token})
    assert problem["errors"][0]["field"] == "page_token"


@pytest.mark.parametrize("number", ["-1", "0", "9" * 30, "x", "1.5"])
@pytest.mark.parametrize("noun", ["scores", "checkpoints", "targets", "imports"])
def test_an_id_that_cannot_be_one(catalogue: Live, noun: str, number: str) -> None:
    catalogue.problem("GET", f"/{noun}/{number}", 422)


@pytest.mark.parametrize("noun", ["scores", "checkpoints", "targets", "imports"])
def test_an_id_that_is_not_there(catalogue: Live, noun: str) -> None:
    problem = catalogue.problem("GET", f"/{noun}/{2**53 - 1}", 404)
    assert str(2**53 - 1) in problem["detail"]


BROKEN = {
    "not json": b"{",
    "nothing": b"nothing",
    "not utf-8": b'{"note": "\xff\xfe"}',
    "utf-8 cut off": b'{"note": "\xe2\x82',
    "lone surrogate": b'{"quarantine": null, "note": "\\ud800"}',
    "raw surrogate": b'{"quarantine": null, "note": "\xed\xa0\x80"}',
    "nan": b'{"quarantine": null, "note": NaN}',
    "infinity": b'{"quarantine": Infinity, "note": "x"}',
    "nul": b'{"quarantine": null, "note": "\\u0000"}',
    "a huge integer": b'{"quarantine": ' + b"9" * 5000 + b', "note": "x"}',
    "nested": b"[" * 50_000,
    "a list": b"[]",
    "null": b"null",
    "a surrogate as a field": b'{"\\ud800": 1, "quarantine": null, "note": "x"}',
    "nothing in it": b"{}",
    "a long value": b'{"quarantine": "' + b"x" * 50_000 + b'", "note": "x"}',
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_broken_body(catalogue: Live, score: str, body: bytes) -> None:
    for method, path in (("PATCH", score), ("POST", "/imports")):
        response = catalogue.http.request(method, path, content=body, headers=JSON)
        assert response.status_code in (400, 422), response.text
        problem = catalogue.problem(method, path, response.status_code, content=body, headers=JSON)
        assert problem["errors"] or problem["code"] == "unreadable_body"
        assert len(response.content) < 10_000


def test_a_body_that_is_not_utf_8_says_so(catalogue: Live, score: str) -> None:
    for method, path in (("PATCH", score), ("POST", "/imports")):
        problem = catalogue.problem(method, path, 400, content=BROKEN["not utf-8"], headers=JSON)
        assert "UTF-8" in problem["detail"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "x", None])
def test_a_wrong_content_type(catalogue: Live, score: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    body = b'{"quarantine": null, "note": "x"}'
    for method, path in (("PATCH", score), ("POST", "/imports")):
        problem = catalogue.problem(method, path, 415, content=body, headers=headers)
        assert "application/json" in problem["detail"]


def test_a_multipart_body_to_a_json_route(catalogue: Live, score: str) -> None:
    catalogue.problem("PATCH", score, 415, files={"note": b"x"})


def test_ten_megabytes_are_refused_before_they_are_read(catalogue: Live, score: str) -> None:
    problem = catalogue.problem("PATCH", score, 413, content=b"x" * 10_000_000, headers=JSON)
    assert "100000 bytes" in problem["detail"]


def test_a_body_of_no_announced_length_is_cut_off(catalogue: Live, score: str) -> None:
    chunks = (b"x" * 50_000 for _ in range(200))
    catalogue.problem("PATCH", score, 413, content=chunks, headers=JSON)


def test_a_json_import_is_held_to_the_limit_of_a_body(catalogue: Live) -> None:
    catalogue.problem("POST", "/imports", 413, content=b" " * 200_000, headers=JSON)


@pytest.mark.parametrize("announced", ["-1", "x", "99999999999999999999"])
def test_a_content_length_that_is_none(catalogue: Live, announced: str) -> None:
    parts = urlsplit(catalogue.url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
    connection.putrequest("PATCH", "/scores/1")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", announced)
    connection.endheaders()
    assert 400 <= connection.getresponse().status < 500
    connection.close()


def test_a_route_that_is_not_there(catalogue: Live) -> None:
    problem = catalogue.problem("GET", "/familes", 404)
    assert "'/familes'" in problem["detail"]
    assert problem["code"] == "no_route"


@pytest.mark.parametrize("path", ["/families/", "/%00", "/families/%00", "/families/%ff", "/scores/%F0"])
def test_odd_paths(catalogue: Live, path: str) -> None:
    assert 400 <= catalogue.http.get(path).status_code < 500


def test_a_method_that_is_not_allowed_names_all_that_are(catalogue: Live) -> None:
    response = catalogue.http.delete("/imports")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, POST"
    assert "allowed: GET, POST" in response.json()["detail"]


@pytest.mark.parametrize("reason", ["", "Upper", "two words", "x" * 65, 5, ["a"]])
def test_a_quarantine_reason_of_another_form(catalogue: Live, score: str, reason: object) -> None:
    body = json.dumps({"quarantine": reason, "note": "x"}).encode()
    problem = catalogue.problem("PATCH", score, 422, content=body, headers=JSON)
    assert problem["errors"][0]["field"] == "quarantine"


def test_control_characters_in_a_query(catalogue: Live) -> None:
    catalogue.problem("GET", "/checkpoints?search=a%00b", 422)
