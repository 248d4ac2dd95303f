"""`headstart checkpoints`: list them, and register one with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service import tables
from service.client import Client
from service.command import DEFAULT_URL, AsJson, Limit, Url, given, group, print_json, show_page
from service.following import imported

if TYPE_CHECKING:
    from collections.abc import Mapping

app = group("List the checkpoints; register one with its weights.", invoke_without_command=True)


@app.callback()
def checkpoints(
    ctx: typer.Context,
    *,
    family: Annotated[str | None, typer.Option(help="Only of this family.")] = None,
    search: Annotated[str | None, typer.Option(help="Only names that contain this.")] = None,
    limit: Limit = 50,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the checkpoints; register one with its weights.

    Example: headstart checkpoints --family roberta-base --search mnli
    """
    if ctx.invoked_subcommand is not None:
        return
    with Client(url) as client:
        page = client.listed("/checkpoints", {"family": family, "search": search}, limit)
    show_page(page, tables.show_checkpoints, as_json=as_json)


@app.command()
def add(
    place: Annotated[str, typer.Argument(metavar="PATH|HUB_ID", help="A folder, or OWNER/NAME of the hub.")],
    *,
    name: Annotated[str | None, typer.Option(help="Its name; left out: the hub id, or the path.")] = None,
    family: Annotated[
        str | None, typer.Option(help="Its family; left out: told from what it names as its base.")
    ] = None,
    vanilla: Annotated[
        bool, typer.Option("--vanilla", help="It is the one that all of its family descend from.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Of the hub: a branch, tag or commit.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return as soon as it is accepted.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Register a checkpoint, so that it can be probed and finetuned.

    A PATH begins with / . or ~, or names a folder that is there. The service reads it, from under one of the
    folders in HEADSTART_ROOTS; a checkpoint of the hub is read by a worker.

    Example: headstart checkpoints add ./my-roberta --name my-roberta --family roberta-base
    """
    path = local_path(place)
    if path is not None and revision is not None:
        raise typer.BadParameter("--revision is of the hub; a folder is what it holds.")
    where = in_folder(path) if path is not None else on_hub(place, revision)
    request = where | {"is_vanilla": vanilla} | given({"name": name, "family": family})
    with Client(url) as client:
        done = client.request("POST", "/checkpoints", json=request)
        if no_wait:
            found = None
        else:
            done = imported(client, done, quiet=as_json)
            found = client.request("GET", f"/checkpoints/{done['report']['checkpoint_id']}")
    if as_json:
        print_json(done if found is None else found)
    elif found is None:
        tables.say(f"Import {done['id']} is {done['state']}. Follow it at GET /imports/{done['id']}.")
    else:
        show_registered(found, done["report"])


def in_folder(path: Path) -> dict[str, Any]:
    """What asks POST /checkpoints for a folder."""
    return {"path": str(path)}


def on_hub(hub_id: str, revision: str | None = None) -> dict[str, Any]:
    """What asks POST /checkpoints for a checkpoint of the hub."""
    return {"hub": {"id": hub_id} | given({"revision": revision})}


def register(client: Client, where: Mapping[str, Any], family: str | None, *, quiet: bool) -> dict[str, Any]:
    """Register what lies in a folder or on the hub, or find it registered, and return the checkpoint."""
    accepted = client.request("POST", "/checkpoints", json={**where} | given({"family": family}))
    done = imported(client, accepted, quiet=quiet)
    found: dict[str, Any] = client.request("GET", f"/checkpoints/{done['report']['checkpoint_id']}")
    return found


def show_registered(checkpoint: dict[str, Any], report: dict[str, Any]) -> None:
    """Show one checkpoint field by field, and what the import had to say."""
    details = checkpoint["details"]
    shape = (("layers", "layers"), ("hidden_size", "wide"), ("vocab_size", "tokens known"))
    fields = {
        "family": checkpoint["family"] + (" (it is the vanilla)" if checkpoint["is_vanilla"] else ""),
        "revision": details.get("revision") or checkpoint["revision"],
        "parameters": tables.count(checkpoint["parameters"]),
        "architecture": details.get("architecture"),
        "shape": ", ".join(f"{details[key]} {word}" for key, word in shape if key in details),
        "stored as": details.get("dtype"),
        "head": details.get("head"),
        "license": checkpoint["license"],
        "base model": details.get("base_model"),
        "bytes": sum(details.get("files", {}).values()) or None,
    }
    rows = [(name, value) for name, value in fields.items() if value]
    tables.show(f"Checkpoint {checkpoint['id']}: {checkpoint['name']}", ("", ""), rows)
    for note in report["notes"]:
        tables.say(note)
    if not report["checkpoints_new"]:
        tables.say("It was known already.")


def local_path(text: str) -> Path | None:
    """The absolute path that a text means: it begins with / . or ~, or holds a slash and is there."""
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        return Path(text).expanduser().resolve()
    return Path(text).resolve() if "/" in text and Path(text).exists() else None
