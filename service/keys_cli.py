"""`headstart keys`: make, list and revoke API keys.

These commands speak to the store itself, of HEADSTART_STORE: the first key is made before a service runs.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service import tables
from service.client import API_KEY, Refused
from service.command import AsJson, group, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstart.entities import ApiKey
    from headstart.store import Store

app = group("Make, list and revoke API keys, in the store of HEADSTART_STORE.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Whose key it is, or what for.")]
LONGEST_NAME = 100


@app.command()
def create(
    name: Name,
    scope: Annotated[
        Literal["read", "run", "admin"],
        typer.Option(help="read: ask and look; run: also import and measure; admin: also judge scores."),
    ],
    as_json: AsJson = False,
) -> None:
    """Make a key, and show it this once.

    Example: headstart keys create laptop --scope run
    """
    from service.auth import digest_of, new_token, shown_of  # noqa: PLC0415 - `headstart` starts without it

    if not (name.isprintable() and name.strip() and len(name) <= LONGEST_NAME):
        raise Refused(f"A key cannot be named {name[:50]!r}. Use 1 to {LONGEST_NAME} printable characters.")
    token = new_token()
    with _store() as store:
        key = store.create_key(name, scope, digest_of(token.encode()), shown_of(token))
    if as_json:
        print_json({"key": token} | _as_json(key))
        return
    typer.echo(token)  # alone on stdout, so that a script can take it
    typer.echo(
        f"\nThis is the key {name!r}. It is never shown again: keep it where secrets are kept. To use it:\n\n"
        f"  export {API_KEY}=KEY, and the `headstart` command sends it\n"
        "  curl -H 'Authorization: Bearer KEY' ..., and the like for other clients",
        err=True,
    )


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the keys, the revoked ones too; what is shown of each is its beginning.

    Example: headstart keys list
    """
    with _store() as store:
        keys = store.keys()
    items = [_as_json(key) for key in keys]
    if as_json:
        print_json({"items": items})
        return
    columns = ("name", "scope", "key", "made", "revoked")
    rows = ([k["name"], k["scope"], f"{k['shown']}…", k["created_at"], k["revoked_at"]] for k in items)
    tables.show("Keys", columns, rows)


@app.command()
def revoke(name: Name, as_json: AsJson = False) -> None:
    """Revoke a key: services refuse it within seconds, and it cannot be taken back.

    Example: headstart keys revoke laptop
    """
    with _store() as store:
        key = _as_json(store.revoke_key(name))
    if as_json:
        print_json(key)
    else:
        tables.say(f"The key {name!r} is revoked since {key['revoked_at']}.")


@contextmanager
def _store() -> Iterator[Store]:
    from headstart.errors import HeadstartError  # noqa: PLC0415 - what follows brings the whole service
    from service.serving import given_settings, open_store  # noqa: PLC0415

    store = open_store(given_settings().store.get_secret_value())
    try:
        yield store
    except HeadstartError as error:
        raise Refused(error.message) from None
    finally:
        store.close()


def _as_json(key: ApiKey) -> dict[str, Any]:
    revoked = key.revoked_at
    return {
        "id": key.id,
        "name": key.name,
        "scope": key.scope,
        "shown": key.shown,
        "created_at": key.created_at.isoformat(timespec="seconds"),
        "revoked_at": None if revoked is None else revoked.isoformat(timespec="seconds"),
    }
