"""What the commands of the command line share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from service import tables
from service.client import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Url = Annotated[str, typer.Option(envvar="HEADSTART_URL", help="Where the service is.", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the JSON of the answer instead of a table.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def group(text: str, **options: Any) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(
        help=text, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **options
    )


def print_json(data: Any) -> None:
    """Print JSON for programs."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def show_page(page: dict[str, Any], table: Callable[[dict[str, Any]], None], *, as_json: bool) -> None:
    """Show one page of a list, and say where there is more of it."""
    if as_json:
        print_json(page)
    else:
        table(page)
        tables.show_more(page)


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the fields that were given."""
    return {key: value for key, value in fields.items() if value is not None}


def quoted(name: str) -> str:
    """A name as it stands in a path."""
    return quote(name, safe="/")


def opened(path: Path) -> Any:
    """A file to upload. Refused where it cannot be read."""
    try:
        return path.open("rb")
    except OSError as error:
        raise Refused(
            f"Cannot read {str(path)!r}: {error.strerror}. Check the path and its permissions."
        ) from None
