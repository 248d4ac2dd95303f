"""The bodies and sources that imports are given, checked before anything is stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from headstart.errors import Forbidden, Problem, TooLarge
from service.forms import invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request


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


def check_source(source: str, roots: Sequence[Path]) -> str:
    """Return the source as it will be read, or raise. Addresses are checked again at connect time."""
    if "://" in source:
        return _checked_url(source)
    try:
        path = Path(source).resolve()
        allowed = any(path.is_relative_to(root.resolve()) for root in roots)
        there = allowed and path.exists()
        str(path).encode()  # a link may lead to a name that is not UTF-8
    except (OSError, RuntimeError, ValueError):  # a name too long, a loop of links
        raise invalid("source", f"The path {source[:200]!r} cannot be resolved. Check it.") from None
    if not allowed:
        raise Forbidden(
            f"The path {source[:200]!r} is not under a folder that the service may read. "
            "Upload the files, or set HEADSTART_ROOTS to a folder that holds it.",
            [Problem("source", "It is outside HEADSTART_ROOTS.")],
        )
    if not there:
        raise invalid("source", f"There is no file or folder {source[:200]!r}. Check the path.")
    return str(path)


def _checked_url(source: str) -> str:
    try:
        parts = urlsplit(source)
        host, _ = parts.hostname, parts.port  # raises where the port is no number
    except ValueError:
        raise invalid("source", f"The URL {source[:200]!r} cannot be parsed. Check it.") from None
    if parts.scheme.lower() not in ("http", "https"):
        what = f"The scheme {parts.scheme[:20]!r} is not one this reads. Use an http or https URL."
        raise invalid("source", what)
    if not host:
        raise invalid("source", f"The URL {source[:200]!r} names no host. Check it.")
    if parts.username or parts.password:
        raise invalid("source", "The URL holds a user or password, and sources are shown. Upload the files.")
    return source
