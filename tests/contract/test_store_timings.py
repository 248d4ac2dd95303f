"""The store's contract on what jobs take, and on what would become of further ones."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from job_acts import BROKEN, DRAFT, NOT_FOR_IT, cancelled, failed, queued, seeded, states, stock, succeeded

from headstart.entities import ScoreDraft, SubmissionStatus
from headstart.errors import NotFound
from headstart.method import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from headstart.store import Store

    Fill = Callable[..., Import]

IMPORTED = ScoreDraft(
    family="roberta", checkpoint="org/b", target="mnli", method="probe", value=0.8, params=DRAFT.params
)
QUEUED, JOINED, SCORED = SubmissionStatus.QUEUED, SubmissionStatus.JOINED, SubmissionStatus.SCORED


@pytest.fixture(autouse=True)
def _subjects(fill: Fill) -> None:
    stock(fill)


def test_timings_are_of_scores_measured_here_newest_first(store: Store, fill: Fill) -> None:
    first = succeeded(store, seconds=2.5)
    fill(IMPORTED)
    second = succeeded(store, seeded(1))
    failed(store, seeded(2))
    newest, oldest = store.timings()
    assert (newest.id, oldest.id) == (second.score_id, first.score_id)
    assert (oldest.method, oldest.params, oldest.target_id) == ("probe", DRAFT.params, 1)
    assert oldest.parameters is None
    assert oldest.facts["seconds"] == 2.5
    assert oldest.facts["rounds"] == 3


def test_a_quarantined_score_took_its_time_as_well(store: Store) -> None:
    job = queued(store)
    claimed = store.claim_job(("cpu",), 60)
    assert claimed is not None
    found = Measurement(value=0.5, quarantine="collapsed", quarantine_note="It did.")
    assert store.finish_job(job.id, claimed.attempt, found, seconds=9.0)
    assert [one.facts["seconds"] for one in store.timings()] == [9.0]


def test_timings_are_no_more_than_asked_for(store: Store) -> None:
    scored = [succeeded(store, seeded(seed)).score_id for seed in range(4)]
    assert [one.id for one in store.timings(2)] == [scored[3], scored[2]]
    assert store.timings(0) == ()


def test_what_would_become_of_drafts_is_what_becomes_of_them(store: Store) -> None:
    succeeded(store, seeded(0))
    failed(store, seeded(2), NOT_FOR_IT)
    failed(store, seeded(3), BROKEN)
    cancelled(store, seeded(4))
    queued(store, seeded(1))
    drafts = [seeded(seed) for seed in (5, 0, 1, 2, 3, 4, 5)]
    before = states(store)
    foreseen = store.foresee_jobs(drafts)
    assert foreseen == (QUEUED, SCORED, JOINED, JOINED, QUEUED, QUEUED, JOINED)
    assert states(store) == before
    assert tuple(one.status for one in store.submit_jobs(drafts)) == foreseen


def test_nothing_is_foreseen_for_what_is_not_there(store: Store) -> None:
    with pytest.raises(NotFound):
        store.foresee_jobs([dataclasses.replace(DRAFT, checkpoint_id=99)])
    with pytest.raises(NotFound):
        store.foresee_jobs([dataclasses.replace(DRAFT, target_id=99)])
    assert store.foresee_jobs([]) == ()
