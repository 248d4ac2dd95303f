"""Upkeep: chores that never die, and knocks that are neither lost nor multiplied."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from structlog.testing import capture_logs

from headstart.entities import JobDraft
from headstart.errors import InvalidInput, StoreUnavailable
from headstart.methods import METHODS, known_methods
from headstart.queue import MOST_KNOCKS, CeleryQueue, NullQueue, open_queue
from headstart.settings import Settings
from headstart.upkeep import RING_AGAIN_SECONDS, Chore, Requeue, Upkeep
from tests.one_pair import import_one_pair
from worker.crew import devices, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conftest import FrozenClock

    from headstart.store import Store

log = structlog.get_logger()


class Bell:
    """A queue that keeps what it was told; `waiting` messages lie in it."""

    def __init__(self, waiting: int | None = 0) -> None:
        self.waiting = waiting
        self.rung: list[tuple[int, str]] = []

    def ring(self, jobs: Iterable[tuple[int, str]]) -> bool:
        self.rung += jobs
        return True

    def depth(self, queue: str) -> int | None:
        return self.waiting


@pytest.fixture
def submitted(store: Store, clock: FrozenClock) -> list[int]:
    """Ids of 120 jobs for the CPU and 3 for a GPU, nobody woken for them since."""
    checkpoint_id, target_id = import_one_pair(store)
    drafts = [
        JobDraft(
            method="m",
            method_version="1",
            checkpoint_id=checkpoint_id,
            target_id=target_id,
            params={},
            seed=seed,
            queue="cpu" if seed < 120 else "gpu",
        )
        for seed in range(123)
    ]
    ids = [answer.job.id for answer in store.submit_jobs(drafts) if answer.job is not None]
    clock.move(RING_AGAIN_SECONDS + 1)
    return ids


def test_a_line_nobody_was_woken_for_is_rung_for(
    store: Store, submitted: list[int], clock: FrozenClock
) -> None:
    bell = Bell()
    Requeue(store, bell, 60, log)()
    assert bell.rung == [
        *((job_id, "cpu") for job_id in submitted[:MOST_KNOCKS]),
        *((job_id, "gpu") for job_id in submitted[120:]),
    ]
    again = Bell()
    Requeue(store, again, 60, log)()
    assert again.rung == [(job_id, "cpu") for job_id in submitted[MOST_KNOCKS:120]]
    clock.move(RING_AGAIN_SECONDS + 1)
    Requeue(store, again, 60, log)()
    assert len(again.rung) == 20 + MOST_KNOCKS + 3


@pytest.mark.parametrize(("waiting", "rings"), [(3, 97), (MOST_KNOCKS, 0), (5000, 0), (None, 0)])
def test_only_missing_knocks_are_sent(
    store: Store, submitted: list[int], waiting: int | None, rings: int
) -> None:
    bell = Bell(waiting)
    Requeue(store, bell, 60, log)()
    assert len([queue for _, queue in bell.rung if queue == "cpu"]) == rings


class Seconds:
    """A monotonic clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_lost_worker_is_logged_with_the_job(store: Store, submitted: list[int], clock: FrozenClock) -> None:
    seconds = Seconds()
    requeue = Requeue(store, NullQueue(), 10, structlog.get_logger(), seconds)
    job = store.claim_job(("cpu",), 10)
    assert job is not None
    with capture_logs() as logs:
        for _ in range(4):
            clock.move(4)
            seconds.now += 4
            requeue()
    assert [(entry["event"], entry.get("job_id")) for entry in logs] == [("worker_lost", job.id)]
    assert store.job(job.id).state == "queued"


