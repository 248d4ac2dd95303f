"""Byte streams that keep count: a limit on bytes, a digest, gzip with a limit on expansion."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headstart.errors import InvalidInput, TooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GZIP_MAGIC = b"\x1f\x8b"
MOST_EXPANSION = 200  # decompressed bytes for one compressed byte; scores stay under 50
FREE_EXPANSION = 1 << 20  # decompressed bytes that are never judged by the ratio


@dataclass(frozen=True, slots=True)
class RawFile:
    """An opened file: its bytes in chunks, how to let go of it, and its size where that is known."""

    chunks: Iterator[bytes]
    close: Callable[[], None]
    size: int | None


class Chunks(io.RawIOBase):
    """A readable stream over the chunks of a file, with a limit on their number of bytes.

    `on_end` is called once with the SHA-256 of all bytes when the last one was read.

    Raises: TooLarge, and whatever the chunks raise, from `read`.
    """

    def __init__(self, name: str, file: RawFile, most_bytes: int, on_end: Callable[[str], None]) -> None:
        self._name = name
        self._file = file
        self._most_bytes = most_bytes
        self._on_end: Callable[[str], None] | None = on_end
        self._left = memoryview(b"")
        self._digest = hashlib.sha256()
        self.bytes_read = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer with what is at hand; 0 at the end."""
        while not self._left:
            chunk = next(self._file.chunks, None)
            if chunk is None:
                if self._on_end is not None:
                    self._on_end(self._digest.hexdigest())
                    self._on_end = None
                return 0
            self.bytes_read += len(chunk)
            if self.bytes_read > self._most_bytes:
                raise too_many_bytes(self._name, self._most_bytes)
            self._digest.update(chunk)
            self._left = memoryview(chunk)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        """Let go of the file too."""
        if not self.closed:
            self._file.close()
        super().close()


class Unzipped(io.RawIOBase):
    """The decompressed bytes of a gzip stream, with limits on their number and on the expansion."""

    def __init__(self, name: str, packed: io.BufferedReader, raw: Chunks, most_bytes: int) -> None:
        self._name = name
        self._packed = packed
        self._raw = raw
        self._most_bytes = most_bytes
        self._file = gzip.GzipFile(fileobj=packed, mode="rb")
        self._count = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer with decompressed bytes; 0 at the end."""
        try:
            data = self._file.read1(len(buffer))
        except (OSError, EOFError, zlib.error) as e:
            raise InvalidInput(
                f"{self._name} is not a whole gzip file ({e}). Pack it again, or send it unpacked."
            ) from e
        self._count += len(data)
        if self._count > self._most_bytes:
            raise too_many_bytes(self._name, self._most_bytes, "decompressed ")
        if self._count > max(FREE_EXPANSION, MOST_EXPANSION * self._raw.bytes_read):
            raise TooLarge(
                f"{self._name} expands to more than {MOST_EXPANSION} times its size, "
                "which no table of scores does. Send it unpacked."
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the packed stream too."""
        if not self.closed:
            self._file.close()
            self._packed.close()
        super().close()


def too_many_bytes(name: str, most_bytes: int, kind: str = "") -> TooLarge:
    """Return the error for a file over the limit."""
    return TooLarge(
        f"{name} holds more than {most_bytes} {kind}bytes, the most one import may read. "
        "Split it, or raise HEADSTART_MAX_UPLOAD_BYTES."
    )


def unpacked(name: str, raw: Chunks, most_bytes: int) -> io.BufferedReader:
    """Return the stream, decompressed if it starts like gzip or its name ends in .gz."""
    buffered: io.BufferedReader = io.BufferedReader(raw, 1 << 16)
    try:
        zipped = buffered.peek(2)[:2] == GZIP_MAGIC or name.lower().endswith(".gz")
    except BaseException:
        buffered.close()
        raise
    if not zipped:
        return buffered
    return io.BufferedReader(Unzipped(name, buffered, raw, most_bytes), 1 << 16)
