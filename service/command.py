"""What the commands of the command line share."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

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
