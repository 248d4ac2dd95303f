"""`headstart serve`: check the bind and the store, then one uvicorn process."""

from __future__ import annotations

import logging
import socket
import sys
from contextlib import closing, suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog
import uvicorn
from pydantic import ValidationError

from headstart.errors import HeadstartError
from headstart.settings import Settings
from headstart.store import Store, upgrade_schema
from service.app import create_app
from service.client import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

QUESTION = '{"family":"roberta-base","target":{"name":"rte"}}'


def serve(*, host: str | None, port: int | None, logs: bool) -> None:
    """Serve until stopped; raise Refused with a sentence where that cannot begin."""
    settings = read_settings(host=host, port=port)
    check_bind(settings)
    configure_logs(logs)
    listener = _listen(settings.host, settings.port)
    with closing(listener), closing(open_store(settings.store.get_secret_value())) as store:
        shown = _shown_url(settings.host, listener.getsockname()[1])
        app = create_app(settings, store)
        config = uvicorn.Config(
            app, loop="auto", http="httptools", access_log=False, log_level="warning", lifespan="on"
        )
        with suppress(KeyboardInterrupt):  # uvicorn has shut down by then and repeats the signal
            _Server(config, lambda: _greet(shown)).run(sockets=[listener])


def read_settings(**given: str | int | None) -> Settings:
    """Read the environment, with what the command line gave above it."""
    try:
        return Settings(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "HEADSTART_" + "_".join(map(str, first["loc"])).upper()
        raise Refused(f"The setting {name} cannot be used: {first['msg']}. Correct or unset it.") from None


def check_bind(settings: Settings) -> None:
    """Refuse an address that others can reach, unless the settings say that it is meant."""
    if settings.open_bind or _is_loopback(settings.host):
        return
    raise Refused(
        f"Others could reach {settings.host}, and there are no API keys yet. Serve on 127.0.0.1, or set "
        "HEADSTART_OPEN_BIND=true where something in front of the service checks who asks."
    )


def open_store(url: str) -> Store:
    """Open the store. SQLite is brought to the newest schema; Postgres is its administrators' to migrate."""
    try:
        if url.startswith("sqlite"):
            upgrade_schema(url)
        store = Store(url)
        try:
            store.ping()
        except HeadstartError:
            store.close()
            raise
    except HeadstartError as error:
        raise Refused(error.message) from None
    return store


def configure_logs(logs: bool) -> None:
    """JSON lines of everything with --logs; otherwise only warnings, so that a terminal stays readable."""
    level = logging.INFO if logs else logging.WARNING
    rendered: list[structlog.typing.Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if logs
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *rendered,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


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


def _shown_url(host: str, port: int) -> str:
    named = "localhost" if _is_loopback(host) or host in ("0.0.0.0", "::") else host  # noqa: S104
    return f"{named}:{port}"


def _greet(url: str) -> None:
    print(f"Headstart serves on http://{url} (documentation at /docs). Ask it:\n")
    print(f"curl -s {url}/recommend -d '{QUESTION}' -H 'content-type: application/json'\n", flush=True)


class _Server(uvicorn.Server):
    """Uvicorn's server that says when it can be asked."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()
