"""Faults of the store: what a worker found waits until it can be stored."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from deployment import Deployment

from headstart.store import upgrade_schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Postgres

JOBS = 250


def test_postgres_is_away_for_ten_seconds(scaled_out: Deployment, postgres: Postgres) -> None:
    job_ids = scaled_out.submit(scaled_out.drafts(JOBS, seconds=0.02))
    slow = scaled_out.submit(scaled_out.drafts(2, seconds=5))  # they end while it is away
    workers = [scaled_out.celery("one"), scaled_out.celery("two")]
    scaled_out.wait(lambda: scaled_out.done() >= 50)
    postgres.crash()
    time.sleep(10)
    postgres.start()
    scaled_out.census([*job_ids, *slow])
    assert [worker.poll() for worker in workers] == [None, None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("A file system of its own takes root.")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with suppress(OSError), path.open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)


def test_the_disk_of_the_sqlite_file_is_full(small_disk: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{small_disk / 'store.db'}"
    upgrade_schema(url)
    deployment = Deployment(url, "", tmp_path)
    try:
        job_ids = deployment.submit(deployment.drafts(JOBS, seconds=0.02))
        worker = deployment.embedded()
        deployment.wait(lambda: deployment.done() >= 50)
        fill(small_disk / "filler")
        deployment.wait(lambda: "disk is full" in deployment.logs())
        (small_disk / "filler").unlink()
        deployment.census(job_ids)
        assert worker.poll() is None
    finally:
        deployment.close()
