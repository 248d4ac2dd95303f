"""The store's contract on lineage: what a job finds with its end, what a person says, and what it changes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from job_acts import claimed, queued, running, seeded
from store_acts import at_once

from headstart.entities import CheckpointDraft, JobDraft, Lineage, LineageVerdict, ScoreDraft
from headstart.errors import Conflict, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from headstart.store import Store

    Fill = Callable[..., Import]

VANILLA, TUNED, STRANGER = 1, 2, 3
REGIONS = JobDraft(
    method="regions", method_version="1", checkpoint_id=VANILLA, target_id=None, params={"family": "roberta"}
)
FOUND = (
    LineageVerdict(checkpoint_id=TUNED, lineage=Lineage.VERIFIED, reason="It lies 0.02 from the vanilla."),
    LineageVerdict(checkpoint_id=STRANGER, lineage=Lineage.CONTRADICTED, reason="It lies 1.41 away."),
)


@pytest.fixture(autouse=True)
def _subjects(fill: Fill) -> None:
    names = ("org/vanilla", "org/tuned", "org/stranger")
    scores = [
        ScoreDraft(family="roberta", checkpoint=name, target="mnli", method=method, value=0.5 + at / 10)
        for at, name in enumerate(names)
        for method in ("finetune", "linear_probe")
    ]
    fill(
        *scores,
        checkpoints=[CheckpointDraft(family="roberta", name=n, is_vanilla=n == names[0]) for n in names],
    )


def end(
    store: Store, *verdicts: LineageVerdict, job: JobDraft = REGIONS, attempt: int = 1, seed: int = 0
) -> bool:
    found = running(store, dataclasses.replace(job, seed=seed))
    return store.finish_job(found.id, attempt, None, seconds=1.0, result={}, lineages=verdicts)


def told(store: Store, checkpoint_id: int) -> tuple[str | None, str | None, str | None]:
    one = store.checkpoint(checkpoint_id)
    return one.lineage, one.lineage_reason, one.lineage_by


def test_nobody_has_looked_at_first(store: Store) -> None:
    assert told(store, TUNED) == (None, None, None)


def test_a_job_says_it_with_its_end_and_who_is_contradicted_leaves_the_evidence(store: Store) -> None:
    version = store.evidence_version()
    assert end(store, *FOUND)
    assert told(store, TUNED) == ("verified", "It lies 0.02 from the vanilla.", "job")
    assert told(store, STRANGER) == ("contradicted", "It lies 1.41 away.", "job")
    assert store.evidence_version() == version + 1
    evidence = store.evidence("roberta")
    assert evidence.evidence_version == version + 1
    assert evidence.checkpoint_ids.tolist() == [VANILLA, TUNED]
    assert evidence.value.tolist() == [0.5, 0.6]
    assert evidence.checkpoint.tolist() == evidence.probed_checkpoint.tolist() == [0, 1]
    assert len(store.scores(checkpoint_id=STRANGER).items) == 2  # they are kept, and shown
    assert store.catalogue("roberta").ids == (VANILLA, TUNED, STRANGER)


def test_the_version_rises_only_where_one_comes_or_goes(store: Store) -> None:
    version = store.evidence_version()
    assert end(store, FOUND[0])
    assert end(store, dataclasses.replace(FOUND[0], reason="It lies 0.03 away."), seed=1)
    assert store.evidence_version() == version
    assert told(store, TUNED)[1] == "It lies 0.03 away."
    for seed in (2, 3):
        assert end(store, FOUND[1], seed=seed)
        assert store.evidence_version() == version + 1
    assert end(store, dataclasses.replace(FOUND[1], lineage=Lineage.VERIFIED), seed=4)
    assert store.evidence_version() == version + 2
    assert store.evidence("roberta").checkpoint_ids.tolist() == [VANILLA, TUNED, STRANGER]


def test_a_vanilla_is_never_contradicted(store: Store) -> None:
    assert end(store, dataclasses.replace(FOUND[1], checkpoint_id=VANILLA))
    assert told(store, VANILLA) == (None, None, None)
    with pytest.raises(Conflict, match="is the vanilla of its family"):
        store.set_lineage(VANILLA, Lineage.CONTRADICTED, "No.")
    assert store.set_lineage(VANILLA, Lineage.VERIFIED, "Of course.").lineage == "verified"


def test_who_becomes_the_vanilla_is_contradicted_no_more(store: Store, fill: Fill) -> None:
    fill(
        *(
            ScoreDraft(family="bare", checkpoint=name, target="mnli", method="finetune", value=0.5)
            for name in ("org/first", "org/second")
        )
    )
    first = store.checkpoints_named(["org/first"])["org/first"][0].id
    store.set_lineage(first, Lineage.CONTRADICTED, "It is of another pretraining.")
    fill(checkpoints=[CheckpointDraft(family="bare", name="org/first", is_vanilla=True)])
    assert told(store, first) == (None, None, None)
    evidence = store.evidence("bare")
    assert (evidence.vanilla, evidence.checkpoint_names) == (0, ("org/first", "org/second"))


def test_an_attempt_that_lost_its_claim_says_nothing(store: Store) -> None:
    assert not end(store, *FOUND, attempt=2)
    assert told(store, STRANGER) == (None, None, None)


def test_a_checkpoint_that_is_not_there_is_passed_over(store: Store) -> None:
    assert end(store, FOUND[0], dataclasses.replace(FOUND[1], checkpoint_id=999))
    assert told(store, TUNED)[0] == "verified"


def test_what_a_sentence_cannot_hold_does_not_end_the_job(store: Store) -> None:
    assert end(store, dataclasses.replace(FOUND[0], reason="a\0b" + "c" * 5000))
    reason = told(store, TUNED)[1]
    assert reason is not None
    assert reason.startswith("a\ufffdbc")


@pytest.mark.parametrize("lineage", [None, Lineage.VERIFIED])
def test_a_person_overrules_and_no_job_takes_it_back(store: Store, lineage: Lineage | None) -> None:
    assert end(store, *FOUND)
    version = store.evidence_version()
    changed = store.set_lineage(STRANGER, lineage, "Its log names the vanilla.")
    assert (changed.lineage, changed.lineage_reason) == (lineage, "Its log names the vanilla.")
    assert changed.lineage_by == "person"
    assert store.evidence_version() == version + 1
    assert end(store, *FOUND, seed=1)
    assert told(store, STRANGER) == (lineage, "Its log names the vanilla.", "person")
    assert store.evidence_version() == version + 1
    assert STRANGER in store.evidence("roberta").checkpoint_ids


def test_a_person_contradicts_too(store: Store) -> None:
    version = store.evidence_version()
    for _ in range(2):
        store.set_lineage(TUNED, Lineage.CONTRADICTED, "It is of another pretraining.")
        assert store.evidence_version() == version + 1
    assert store.evidence("roberta").checkpoint_ids.tolist() == [VANILLA, STRANGER]
    with pytest.raises(NotFound):
        store.set_lineage(99, None, "Nobody.")


def test_jobs_and_persons_at_once(store: Store) -> None:
    jobs = [running(store, dataclasses.replace(REGIONS, seed=seed)) for seed in range(3)]

    def finish(job_id: int) -> bool:
        return store.finish_job(job_id, 1, None, seconds=1.0, result={}, lineages=FOUND)

    def say() -> bool:
        return store.set_lineage(STRANGER, None, "It is ours.").lineage is None

    assert at_once(say, *(lambda at=job.id: finish(at) for job in jobs)) == [True] * 4
    assert told(store, STRANGER) == (None, "It is ours.", "person")
    assert told(store, TUNED)[0] == "verified"


def test_the_newest_that_succeeded_is_found_by_its_method_and_checkpoint(store: Store) -> None:
    assert store.newest_job("regions", VANILLA) is None
    first, second = (running(store, dataclasses.replace(REGIONS, seed=seed)) for seed in (0, 1))
    for job in (second, first):
        assert store.finish_job(job.id, 1, None, seconds=1.0, result={"of": job.id})
    queued(store, dataclasses.replace(REGIONS, seed=2))
    other = claimed(store)
    store.end_cancelled(other.id, other.attempt)
    of_another = running(store, seeded(7, checkpoint_id=TUNED))
    assert store.finish_job(of_another.id, 1, None, seconds=1.0, result={})
    newest = store.newest_job("regions", VANILLA)
    assert newest is not None
    assert (newest.id, newest.result) == (second.id, {"of": second.id})
    assert store.newest_job("regions", TUNED) is None


def test_checkpoints_that_came_after_one_are_found(store: Store, fill: Fill) -> None:
    assert store.checkpoints_after("roberta", STRANGER) == ()
    fill(
        checkpoints=[
            CheckpointDraft(family="roberta", name="org/new"),
            CheckpointDraft(family="other", name="org/other"),
        ]
    )
    assert [one.name for one in store.checkpoints_after("roberta", STRANGER)] == ["org/new"]
    assert [one.id for one in store.checkpoints_after("roberta", VANILLA)][:2] == [TUNED, STRANGER]
    with pytest.raises(NotFound):
        store.checkpoints_after("nobody", 1)
