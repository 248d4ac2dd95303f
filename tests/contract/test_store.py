"""The store's contract, sentence by sentence, on every dialect. More beside this file and in tests/store."""

from __future__ import annotations

import dataclasses
import traceback
from datetime import UTC, datetime, timedelta, timezone
from threading import Event
from typing import TYPE_CHECKING

import pytest
from store_acts import NOTHING, OTHER, SCORE, at_once, claimed

from headstart.entities import CheckpointDraft, TargetDraft
from headstart.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from headstart.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from tests.conftest import FrozenClock

    Fill = Callable[..., Import]

# A verb returns frozen entities, is thread-safe, and speaks aware UTC.


def test_ping_returns_on_a_migrated_store(store: Store) -> None:
    store.ping()


def test_verbs_return_frozen_entities(store: Store, fill: Fill) -> None:
    fill(SCORE)
    for entity in (store.family("roberta"), store.checkpoint(1), store.target(1), store.score(1)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            entity.id = 7  # type: ignore[misc]


def test_threads_share_a_store(store: Store, fill: Fill) -> None:
    fill(SCORE)
    found = at_once(*[lambda: store.score(1).value] * 8, *[lambda: store.create_import("table", "x").id] * 4)
    assert found[:8] == [0.9] * 8
    assert len(set(found[8:])) == 4


def test_times_are_those_of_the_clock_in_aware_utc(store: Store, clock: FrozenClock, fill: Fill) -> None:
    before = clock.now
    clock.now = before.astimezone(timezone(timedelta(hours=5)))
    finished = fill(SCORE)
    for moment in (finished.created_at, finished.finished_at, store.score(1).created_at):
        assert moment == before
        assert moment.tzinfo is UTC


def test_a_time_without_zone_is_refused(store: Store, clock: FrozenClock) -> None:
    clock.now = datetime(2026, 1, 1)
    with pytest.raises(ValueError, match="no time zone"):
        store.create_import("table", "upload")


# evidence_version


def test_evidence_version_starts_at_zero_and_counts_changes_of_the_evidence(store: Store, fill: Fill) -> None:
    versions = [store.evidence_version()]
    for step in (
        lambda: fill(SCORE),  # new in force: +1
        lambda: fill(SCORE),  # the same again
        lambda: fill(dataclasses.replace(SCORE, value=0.5)),  # contradicts: only quarantined
        lambda: fill(dataclasses.replace(OTHER, quarantine="off_grid")),
        lambda: fill(checkpoints=[CheckpointDraft(family="roberta", name="org/b")]),  # new: +1
        lambda: fill(checkpoints=[CheckpointDraft(family="roberta", name="org/b")]),
        lambda: store.set_quarantine(1, "manual", "why"),  # leaves: +1
        lambda: store.set_quarantine(1, "collapsed", "why else"),
        lambda: store.set_quarantine(1, None, None),  # returns: +1
        lambda: store.set_quarantine(1, None, "still in force"),
        lambda: fill(
            dataclasses.replace(SCORE, seed=2), dataclasses.replace(SCORE, seed=3)
        ),  # one transaction: +1
        lambda: store.fail_import(claimed(store).id, 1, "broken"),
    ):
        step()
        versions.append(store.evidence_version())
    assert versions == [0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_what_is_learnt_of_checkpoints_and_splits_is_evidence(store: Store, fill: Fill) -> None:
    fill(SCORE)
    known = CheckpointDraft(family="roberta", name="org/a")
    target = TargetDraft(name="mnli")
    version = store.evidence_version()
    for checkpoints, targets, rises in (
        ([known], [], False),
        ([dataclasses.replace(known, parameters=5)], [], True),
        ([dataclasses.replace(known, parameters=6)], [], False),  # what is known stays
        ([dataclasses.replace(known, license="mit")], [], True),
        ([dataclasses.replace(known, details={"layers": 12})], [], True),
        ([dataclasses.replace(known, is_vanilla=True)], [], True),
        ([dataclasses.replace(known, is_vanilla=True)], [], False),
        ([], [dataclasses.replace(target, train_size=9, task="nli", classes=3)], False),
        ([], [dataclasses.replace(target, rows_tested=400)], True),
        ([], [dataclasses.replace(target, rows_tested=400)], False),
        ([], [TargetDraft(name="new", rows_tested=400)], False),
        ([dataclasses.replace(known, parameters=5, license="gpl")], [], False),
    ):
        fill(checkpoints=checkpoints, targets=targets)
        version += rises
        assert store.evidence_version() == version, (checkpoints, targets)


def test_evidence_carries_its_version(store: Store, fill: Fill) -> None:
    fill(SCORE)
    assert store.evidence("roberta").evidence_version == store.evidence_version() == 1


def test_evidence_and_its_version_are_of_one_moment(store: Store, fill: Fill) -> None:
    fill(SCORE)

    written = Event()

    def write() -> None:
        try:
            for seed in range(1, 40):
                fill(dataclasses.replace(SCORE, seed=seed))
        finally:
            written.set()

    def read() -> None:
        while not written.wait(0.001):  # and let the writer have the one connection of a store in memory
            found = store.evidence("roberta")
            assert found.value.size == found.evidence_version  # every import adds one score

    at_once(write, read)
    assert store.evidence("roberta").evidence_version == 40


# Quarantine


def test_quarantine_is_set_and_lifted(store: Store, fill: Fill) -> None:
    fill(SCORE)
    before = store.score(1)
    held = store.set_quarantine(1, "manual", "looks wrong")
    assert held == dataclasses.replace(before, quarantine="manual", quarantine_note="looks wrong")
    assert store.score(1) == held
    assert store.quarantine_counts() == {"manual": 1}
    assert store.set_quarantine(1, None, None) == before
    assert store.quarantine_counts() == {}


def test_lifting_into_an_occupied_key_is_a_conflict_that_names_the_holder(store: Store, fill: Fill) -> None:
    fill(SCORE)
    fill(dataclasses.replace(SCORE, value=0.7))
    version = store.evidence_version()
    with pytest.raises(Conflict, match=r"score 1 \(0\.9\) is in force"):
        store.set_quarantine(2, None, None)
    assert store.score(2).quarantine == "contradicts"
    assert store.evidence_version() == version
    store.set_quarantine(1, "manual", None)
    assert store.set_quarantine(2, None, None).quarantine is None


def test_of_two_lifted_into_one_key_at_once_one_wins(store: Store, fill: Fill) -> None:
    doubted = [dataclasses.replace(SCORE, seed=i, quarantine="off_grid") for i in range(20)]
    fill(*doubted, *(dataclasses.replace(score, value=0.7) for score in doubted))

    def lift(score_id: int) -> bool:
        try:
            store.set_quarantine(score_id, None, None)
        except Conflict:
            return False
        return True

    version = store.evidence_version()
    for i in range(1, 21):
        won = at_once(lambda i=i: lift(i), lambda i=i: lift(i + 20))  # type: ignore[misc]
        assert sorted(won) == [False, True]  # type: ignore[type-var]
    assert store.evidence_version() == version + 20


# Lists


def test_pages_stay_true_while_rows_are_added(store: Store, fill: Fill) -> None:
    def checkpoint(i: int) -> CheckpointDraft:
        return CheckpointDraft(family="roberta", name=f"c{i}")

    fill(checkpoints=[checkpoint(i) for i in range(5)])
    page = store.checkpoints(page_size=2)
    seen = [c.name for c in page.items]
    added = 5
    while page.next_token is not None:
        if added < 8:
            fill(checkpoints=[checkpoint(added)])
            added += 1
        page = store.checkpoints(page_size=2, page_token=page.next_token)
        seen += [c.name for c in page.items]
    assert seen == [f"c{i}" for i in range(added)]


def test_every_list_is_paged_by_ascending_id(store: Store, fill: Fill) -> None:
    fill(*(dataclasses.replace(SCORE, checkpoint=f"c{i}", target=f"t{i}") for i in range(5)))
    for _ in range(4):
        store.create_import("table", "upload")
    for verb in (store.checkpoints, store.targets, store.scores, store.imports):
        first = verb(page_size=3)
        second = verb(page_size=3, page_token=first.next_token)
        ids = [item.id for item in (*first.items, *second.items)]
        assert len(ids) == 5
        assert ids == sorted(ids)
        assert second.next_token is None
        assert verb(page_size=5).next_token is None


def test_a_page_token_that_is_not_ours_is_invalid(store: Store, fill: Fill) -> None:
    fill(*(dataclasses.replace(SCORE, checkpoint=f"c{i}", target=f"t{i}") for i in range(3)))
    foreign = store.targets(page_size=1).next_token
    filtered = store.checkpoints(family="roberta", page_size=1).next_token
    for token in (foreign, filtered, "", "garbage", "=", "é", "MQ", "1.1", "\ud800", "x" * 5000):
        with pytest.raises(InvalidInput):
            store.checkpoints(page_token=token)


def test_a_page_holds_at_least_one(store: Store) -> None:
    for size in (0, -1):
        with pytest.raises(InvalidInput):
            store.imports(page_size=size)
    assert store.imports(page_size=2**63).items == ()


NAMES = [
    "100%",
    "100x",
    "under_score",
    "underXscore",
    'it\'s "q"',
    "back\\slash",
    "sl/ash",
    "ä漢字🙂",
    "Mixed",
]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("%", ["100%"]),
        ("100", ["100%", "100x"]),
        ("_", ["under_score"]),
        ("'", ['it\'s "q"']),
        ('"', ['it\'s "q"']),
        ("\\", ["back\\slash"]),
        ("l/a", ["sl/ash"]),
        ("漢", ["ä漢字🙂"]),
        ("🙂", ["ä漢字🙂"]),
        ("mIXED", ["Mixed"]),
        ("", NAMES),
        ("absent", []),
    ],
)
def test_names_are_searched_literally(store: Store, fill: Fill, search: str, found: list[str]) -> None:
    fill(
        checkpoints=[CheckpointDraft(family="f", name=name) for name in NAMES],
        targets=[TargetDraft(name=name) for name in NAMES],
    )
    assert [c.name for c in store.checkpoints(search=search).items] == found
    assert [t.name for t in store.targets(search=search).items] == found


