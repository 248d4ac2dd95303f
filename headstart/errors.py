"""Every error a user can meet. The message is a sentence: what was wrong, with the value, and what to do.

HeadstartError                  a sentence for a person, with a stable `code`
├── NotFound                    a name or id that is not in the store; carries the nearest names
├── InvalidInput                input that can never work; carries a list of `Problem`s
│   ├── Incomplete              a checkpoint that lacks a file (headstart.checkpoints.files)
│   └── BrokenFile              a file with a broken row: line and column are named
├── Conflict                    right in itself, but at odds with what the store holds
├── TooLarge                    over a stated limit
├── Unauthorized                no API key where one is needed, or one that is not in force
├── Forbidden                   what the API key's scope, or the settings, do not allow
├── RateLimited                 more requests than an API key may send
├── Unreachable                 a source that cannot be read (network, missing file)
│   └── Missing                 the source answers and has no such file (headstart.evidence.source)
└── StoreUnavailable            the database does not answer or has another schema
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one field of the input."""

    field: str  # where: a dotted path, or "line 12, column value"
    message: str  # what is wrong and what to do


class HeadstartError(Exception):
    """Base of all errors meant for people."""

    code = "error"

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.problems = tuple(problems)


class NotFound(HeadstartError):
    """A name or id that is not in the store."""

    code = "not_found"

    def __init__(
        self, kind: str, name: str | int, known: Iterable[str] = (), *, remedy: str | None = None
    ) -> None:
        self.nearest = tuple(nearest_names(str(name), known)) if isinstance(name, str) else ()
        if remedy is None and self.nearest:
            remedy = f"Nearest known: {', '.join(self.nearest)}."
        elif remedy is None:
            remedy = f"Known ones are listed at GET {_LISTED.get(kind, '/' + kind + 's')}."
        super().__init__(f"There is no {kind} {str(name)[:200]!r}. {remedy}")


class InvalidInput(HeadstartError):
    """Input that can never work, whatever the store holds."""

    code = "invalid_input"


class BrokenFile(InvalidInput):
    """A file with a row that cannot be read; nothing of the file was stored."""

    code = "broken_file"

    def __init__(self, file: str, line: int, column: str, what: str) -> None:
        super().__init__(
            f"{file}, line {line}, column {column!r}: {what} Nothing of the file was stored.",
            [Problem(f"line {line}, column {column}", what)],
        )


class Conflict(HeadstartError):
    """Right in itself, but at odds with what the store holds."""

    code = "conflict"


class TooLarge(HeadstartError):
    """Over a stated limit."""

    code = "too_large"


class Unauthorized(HeadstartError):
    """No API key where one is needed, or one that is not in force."""

    code = "unauthorized"


class Forbidden(HeadstartError):
    """What the API key's scope, or the settings, do not allow."""

    code = "forbidden"


class RateLimited(HeadstartError):
    """More requests than an API key may send."""

    code = "rate_limited"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class Unreachable(HeadstartError):
    """A source that cannot be read."""

    code = "unreachable"


class StoreUnavailable(HeadstartError):
    """The database does not answer, or its schema is not ours."""

    code = "store_unavailable"


_LISTED = {"family": "/families", "delivery": "/deliveries"}


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` known names nearest to `name`, nearest first, case ignored."""
    folded = {k.casefold(): k for k in known}
    matches = get_close_matches(name.casefold()[:200], folded, n=count, cutoff=0.6)
    return [folded[m] for m in matches]
