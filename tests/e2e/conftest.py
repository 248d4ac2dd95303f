from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from deployment import Deployment
from servers import Postgres, Valkey
from tiny_family import make_root, serving

from headstart.store import upgrade_schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    server = Valkey()
    yield server
    server.close()


@pytest.fixture
def scaled_out(postgres: Postgres, valkey: Valkey, tmp_path: Path) -> Iterator[Deployment]:
    """PostgreSQL and a broker; the test starts the Celery workers."""
    valkey.flush()
    deployment = Deployment(postgres.database(), valkey.url, tmp_path)
    yield deployment
    deployment.close()


@pytest.fixture
def on_one_machine(tmp_path: Path) -> Iterator[Deployment]:
    """SQLite and no broker; the test starts `python -m worker`."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    upgrade_schema(url)
    deployment = Deployment(url, "", tmp_path)
    yield deployment
    deployment.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """See `make_root`."""
    return make_root(tmp_path / "root")


@pytest.fixture
def embedded(on_one_machine: Deployment, root: Path) -> Iterator[tuple[Deployment, httpx.Client]]:
    """SQLite, one service, one worker."""
    yield from serving(on_one_machine, root, celery=False)


@pytest.fixture
def scaled(scaled_out: Deployment, root: Path) -> Iterator[tuple[Deployment, httpx.Client]]:
    """PostgreSQL, a broker, one service, two Celery workers on one cache."""
    yield from serving(scaled_out, root, celery=True)
