"""The store's contract on scores that a running job makes beside its own end."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import pytest
from job_acts import (
    BROKEN,
    DRAFT,
    FOUND,
    KILLED,
    STOCKED,
    claimed,
    moves,
    queued,
    running,
    seeded,
    stock,
    succeeded,
)
from store_acts import at_once

from headstart.entities import JobDraft, JobState, ScoreDraft
from headstart.store import attempts
from headstart.store.scores import params_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from headstart.method import Measurement
    from headstart.store import Store
    from tests.conftest import FrozenClock

    Fill = Callable[..., Import]

RACE = JobDraft(
    method="race", method_version="1", checkpoint_id=None, target_id=1, params={"candidates": [1, 2]}
)
SCORE = ScoreDraft(
    family="roberta", checkpoint="org/a", target="mnli", method="probe", value=0.8, params=DRAFT.params
)


@pytest.fixture(autouse=True)
def _subjects(fill: Fill) -> None:
    stock(fill)


def keep(
    store: Store, job_id: int, draft: JobDraft = DRAFT, attempt: int = 1, found: Measurement = FOUND
) -> int | None:
    return store.keep_score(job_id, attempt, draft, found, seconds=2.5)


def test_it_is_the_score_that_a_job_of_its_own_would_have_stored(store: Store, clock: FrozenClock) -> None:
    race = running(store, RACE)
    kept = keep(store, race.id, seeded(7))
    assert kept is not None
    score = store.score(kept)
    other = store.score(succeeded(store, seeded(8), seconds=2.5).score_id or 0)
    assert (
        dataclasses.replace(score, id=other.id, seed=8, source=other.source, provenance=other.provenance)
        == other
    )
    assert (score.source, score.created_at) == (f"job {race.id}", clock.now)
    assert score.provenance == {"rounds": 3, "job": race.id, "attempt": 1, "seconds": 2.5}
    assert score.params_digest == params_digest(DRAFT.params)
    (answer,) = store.submit_jobs([seeded(7)])
    assert answer.score == score


def test_it_is_evidence_while_its_job_runs_and_whatever_becomes_of_it(store: Store) -> None:
    for number, end in enumerate(("fail", "cancel", "release", "finish")):
        race = running(store, dataclasses.replace(RACE, seed=number))
        assert keep(store, race.id, seeded(number)) is not None
        assert store.job(race.id) == race  # its own state is as it was
        assert store.evidence_version() == STOCKED + number + 1
        if end == "fail":
            store.fail_job(race.id, 1, BROKEN)
        elif end == "cancel":
            store.cancel_job(race.id)
            store.end_cancelled(race.id, 1)
        elif end == "release":
            store.release_job(race.id, 1)
            store.cancel_job(race.id)
        else:
            assert store.finish_job(race.id, 1, None, seconds=9.0, result={"runs": 1})
            assert store.job(race.id).score_id is None
    assert len(store.scores(quarantined=False).items) == 4


def test_an_attempt_that_lost_its_claim_keeps_nothing(store: Store) -> None:
    race = running(store, RACE)
    assert keep(store, race.id, attempt=2) is None
    assert store.fail_job(race.id, 1, KILLED, retry_in=0.0)
    assert keep(store, race.id) is None
    again = claimed(store)
    assert keep(store, race.id) is None
    assert (store.scores().items, store.evidence_version()) == ((), STOCKED)
    assert keep(store, race.id, attempt=again.attempt) is not None
    assert store.finish_job(race.id, 2, None, seconds=1.0, result={})
    assert keep(store, race.id, seeded(1), attempt=2) is None
    waiting = queued(store, dataclasses.replace(RACE, seed=1))
    assert keep(store, waiting.id, seeded(2), attempt=0) is None
    assert keep(store, 10**6, seeded(3)) is None
    assert len(store.scores().items) == 1


def test_an_equal_score_is_stored_once(store: Store, fill: Fill) -> None:
    fill(dataclasses.replace(SCORE, value=0.75))
    version = store.evidence_version()
    race = running(store, RACE)
    first = keep(store, race.id)
    assert keep(store, race.id) == first
    assert [score.id for score in store.scores().items] == [first]
    assert store.evidence_version() == version
    store.set_quarantine(first or 0, "outlier", None)
    version = store.evidence_version()
    assert keep(store, race.id) == first
    assert store.evidence_version() == version


def test_one_that_contradicts_or_collapsed_goes_to_quarantine(store: Store, fill: Fill) -> None:
    fill(SCORE)
    (holder,) = store.scores().items
    version = store.evidence_version()
    race = running(store, RACE)
    kept = keep(store, race.id)
    assert kept is not None
    mine = store.score(kept)
    assert (mine.value, mine.quarantine) == (0.75, "contradicts")
    assert mine.quarantine_note is not None
    for said in (f"Score {holder.id} ", "0.8", "0.75", f"job {race.id} "):
        assert said in mine.quarantine_note
    doubted = dataclasses.replace(FOUND, quarantine="collapsed", quarantine_note="Two runs.")
    once = keep(store, race.id, seeded(1), found=doubted)
    assert once is not None
    assert keep(store, race.id, seeded(1), found=doubted) == once
    assert (store.score(once).quarantine, store.score(once).quarantine_note) == ("collapsed", "Two runs.")
    assert store.evidence_version() == version


def test_a_job_of_its_own_that_runs_meanwhile_finds_it(store: Store) -> None:
    race, alone = running(store, RACE), running(store)
    kept = keep(store, race.id)
    assert store.finish_job(alone.id, 1, FOUND, seconds=1.0)
    assert store.job(alone.id).score_id == kept
    assert store.evidence_version() == STOCKED + 1


def test_two_at_once_leave_one_in_force(store: Store) -> None:
    other = dataclasses.replace(FOUND, value=0.5)
    for seed in range(10):
        race = running(store, dataclasses.replace(RACE, seed=seed))
        alone, version = running(store, seeded(seed)), store.evidence_version()
        at_once(
            lambda race=race, seed=seed: keep(store, race.id, seeded(seed)),  # type: ignore[misc]
            lambda alone=alone: store.finish_job(alone.id, 1, other, seconds=1.0),  # type: ignore[misc]
        )
        scores = [score for score in store.scores().items if score.seed == seed]
        assert sorted(score.quarantine or "" for score in scores) == ["", "contradicts"]
        assert store.evidence_version() == version + 1


def test_score_and_version_are_one_transaction(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError("the power went")

    race = running(store, RACE)
    monkeypatch.setattr(attempts, "raise_version", broken)
    with pytest.raises(RuntimeError, match="power"):
        keep(store, race.id)
    monkeypatch.undo()
    assert (store.scores().items, store.evidence_version()) == ((), STOCKED)
    assert keep(store, race.id) is not None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_a_bug_of_ours(store: Store, value: float) -> None:
    race = running(store, RACE)
    with pytest.raises(ValueError, match="not finite"):
        keep(store, race.id, found=dataclasses.replace(FOUND, value=value))
    with pytest.raises(ValueError, match=r"not finite|JSON compliant"):
        keep(store, race.id, found=dataclasses.replace(FOUND, details={"loss": value}))
    assert store.scores().items == ()


def test_nothing_is_told_of_it_as_of_an_event(store: Store) -> None:
    race = running(store, RACE)
    keep(store, race.id)
    assert moves(store, race.id) == [("queued", 0), ("running", 1)]
    assert store.job(race.id).state is JobState.RUNNING
