"""The store's contract on imports: claimed, fenced off, ended, with all their bytes and scores."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import pytest
from store_acts import NOTHING, OTHER, SCORE, at_once, claimed, released, with_scores

from headstart.entities import ImportState
from headstart.errors import Conflict, InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from headstart.store import Store
    from tests.conftest import FrozenClock

    Fill = Callable[..., Import]

# The life of an import


def test_an_import_waits_for_its_release(store: Store, clock: FrozenClock) -> None:
    created = store.create_import("table", "upload")
    assert (created.state, created.attempt, created.progress) == (ImportState.QUEUED, 0, 0.0)
    assert (created.report, created.error, created.finished_at) == (None, None, None)
    assert store.claim_import(60) is None
    assert store.queue_import(created.id) == created
    first = store.claim_import(60)
    assert first is not None
    assert (first.id, first.state, first.attempt) == (created.id, ImportState.RUNNING, 1)
    assert store.get_import(created.id) == first
    store.queue_import(created.id)
    assert store.claim_import(60) is None


def test_the_oldest_import_is_claimed_first(store: Store) -> None:
    ids = [released(store) for _ in range(3)]
    assert [store.claim_import(60).id for _ in range(3)] == ids  # type: ignore[union-attr]


def test_of_many_claimers_one_wins(store: Store) -> None:
    for _ in range(5):
        only = released(store)
        won = [found for found in at_once(*[lambda: store.claim_import(60)] * 4) if found is not None]
        assert [found.id for found in won] == [only]  # type: ignore[attr-defined]


def test_claimers_of_two_imports_get_one_each(store: Store) -> None:
    ids = {released(store), released(store)}
    first, second = at_once(*[lambda: store.claim_import(60)] * 2)
    assert {first.id, second.id} == ids  # type: ignore[attr-defined]


def test_a_claim_is_taken_over_when_its_lease_ran_out(store: Store, clock: FrozenClock) -> None:
    first = claimed(store)
    clock.move(59.9)
    assert store.claim_import(60) is None
    clock.move(0.1)
    second = store.claim_import(60)
    assert second is not None
    assert (second.id, second.attempt) == (first.id, 2)


def test_a_heartbeat_prolongs_the_lease(store: Store, clock: FrozenClock) -> None:
    first = claimed(store)
    clock.move(50)
    assert store.heartbeat_import(first.id, 1, 60, 0.25, "reading rows")
    clock.move(50)
    assert store.claim_import(60) is None
    found = store.get_import(first.id)
    assert (found.progress, found.stage, found.attempt) == (0.25, "reading rows", 1)


def test_a_late_attempt_that_nobody_took_over_still_counts(store: Store, clock: FrozenClock) -> None:
    first = claimed(store)
    clock.move(3600)
    assert store.finish_import(first.id, 1, with_scores(SCORE)) is not None


def test_a_stale_attempt_changes_nothing(store: Store, clock: FrozenClock) -> None:
    first = claimed(store)
    clock.move(60)
    second = store.claim_import(60)
    assert second is not None
    assert store.heartbeat_import(first.id, first.attempt, 60, 0.9, "stale") is False
    assert store.fail_import(first.id, first.attempt, "stale") is False
    assert store.finish_import(first.id, first.attempt, with_scores(SCORE)) is None
    assert store.get_import(first.id) == second
    assert store.scores().items == ()
    assert store.families() == ()
    assert store.finish_import(second.id, second.attempt, with_scores(SCORE)) is not None


def test_an_ended_import_does_not_change(store: Store, clock: FrozenClock) -> None:
    done, broken = claimed(store), claimed(store)
    assert store.finish_import(done.id, 1, NOTHING) is not None
    assert store.fail_import(broken.id, 1, "line 3 is broken") is True
    for ended in (store.get_import(done.id), store.get_import(broken.id)):
        clock.move(3600)
        assert store.heartbeat_import(ended.id, 1, 60, 0.5, "again") is False
        assert store.fail_import(ended.id, 1, "again") is False
        assert store.finish_import(ended.id, 1, with_scores(SCORE)) is None
        assert store.claim_import(60) is None
        assert store.get_import(ended.id) == ended
    assert store.get_import(done.id).state is ImportState.SUCCEEDED
    assert store.get_import(done.id).progress == 1.0
    failed = store.get_import(broken.id)
    assert (failed.state, failed.error, failed.report) == (ImportState.FAILED, "line 3 is broken", None)
    assert store.import_counts() == {"failed": 1, "succeeded": 1}


def test_an_unreleased_import_can_be_forgotten_and_its_id_is_not_lent_again(store: Store) -> None:
    gone = store.create_import("table", "upload").id
    store.append_upload(gone, "a.csv", b"half")
    store.delete_import(gone)
    with pytest.raises(NotFound):
        store.get_import(gone)
    kept = released(store)
    assert kept > gone
    with pytest.raises(Conflict, match=f"Import {kept} was released"):
        store.delete_import(kept)


# Uploads


def test_uploaded_bytes_come_back_in_order_and_go_when_the_import_ends(store: Store) -> None:
    big = bytes(range(256)) * 4096 * 3 + b"tail"
    for ending in (
        lambda i: store.finish_import(i, 1, NOTHING),
        lambda i: store.fail_import(i, 1, "broken"),
    ):
        import_id = store.create_import("table", "upload").id
        store.append_upload(import_id, "z.csv", big)
        store.append_upload(import_id, "a.csv", b"1")
        store.append_upload(import_id, "z.csv", b"more")
        store.append_upload(import_id, "empty.csv", b"")
        store.queue_import(import_id)
        store.claim_import(60)
        assert store.uploads(import_id) == ("z.csv", "a.csv", "empty.csv")
        chunks = list(store.read_upload(import_id, "z.csv"))
        assert b"".join(chunks) == big + b"more"
        assert max(map(len, chunks)) <= 1 << 20
        assert b"".join(store.read_upload(import_id, "empty.csv")) == b""
        ending(import_id)
        assert store.uploads(import_id) == ()
        with pytest.raises(NotFound):
            next(iter(store.read_upload(import_id, "z.csv")))


def test_a_reader_of_uploads_holds_no_transaction(store: Store) -> None:
    import_id = store.create_import("table", "upload").id
    store.append_upload(import_id, "a.csv", b"x" * (3 << 20))
    for _ in store.read_upload(import_id, "a.csv"):
        store.append_upload(import_id, "b.csv", b"y")
    assert store.uploads(import_id) == ("a.csv", "b.csv")


def test_a_released_import_takes_no_more_bytes(store: Store) -> None:
    with pytest.raises(Conflict, match="was released"):
        store.append_upload(released(store), "a.csv", b"1")


# Finishing


def test_a_failing_finish_stores_nothing(store: Store) -> None:
    job = claimed(store)
    store_before = (store.families(), store.evidence_version(), store.get_import(job.id))
    unstorable = dataclasses.replace(OTHER, rows_tested=2**70)
    with pytest.raises(InvalidInput):
        store.finish_import(job.id, 1, with_scores(SCORE, unstorable))
    assert (store.families(), store.evidence_version(), store.get_import(job.id)) == store_before
    assert store.targets().items == store.scores().items == ()
    assert store.finish_import(job.id, 1, with_scores(SCORE)) is not None


def test_two_finishes_at_once_both_end_right(store: Store) -> None:
    """They overlap, contradict each other, and create the same family, checkpoints and targets."""
    shared = [
        dataclasses.replace(SCORE, checkpoint=f"c{i}", target=f"t{j}") for i in range(30) for j in range(10)
    ]
    lone = dataclasses.replace(SCORE, target="lone")
    jobs = [claimed(store), claimed(store)]
    batches = [
        with_scores(*shared, lone),
        with_scores(*reversed(shared), dataclasses.replace(lone, value=0.1)),
    ]

    def finish(which: int) -> Import | None:
        return store.finish_import(jobs[which].id, 1, batches[which])

    reports = [ended.report for ended in at_once(lambda: finish(0), lambda: finish(1))]  # type: ignore[attr-defined]
    assert sorted(r.scores_stored for r in reports) == [1, 301]
    assert sorted(r.scores_unchanged for r in reports) == [0, 300]
    assert sorted(r.checkpoints_new for r in reports) == [0, 31]
    assert sorted(r.targets_new for r in reports) == [0, 11]
    assert store.quarantine_counts() == {"contradicts": 1}
    assert store.evidence_version() == 1
    assert len(store.catalogue("roberta").ids) == 31


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_a_bug_of_ours(store: Store, bad: float) -> None:
    job = claimed(store)
    for score in (
        dataclasses.replace(SCORE, value=bad),
        dataclasses.replace(SCORE, stderr=bad),
        dataclasses.replace(SCORE, params={"lr": bad}),
        dataclasses.replace(SCORE, provenance={"seen": bad}),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            store.finish_import(job.id, 1, with_scores(score))
    assert store.get_import(job.id) == job
