from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from live_service import Live, fill, serving, settings

from headstart.refit import refit_stale
from headstart.store import Store, upgrade_schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that imports may read, and a link out of it."""
    folder = tmp_path_factory.mktemp("roots")
    (folder / "scores.csv").write_text(
        "checkpoint,family,target,method,value\nme/x,roberta-base,rte,finetune,0.5\n"
    )
    (folder / "escape").symlink_to("/etc")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/store.db"
    upgrade_schema(url)
    store = Store(url)
    yield store
    store.close()


@contextmanager
def filled(folder: Path, roots: Path, **more: Any) -> Iterator[Live]:
    """A service over a small known store with its posteriors fitted, without a worker."""
    url = f"sqlite:///{folder}/store.db"
    upgrade_schema(url)
    with closing(Store(url)) as store:
        fill(store)
        refit_stale(store)
        given = settings(**{"roots": (roots,), "max_body_bytes": 100_000, "max_upload_bytes": 300_000} | more)
        with serving(store, given) as live:
            yield live


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory, roots: Path) -> Iterator[Live]:
    """Shared by all tests: they leave it as they find it."""
    with filled(tmp_path_factory.mktemp("catalogue"), roots) as live:
        yield live


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, roots: Path) -> Iterator[Live]:
    """One to do anything to."""
    more = {"methods": ("jobs_method", "surveyed_method"), "webhook_secret": "s", "max_body_bytes": 1 << 20}
    with filled(tmp_path_factory.mktemp("fuzzed"), roots, **more) as live:
        yield live
