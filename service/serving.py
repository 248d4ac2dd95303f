"""`headstart serve`: check the bind and the store, then one uvicorn process."""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import uvicorn

from headstart.errors import HeadstartError
from headstart.logs import configure_logs
from headstart.settings import read_settings
from headstart.store import Store, upgrade_schema
from service.app import create_app
from service.auth import needs_keys
from service.client import API_KEY, Refused
from service.hosts import is_loopback
from service.worker_process import COMMAND, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

    from headstart.settings import Settings

QUESTION = '{"family":"roberta-base","target":{"name":"rte"}}'


def serve(*, host: str | None, port: int | None, logs: bool, worker: bool = False) -> None:
    """Serve until stopped, with a worker process beside it if asked for.

    Raises Refused with a sentence where that cannot begin.
    """
    settings = given_settings(host=host, port=port)
    if worker:
        settings = settings.model_copy(update={"embedded_worker": False})  # that process keeps the store up
    configure_logs(json_lines=logs)
    # Uvicorn stops on SIGTERM and then repeats it: as an exit, so that all below is closed in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        store = stack.enter_context(closing(open_store(settings.store.get_secret_value())))
        check_bind(settings, store)
        listener = stack.enter_context(closing(_listen(settings.host, settings.port)))
        greeting = _greeting(settings, listener.getsockname()[1])
        app = _app(settings, store)
        config = uvicorn.Config(
            app, loop="auto", http="httptools", access_log=False, log_level="warning", lifespan="on"
        )

        def end_streams() -> None:
            app.state.feed.close()  # which the app makes when it starts

        if worker:
            stack.callback(_worker(store, logs=logs).stop)
        with suppress(KeyboardInterrupt):  # uvicorn has shut down by then and repeats the signal
            _Server(config, lambda: print(greeting, flush=True), end_streams).run(sockets=[listener])


def _app(settings: Settings, store: Store) -> FastAPI:
    try:
        return create_app(settings, store)
    except HeadstartError as error:  # a method of the settings that cannot be used
        raise Refused(error.message) from None


def _worker(store: Store, *, logs: bool) -> WorkerProcess:
    if store.in_memory:
        raise Refused(
            "A worker cannot see a store in memory. Name a file in HEADSTART_STORE, or leave --worker out."
        )
    command = COMMAND if logs else (*COMMAND, "--quiet")
    return WorkerProcess(lambda sentence: print(sentence, file=sys.stderr, flush=True), command)


def given_settings(**given: str | int | None) -> Settings:
    """Read the environment, with what the command line gave above it."""
    try:
        return read_settings(**given)
    except HeadstartError as error:
        raise Refused(error.message) from None


def check_bind(settings: Settings, store: Store) -> None:
    """Refuse an address that others can reach while there is no key to tell them apart by."""
    if not needs_keys(settings):
        return
    try:
        keys = store.keys()
    except HeadstartError as error:
        raise Refused(error.message) from None
    if all(key.revoked_at is not None for key in keys):
        raise Refused(
            f"Others could reach {settings.host}, and there is no API key yet. Make one with `headstart keys "
            "create NAME --scope admin`, or serve on 127.0.0.1, or set HEADSTART_OPEN_BIND=true where "
            "something in front of the service checks who asks."
        )


def open_store(url: str) -> Store:
    """Open the store. SQLite is brought to the newest schema; Postgres is its administrators' to migrate."""
    try:
        if url.startswith("sqlite"):
            upgrade_schema(url)
    except HeadstartError as error:
        raise Refused(error.message) from None
    return open_as_it_is(url)


def open_as_it_is(url: str) -> Store:
    """Open a store that answers and has this software's schema."""
    try:
        store = Store(url)
        try:
            store.ping()
        except HeadstartError:
            store.close()
            raise
    except HeadstartError as error:
        raise Refused(error.message) from None
    return store


def _listen(host: str, port: int) -> socket.socket:
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise Refused(f"Cannot serve on {host} port {port}: {reason}. Choose another with --port.") from None
    listener.set_inheritable(True)
    return listener


def _greeting(settings: Settings, port: int) -> str:
    host = settings.host
    url = f"{'localhost' if is_loopback(host) or host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104
    key = f' -H "Authorization: Bearer ${API_KEY}"' if needs_keys(settings) else ""
    return (
        f"Headstart serves on http://{url} (documentation at /docs). Ask it:\n\n"
        f"curl -s {url}/recommend -d '{QUESTION}' -H 'content-type: application/json'{key}\n"
    )


class _Server(uvicorn.Server):
    """Uvicorn's server that says when it can be asked, and before it waits for connections to end."""

    def __init__(
        self, config: uvicorn.Config, on_started: Callable[[], None], on_stopping: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._on_stopping = on_stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell, then stop."""
        self._on_stopping()
        await super().shutdown(sockets=sockets)
