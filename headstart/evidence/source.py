"""Where an importer's bytes come from: a folder, a file, a URL or an upload."""

from __future__ import annotations

import io
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from headstart.errors import Forbidden, HeadstartError, InvalidInput, Unreachable
from headstart.evidence.streams import Chunks, RawFile, too_many_bytes, unpacked

if TYPE_CHECKING:
    from headstart.store.store import Store

Progress = Callable[[float, str], None]
"""Called by a reader with how far it is (0..1) and what it is doing, in words."""

UPLOAD = "upload"
"""The `source` of an import whose bytes were uploaded."""

CHUNK_BYTES = 1 << 18
UNDECODED = "\ufffd"  # stands in the listed name of a file for what is not UTF-8


class Missing(Unreachable):
    """The source answers and has no file of that name."""


class Source(Protocol):
    """Named files that a reader streams."""

    @property
    def origin(self) -> str:
        """Where the files come from, for people: a URL, a folder or "upload"."""
        ...

    def names(self) -> tuple[str, ...]:
        """Names of the files, sorted, as far as they can be listed; a base URL lists none."""
        ...

    def open(self, name: str) -> io.BufferedReader:
        """Open a file for streaming, decompressed. Close it.

        Raises: Missing (no such file), Unreachable, TooLarge, Forbidden. Reading raises them too.
        """
        ...

    def fraction(self) -> float:
        """How much of the file opened last was read, 0..1; 0 while that cannot be told."""
        ...


class StreamedSource(ABC):
    """A source that counts: each of its files stays under `most_bytes`, packed and unpacked.

    `digests` holds the SHA-256 of every file that was read to its end, by name, as stored (packed).
    """

    def __init__(self, origin: str, most_bytes: int) -> None:
        self.origin = origin
        self.most_bytes = most_bytes
        self.digests: dict[str, str] = {}
        self._current: Chunks | None = None
        self._expected: int | None = None  # bytes of the file opened last, if known

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """See Source."""

    @abstractmethod
    def _read(self, name: str) -> RawFile:
        """Open a file, as stored (packed)."""

    def open(self, name: str) -> io.BufferedReader:
        """See Source."""
        if not name or "\0" in name or "/" in name or "\\" in name or name in {".", ".."}:
            raise Missing(f"{name[:200]!r} is not the name of a file in {self.origin}.")
        raw = self._read(name)
        self._expected = raw.size
        if raw.size is not None and raw.size > self.most_bytes:
            raw.close()
            raise too_many_bytes(name, self.most_bytes)
        self._current = Chunks(name, raw, self.most_bytes, lambda d: self.digests.update({name: d}))
        return unpacked(name, self._current, self.most_bytes)

    def fraction(self) -> float:
        """See Source."""
        if self._current is None or not self._expected:
            return 0.0
        return min(1.0, self._current.bytes_read / self._expected)


class FolderSource(StreamedSource):
    """The files of a folder (not of its subfolders), or a single file.

    With `roots`, a file is read only if it lies under one of them after symlinks are resolved.
    """

    def __init__(self, path: Path, most_bytes: int, roots: Sequence[Path] | None = None) -> None:
        super().__init__(str(path), most_bytes)
        self._path = path
        self._roots = None if roots is None else tuple(root.resolve() for root in roots)

    def names(self) -> tuple[str, ...]:
        """See Source. Hidden files are left out; what of a name is not UTF-8 is U+FFFD."""
        try:
            if not self._path.is_dir():
                return (_shown(self._path.name),)
            return tuple(
                sorted(
                    _shown(p.name) for p in self._path.iterdir() if p.is_file() and not p.name.startswith(".")
                )
            )
        except OSError as e:
            raise Unreachable(f"{self.origin} cannot be read: {e.strerror}.") from e

    def _read(self, name: str) -> RawFile:
        path = self._path / name if self._path.is_dir() else self._path
        if path.name != name:
            raise self._missing(name)
        path = path.resolve()
        if self._roots is not None:
            check_under_roots(path, self._roots)
        try:
            # non-blocking, so that a named pipe cannot hold us; the path is resolved, so no link is left
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as e:
            raise self._missing(name) from e
        except OSError as e:
            raise Unreachable(f"{name} in {self.origin} cannot be read: {e.strerror}.") from e
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            os.close(file)
            raise Unreachable(f"{name} in {self.origin} is not a regular file.")
        opened = io.FileIO(file)
        return RawFile(_until_end(opened), opened.close, status.st_size)

    def _missing(self, name: str) -> HeadstartError:
        if UNDECODED in name:
            return InvalidInput(f"The name of the file {name!r} in {self.origin} is not UTF-8. Rename it.")
        return Missing(f"There is no file {name!r} in {self.origin}.")


class UploadSource(StreamedSource):
    """The files uploaded with an import."""

    def __init__(self, store: Store, import_id: int, most_bytes: int) -> None:
        super().__init__(UPLOAD, most_bytes)
        self._store = store
        self._import_id = import_id

    def names(self) -> tuple[str, ...]:
        """See Source."""
        return tuple(sorted(self._store.uploads(self._import_id)))

    def _read(self, name: str) -> RawFile:
        if name not in self._store.uploads(self._import_id):
            raise Missing(f"There is no file {name!r} among the uploaded ones.")
        return RawFile(iter(self._store.read_upload(self._import_id, name)), lambda: None, None)


def open_source(
    source: str,
    *,
    store: Store,
    import_id: int,
    roots: Sequence[Path],
    allow_private: bool,
    most_bytes: int,
    trusted: bool = False,
) -> StreamedSource:
    """Return the source behind an import's `source`: "upload", an http(s) URL, or a path.

    Args:
        trusted: the source comes from the settings, not from a request: a path need not lie under
            `roots` and a URL may be private.

    Raises: Forbidden (a path outside the roots, another scheme), InvalidInput, Unreachable.
    """
    if source == UPLOAD:
        return UploadSource(store, import_id, most_bytes)
    if "://" in source:
        from headstart.evidence.url_source import UrlSource  # noqa: PLC0415  (httpx costs start-up time)

        return UrlSource(source, most_bytes, allow_private=allow_private or trusted)
    if not source or "\0" in source:
        raise InvalidInput(f"{source!r} is no source. Give a URL, a path or an upload.")
    allowed = None if trusted else tuple(root.resolve() for root in roots)
    try:
        path = Path(source).resolve()
        if allowed is not None:
            check_under_roots(path, allowed)
        exists = path.exists()
    except (OSError, RuntimeError):  # a name too long, a loop of links
        exists = False
    if not exists:
        raise Unreachable(f"There is no file or folder {source[:200]!r}.")
    return FolderSource(path, most_bytes, allowed)


def check_under_roots(path: Path, roots: Sequence[Path]) -> None:
    """Raise Forbidden unless the resolved path lies under one of the resolved roots."""
    if not any(path.is_relative_to(root) for root in roots):
        raise Forbidden(
            f"{path.name!r} does not lie in a folder that imports may read from. "
            "Upload the files, or set HEADSTART_ROOTS."
        )


def _shown(name: str) -> str:
    """A file name as it can be stored: what of it is not UTF-8 becomes U+FFFD."""
    return os.fsencode(name).decode(errors="replace")


def _until_end(file: io.FileIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
