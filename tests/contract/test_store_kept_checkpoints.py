"""The store's contract on a checkpoint that a job made: it is registered with the job's end."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import pytest
from job_acts import STOCKED, claimed, running, stock
from store_acts import at_once

from headstart.entities import CheckpointDraft, JobDraft

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from headstart.store import Store

    Fill = Callable[..., Import]

KEEP = JobDraft(method="keep", method_version="1", checkpoint_id=1, target_id=1, params={"name": "me/kept"})
MADE = CheckpointDraft(
    family="roberta",
    name="me/kept",
    revision="sha256:1",
    parameters=10,
    license="mit",
    details={"source": "folder", "path": "/kept/1", "revision": "sha256:1"},
)
RESULT = {"checkpoint": {"name": "me/kept"}, "score": {"value": 0.5}}


@pytest.fixture(autouse=True)
def _subjects(fill: Fill) -> None:
    stock(fill)


def end(store: Store, job_id: int, attempt: int = 1, made: CheckpointDraft = MADE) -> bool:
    return store.finish_job(job_id, attempt, None, seconds=1.0, result=RESULT, registers=made)


def test_it_is_a_checkpoint_of_its_base_and_the_result_tells_its_id(store: Store) -> None:
    job = running(store, KEEP)
    assert end(store, job.id)
    (made,) = store.checkpoints_named(["me/kept"])["me/kept"]
    assert (made.family, made.revision, made.parameters, made.license) == ("roberta", "sha256:1", 10, "mit")
    assert not made.is_vanilla
    assert made.details == MADE.details
    assert store.checkpoints_pinned("sha256:1") == (made,)
    assert store.job(job.id).result == RESULT | {
        "checkpoint": {"id": made.id, "name": "me/kept", "path": "/kept/1", "digest": "sha256:1"}
    }
    assert store.evidence_version() == STOCKED + 1


def test_an_attempt_that_lost_its_claim_registers_nothing(store: Store) -> None:
    job = running(store, KEEP)
    assert not end(store, job.id, attempt=2)
    store.release_job(job.id, 1)
    assert not end(store, job.id)
    again = claimed(store)
    assert not end(store, job.id)
    assert store.checkpoints_named(["me/kept"]) == {}
    assert store.evidence_version() == STOCKED
    assert end(store, job.id, attempt=again.attempt)
    assert not end(store, job.id, attempt=again.attempt)


def test_the_same_files_are_the_same_checkpoint_and_others_another(store: Store) -> None:
    first, second, third = (
        running(store, dataclasses.replace(KEEP, seed=seed), attempts=1) for seed in range(3)
    )
    other = dataclasses.replace(MADE, revision="sha256:2", details={"path": "/kept/2"})
    assert [end(store, first.id), end(store, second.id), end(store, third.id, made=other)] == [True] * 3
    made = store.checkpoints_named(["me/kept"])["me/kept"]
    assert [one.revision for one in made] == ["sha256:1", "sha256:2"]
    ids = [store.job(job.id).result["checkpoint"]["id"] for job in (first, second, third)]  # type: ignore[index]
    assert ids == [made[0].id, made[0].id, made[1].id]
    assert store.evidence_version() == STOCKED + 2


def test_two_at_once_both_end(store: Store) -> None:
    jobs = [running(store, dataclasses.replace(KEEP, seed=seed)) for seed in range(4)]
    made = [dataclasses.replace(MADE, name=f"me/{seed % 2}") for seed in range(4)]
    pairs = zip(jobs, made, strict=True)
    assert at_once(*(partial(end, store, job.id, made=one) for job, one in pairs)) == [True] * 4
    assert {name: len(found) for name, found in store.checkpoints_named(["me/0", "me/1"]).items()} == {
        "me/0": 1,
        "me/1": 1,
    }
