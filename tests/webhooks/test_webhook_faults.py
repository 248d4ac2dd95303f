"""Webhooks to receivers that are not there, are slow, lie, or are not to be reached: each is an outcome."""

from __future__ import annotations

import dataclasses
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from receivers import OPTIONS, RNG, drip, only, raw_receiver, status

from headstart.entities import DeliveryState, Job
from headstart.webhooks import (
    deliver_next,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from receivers import Receiver

    from headstart.entities import Job
    from headstart.store import Store

HASTY = dataclasses.replace(OPTIONS, timeout_seconds=1.0)


def test_redirects_are_not_followed(store: Store, receiver: Receiver, ended: Callable[[str], Job]) -> None:
    ended(receiver.url)
    receiver.answers = [status(307, Location=f"http://127.0.0.1:{receiver.port}/other")]
    deliver_next(store, OPTIONS, RNG)
    assert len(receiver.seen) == 1
    (one,) = only(store).log
    assert one["status"] == 307
    assert re.fullmatch(r"The receiver redirects to 'http://127.*/other', .*\.", one["error"])
    assert only(store).state is DeliveryState.PENDING


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
def test_private_addresses_are_refused_for_good(
    store: Store, receiver: Receiver, ended: Callable[[str], Job], host: str
) -> None:
    ended(f"http://{host}:{receiver.port}/")
    assert deliver_next(store, dataclasses.replace(OPTIONS, allow_private=False), RNG)
    found = only(store)
    assert (found.state, found.tries) == (DeliveryState.FAILED, 1)
    assert found.log[0]["status"] is None
    assert "not a public address. Set HEADSTART_ALLOW_PRIVATE_URLS=true" in found.log[0]["error"]
    assert receiver.seen == []


def test_the_next_address_of_a_name_is_tried(
    store: Store, receiver: Receiver, ended: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    really = socket.getaddrinfo

    def look_up(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host == "two.test":  # nobody listens on the first
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in ("127.0.0.9", "127.0.0.1")
            ]
        return really(host, port, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    ended(f"http://two.test:{receiver.port}/")
    deliver_next(store, OPTIONS, RNG)
    assert only(store).state is DeliveryState.DELIVERED
    assert receiver.seen[0][1]["host"] == f"two.test:{receiver.port}"


def test_proxies_of_the_environment_are_not_used(
    store: Store, receiver: Receiver, ended: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    ended(receiver.url)
    deliver_next(store, OPTIONS, RNG)
    assert only(store).state is DeliveryState.DELIVERED


def test_nobody_listens(store: Store, ended: Callable[[str], Job]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ended(f"http://127.0.0.1:{taken.getsockname()[1]}/")
        assert deliver_next(store, OPTIONS, RNG)
    found = only(store)
    assert (found.state, found.tries, found.log[0]["status"]) == (DeliveryState.PENDING, 1, None)
    assert found.log[0]["error"].startswith("The receiver cannot be told: ")


@pytest.mark.parametrize(
    "url", ["http://nowhere.invalid/", "https://127.0.0.1:1/", "http://a..b/", "ftp://x/"]
)
def test_an_address_that_leads_nowhere_is_an_outcome(
    store: Store, ended: Callable[[str], Job], url: str
) -> None:
    ended(url)
    assert deliver_next(store, OPTIONS, RNG)
    assert only(store).state is DeliveryState.PENDING
    assert only(store).log[0]["error"].endswith(".")


@pytest.mark.parametrize(
    "talk",
    [lambda connection: connection.recv(1), drip(b""), drip(b"HTTP/1.1 200 OK\r\nx: ")],
    ids=["silent", "drips its status", "drips its headers"],
)
def test_a_slow_receiver_takes_no_more_than_its_time(
    store: Store, ended: Callable[[str], Job], talk: Callable[[socket.socket], None]
) -> None:
    with raw_receiver(talk) as url:
        ended(url)
        started = time.monotonic()
        assert deliver_next(store, HASTY, RNG)
        assert time.monotonic() - started < 2.5
    found = only(store)
    assert found.state is DeliveryState.PENDING
    assert found.log[0]["error"] == "The receiver cannot be told: no answer in time."


def test_a_slow_look_up_of_the_name_takes_no_more_than_its_time(
    store: Store, ended: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    def look_up(*_: Any, **__: Any) -> Any:
        answer.wait(10)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    ended("http://slow.test/")
    started = time.monotonic()
    assert deliver_next(store, HASTY, RNG)
    assert time.monotonic() - started < 2.5
    answer.set()
    assert only(store).log[0]["error"] == "The receiver cannot be told: no answer in time."


@pytest.mark.parametrize(
    "talk",
    [
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"),
        lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
        lambda connection: connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"
        ),
    ],
    ids=["drips", "broken off", "not what it says"],
)
def test_the_status_counts_whatever_the_rest_of_the_answer(
    store: Store, ended: Callable[[str], Job], talk: Callable[[socket.socket], None]
) -> None:
    with raw_receiver(talk) as url:
        ended(url)
        started = time.monotonic()
        assert deliver_next(store, HASTY, RNG)
        assert time.monotonic() - started < 2.5
    assert only(store).state is DeliveryState.DELIVERED


def test_no_more_than_a_little_of_an_answer_is_read(store: Store, ended: Callable[[str], Job]) -> None:
    sent = 0

    def endless(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        while True:
            sent += connection.send(b"x" * 65536)

    with raw_receiver(endless) as url:
        ended(url)
        assert deliver_next(store, OPTIONS, RNG)
    assert only(store).state is DeliveryState.DELIVERED
    assert sent < 64 << 20  # what the system holds on the way


NONSENSE = {
    "nothing": b"",
    "no http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zeros": b"\0" * 100,
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "half a status": b"HTTP/1.1 20",
    "no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "status 999": b"HTTP/1.1 999 \xff\xfe\r\n\r\n",
    "status 101": b"HTTP/1.1 101 Switching\r\n\r\n",
    "broken headers": b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
    "odd headers": b"HTTP/1.1 500 No\r\nRetry-After: \xc2\xb2\xff\r\n\r\n",
    "odd location": b"HTTP/1.1 302 No\r\nLocation: \xff\x80\x01 \xe2\x80\xae\r\n\r\n",
    "huge headers": b"HTTP/1.1 200 OK\r\nx: " + b"x" * 200_000,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nonsense_is_an_outcome(
    store: Store, ended: Callable[[str], Job], nonsense: bytes, scheme: str
) -> None:
    with raw_receiver(lambda connection: connection.sendall(nonsense)) as url:
        ended(url.replace("http", scheme))
        assert deliver_next(store, HASTY, RNG)
    found = only(store)
    assert (found.state, found.tries) == (DeliveryState.PENDING, 1)
    error = found.log[0]["error"]
    assert error.isprintable()
    assert error.endswith(".")
    assert len(error) < 400
