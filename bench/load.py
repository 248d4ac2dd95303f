"""A closed-loop HTTP/1.1 client on raw asyncio streams: light enough not to be what is measured."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Load:
    """What one run of a load showed."""

    per_second: float
    p50: float  # seconds
    p99: float


class _Connection(asyncio.Protocol):
    """One keep-alive connection; `ask` sends a request and waits for the whole answer."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._done: asyncio.Future[None] | None = None
        self._expected = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._expected < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self._buffer.startswith(b"HTTP/1.1 200") and self._done is not None:
                self._done.set_exception(RuntimeError(bytes(self._buffer[:500]).decode(errors="replace")))
                return
            head = bytes(self._buffer[:end]).lower()
            at = head.index(b"content-length:") + 15
            self._expected = end + 4 + int(head[at:].split(b"\r\n", 1)[0])
        if len(self._buffer) >= self._expected and self._done is not None:
            self._buffer.clear()
            self._expected = -1
            self._done.set_result(None)

    async def ask(self, request: bytes) -> None:
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)  # type: ignore[attr-defined]
        await self._done


def post(path: str, body: bytes) -> bytes:
    """The bytes of one POST with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def run(port: int, requests: Sequence[bytes], connections: int = 16) -> Load:
    """Send every request once, over `connections` connections, each waiting for its answer."""
    return asyncio.run(_run(port, requests, connections))


async def _run(port: int, requests: Sequence[bytes], connections: int) -> Load:
    loop = asyncio.get_running_loop()
    seconds: list[float] = []
    pending = iter(requests)
    opened = [await loop.create_connection(_Connection, "127.0.0.1", port) for _ in range(connections)]

    async def work(connection: _Connection) -> None:
        for request in pending:
            started = time.perf_counter()
            await connection.ask(request)
            seconds.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(work(connection) for _, connection in opened))
    total = time.perf_counter() - started
    for transport, _ in opened:
        transport.close()
    return Load(
        per_second=len(requests) / total,
        p50=float(np.quantile(seconds, 0.5)),
        p99=float(np.quantile(seconds, 0.99)),
    )
