"""The bytes and sources that POST /imports is given, checked before anything is stored."""

from __future__ import annotations

import hashlib
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, cast, get_args
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from headstart.errors import Forbidden, InvalidInput, Problem, TooLarge, nearest_names
from service.errors import UnreadableBody
from service.schemas import CLEAN, Kind

if TYPE_CHECKING:
    import io
    from collections.abc import AsyncIterator, Sequence

    from starlette.datastructures import UploadFile
    from starlette.requests import Request

KINDS: tuple[str, ...] = get_args(Kind)
MOST_FILES = 32
_FIELDS = ("files", "kind")


@dataclass(frozen=True, slots=True)
class Upload:
    """A form that was read to its end: small parts are in memory, large ones in temporary files."""

    kind: str
    files: dict[str, BinaryIO]

    def digest(self) -> str:
        """Digest kind, names and contents; what an Idempotency-Key is held to."""
        total = hashlib.sha256(self.kind.encode())
        for name, file in sorted(self.files.items()):
            total.update(f"\n{name}\n{_sha256(file)}".encode())
        return total.hexdigest()


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(cast("io.BufferedReader", file), "sha256").hexdigest()


def is_multipart(content_type: str | None) -> bool:
    """Say whether a Content-Type header announces a form with files."""
    return bool(content_type) and content_type.split(";")[0].strip().lower() == "multipart/form-data"  # type: ignore[union-attr]


async def read_body(request: Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes, less than the middleware grants to uploads."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLarge(
                f"The body is larger than the {limit} bytes of a JSON body. Upload files as a form."
            )
    return bytes(body)


@asynccontextmanager
async def read_upload(request: Request) -> AsyncIterator[Upload]:
    """Read the form of POST /imports; its files live as long as the context."""
    try:
        form = await request.form(max_files=MOST_FILES, max_fields=8, max_part_size=4096)
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise UnreadableBody(f"The form cannot be read: {error.detail.rstrip('.')}. {_REMEDY}") from None
    try:
        yield _checked(form.multi_items())
    finally:
        await form.close()


def check_source(source: str, roots: Sequence[Path]) -> str:
    """Return the source as it will be read, or raise. Addresses are checked again at connect time."""
    if "://" in source:
        return _checked_url(source)
    try:
        path = Path(source).resolve()
        allowed = any(path.is_relative_to(root.resolve()) for root in roots)
        there = allowed and path.exists()
    except OSError:  # a name too long, a loop of links
        raise _invalid("source", f"The path {source[:200]!r} cannot be resolved. Check it.") from None
    if not allowed:
        raise Forbidden(
            f"The path {source[:200]!r} is not under a folder that the service may read. "
            "Upload the files, or set HEADSTART_ROOTS to a folder that holds it.",
            [Problem("source", "It is outside HEADSTART_ROOTS.")],
        )
    if not there:
        raise _invalid("source", f"There is no file or folder {source[:200]!r}. Check the path.")
    return str(path)


def _checked_url(source: str) -> str:
    try:
        parts = urlsplit(source)
        host, _ = parts.hostname, parts.port  # raises where the port is no number
    except ValueError:
        raise _invalid("source", f"The URL {source[:200]!r} cannot be parsed. Check it.") from None
    if parts.scheme.lower() not in ("http", "https"):
        what = f"The scheme {parts.scheme[:20]!r} is not one this reads. Use an http or https URL."
        raise _invalid("source", what)
    if not host:
        raise _invalid("source", f"The URL {source[:200]!r} names no host. Check it.")
    if parts.username or parts.password:
        raise _invalid("source", "The URL holds a user or password, and sources are shown. Upload the files.")
    return source


_REMEDY = (
    "Send a field 'kind' and one or more files named 'files', as `curl -F kind=table -F files=@FILE` does."
)


def _checked(parts: Sequence[tuple[str, UploadFile | str]]) -> Upload:
    kinds: list[str] = []
    files: dict[str, BinaryIO] = {}
    for field, value in parts:
        if field not in _FIELDS:
            nearest = nearest_names(field, _FIELDS) or _FIELDS
            what = f"There is no such field. Did you mean {' or '.join(map(repr, nearest))}?"
            raise _invalid(field[:100], what)
        if field == "kind":
            kinds.append(value if isinstance(value, str) else "")
        elif isinstance(value, str):
            raise _invalid("files", f"A part named 'files' is not a file. {_REMEDY}")
        else:
            files[_checked_name(value, files)] = value.file
    if len(kinds) != 1 or kinds[0] not in KINDS:
        given = repr(kinds[0][:80]) if len(kinds) == 1 else f"given {len(kinds)} times"
        raise _invalid("kind", f"Should be one of {', '.join(KINDS)}, once, but is {given}.")
    if not files:
        raise _invalid("files", f"This field is required. {_REMEDY}")
    return Upload(kinds[0], files)


def _checked_name(part: UploadFile, taken: dict[str, BinaryIO]) -> str:
    name = PurePosixPath((part.filename or "").replace("\\", "/")).name
    if not name or len(name) > 200 or not re.fullmatch(CLEAN, name):
        what = f"The file name {name[:80]!r} is not one to store. Use 1 to 200 printable characters."
        raise _invalid("files", what)
    if name in taken:
        raise _invalid("files", f"Two files are named {name!r}. Rename one.")
    if not part.size:
        raise _invalid("files", f"The file {name!r} is empty. Send the file itself.")
    return name


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput(f"{field}: {message}", [Problem(field, message)])