def test_scores_pass_every_filter(store: Store, fill: Fill) -> None:
    fill(
        SCORE,
        dataclasses.replace(SCORE, checkpoint="org/b", method="linear_probe"),
        dataclasses.replace(SCORE, family="bert", target="qnli", quarantine="off_grid"),
    )

    def ids(**filters: object) -> list[int]:
        return [s.id for s in store.scores(**filters).items]  # type: ignore[arg-type]

    assert ids() == [1, 2, 3]
    assert ids(family="roberta") == [1, 2]
    assert ids(quarantined=True) == [3]
    assert ids(quarantined=False, method="finetune") == [1]
    assert ids(checkpoint_id=store.score(2).checkpoint_id) == [2]
    assert ids(target_id=store.target_named("qnli").id) == [3]
    assert ids(method="unheard of") == []


# Errors


def test_unknown_names_raise_not_found_with_the_nearest(store: Store, fill: Fill) -> None:
    fill(SCORE, dataclasses.replace(SCORE, family="deberta"))
    for verb in (
        store.family,
        store.catalogue,
        store.evidence,
        lambda name: store.checkpoints(family=name),
        lambda name: store.scores(family=name),
        lambda name: store.save_posterior(name, 1, "f", b""),
    ):
        with pytest.raises(NotFound) as caught:
            verb("robberta")
        assert caught.value.nearest == ("roberta", "deberta")
    with pytest.raises(NotFound) as caught:
        store.target_named("mnlii")
    assert caught.value.nearest == ("mnli",)


