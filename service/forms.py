"""Forms of one field and some files, read to their end before anything is stored."""

from __future__ import annotations

import hashlib
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from starlette.exceptions import HTTPException

from headstart.errors import InvalidInput, Problem, nearest_names
from service.accepting import accepted, answered
from service.errors import UnreadableBody
from service.idempotency import answer_once
from service.schemas import CLEAN

if TYPE_CHECKING:
    import io
    from collections.abc import AsyncIterator, Sequence

    from fastapi import Response
    from starlette.datastructures import UploadFile
    from starlette.requests import Request

    from headstart.entities import RecordedResponse
    from headstart.store import Store
    from service.idempotency import RequestKey

CHUNK = 1 << 20
MOST_FILES = 32


@dataclass(frozen=True, slots=True)
class Form:
    """A form that was read to its end: small parts are in memory, large ones in temporary files."""

    value: str  # of the field
    files: dict[str, BinaryIO]

    def digest(self) -> str:
        """Digest the value, and the names and contents of the files; what an Idempotency-Key is held to."""
        total = hashlib.sha256(self.value.encode())
        for name, file in sorted(self.files.items()):
            total.update(f"\n{name}\n{_sha256(file)}".encode())
        return total.hexdigest()


@asynccontextmanager
async def read_form(request: Request, field: str, longest: int, remedy: str) -> AsyncIterator[Form]:
    """Read a form of a field, of at most `longest` bytes, and `files`; they live as long as the context.

    Raises: UnreadableBody, InvalidInput; their sentences end in the remedy.
    """
    try:
        form = await request.form(max_files=MOST_FILES, max_fields=8, max_part_size=longest)
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise UnreadableBody(f"The form cannot be read: {error.detail.rstrip('.')}. {remedy}") from None
    try:
        yield _checked(form.multi_items(), field, remedy)
    finally:
        await form.close()


def accept_upload(
    store: Store,
    key: RequestKey | None,
    route: str,
    form: Form,
    *,
    kind: str,
    params: dict[str, Any] | None = None,
) -> Response:
    """Start an import of the files, unless the key was answered before."""

    def create() -> RecordedResponse:
        created = store.create_import(kind, "upload", params)
        try:
            for name, file in form.files.items():
                file.seek(0)
                while chunk := file.read(CHUNK):
                    store.append_upload(created.id, name, chunk)
            return accepted(store.queue_import(created.id))
        except BaseException:
            store.delete_import(created.id)
            raise

    return answered(*answer_once(store, key, route, form.digest(), create))


def invalid(field: str, message: str) -> InvalidInput:
    """The error of one field."""
    return InvalidInput(f"{field}: {message}", [Problem(field, message)])


def _checked(parts: Sequence[tuple[str, UploadFile | str]], field: str, remedy: str) -> Form:
    values: list[str] = []
    files: dict[str, BinaryIO] = {}
    known = ("files", field)
    for name, value in parts:
        if name not in known:
            nearest = nearest_names(name, known) or known
            what = f"There is no such field. Did you mean {' or '.join(map(repr, nearest))}?"
            raise invalid(name[:100], what)
        if name == field:
            values.append(value if isinstance(value, str) else "")
        elif isinstance(value, str):
            raise invalid("files", f"A part named 'files' is not a file. {remedy}")
        else:
            files[_checked_name(value, files)] = value.file
    if len(values) != 1:
        raise invalid(field, f"Should be given once, but is given {len(values)} times. {remedy}")
    if not files:
        raise invalid("files", f"This field is required. {remedy}")
    return Form(values[0], files)


def _checked_name(part: UploadFile, taken: dict[str, BinaryIO]) -> str:
    name = PurePosixPath((part.filename or "").replace("\\", "/")).name
    if not name or len(name) > 200 or not re.fullmatch(CLEAN, name):
        what = f"The file name {name[:80]!r} is not one to store. Use 1 to 200 printable characters."
        raise invalid("files", what)
    if name in taken:
        raise invalid("files", f"Two files are named {name!r}. Rename one.")
    if not part.size:
        raise invalid("files", f"The file {name!r} is empty. Send the file itself.")
    return name


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(cast("io.BufferedReader", file), "sha256").hexdigest()
