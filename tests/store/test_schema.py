"""Alembic is the only authority over the schema."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, inspect, text
from sqlalchemy.exc import IntegrityError

from headstart.errors import StoreUnavailable
from headstart.store import SCHEMA_REVISION, Store, upgrade_schema
from headstart.store.engine import open_engine, parse_url, writing
from headstart.store.schema import alembic_config, upgrade_engine
from headstart.store.tables import checkpoints, evidence, families, metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    upgrade_schema(empty_url)
    opened = open_engine(parse_url(empty_url))
    yield opened
    opened.dispose()


def test_the_migrations_make_the_tables_that_the_code_speaks_of(engine: Engine) -> None:
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_migrations_name_constraints_as_the_code_does(engine: Engine) -> None:
    found, wanted = set(), set()
    with engine.begin() as connection:
        for name, table in metadata.tables.items():
            reader = inspect(connection)
            found |= {index["name"] for index in reader.get_indexes(name)}
            found |= {check["name"] for check in reader.get_check_constraints(name)}
            found |= {key["name"] for key in reader.get_foreign_keys(name)}
            wanted |= {index.name for index in table.indexes}
            wanted |= {c.name for c in table.constraints if c.name and c.name[:2] in {"ck", "fk"}}
    assert {name for name in wanted if name not in found} == set()


def test_the_schema_goes_down_to_nothing_and_up_again(engine: Engine) -> None:
    with writing(engine).begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    with engine.begin() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
    upgrade_engine(engine)
    with engine.begin() as connection:
        assert set(inspect(connection).get_table_names()) == {"alembic_version", *metadata.tables}
        assert connection.execute(evidence.select()).all() == [(1, 0)]


def test_upgrading_again_changes_nothing(empty_url: str) -> None:
    upgrade_schema(empty_url)
    upgrade_schema(empty_url)
    store = Store(empty_url)
    store.ping()
    store.close()


def test_processes_that_start_at_once_all_succeed(empty_url: str) -> None:
    environment = {**os.environ, "HEADSTART_STORE": empty_url, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "migrations"],
            cwd=Path(empty_url.removeprefix("sqlite:///")).parent if "sqlite" in empty_url else ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = [(*process.communicate(timeout=120), process.returncode) for process in started]
    assert answers == [(f"The store is at schema {SCHEMA_REVISION}.\n", "", 0)] * 3


def test_a_missing_folder_is_created_and_the_file_logs_ahead(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet there" / "store.db"
    upgrade_schema(f"sqlite:///{path}")
    engine = open_engine(parse_url(f"sqlite:///{path}"))
    with engine.begin() as connection:
        pragmas = [connection.scalar(text(f"PRAGMA {p}")) for p in ("journal_mode", "foreign_keys")]
    engine.dispose()
    assert pragmas == ["wal", 1]


def test_a_schema_of_the_future_is_refused_with_a_remedy(engine: Engine, empty_url: str) -> None:
    with writing(engine).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store = Store(empty_url)
    for verb in (lambda: upgrade_schema(empty_url), store.ping):
        with pytest.raises(StoreUnavailable, match=r"schema 9999, newer than .* install"):
            verb()
    store.close()


def test_a_store_without_schema_names_the_remedy(empty_url: str) -> None:
    store = Store(empty_url)
    for verb in (store.ping, store.families):
        with pytest.raises(StoreUnavailable, match="python -m migrations"):
            verb()
    store.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreUnavailable):
        upgrade_schema(f"sqlite:///{tmp_path / 'store.db'}")


def test_a_failing_migrate_step_says_why(tmp_path: Path) -> None:
    environment = {**os.environ, "HEADSTART_STORE": "mysql://u:s3cret@h/d", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-m", "migrations"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "HEADSTART_STORE" in ended.stderr
    assert "s3cret" not in ended.stderr


def test_a_family_has_one_vanilla_in_the_schema_too(engine: Engine) -> None:
    row = {"family_id": 1, "revision": "", "is_vanilla": True, "details": {}}
    with writing(engine).begin() as connection:
        connection.execute(insert(families), {"id": 1, "name": "f"})
        connection.execute(insert(checkpoints), row | {"name": "a"})
        connection.execute(insert(checkpoints), row | {"name": "b", "is_vanilla": False})
        connection.execute(insert(checkpoints), row | {"name": "c", "is_vanilla": False})
    with pytest.raises(IntegrityError), writing(engine).begin() as connection:
        connection.execute(insert(checkpoints), row | {"name": "d"})


def test_a_key_has_one_score_in_force_in_the_schema_too(engine: Engine) -> None:
    add_score = text(
        "INSERT INTO scores (checkpoint_id, target_id, method, method_version, params_digest, params, seed,"
        " value, source, provenance, quarantine, created_at) VALUES (1, 1, 'm', '1', 'd', '{}', 0,"
        " :value, '', '{}', :quarantine, '2026-01-01 00:00:00')"
    )
    with writing(engine).begin() as connection:
        connection.execute(text("INSERT INTO families (id, name) VALUES (1, 'f')"))
        connection.execute(
            insert(checkpoints),
            {"id": 1, "family_id": 1, "name": "c", "revision": "", "is_vanilla": False, "details": {}},
        )
        connection.execute(text("INSERT INTO targets (id, name, metric) VALUES (1, 't', 'accuracy')"))
        connection.execute(add_score, {"value": 0.1, "quarantine": None})
        connection.execute(add_score, {"value": 0.2, "quarantine": "off_grid"})
        connection.execute(add_score, {"value": 0.3, "quarantine": "off_grid"})
    with pytest.raises(IntegrityError), writing(engine).begin() as connection:
        connection.execute(add_score, {"value": 0.4, "quarantine": None})
    with pytest.raises(IntegrityError), writing(engine).begin() as connection:
        connection.execute(text("UPDATE scores SET checkpoint_id = 99"))


def test_nothing_but_alembic_creates_tables() -> None:
    forbidden = "create_" + "all("
    sources = [
        p
        for part in ("headstart", "migrations", "service", "worker", "tests", "bench")
        for p in (ROOT / part).rglob("*.py")
    ]
    assert [str(path) for path in sources if forbidden in path.read_text()] == []
    assert len(sources) > 20
