"""The evidence that a backtest is made on: of the store of the settings, or of a source read for it alone."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from headstart.entities import ImportState
from headstart.errors import HeadstartError
from headstart.evidence.ingest import ImportLimits, run_next
from headstart.recommend.backtest.material import cut as smaller
from headstart.recommend.backtest.material import material_of
from headstart.store.engine import in_memory, parse_url
from service import tables
from service.client import Refused
from service.serving import given_settings, open_as_it_is, open_store

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from headstart.recommend.backtest.material import Material
    from headstart.settings import Settings
    from headstart.store import Store


def materials(
    source: str | None,
    kind: str | None = None,
    families: Collection[str] = (),
    cut: int | None = None,
    seed: int = 0,
) -> list[Material]:
    """All families, each with what is known of its targets; `cut` leaves that many checkpoints of each.

    Args:
        source: folder, file or URL; it goes through the importer and its gates, into a store of its own.
        families: that have to be among them.
    """
    with _stored(source, kind) as store:
        known = [one.name for one in store.families()]
        unknown = [name for name in families if name not in known]
        if unknown:
            raise Refused(f"There is no family {unknown[0]!r}. Known: {', '.join(known) or 'none'}.")
        if not known:
            raise Refused("There are no scores to test on. Import some, or name a folder with --source.")
        found = [_material(store, name) for name in known]
    if cut is None:
        return found
    return [smaller(one, cut, np.random.default_rng(seed)) for one in found]


def _material(store: Store, family: str) -> Material:
    evidence = store.evidence(family)
    facts = {one.id: one for one in store.all_targets()}
    targets = [facts[int(one)] for one in evidence.target_ids]
    return material_of(
        evidence,
        np.array([one.train_size or np.nan for one in targets], dtype=float),
        np.array([one.classes or np.nan for one in targets], dtype=float),
        tuple(one.task or "" for one in targets),
    )


@contextmanager
def _stored(source: str | None, kind: str | None) -> Iterator[Store]:
    """The store of the settings, or one that holds the source alone for as long as it is open."""
    settings = given_settings()
    with TemporaryDirectory(prefix="headstart-") as folder:
        url = settings.store.get_secret_value() if source is None else f"sqlite:///{folder}/store.db"
        store = _as_it_is(url) if source is None else open_store(url)
        try:
            if source is not None:
                is_table = kind == "table" if kind else Path(source).is_file()
                _import(store, source, "table" if is_table else "model-recycling", settings)
            yield store
        except HeadstartError as error:
            raise Refused(error.message) from None
        finally:
            store.close()


def _as_it_is(url: str) -> Store:
    """Open a store and change nothing in it: none is created, and none is brought to a newer schema."""
    try:
        parsed = parse_url(url)
        path = Path(parsed.database or "")
        if parsed.get_backend_name() == "sqlite" and not in_memory(parsed) and not path.exists():
            raise Refused(
                f"There is no store at {str(path)!r}. Set HEADSTART_STORE to the store of your service, or "
                "name a folder of scores with --source."
            )
    except HeadstartError as error:
        raise Refused(error.message) from None
    return open_as_it_is(url)


def _import(store: Store, source: str, kind: str, settings: Settings) -> None:
    """Read the source as the service would. Who sits at the terminal may read whatever this process can."""
    limits = replace(ImportLimits.from_settings(settings), starter=source)
    queued = store.queue_import(store.create_import(kind, source).id)
    with tables.console(stderr=True).status("Reading the scores"):
        run_next(store, limits)
    done = store.get_import(queued.id)
    if done.state is not ImportState.SUCCEEDED:
        raise Refused(done.error or "The import failed.")
