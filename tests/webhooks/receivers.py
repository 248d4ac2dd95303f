"""Receivers of webhooks, good and bad, on loopback ports of their own."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from headstart.webhooks import WebhookOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstart.entities import Delivery
    from headstart.store import Store

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the specification's
OPTIONS = WebhookOptions(secret=SECRET, allow_private=True, timeout_seconds=5.0)
RNG = random.Random(0)

Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


class Receiver:
    """Answers POSTs on a free loopback port by what it is told, in turn, and with 204 then on."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.meanwhile: Callable[[], object] = lambda: None  # done before it answers
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.seen.append((self.path, headers, body))
                receiver.meanwhile()
                answer = receiver.answers.pop(0) if receiver.answers else status(204)
                answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook?key=1"


def read_request(connection: socket.socket) -> None:
    """Read all of it, since a connection closed before is reset, and what was answered is lost."""
    read = part = connection.recv(1 << 16)
    while part and read.startswith(b"POST") and not read.endswith(b"}}"):
        part = connection.recv(1 << 16)
        read += part


@contextmanager
def raw_receiver(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A receiver that reads the request and then does with the connection what it likes."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):  # the sender may have had enough
            connection.settimeout(10)
            read_request(connection)
            talk(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        thread.join()
        listener.close()


def drip(start: bytes) -> Callable[[socket.socket], None]:
    """Send a start and then byte after byte, each well before anybody stops waiting for it."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(60):
            time.sleep(0.05)
            connection.sendall(b"x")

    return talk


def only(store: Store) -> Delivery:
    (found,) = store.deliveries().items
    return found
