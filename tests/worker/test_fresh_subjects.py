"""What a job's child is told of its checkpoint and target is what the store holds when the job begins."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

from headstart.entities import (
    CheckpointDraft,
    ImportBatch,
    ImportReport,
    JobDraft,
    RowsDraft,
    TargetDraft,
)
from headstart.store import Store, upgrade_schema
from tests.drill import DrillParams
from tests.one_pair import import_one_pair
from tests.rows_reader import METHOD
from worker.runner import Runner, RunnerOptions
from worker.workbench import Premises

if TYPE_CHECKING:
    from pathlib import Path


def probed(store: Store, runner: Runner, number: int) -> dict[str, object]:
    """What the method was given in a new job."""
    draft = JobDraft(
        method=METHOD.name,
        method_version=METHOD.version,
        checkpoint_id=1,
        target_id=1,
        params=DrillParams(number=number).model_dump(mode="json"),
    )
    (answer,) = store.submit_jobs([draft])
    assert answer.job is not None
    until = time.monotonic() + 60
    while (job := store.job(answer.job.id)).finished_at is None:
        assert time.monotonic() < until
        runner.run_next(("cpu", "gpu"))
    assert job.score_id is not None
    return store.score(job.score_id).provenance


def test_rows_and_weights_registered_between_two_jobs_are_seen(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    upgrade_schema(url)
    store = Store(url)
    import_one_pair(store)
    premises = Premises(roots=(), cache=tmp_path / "cache", max_cache_bytes=1 << 20, allow_pickles=False)
    options = RunnerOptions(
        lease_seconds=10.0,
        job_seconds=60.0,
        retry_seconds=0.01,
        methods=("tests.rows_reader",),
        scratch=tmp_path / "scratch",
        premises=premises,
    )
    runner = Runner(store, options, threading.Event(), structlog.get_logger())
    try:
        before = probed(store, runner, 1)
        register(store, tmp_path)
        after = probed(store, runner, 2)
    finally:
        runner.close()
        store.close()
    assert (before["rows"], before["path"]) == (0, None)
    assert (after["rows"], after["path"]) == (5000, "/models/roberta")


def register(store: Store, folder: Path) -> None:
    """The known target gets rows, and the known checkpoint weights."""
    file = folder / "rows.parquet"
    file.write_bytes(bytes(5000))
    draft = CheckpointDraft(
        family="roberta-base",
        name="roberta-base",
        details={"source": "folder", "path": "/models/roberta"},
    )
    profile = {"rows": {"train": 70, "validation": 10, "test": 20}, "warnings": []}
    rows = RowsDraft(target="rte", fingerprint="f" * 64, profile=profile, file=file)
    batch = ImportBatch(
        checkpoints=(draft,),
        targets=(TargetDraft(name="rte", task="classification", rows_tested=20),),
        scores=(),
        report=ImportReport(),
        rows=rows,
    )
    store.queue_import(store.create_import("target", "upload").id)
    claimed = store.claim_import(60)
    assert claimed is not None
    assert store.finish_import(claimed.id, claimed.attempt, batch) is not None
