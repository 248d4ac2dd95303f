"""The store's contract on the end of a job: its score, its failure, and what a broken library says of it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import pytest
import store_acts
from job_acts import (
    BROKEN,
    CPU,
    DRAFT,
    FOUND,
    KILLED,
    NOT_FOR_IT,
    STOCKED,
    claimed,
    moves,
    queued,
    running,
    seeded,
    stock,
)
from store_acts import at_once, with_scores

from headstart.entities import Failure, Heartbeat, JobState, Progress, ScoreDraft
from headstart.errors import Conflict
from headstart.store import attempts

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from headstart.method import Measurement
    from headstart.store import Store
    from tests.conftest import FrozenClock

    Fill = Callable[..., Import]

SCORE = ScoreDraft(
    family="roberta", checkpoint="org/a", target="mnli", method="probe", value=0.8, params=DRAFT.params
)


@pytest.fixture(autouse=True)
def _subjects(fill: Fill) -> None:
    stock(fill)


def found(**changes: Any) -> Measurement:
    return dataclasses.replace(FOUND, **changes)


# With a score


def test_a_finished_job_has_its_score(store: Store, clock: FrozenClock) -> None:
    job = running(store, seeded(7))
    store.heartbeat_job(job.id, 1, 60, Progress(fraction=0.5, stage="measuring", seconds_left=3.0))
    clock.move(10)
    assert store.finish_job(job.id, 1, FOUND, seconds=9.5, result={"folder": "x"}) is True
    ended = store.job(job.id)
    assert (ended.state, ended.failure, ended.seconds) == (JobState.SUCCEEDED, None, 9.5)
    assert (ended.finished_at, ended.attempt, ended.result) == (clock.now, 1, {"folder": "x"})
    assert (ended.progress.fraction, ended.progress.seconds_left) == (1.0, 0.0)
    assert ended.revision == job.revision + 2
    assert ended.score_id is not None
    score = store.score(ended.score_id)
    assert (score.checkpoint, score.family, score.target) == ("org/a", "roberta", "mnli")
    assert (score.method, score.method_version, score.seed) == ("probe", "1", 7)
    assert (score.value, score.stderr, score.rows_tested) == (0.75, 0.01, 400)
    assert (score.quarantine, score.quarantine_note, score.import_id) == (None, None, None)
    assert (score.source, score.created_at) == (f"job {job.id}", clock.now)
    assert score.provenance == {"rounds": 3, "job": job.id, "attempt": 1, "seconds": 9.5}


def test_a_score_under_quarantine_ends_the_job_and_is_no_evidence(store: Store) -> None:
    job, version = running(store, seeded(7)), store.evidence_version()
    doubted = found(quarantine="collapsed", quarantine_note="Two runs.")
    assert store.finish_job(job.id, 2, doubted, seconds=1.0) is False  # of another attempt
    assert store.finish_job(job.id, 1, doubted, seconds=1.0) is True
    ended = store.job(job.id)
    assert ended.state is JobState.SUCCEEDED
    assert ended.score_id is not None
    score = store.score(ended.score_id)
    assert (score.value, score.quarantine, score.quarantine_note) == (0.75, "collapsed", "Two runs.")
    assert (score.seed, score.source) == (7, f"job {job.id}")
    assert store.evidence_version() == version
    assert len(store.evidence("roberta").value) == 0


def test_the_evidence_version_rises_by_one_with_each_score_in_force(store: Store) -> None:
    for seed in range(3):
        job = running(store, seeded(seed))
        assert store.evidence_version() == STOCKED + seed
        store.finish_job(job.id, 1, FOUND, seconds=1.0)
        assert store.evidence_version() == STOCKED + seed + 1
    job = running(store, seeded(9))
    store.fail_job(job.id, 1, BROKEN)
    store.finish_job(job.id, 1, FOUND, seconds=1.0)
    assert store.evidence_version() == STOCKED + 3


def test_a_value_that_is_stored_already_is_found(store: Store, fill: Fill) -> None:
    job = running(store)
    fill(dataclasses.replace(SCORE, value=0.75))
    (stored,) = store.scores().items
    version = store.evidence_version()
    assert store.finish_job(job.id, 1, FOUND, seconds=1.0)
    assert store.job(job.id).score_id == stored.id
    assert store.scores().items == (stored,)
    assert store.evidence_version() == version


def test_a_value_in_quarantine_stays_there(store: Store, fill: Fill) -> None:
    fill(dataclasses.replace(SCORE, value=0.75))
    (stored,) = store.scores().items
    doubted = store.set_quarantine(stored.id, "outlier", "Far from its neighbours.")
    version = store.evidence_version()
    job = running(store)
    assert store.finish_job(job.id, 1, FOUND, seconds=1.0)
    assert store.job(job.id).score_id == stored.id
    assert store.scores().items == (doubted,)
    assert store.evidence_version() == version


def test_a_value_beside_one_in_quarantine_is_in_force(store: Store, fill: Fill) -> None:
    fill(SCORE)
    store.set_quarantine(store.scores().items[0].id, "outlier", None)
    version = store.evidence_version()
    job = running(store)
    assert store.finish_job(job.id, 1, FOUND, seconds=1.0)
    in_force = store.scores(quarantined=False).items
    assert [score.id for score in in_force] == [store.job(job.id).score_id]
    assert store.evidence_version() == version + 1


def test_a_value_that_contradicts_goes_to_quarantine(store: Store, fill: Fill) -> None:
    job = running(store)
    fill(SCORE)
    (holder,) = store.scores().items
    version = store.evidence_version()
    assert store.finish_job(job.id, 1, FOUND, seconds=1.0)
    assert store.evidence_version() == version
    ended = store.job(job.id)
    assert ended.state == JobState.SUCCEEDED
    assert ended.score_id is not None
    mine = store.score(ended.score_id)
    assert (mine.value, mine.quarantine) == (0.75, "contradicts")
    assert mine.quarantine_note is not None
    for said in (f"Score {holder.id} ", "0.8", "0.75", f"job {job.id} "):
        assert said in mine.quarantine_note
    assert store.score(holder.id) == holder


def test_a_job_and_an_import_of_one_key_at_once_leave_one_in_force(store: Store) -> None:
    for seed in range(10):
        job, version = running(store, seeded(seed)), store.evidence_version()
        begun, batch = store_acts.claimed(store), with_scores(dataclasses.replace(SCORE, seed=seed))
        at_once(
            lambda job=job: store.finish_job(job.id, 1, FOUND, seconds=1.0),  # type: ignore[misc]
            lambda begun=begun, batch=batch: store.finish_import(begun.id, 1, batch),  # type: ignore[misc]
        )
        scores = [score for score in store.scores().items if score.seed == seed]
        assert sorted(score.quarantine or "" for score in scores) == ["", "contradicts"]
        assert store.evidence_version() == version + 1


@pytest.mark.parametrize("step", ["raise_version", "note_move"])
def test_score_and_end_are_one_transaction(store: Store, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    job = running(store)
    events = store.job_events(job.id)

    def broken(*_arguments: object) -> None:
        raise RuntimeError("the power went")

    # On Postgres score, version, end and event are one statement; what follows it is the webhooks.
    at_once = store.url.get_backend_name() == "postgresql"
    monkeypatch.setattr(attempts, "release_webhooks" if at_once else step, broken)
    with pytest.raises(RuntimeError, match="power"):
        store.finish_job(job.id, 1, FOUND, seconds=1.0)
    assert store.job(job.id) == job
    assert store.job_events(job.id) == events
    assert (store.scores().items, store.evidence_version()) == ((), STOCKED)
    monkeypatch.undo()
    assert store.finish_job(job.id, 1, FOUND, seconds=1.0)


def test_a_job_may_end_without_a_score(store: Store) -> None:
    job = running(store, dataclasses.replace(DRAFT, target_id=None))
    assert store.finish_job(job.id, 1, None, seconds=3.0, result={"path": "centroid-1"})
    ended = store.job(job.id)
    assert (ended.state, ended.score_id, ended.result) == (
        JobState.SUCCEEDED,
        None,
        {"path": "centroid-1"},
    )
    assert (store.scores().items, store.evidence_version()) == ((), STOCKED)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_a_bug_of_ours(store: Store, value: float) -> None:
    job = running(store)
    wrong: list[tuple[Measurement | None, float, dict[str, Any] | None]] = [
        (found(value=value), 1.0, None),
        (found(stderr=-value), 1.0, None),
        (found(details={"loss": [value]}), 1.0, None),
        (FOUND, value, None),
        (FOUND, 1.0, {"loss": value}),
        (None, value, None),
    ]
    for measurement, seconds, result in wrong:
        with pytest.raises(ValueError, match=r"not finite|JSON compliant"):
            store.finish_job(job.id, 1, measurement, seconds=seconds, result=result)
    with pytest.raises(ValueError, match="not finite"):
        store.fail_job(job.id, 1, BROKEN, seconds=value)
    assert store.job(job.id) == job
    assert (store.scores().items, store.evidence_version()) == ((), STOCKED)


# Failing


def test_a_failure_is_kept_with_its_remedy(store: Store, clock: FrozenClock) -> None:
    job = running(store)
    clock.move(4)
    assert store.fail_job(job.id, 1, BROKEN, seconds=4.0) is True
    ended = store.job(job.id)
    assert (ended.state, ended.failure, ended.seconds) == (JobState.FAILED, BROKEN, 4.0)
    assert (ended.finished_at, ended.score_id, ended.attempt) == (clock.now, None, 1)
    assert store.job_events(job.id)[-1].failure == "Unexpected"
    assert store.claim_job(CPU, 60) is None


def test_a_failure_that_may_pass_is_tried_again_after_a_while(store: Store, clock: FrozenClock) -> None:
    job = running(store)
    store.heartbeat_job(job.id, 1, 60, Progress(fraction=0.5, stage="measuring"))
    assert store.fail_job(job.id, 1, KILLED, retry_in=30.0, seconds=2.0) is True
    waiting = store.job(job.id)
    assert (waiting.state, waiting.failure, waiting.seconds) == (JobState.QUEUED, KILLED, 2.0)
    assert (waiting.finished_at, waiting.progress) == (None, Progress())
    assert store.job_events(job.id)[-1].failure == "Killed"
    clock.move(29.9)
    assert store.claim_job(CPU, 60) is None
    clock.move(0.1)
    again = claimed(store)
    assert (again.id, again.attempt, again.failure) == (job.id, 2, KILLED)
    assert store.finish_job(job.id, 2, FOUND, seconds=5.0)
    ended = store.job(job.id)
    assert (ended.state, ended.failure, ended.seconds) == (JobState.SUCCEEDED, None, 5.0)
    assert [event.failure for event in store.job_events(job.id)] == [None, None, "Killed", None, None]


def test_the_last_attempt_is_the_last(store: Store) -> None:
    job = running(store, attempts=2)
    assert store.fail_job(job.id, 1, KILLED, retry_in=0.0)
    assert claimed(store).attempt == 2
    assert store.fail_job(job.id, 2, BROKEN, retry_in=0.0)
    ended = store.job(job.id)
    assert (ended.state, ended.attempt, ended.failure) == (JobState.FAILED, 2, BROKEN)
    assert moves(store, job.id) == [
        ("queued", 0),
        ("running", 1),
        ("queued", 1),
        ("running", 2),
        ("failed", 2),
    ]


def test_not_applicable_is_final_however_many_attempts_remain(store: Store) -> None:
    job = running(store, attempts=5)
    assert store.fail_job(job.id, 1, NOT_FOR_IT)
    assert store.job(job.id).state == JobState.FAILED


def test_a_failed_job_that_was_to_be_stopped_is_cancelled(store: Store, clock: FrozenClock) -> None:
    job = running(store)
    store.cancel_job(job.id)
    assert store.fail_job(job.id, 1, KILLED, retry_in=0.0)
    ended = store.job(job.id)
    assert (ended.state, ended.finished_at) == (JobState.CANCELLED, clock.now)


def test_seconds_are_those_of_the_newest_ended_attempt(store: Store, clock: FrozenClock) -> None:
    job = running(store)
    store.fail_job(job.id, 1, KILLED, retry_in=0.0, seconds=2.0)
    assert claimed(store).seconds == 2.0
    clock.move(60)
    store.requeue_stale()
    assert store.job(job.id).seconds is None  # nobody knows how long the lost one ran


# Cancel against the end


def test_a_job_that_finishes_after_all_has_succeeded(store: Store) -> None:
    job = running(store)
    assert store.cancel_job(job.id).cancel_requested
    assert store.finish_job(job.id, 1, FOUND, seconds=1.0) is True
    ended = store.job(job.id)
    assert (ended.state, ended.score_id is None) == (JobState.SUCCEEDED, False)
    assert store.end_cancelled(job.id, 1) is False
    assert store.job(job.id) == ended


def test_a_finished_job_is_not_cancelled(store: Store) -> None:
    job = running(store)
    store.finish_job(job.id, 1, FOUND, seconds=1.0)
    ended = store.job(job.id)
    with pytest.raises(Conflict, match=rf"Job {job.id} has succeeded"):
        store.cancel_job(job.id)
    assert store.job(job.id) == ended


def test_cancel_and_finish_at_once_end_in_one_of_the_two(store: Store) -> None:
    for seed in range(8):
        job = running(store, seeded(seed))

        def cancel(job_id: int = job.id) -> object:
            try:
                return store.cancel_job(job_id).cancel_requested
            except Conflict:
                return "too late"

        def finish(job_id: int = job.id) -> object:
            return store.finish_job(job_id, 1, FOUND, seconds=1.0)

        told, finished = at_once(cancel, finish)
        ended = store.job(job.id)
        assert finished is True
        assert (ended.state, ended.cancel_requested) == (JobState.SUCCEEDED, told is True)


# What comes from an arbitrary library

UGLY = "half of \ud83d and a \0 byte"
CLEAN = "half of \ufffd and a \ufffd byte"


def test_an_unstorable_text_does_not_leave_a_job_stuck(store: Store) -> None:
    job = running(store)
    told = Progress(fraction=0.5, stage=UGLY, message=UGLY * 1000)
    assert store.heartbeat_job(job.id, 1, 60, told) is Heartbeat.GO_ON
    progress = store.job(job.id).progress
    assert progress.stage == CLEAN
    assert progress.message == (CLEAN * 1000)[:2000]
    said = Failure(name="Unexpected", sentence=UGLY * 1000, remedy=UGLY)
    assert store.fail_job(job.id, 1, said)
    kept = store.job(job.id).failure
    assert kept == Failure(name="Unexpected", sentence=(CLEAN * 1000)[:2000], remedy=CLEAN)


def test_a_whole_text_is_kept_as_it_is(store: Store) -> None:
    job = running(store)
    told = Progress(fraction=0.5, stage="Größe 模型 🤗", message="x" * 2000)
    store.heartbeat_job(job.id, 1, 60, told)
    assert store.job(job.id).progress == told


def test_a_progress_out_of_range_does_not_leave_a_job_stuck(store: Store) -> None:
    job = running(store)
    for fraction, kept in ((math.nan, 0.0), (math.inf, 1.0), (-math.inf, 0.0), (-0.5, 0.0), (1.5, 1.0)):
        assert store.heartbeat_job(job.id, 1, 60, Progress(fraction=fraction)) is Heartbeat.GO_ON
        assert store.job(job.id).progress == Progress(fraction=kept)
    for left in (math.nan, math.inf, -1.0):
        assert store.heartbeat_job(job.id, 1, 60, Progress(seconds_left=left)) is Heartbeat.GO_ON
        assert store.job(job.id).progress.seconds_left is None


def test_diagnostics_keep_what_only_json_can_hold(store: Store) -> None:
    job = running(store)
    details = {"label": "a\0b", "half": "\ud83d", "nested": [1, {"größe": None}]}
    assert store.finish_job(job.id, 1, found(details=details), seconds=1.0, result=details)
    ended = store.job(job.id)
    assert ended.result == details
    assert ended.score_id is not None
    assert store.score(ended.score_id).provenance.items() >= details.items()
    assert queued(store, seeded(1)).result is None
