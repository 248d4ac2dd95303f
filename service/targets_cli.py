"""`headstart targets`: list targets, make one of rows, show what was counted in them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import Annotated, Any

import typer

from service import tables
from service.client import Client, Refused
from service.command import DEFAULT_URL, AsJson, Limit, Url, given, group, opened, print_json, show_page
from service.following import imported
from service.target_tables import show_target

app = group("List the targets; make one of rows, show one.", invoke_without_command=True)


@app.callback()
def targets(
    ctx: typer.Context,
    search: Annotated[str | None, typer.Option(help="Only names that contain this.")] = None,
    limit: Limit = 50,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the targets; make one of rows, show one.

    Example: headstart targets --search tweet
    """
    if ctx.invoked_subcommand is not None:
        return
    with Client(url) as client:
        page = client.listed("/targets", {"search": search}, limit)
    show_page(page, tables.show_targets, as_json=as_json)


@app.command()
def show(
    target: Annotated[str, typer.Argument(help="Name or id of the target.")],
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show a target, and what was counted in its rows.

    Example: headstart targets show tickets
    """
    with Client(url) as client:
        _show(client, target_id_of(client, target), as_json=as_json)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What the target is to be called.")],
    *,
    path: Annotated[
        str | None, typer.Option(help="A file or folder that the service can read, under HEADSTART_ROOTS.")
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            help="Upload this CSV, JSONL or Parquet file; repeatable, named train, validation, test."
        ),
    ] = None,
    hub: Annotated[str | None, typer.Option(help="A dataset of the hub, by its id.")] = None,
    config: Annotated[str | None, typer.Option(help="Of the hub dataset.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of the hub dataset: branch, tag, commit.")] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=SPLIT", help="Of the hub dataset, such as test=validation; repeatable."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text, or of a pair's first.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Column of a pair's second text.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    task: Annotated[str | None, typer.Option(help="classification or regression; else told.")] = None,
    metric: Annotated[str | None, typer.Option(help="accuracy, spearman or pearson; else told.")] = None,
    seed: Annotated[int, typer.Option(help="Of what is split off train.")] = 0,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return as soon as it is accepted.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make a target of rows: of a path, of files, or of the hub.

    Example: headstart targets add tickets --file train.csv --file test.csv

    Example: headstart targets add rte --hub nyu-mll/glue --config rte
    """
    if sum(one is not None for one in (path, file or None, hub)) != 1:
        raise typer.BadParameter("Give one of --path, --file and --hub.")
    if hub is None and (config or revision or split):
        raise typer.BadParameter("--config, --revision and --split are of --hub.")
    columns = given({"text": text, "text_pair": text_pair, "label": label})
    request = {
        "name": name,
        "task": task,
        "metric": metric,
        "seed": seed,
        "columns": columns or None,
        "path": path,
        "hub": hub
        and given({"id": hub, "config": config, "revision": revision, "splits": _splits(split or ())}),
    }
    with Client(url) as client:
        accepted = _send(client, given(request), file or [])
        if not no_wait:
            done = imported(client, accepted, quiet=as_json)
            _show(client, done["report"]["target_id"], as_json=as_json)
        elif as_json:
            print_json(accepted)
        else:
            tables.say(f"Import {accepted['id']} is accepted. Follow it at GET /imports/{accepted['id']}.")


def _send(client: Client, request: dict[str, Any], files: list[Path]) -> dict[str, Any]:
    if not files:
        return client.request("POST", "/targets", json=request)  # type: ignore[no-any-return]
    with ExitStack() as stack:
        parts = [("files", (path.name, stack.enter_context(opened(path)))) for path in files]
        form = {"target": json.dumps(request)}
        return client.request("POST", "/targets", data=form, files=parts, timeout=None)  # type: ignore[no-any-return]


def _show(client: Client, target_id: int, *, as_json: bool) -> None:
    target = client.request("GET", f"/targets/{target_id}")
    if as_json:
        print_json(target)
    else:
        show_target(target)


def target_id_of(client: Client, target: str) -> int:
    """The id of a target named by id or name. Refused where there is none."""
    if target.isdecimal():
        return int(target)
    found = client.listed("/targets", {"search": target}, 500)["items"]
    same = [one["id"] for one in found if one["name"] == target]
    if not same:
        near = ", ".join(repr(one["name"]) for one in found[:5])
        hint = f"There are {near}." if near else "List them with: headstart targets"
        raise Refused(f"There is no target {target!r}. {hint}")
    return int(same[0])


def _splits(pairs: list[str] | tuple[str, ...]) -> dict[str, str] | None:
    splits = {}
    for pair in pairs:
        role, equals, split = pair.partition("=")
        if not equals or not split or role not in ("train", "validation", "test"):
            raise typer.BadParameter(
                f"--split {pair!r} is not of the form ROLE=SPLIT, such as test=validation."
            )
        splits[role] = split
    return splits or None
