"""A cache on disk of what is dear to make and the same for equal inputs: tokens, pooled features.

    ROOT/<kind>/<digest of the key>/
        parts.json      what the entry holds: name, bytes and checksum of every complete part, and its facts
        <part>          a file that never changes
        making-*/       parts under way; left over only by a process that was killed, and never read
        in-use          locked (shared) by all that have the entry open: eviction passes it by
        making          locked (alone) by the one that makes parts; the others wait

An entry only grows, by parts that were renamed into place when complete, so readers need not wait for makers.
A part whose size or checksum is not the written one counts as missing, and is made anew.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import weakref
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.failures import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

POLL_SECONDS = 0.05  # between two looks at a lock that another process holds
_PARTS, _IN_USE, _MAKING = "parts.json", "in-use", "making"
_CHUNK = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


class Cache:
    """The cache in one folder, shared by any number of processes of one machine.

    `most_bytes` is kept to after every making, least recently opened entries first; entries that some process
    has open stay, so the limit may be passed for as long.
    """

    def __init__(self, root: Path, most_bytes: int) -> None:
        self.root = root
        self._most_bytes = most_bytes

    def open(self, kind: str, key: Mapping[str, Any]) -> Entry:
        """The entry of a key (plain values), empty where nobody made it yet; it stays until it is closed."""
        named = json.dumps({"kind": kind, **key}, sort_keys=True)
        folder = self.root / kind / hashlib.sha256(named.encode()).hexdigest()[:40]
        with _disk(self.root):
            while True:
                folder.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # evicted between two lines: again
                    lock = os.open(folder / _IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                    fcntl.flock(lock, fcntl.LOCK_SH)  # waits for an eviction only: milliseconds
                    if _same_file(lock, folder / _IN_USE):
                        os.utime(lock)
                        return Entry(self, folder, lock)
                    os.close(lock)

    def evict(self) -> int:
        """Remove entries, least recently opened first, until the limit is kept; return how many went."""
        found = sorted(filter(None, map(_seen, self.root.glob(f"*/*/{_IN_USE}"))))
        excess = sum(size for _, size, _ in found) - self._most_bytes
        removed = 0
        for _, size, folder in found:
            if excess <= 0:
                break
            if _remove(folder):
                excess -= size
                removed += 1
        return removed


class Entry:
    """One entry, open. Close it, or let go of it, so that it may be evicted."""

    def __init__(self, cache: Cache, folder: Path, lock: int) -> None:
        self.folder = folder
        self._cache = cache
        self._intact: dict[str, dict[str, Any]] = {}
        self.close = weakref.finalize(self, os.close, lock)

    def facts(self, part: str) -> dict[str, Any] | None:
        """What its maker told of a part; None where the part is missing or not what was written."""
        if part not in self._intact:
            record = _read_parts(self.folder).get(part)
            if record is None or not _intact(self.folder / part, record):
                return None
            self._intact[part] = record["facts"]
        return self._intact[part]

    def path(self, part: str) -> Path:
        """The file of a part that `facts` knows."""
        return self.folder / part

    @contextmanager
    def making(self, wait: Callable[[], None]) -> Iterator[Making]:
        """Be the only one who makes parts of this entry; look again what is missing once inside.

        `wait` is called over and over while another process is at it; it may raise. Nothing of what was not
        kept by `Making.keep` outlasts the block. Raises: Interrupted where the disk does not take the parts.
        """
        with _disk(self._cache.root):
            lock = os.open(self.folder / _MAKING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _try_lock(lock):
                wait()
                time.sleep(POLL_SECONDS)
            for left_over in self.folder.glob("making-*"):
                shutil.rmtree(left_over, ignore_errors=True)
            with (
                _disk(self._cache.root),
                tempfile.TemporaryDirectory(dir=self.folder, prefix="making-") as at,
            ):
                yield Making(self.folder, Path(at))
        finally:
            os.close(lock)
        self._cache.evict()


class Making:
    """Parts under way. Write them to files in `folder`, under their names."""

    def __init__(self, entry: Path, folder: Path) -> None:
        self.folder = folder
        self._entry = entry

    def keep(self, facts: Mapping[str, Any]) -> None:
        """All files of the folder are complete: make them parts of the entry, and tell the facts of them."""
        parts = _read_parts(self._entry)
        for path in sorted(self.folder.iterdir()):
            checksum = _checksum(path)
            parts[path.name] = {"bytes": path.stat().st_size, "crc32": checksum, "facts": dict(facts)}
            path.replace(self._entry / path.name)
        told = self.folder / _PARTS
        told.write_text(json.dumps(parts))
        told.replace(self._entry / _PARTS)


@contextmanager
def _disk(root: Path) -> Iterator[None]:
    """A disk that takes no more is told in a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise Interrupted(
            f"The cache at {root} cannot be written: {error.strerror}.",
            "Free space there or lower the limit of the cache, then POST /jobs/{id}/retry.",
        ) from error


def _read_parts(folder: Path) -> dict[str, Any]:
    try:
        parts = json.loads((folder / _PARTS).read_bytes())
    except (OSError, ValueError):
        return {}
    return parts if isinstance(parts, dict) else {}


def _intact(path: Path, record: dict[str, Any]) -> bool:
    try:
        return bool(path.stat().st_size == record["bytes"] and _checksum(path) == record["crc32"])
    except OSError:
        return False


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    return found


def _seen(lock: Path) -> tuple[float, int, Path] | None:
    """When an entry was last opened, its bytes, and where it is; None where it has gone."""
    try:
        with os.scandir(lock.parent) as files:
            return lock.stat().st_mtime, sum(file.stat().st_size for file in files), lock.parent
    except OSError:
        return None


def _remove(folder: Path) -> bool:
    """Remove an entry that nobody has open. Its list of parts goes first, its lock last."""
    try:
        lock = os.open(folder / _IN_USE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not _try_lock(lock) or not _same_file(lock, folder / _IN_USE):
            return False
        (folder / _PARTS).unlink(missing_ok=True)
        for path in [path for path in folder.iterdir() if path.name != _IN_USE]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (folder / _IN_USE).unlink()
        with suppress(OSError):  # somebody opened it anew in this moment
            folder.rmdir()
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
