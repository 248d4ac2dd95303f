"""Pages by ascending id, and the opaque tokens that continue them.

A token holds the last id seen, so rows added meanwhile neither repeat nor hide one. It also holds a digest
of the list and filters it continues, so that a token of another list is refused.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any, TypeVar

from headstart.entities import Page
from headstart.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import ColumnElement, Connection, Row, Select

T = TypeVar("T")

_LARGEST_ID = 2**63 - 1
_ALL = 500  # rows of a page, where every page is read


def read_page(
    connection: Connection,
    query: Select[Any],
    identity: ColumnElement[int],
    build: Callable[[Row[Any]], T],
    *,
    scope: tuple[object, ...],
    size: int,
    token: str | None,
) -> Page[T]:
    """Read one page of the query. `scope` names the list and its filters; the token must be of the same."""
    if size < 1:
        raise InvalidInput(
            f"A page cannot hold {size} items: ask for 1 or more.", [Problem("page_size", "is below 1")]
        )
    if token is not None:
        query = query.where(identity > decode_token(scope, token))
    # One row more than asked for tells whether there is a next page.
    rows = connection.execute(query.order_by(identity).limit(min(size, _LARGEST_ID - 1) + 1)).all()
    shown = rows[:size]
    more = len(rows) > size
    return Page(
        items=tuple(build(row) for row in shown),
        next_token=encode_token(scope, shown[-1].id) if more else None,
    )


def all_items(list_page: Callable[..., Page[T]], **filters: Any) -> Iterator[T]:
    """All items of a list of the store, page by page: `all_items(store.checkpoints, family="bert")`."""
    token = None
    while True:
        page = list_page(**filters, page_size=_ALL, page_token=token)
        yield from page.items
        token = page.next_token
        if token is None:
            return


def encode_token(scope: tuple[object, ...], last_id: int) -> str:
    """Return the token that continues the list `scope` after `last_id`."""
    return urlsafe_b64encode(f"{last_id}.{_digest(scope, last_id)}".encode()).decode().rstrip("=")


def decode_token(scope: tuple[object, ...], token: str) -> int:
    """Return the last id seen; raise InvalidInput if the token was not made for this list."""
    try:
        last, digest = urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode("ascii").split(".")
        last_id = int(last)
    except (ValueError, binascii.Error):
        last_id, digest = 0, ""
    if digest != _digest(scope, last_id) or not 0 < last_id <= _LARGEST_ID:
        raise InvalidInput(
            f"The page token {token[:100]!r} does not continue this list: use the `next_page_token` of a "
            "list with the same filters, or none to start over.",
            [Problem("page_token", "is not a token of this list")],
        )
    return last_id


def _digest(scope: tuple[object, ...], last_id: int) -> str:
    # The representation tells None from "None", and 1 from "1".
    return hashlib.sha256(f"{scope!r} {last_id}".encode()).hexdigest()[:16]
