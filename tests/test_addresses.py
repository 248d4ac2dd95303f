"""Addresses: which are public, and that requests go to the ones that were checked."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from headstart.addresses import http_url, is_public, pinned, resolve
from headstart.errors import Forbidden, InvalidInput, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRIVATE = """127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1
    255.255.255.255 240.0.0.1 192.0.2.1 198.18.0.1 :: ::1 fe80::1 fc00::1 fec0::1 ff02::1 2001:db8::1
    ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 2002:7f00:1:: 2001:0:1::1"""

# Of the name receiver.test, for this test alone; it lasts until 2120.
CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBbTCCAROgAwIBAgIBATAKBggqhkjOPQQDAjAYMRYwFAYDVQQDDA1yZWNlaXZl
ci50ZXN0MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAYMRYwFAYD
VQQDDA1yZWNlaXZlci50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEVRK6
CVwH8Bn60oSmYNSyEV3ok9bGdJvQNFQZxPrVHlyZE7yNgPV3fudk+jwc2THFV2uV
S4SyEv4S/GZIehPyxqNMMEowDwYDVR0TAQH/BAUwAwEB/zAYBgNVHREEETAPgg1y
ZWNlaXZlci50ZXN0MB0GA1UdDgQWBBRRJIrcfUFNGJv0Y8Sj1CCop4j1bDAKBggq
hkjOPQQDAgNIADBFAiEAuzl9fogh9Y5EEnbDCrHIQmzb66fswRmNhEkflCcxZ/YC
IC9k8NZyU+8R11y7TKFL1SIUqiEqMAS0l57/B5egzERp
-----END CERTIFICATE-----
"""
KEY = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgz8z+8+lnBBUlDhj3
AmgpYpdNpkCMHuomacuGF4251eKhRANCAARVEroJXAfwGfrShKZg1LIRXeiT1sZ0
m9A0VBnE+tUeXJkTvI2A9Xd+52T6PBzZMcVXa5VLhLIS/hL8Zkh6E/LG
-----END PRIVATE KEY-----
"""


def test_only_public_addresses_are_public() -> None:
    for address in PRIVATE.split():
        assert not is_public(ip_address(address)), address
    for address in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"):
        assert is_public(ip_address(address)), address


def answering(*addresses: str) -> Any:
    """A look-up that finds these addresses."""
    return lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in addresses]


def test_one_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answering("8.8.8.8", "10.0.0.1"))
    url = http_url("http://example.org/")
    with pytest.raises(Forbidden, match=r"10\.0\.0\.1.*HEADSTART_ALLOW_PRIVATE_URLS"):
        resolve(url, allow_private=False)
    assert list(map(str, resolve(url, allow_private=True))) == ["8.8.8.8", "10.0.0.1"]


@pytest.mark.parametrize(
    "host", ["localhost", "127.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "LOCALHOST"]
)
def test_every_spelling_of_loopback_is_seen_through(host: str) -> None:
    with pytest.raises(Forbidden, match="not a public address"):
        resolve(http_url(f"http://{host}:8000/"), allow_private=False)


def test_an_unknown_name_is_unreachable() -> None:
    for host in ("nowhere.invalid", "a..b", "x" * 64 + ".invalid"):
        with pytest.raises(Unreachable, match="cannot be found"):
            resolve(http_url(f"http://{host}/"), allow_private=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.org",
        "ftp://example.org/",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://:80/",
        "//example.org/",
        "http://[::1",
        "http://a\nb/",
        "http://xn--/",
        "http://example.org:0/",
        "http://example.org:65536/",
        "http://example.org/\ud800",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"is not (a URL|an http or https address).*\.$") as caught:
        http_url(text)
    caught.value.message.encode()


def test_a_fragment_is_dropped_and_the_rest_kept() -> None:
    assert str(http_url("HTTPS://Example.org:8443/a?b=c#d")) == "https://example.org:8443/a?b=c"


@pytest.mark.parametrize(
    ("text", "sent_to", "host"),
    [
        ("http://example.org/a?b=c", "http://8.8.8.8/a?b=c", "example.org"),
        ("https://bücher.example:8443/", "https://8.8.8.8:8443/", "xn--bcher-kva.example:8443"),
    ],
)
def test_a_request_goes_to_the_address_and_names_the_host(
    monkeypatch: pytest.MonkeyPatch, text: str, sent_to: str, host: str
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answering("8.8.8.8", "2606:4700::1111", "8.8.8.8"))
    with httpx.Client() as client:
        first, second = pinned(
            client, "POST", http_url(text), allow_private=False, headers={"x": "y"}, content=b"z"
        )
    assert (str(first.url), first.headers["host"], first.headers["x"]) == (sent_to, host, "y")
    assert (first.read(), first.extensions["sni_hostname"]) == (b"z", host.partition(":")[0])
    assert str(second.url) == sent_to.replace("8.8.8.8", "[2606:4700::1111]")


@contextmanager
def tls_server(folder: Path) -> Iterator[tuple[int, list[str | None]]]:
    """A server with the certificate of receiver.test: its port, and the names it is asked for."""
    (folder / "receiver.pem").write_text(CERTIFICATE + KEY)
    asked: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # the client has hung up on the certificate, as it should

        def get_request(self) -> Any:
            connection, peer = super().get_request()
            connection.settimeout(5)
            return context.wrap_socket(connection, server_side=True), peer

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "receiver.pem")
    context.sni_callback = lambda _, name, __: asked.append(name)  # type: ignore[assignment]
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_certificate_must_be_of_the_name_not_of_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, *rest, **options: really("127.0.0.1", *rest, **options)
    )
    with tls_server(tmp_path) as (port, asked):

        def get(name: str) -> int:
            with httpx.Client(verify=httpx.create_ssl_context(), trust_env=False, timeout=5) as client:
                url = http_url(f"https://{name}:{port}/")
                (request,) = pinned(client, "GET", url, allow_private=True, headers={})
                return client.send(request).status_code

        with pytest.raises(httpx.ConnectError, match="self-signed"):
            get("receiver.test")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "receiver.pem"))
        assert get("receiver.test") == 204
        with pytest.raises(httpx.ConnectError, match=r"not valid for 'other\.test'"):
            get("other.test")
    assert asked == ["receiver.test", "receiver.test", "other.test"]
