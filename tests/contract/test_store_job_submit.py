"""The store's contract on submitting jobs: answered by a score, by a job under way, or by a new one."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from datetime import UTC
from typing import TYPE_CHECKING

import pytest
from job_acts import (
    BROKEN,
    CPU,
    DRAFT,
    FOUND,
    KILLED,
    NOT_FOR_IT,
    cancelled,
    claimed,
    counted_statements,
    failed,
    queued,
    running,
    seeded,
    states,
    stock,
    succeeded,
)
from sqlalchemy import text
from store_acts import at_once

from headstart.entities import JobState, Progress, ScoreDraft, SubmissionStatus
from headstart.errors import InvalidInput, NotFound
from headstart.store import deliveries

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from headstart.store import Store
    from tests.conftest import FrozenClock

    Fill = Callable[..., Import]

HOOK = "https://example.org/hook"
SCORE = ScoreDraft(
    family="roberta", checkpoint="org/a", target="mnli", method="probe", value=0.8, params=DRAFT.params
)


@pytest.fixture(autouse=True)
def _subjects(fill: Fill) -> None:
    stock(fill)


def test_what_is_new_is_queued(store: Store, clock: FrozenClock) -> None:
    draft = dataclasses.replace(DRAFT, seed=7, queue="gpu", priority=3, checkpoint_id=2, target_id=2)
    (answer,) = store.submit_jobs([draft], attempts=4, request_id="req-1")
    assert (answer.status, answer.score) == (SubmissionStatus.QUEUED, None)
    job = answer.job
    assert job is not None
    assert store.job(job.id) == job
    assert (job.method, job.method_version, job.params, job.seed) == ("probe", "1", DRAFT.params, 7)
    assert (job.checkpoint_id, job.checkpoint, job.family) == (2, "org/b", "roberta")
    assert (job.target_id, job.target) == (2, "sst2")
    assert (job.queue, job.priority, job.request_id) == ("gpu", 3, "req-1")
    assert (job.state, job.attempt, job.last_attempt, job.revision) == (JobState.QUEUED, 0, 4, 1)
    assert (job.cancel_requested, job.progress, job.failure) == (False, Progress(), None)
    assert (job.score_id, job.result, job.seconds) == (None, None, None)
    assert (job.created_at, job.started_at, job.finished_at) == (clock.now, None, None)
    assert job.created_at.tzinfo is UTC


def test_a_job_may_have_no_target_or_no_checkpoint(store: Store) -> None:
    drafts = [dataclasses.replace(DRAFT, target_id=None), dataclasses.replace(DRAFT, checkpoint_id=None)]
    without_target, without_checkpoint = (queued(store, draft) for draft in drafts)
    assert (without_target.checkpoint, without_target.target) == ("org/a", None)
    assert (without_checkpoint.checkpoint, without_checkpoint.family) == (None, None)
    assert without_checkpoint.target == "mnli"
    assert [answer.status for answer in store.submit_jobs(drafts)] == [SubmissionStatus.JOINED] * 2


def test_an_equal_job_under_way_is_joined(store: Store) -> None:
    first = queued(store)
    (waits,) = store.submit_jobs([dataclasses.replace(DRAFT, priority=9)], request_id="another")
    assert (waits.status, waits.job) == (SubmissionStatus.JOINED, first)
    started = claimed(store)
    (runs,) = store.submit_jobs([DRAFT])
    assert (runs.status, runs.job) == (SubmissionStatus.JOINED, started)
    assert len(states(store)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "logme"},
        {"method_version": "2"},
        {"checkpoint_id": 2},
        {"target_id": 2},
        {"seed": 1},
        {"params": {"rows": 100}},
        {"params": {"rows": 100, "folds": "5"}},
    ],
)
def test_another_measurement_is_another_job(store: Store, changes: dict[str, object]) -> None:
    first = queued(store)
    assert queued(store, dataclasses.replace(DRAFT, **changes)).id != first.id  # type: ignore[arg-type]


def test_the_order_of_parameters_does_not_matter(store: Store) -> None:
    first = queued(store)
    turned = dict(reversed(DRAFT.params.items()))
    assert list(turned) != list(DRAFT.params)
    (answer,) = store.submit_jobs([dataclasses.replace(DRAFT, params=turned)])
    assert answer.job == first


def test_what_is_scored_is_answered_by_its_score(store: Store, fill: Fill) -> None:
    fill(SCORE)
    (answer,) = store.submit_jobs([DRAFT])
    assert (answer.status, answer.job) == (SubmissionStatus.SCORED, None)
    assert answer.score == store.scores().items[0]
    assert states(store) == {}


def test_a_finished_job_answers_the_next_request_by_its_score(store: Store) -> None:
    job = succeeded(store)
    (answer,) = store.submit_jobs([DRAFT])
    assert answer.score is not None
    assert (answer.status, answer.score.id) == (SubmissionStatus.SCORED, job.score_id)


def test_a_score_in_quarantine_answers_nothing(store: Store, fill: Fill) -> None:
    fill(SCORE)
    score = store.scores().items[0]
    store.set_quarantine(score.id, "outlier", "Far from its neighbours.")
    job = queued(store)
    store.cancel_job(job.id)
    store.set_quarantine(score.id, None, None)
    assert store.submit_jobs([DRAFT])[0].status == SubmissionStatus.SCORED


@pytest.mark.parametrize("reason", ["collapsed", "not_converged"])
def test_a_score_that_collapsed_here_is_an_outcome(store: Store, fill: Fill, reason: str) -> None:
    fill(dataclasses.replace(SCORE, quarantine=reason, value=0.4))  # in somebody else's hands
    job = running(store)
    doubted = dataclasses.replace(FOUND, quarantine=reason, quarantine_note="Two runs.")
    assert store.finish_job(job.id, 1, doubted, seconds=1.0)
    (answer,) = store.submit_jobs([DRAFT])
    assert answer.score is not None
    assert (answer.status, answer.score.id) == (SubmissionStatus.SCORED, store.job(job.id).score_id)
    fill(SCORE)  # one in force is the better answer
    (answer,) = store.submit_jobs([DRAFT])
    assert answer.score is not None
    assert answer.score.value == 0.8


def test_an_outcome_of_not_applicable_is_joined(store: Store) -> None:
    settled = failed(store, failure=NOT_FOR_IT)
    (answer,) = store.submit_jobs([dataclasses.replace(DRAFT, webhook=HOOK)])
    assert (answer.status, answer.job) == (SubmissionStatus.JOINED, settled)
    newer = queued(store, dataclasses.replace(DRAFT, method_version="2"))
    assert newer.id != settled.id


@pytest.mark.parametrize("failure", [KILLED, BROKEN])
def test_a_job_that_failed_otherwise_is_queued_anew(store: Store, failure: object) -> None:
    before = failed(store, failure=failure)  # type: ignore[arg-type]
    anew = queued(store)
    assert anew.id != before.id
    assert store.job(before.id) == before


def test_a_cancelled_job_is_queued_anew(store: Store) -> None:
    before = cancelled(store)
    assert queued(store).id != before.id


def test_not_applicable_after_a_cancel_does_not_stand(store: Store) -> None:
    job = running(store)
    store.cancel_job(job.id)
    assert store.fail_job(job.id, job.attempt, NOT_FOR_IT)
    assert store.job(job.id).state == JobState.CANCELLED
    assert queued(store).id != job.id


# Batches


def test_each_draft_of_a_batch_is_answered_in_its_place(store: Store, fill: Fill) -> None:
    fill(dataclasses.replace(SCORE, seed=2))
    under_way = queued(store, seeded(3))
    settled = failed(store, seeded(4, priority=1), NOT_FOR_IT)
    answers = store.submit_jobs([seeded(seed) for seed in (5, 2, 4, 1, 3, 5)])
    assert [answer.status for answer in answers] == [
        SubmissionStatus.QUEUED,
        SubmissionStatus.SCORED,
        SubmissionStatus.JOINED,
        SubmissionStatus.QUEUED,
        SubmissionStatus.JOINED,
        SubmissionStatus.JOINED,
    ]
    assert answers[0].job == answers[5].job
    assert [answer.job and answer.job.seed for answer in answers] == [5, None, 4, 1, 3, 5]
    assert (answers[2].job, answers[4].job) == (settled, under_way)


def test_of_equal_drafts_the_first_makes_the_job(store: Store) -> None:
    drafts = [seeded(0, priority=5, queue="gpu"), seeded(0, priority=1), seeded(0, priority=9)]
    answers = store.submit_jobs(drafts)
    assert [answer.status for answer in answers] == ["queued", "joined", "joined"]
    job = answers[0].job
    assert job is not None
    assert (job.priority, job.queue) == (5, "gpu")
    assert [answer.job == job for answer in answers] == [True] * 3


def test_jobs_of_a_batch_stand_in_line_as_they_were_asked_for(store: Store) -> None:
    seeds = [3, 11, 2, 7, 5, 13, 1, 17]
    store.submit_jobs([seeded(seed) for seed in seeds])
    assert [claimed(store).seed for _ in seeds] == seeds


def test_an_empty_batch_is_answered_by_nothing(store: Store) -> None:
    assert store.submit_jobs([]) == ()


@pytest.mark.parametrize("unknown", [999, 0, -1, 2**63, 10**30])
@pytest.mark.parametrize("kind", ["checkpoint", "target"])
def test_an_unknown_subject_is_not_found_and_nothing_is_stored(store: Store, kind: str, unknown: int) -> None:
    wrong = dataclasses.replace(DRAFT, seed=1, **{f"{kind}_id": unknown})  # type: ignore[arg-type]
    with pytest.raises(NotFound, match=f"no {kind} '?{unknown}'?"):
        store.submit_jobs([DRAFT, wrong])
    assert states(store) == {}


@pytest.mark.parametrize("wrong", [seeded(2**63), seeded(1, method="pro\0be"), seeded(1, method="x" * 5000)])
def test_what_the_store_cannot_hold_is_refused_and_nothing_is_stored(store: Store, wrong: object) -> None:
    with pytest.raises(InvalidInput):
        store.submit_jobs([DRAFT, wrong])  # type: ignore[list-item]
    assert states(store) == {}


def test_parameters_that_are_no_numbers_are_a_bug_of_ours(store: Store) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.submit_jobs([DRAFT, seeded(1, params={"rate": float("nan")})])
    assert states(store) == {}


def test_a_thousand_jobs_take_no_more_statements_than_ten(store: Store) -> None:
    with counted_statements(store) as few:
        store.submit_jobs([seeded(seed) for seed in range(10)])
    with counted_statements(store) as many:
        answers = store.submit_jobs([seeded(seed) for seed in range(10, 1010)])
    assert [answer.job and answer.job.seed for answer in answers] == list(range(10, 1010))
    assert {answer.status for answer in answers} == {SubmissionStatus.QUEUED}
    assert len(many) <= len(few) + 2
    with counted_statements(store) as again:
        answers = store.submit_jobs([seeded(seed) for seed in range(1010)])
    assert {answer.status for answer in answers} == {SubmissionStatus.JOINED}
    assert len(again) <= len(few)


def test_a_batch_may_be_larger_than_a_statement(store: Store) -> None:
    if store.url.get_backend_name() == "sqlite":
        with store._engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)  # as SQLite comes
    drafts = [seeded(seed) for seed in range(5_100)]
    assert {answer.status for answer in store.submit_jobs(drafts)} == {SubmissionStatus.QUEUED}
    assert {answer.status for answer in store.submit_jobs(drafts)} == {SubmissionStatus.JOINED}
    assert store.job_counts().by_state["queued"] == 5_100


def test_batches_at_once_make_one_job_of_each_measurement(store: Store) -> None:
    drafts = [seeded(seed) for seed in range(40)]
    turned = drafts[::-1]
    both = at_once(
        *[lambda: store.submit_jobs(drafts)] * 2,
        *[lambda: store.submit_jobs(turned)] * 2,
    )
    jobs = [answer.job for answers in both for answer in answers]  # type: ignore[attr-defined]
    ids = {job.seed: job.id for job in jobs}
    assert [job.id for job in jobs] == [ids[job.seed] for job in jobs]
    assert set(states(store)) == set(ids.values())
    made = [answer for answers in both for answer in answers if answer.status == "queued"]  # type: ignore[attr-defined]
    assert len(made) == 40


# Webhooks


def test_a_joined_job_that_ends_meanwhile_still_tells(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    job = running(store)
    finisher = threading.Thread(target=lambda: store.finish_job(job.id, 1, FOUND, seconds=1.0), daemon=True)
    subscribe = deliveries.subscribe

    def finished_meanwhile(*arguments: object) -> None:
        finisher.start()
        finisher.join(0.3)  # it ends first if nothing holds it back
        subscribe(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(deliveries, "subscribe", finished_meanwhile)
    (answer,) = store.submit_jobs([dataclasses.replace(DRAFT, webhook=HOOK)])
    finisher.join()
    assert answer.status == SubmissionStatus.JOINED
    assert store.job(job.id).state == JobState.SUCCEEDED
    assert _hooks(store) == [(job.id, "pending")]


def test_webhooks_wait_for_the_end_and_again_after_a_retry(store: Store) -> None:
    job = running(store, dataclasses.replace(DRAFT, webhook=HOOK))
    store.submit_jobs([dataclasses.replace(DRAFT, webhook=HOOK)])  # the same address, once
    assert _hooks(store) == [(job.id, "waiting")]
    store.fail_job(job.id, 1, KILLED, retry_in=0.0)
    assert _hooks(store) == [(job.id, "waiting")]
    store.cancel_job(job.id)
    assert _hooks(store) == [(job.id, "pending")]
    store.retry_job(job.id)
    assert _hooks(store) == [(job.id, "waiting")]
    assert store.claim_job(CPU, 60) is not None
    store.fail_job(job.id, 2, BROKEN)
    assert _hooks(store) == [(job.id, "pending")]


def _hooks(store: Store) -> list[tuple[int, str]]:
    with store._read() as connection:
        rows = connection.execute(text("SELECT job_id, state FROM deliveries ORDER BY id"))
        return [(row.job_id, row.state) for row in rows]