@pytest.mark.parametrize("unknown", [0, -1, 99, 2**63, 10**30])
def test_unknown_ids_raise_not_found(store: Store, fill: Fill, unknown: int) -> None:
    fill(SCORE)
    for verb in (
        store.checkpoint,
        store.target,
        store.score,
        store.posterior,
        store.get_import,
        store.queue_import,
        store.delete_import,
        store.uploads,
        lambda i: store.append_upload(i, "f", b""),
        lambda i: store.set_quarantine(i, None, None),
        lambda i: store.scores(checkpoint_id=i),
        lambda i: store.scores(target_id=i),
        lambda i: store.heartbeat_import(i, 1, 60, 0.0, ""),
        lambda i: store.fail_import(i, 1, ""),
        lambda i: store.finish_import(i, 1, NOTHING),
        lambda i: list(store.read_upload(i, "f")),
    ):
        with pytest.raises(NotFound):
            verb(unknown)


@pytest.mark.parametrize("text", ["nul\0", "half\ud800", "x" * 3000])
def test_text_that_no_database_can_hold_is_invalid_on_all(store: Store, fill: Fill, text: str) -> None:
    for verb in (
        lambda: store.family(text),
        lambda: store.target_named(text),
        lambda: store.begin_request(text, "/r", "d"),
        lambda: fill(dataclasses.replace(SCORE, checkpoint=text)),
        lambda: fill(dataclasses.replace(SCORE, method=text)),
    ):
        with pytest.raises(InvalidInput):
            verb()
    assert store.scores().items == ()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cret@127.0.0.1:1/db",
        "postgresql+psycopg://user:s3cret@127.0.0.1:1/db?connect_timeout=1",
        "postgresql://user:s3cret@127.0.0.1:port/db",
        "mysql://user:s3cret@127.0.0.1/db",
        "s3cret",
        "sqlite:////nonexistent/s3cret/store.db",
    ],
)
def test_an_unavailable_store_says_so_without_its_secrets(url: str) -> None:
    def use() -> None:
        store = Store(url)
        try:
            store.ping()
        finally:
            store.close()

    with pytest.raises(StoreUnavailable) as caught:
        use()
    frames = "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in frames.replace(repr(url), "")
    assert "HEADSTART_STORE" in str(caught.value)


# Posteriors


def test_the_newest_three_posteriors_of_a_family_and_format_are_kept(
    store: Store, fill: Fill, clock: FrozenClock
) -> None:
    fill(SCORE, dataclasses.replace(SCORE, family="bert"))
    ids = [store.save_posterior("roberta", version, "one", bytes([version])) for version in (1, 5, 3, 2, 5)]
    other = store.save_posterior("roberta", 9, "two", b"")
    bert = store.save_posterior("bert", 1, "one", b"\0\xff")
    assert store.newest_posteriors("one") == {"roberta": (ids[4], 5), "bert": (bert, 1)}
    assert store.newest_posteriors("two") == {"roberta": (other, 9)}
    assert store.newest_posteriors("three") == {}
    row = store.posterior(ids[2])
    assert (row.family, row.evidence_version, row.format, row.payload) == ("roberta", 3, "one", b"\3")
    assert row.created_at == clock.now
    for gone in (ids[0], ids[3]):
        with pytest.raises(NotFound):
            store.posterior(gone)