def test_after_the_store_was_away_living_workers_get_a_lease_to_say_so(
    store: Store, submitted: list[int], clock: FrozenClock
) -> None:
    seconds = Seconds()
    requeue = Requeue(store, NullQueue(), 10, log, seconds)
    job = store.claim_job(("cpu",), 10)
    assert job is not None

    def later(by: float) -> None:
        clock.move(by)
        seconds.now += by
        requeue()

    for _ in range(4):
        assert store.heartbeat_job(job.id, job.attempt, 10) == "go_on"
        later(4)
    later(100)  # nobody could look, or renew
    assert store.job(job.id).state == "running"
    later(4)
    assert store.heartbeat_job(job.id, job.attempt, 10) == "go_on"
    for _ in range(2):
        later(4)
    assert store.job(job.id).state == "running"
    later(4)  # but one that says nothing is lost
    assert store.job(job.id).state == "queued"


def test_a_chore_survives_its_errors_and_delays_no_other() -> None:
    calls: dict[str, int] = {"away": 0, "broken": 0, "slow": 0, "sound": 0}
    let_go = threading.Event()

    def away() -> bool:
        calls["away"] += 1
        raise StoreUnavailable("The store is away.")

    def broken() -> bool:
        calls["broken"] += 1
        raise RuntimeError("no")

    def slow() -> bool:
        calls["slow"] += 1
        let_go.wait(10)
        return False

    def sound() -> bool:
        calls["sound"] += 1
        return calls["sound"] < 3  # busy at first: called again at once

    chores = [Chore(name, 0.02, step) for name, step in (("a", away), ("b", broken), ("c", slow))]
    with capture_logs() as logs:
        upkeep = Upkeep([*chores, Chore("d", 60.0, sound)], structlog.get_logger())
        upkeep.start()
        until = time.monotonic() + 10
        while min(calls["away"], calls["broken"], calls["sound"]) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        sound_before = calls["sound"]
        upkeep.wake()
        while calls["sound"] == sound_before and time.monotonic() < until:
            time.sleep(0.01)
        let_go.set()
        upkeep.stop()
    assert calls["slow"] >= 1
    assert calls["sound"] == sound_before + 1 == 4
    assert {entry["event"] for entry in logs} == {"chore_waits_for_the_store", "chore_failed"}


def test_a_dead_broker_is_told_soon_and_without_an_exception() -> None:
    queue = CeleryQueue("redis://127.0.0.1:1/0")
    started = time.monotonic()
    assert queue.ring([(1, "cpu")]) is False
    assert queue.depth("cpu") is None
    assert time.monotonic() - started < 5


def test_without_a_broker_nobody_is_woken() -> None:
    queue = open_queue("")
    assert isinstance(queue, NullQueue)
    assert queue.ring([(1, "cpu")]) is True
    assert queue.depth("cpu") is None


def test_methods_of_ones_own() -> None:
    known = known_methods(("tests.drill",))
    assert set(known) == {*METHODS, "drill"}
    assert known_methods(()) == METHODS


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("no.such.module", "cannot be used"),
        ("json", "cannot be used"),
        ("headstart.methods.finetune", "taken"),
    ],
)
def test_a_method_that_cannot_be_used_is_named(module: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        known_methods((module,))
    assert module in caught.value.message


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("", ()),
        ("-1", ()),
        ("0", ("0",)),
        ("0, 2", ("0", "2")),
        ("0,-1,2", ("0",)),
        ("GPU-ab,MIG-cd", ("GPU-ab", "MIG-cd")),
    ],
)
def test_the_gpus_a_worker_was_given(given: str, found: tuple[str, ...]) -> None:
    environment: dict[str, Any] = {"CUDA_VISIBLE_DEVICES": given}
    assert devices(environment) == found


def test_a_worker_given_nothing_takes_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.crew.glob", lambda pattern: [f"/dev/nvidia{k}" for k in range(4)])
    assert devices({}) == ("0", "1", "2", "3")
    assert size_of(Settings(), {}) == 4
    assert size_of(Settings(concurrency=2), {}) == 2
    assert size_of(Settings(), {"CUDA_VISIBLE_DEVICES": ""}) == 1
