"""Requests without a key: by which names the service may be called, and from which pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from live_service import Live, serving, settings

from headstart.errors import Forbidden
from service.auth import digest_of
from service.hosts import Hosts, is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstart.store import Store

OURS = (
    "localhost",
    "LOCALHOST:8000",
    "localhost.:1",
    "127.0.0.1",
    "127.0.0.1:8000",
    "127.8.9.1:80",
    "[::1]:8000",
)
OURS = (*OURS, "[::1]", "[0:0:0:0:0:0:0:1]:9", "ours.example", "Ours.Example:443")
NOT_OURS = (
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example@localhost",
    "localhost@evil.example",
    "localhost:8000:evil.example",
    "localhost/evil.example",
    "localhost evil.example",
    "[::1]evil.example",
    "[::2]",
    "::1",
    "128.0.0.1",
    "0.0.0.0",
    "10.0.0.1:8000",
    "not-ours.example",
    "ours.example.evil.example",
    "ÿ",
    "[",
    "",
)


def allowed(hosts: Hosts, method: str, host: str | None, origin: str | None = None) -> bool:
    given = [None if text is None else text.encode("latin-1") for text in (host, origin)]
    try:
        hosts.check(method, *given)
    except Forbidden:
        return False
    return True


def judging(**given: Any) -> Hosts:
    return Hosts(settings(hosts=("ours.example",), **given))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"])
def test_loopback_addresses(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", "10.0.0.1", "", "localhost.evil.example"])
def test_addresses_that_others_reach(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("host", OURS)
def test_names_of_ours(host: str) -> None:
    assert allowed(judging(), "GET", host)
    assert allowed(judging(open_bind=True), "GET", host)


@pytest.mark.parametrize("host", [*NOT_OURS, None])
def test_names_that_are_not_ours(host: str | None) -> None:
    assert not allowed(judging(), "GET", host)
    assert not allowed(judging(open_bind=True), "GET", host), "an open service told its names holds to them"


@pytest.mark.parametrize("host", [*OURS, *NOT_OURS, None])
def test_an_open_service_told_no_names_goes_by_any(host: str | None) -> None:
    assert allowed(Hosts(settings(open_bind=True)), "POST", host)


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT"])
@pytest.mark.parametrize("open_bind", [True, False])
def test_only_pages_of_the_service_itself_change_anything(method: str, open_bind: bool) -> None:
    host = "localhost:8000"
    for hosts in (judging(open_bind=open_bind), Hosts(settings(open_bind=open_bind))):
        assert allowed(hosts, method, host, None)
        assert allowed(hosts, method, host, "http://localhost:8000")
        assert allowed(hosts, method, host, "https://localhost:8000"), "something in front speaks TLS"
        for origin in (
            "https://evil.example",
            "http://localhost:8000.evil.example",
            "http://localhost:3000",
            "null",
            "",
            "localhost:8000",
        ):
            assert not allowed(hosts, method, host, origin), origin
            assert allowed(hosts, "GET", host, origin), "the browser keeps the answer from the page"
    assert allowed(judging(open_bind=open_bind), method, host, "https://ours.example:8443")


@pytest.mark.parametrize("open_bind", [True, False])
def test_the_port_of_a_loopback_page_counts_even_where_its_name_is_listed(open_bind: bool) -> None:
    hosts = Hosts(settings(hosts=("localhost", "127.0.0.1"), open_bind=open_bind))
    assert allowed(hosts, "POST", "localhost:8000", "http://localhost:8000")
    for origin in (
        "http://localhost:3000",
        "http://127.0.0.1:3000",
        "http://localhost",
        "http://localhost.:1",
    ):
        assert not allowed(hosts, "POST", "localhost:8000", origin), origin


def test_a_page_of_nowhere_is_not_of_a_host_of_no_name() -> None:
    assert not allowed(Hosts(settings(open_bind=True)), "POST", "", "null")


@pytest.fixture
def local(store: Store) -> Iterator[Live]:
    store.create_key("k", "admin", digest_of(b"hs_k"), "hs_k")
    with serving(store, settings(hosts=("ours.example",))) as live:
        yield live


def test_a_rebound_name_gets_nothing(local: Live) -> None:
    evil = {"host": "evil.example:8000"}
    for verb, path in (("GET", "/methods"), ("POST", "/recommend"), ("GET", "/healthz"), ("GET", "/nothing")):
        problem = local.problem(verb, path, 403, headers=evil)
        assert problem["code"] == "forbidden"
        assert "'evil.example:8000'" in problem["detail"]
        assert "HEADSTART_HOSTS" in problem["detail"]
    assert local.http.get("/methods", headers={"host": "ours.example"}).status_code == 200


def test_a_key_speaks_for_itself_under_any_name(local: Live) -> None:
    headers = {"host": "evil.example", "origin": "https://evil.example", "authorization": "Bearer hs_k"}
    assert local.http.get("/methods", headers=headers).status_code == 200
    assert local.http.post("/recommend", headers=headers, json={}).status_code == 200
    local.problem("GET", "/methods", 401, headers=headers | {"authorization": "Bearer hs_other"})


def test_a_foreign_page_sends_nothing(local: Live) -> None:
    problem = local.problem("POST", "/recommend", 403, headers={"origin": "https://evil.example"}, json={})
    assert "'https://evil.example'" in problem["detail"]
    assert local.http.get("/methods", headers={"origin": "https://evil.example"}).status_code == 200


def test_where_keys_are_needed_names_do_not_matter(store: Store) -> None:
    store.create_key("k", "read", digest_of(b"hs_k"), "hs_k")
    with serving(store, settings(host="0.0.0.0")) as live:
        assert live.http.get("/healthz", headers={"host": "anything.example"}).status_code == 200
        headers = {"host": "anything.example", "authorization": "Bearer hs_k"}
        assert live.http.get("/methods", headers=headers).status_code == 200
