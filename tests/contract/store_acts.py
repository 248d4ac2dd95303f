"""What the tests of the store's contract do."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

from headstart.entities import ImportBatch, ImportReport, ScoreDraft

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from headstart.store import Store

SCORE = ScoreDraft(family="roberta", checkpoint="org/a", target="mnli", method="finetune", value=0.9)
OTHER = dataclasses.replace(SCORE, seed=1, value=0.8)
NOTHING = ImportBatch(checkpoints=(), targets=(), scores=(), report=ImportReport())


def with_scores(*scores: ScoreDraft) -> ImportBatch:
    return dataclasses.replace(NOTHING, scores=scores)


def released(store: Store) -> int:
    return store.queue_import(store.create_import("table", "upload").id).id


def claimed(store: Store) -> Import:
    released(store)
    found = store.claim_import(60)
    assert found is not None
    return found


def at_once(*jobs: Callable[[], object]) -> list[object]:
    """Run the jobs in threads that start together; return what they return."""
    barrier = Barrier(len(jobs))

    def run(job: Callable[[], object]) -> object:
        barrier.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, jobs))
