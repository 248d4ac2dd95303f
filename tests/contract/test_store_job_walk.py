"""The store's contract on jobs under random verbs: of several workers in turn, and of several at once."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING

import pytest
from job_acts import BROKEN, CPU, FOUND, KILLED, STOCKED, moves, seeded, stock
from store_acts import at_once

from headstart.entities import Heartbeat, Progress
from headstart.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import, Job
    from headstart.store import Store
    from tests.conftest import FrozenClock

    Fill = Callable[..., Import]

STEPS = 400
WORKERS = 3
LEASE = 10.0
ATTEMPTS = 2
ALIVE = {"queued", "running"}
ARROWS = {
    ("queued", "running"),
    ("queued", "cancelled"),
    ("running", "queued"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("failed", "queued"),
    ("cancelled", "queued"),
}


@dataclass
class Known:
    """A job as the model knows it."""

    seed: int
    priority: int
    state: str = "queued"
    attempt: int = 0
    last_attempt: int = ATTEMPTS
    cancel: bool = False
    due: float = 0.0
    lease: float = 0.0
    value: float | None = None


@dataclass
class Model:
    """What the contract says, in the simplest words: one list, one clock, no transaction."""

    jobs: dict[int, Known] = field(default_factory=dict)
    in_force: dict[int, float] = field(default_factory=dict)  # seed -> value
    now: float = 0.0

    def alive(self, seed: int) -> int | None:
        found = [i for i, job in self.jobs.items() if job.seed == seed and job.state in ALIVE]
        assert len(found) <= 1
        return found[0] if found else None

    def first(self) -> int | None:
        line = [i for i, job in self.jobs.items() if job.state == "queued" and job.due <= self.now]
        return min(line, key=lambda i: (-self.jobs[i].priority, self.jobs[i].due, i), default=None)

    def current(self, job_id: int, attempt: int) -> bool:
        job = self.jobs[job_id]
        return job.state == "running" and job.attempt == attempt

    def wait(self, job_id: int, seconds: float) -> None:
        job = self.jobs[job_id]
        job.state, job.due = "queued", self.now + seconds if seconds else job.due

    def end_attempt(self, job_id: int, retry_in: float | None) -> None:
        job = self.jobs[job_id]
        if job.cancel:
            job.state = "cancelled"
        elif retry_in is not None and job.attempt < job.last_attempt:
            self.wait(job_id, retry_in)
        else:
            job.state = "failed"


class Walk:
    """Does one random verb after another, on the store and on the model."""

    def __init__(self, store: Store, clock: FrozenClock, seed: int) -> None:
        self.store, self.clock, self.random = store, clock, random.Random(seed)
        self.model = Model()
        self.held: list[tuple[int, int]] = []  # (job, attempt) of workers that believe they run it
        self.newest = 0  # measurements asked for move on, so that some are scored and some are new

    def step(self, number: int) -> None:
        verbs = {
            self.submit: 4,
            self.claim: 6,
            self.heartbeat: 3,
            self.finish: 2,
            self.fail: 3,
            self.end_cancelled: 1,
            self.release: 1,
            self.cancel: 1,
            self.retry: 2,
            self.requeue: 2,
            self.wait: 3,
        }
        self.newest = number // 10
        (verb,) = self.random.choices(list(verbs), list(verbs.values()))
        verb()

    def submit(self) -> None:
        seed = self.random.randrange(max(0, self.newest - 4), self.newest + 3)
        priority = self.random.randrange(3)
        (answer,) = self.store.submit_jobs([seeded(seed, priority=priority)], attempts=ATTEMPTS)
        if seed in self.model.in_force:
            assert answer.score is not None
            assert (answer.status, answer.score.value) == ("scored", self.model.in_force[seed])
            return
        assert answer.job is not None
        alive = self.model.alive(seed)
        if alive is not None:
            assert (answer.status, answer.job.id) == ("joined", alive)
            return
        assert answer.status == "queued"
        assert answer.job.id not in self.model.jobs
        self.model.jobs[answer.job.id] = Known(seed, priority, due=self.model.now)

    def claim(self) -> None:
        if len(self.held) > 3 * WORKERS:
            self.held.pop(self.random.randrange(len(self.held)))
        found, first = self.store.claim_job(CPU, LEASE), self.model.first()
        assert (found and found.id) == first
        if found is not None and first is not None:
            job = self.model.jobs[first]
            job.state, job.attempt, job.lease = "running", job.attempt + 1, self.model.now + LEASE
            self.held.append((found.id, found.attempt))

    def heartbeat(self) -> None:
        if not self.held:
            return
        job_id, attempt = self.random.choice(self.held)
        progress = self.random.choice([None, Progress(fraction=0.5)])
        told = self.store.heartbeat_job(job_id, attempt, LEASE, progress)
        job = self.model.jobs[job_id]
        if self.model.current(job_id, attempt):
            job.lease = self.model.now + LEASE
            assert told is (Heartbeat.CANCEL if job.cancel else Heartbeat.GO_ON)
        else:
            assert told is Heartbeat.LOST

    def finish(self) -> None:
        for job_id, attempt in self.some_attempt():
            value = self.random.choice([0.25, 0.75])
            found = dataclasses.replace(FOUND, value=value)
            ours = self.model.current(job_id, attempt)
            assert self.store.finish_job(job_id, attempt, found, seconds=1.0) is ours
            if ours:
                job = self.model.jobs[job_id]
                job.state, job.value = "succeeded", value
                self.model.in_force.setdefault(job.seed, value)

    def fail(self) -> None:
        for job_id, attempt in self.some_attempt():
            ours, retry_in = self.model.current(job_id, attempt), self.random.choice([None, 0.0, 5.0])
            assert self.store.fail_job(job_id, attempt, KILLED, retry_in=retry_in) is ours
            if ours:
                self.model.end_attempt(job_id, retry_in)

    def end_cancelled(self) -> None:
        for job_id, attempt in self.some_attempt():
            ours = self.model.current(job_id, attempt)
            assert self.store.end_cancelled(job_id, attempt) is ours
            if ours:
                self.model.jobs[job_id].state = "cancelled"

    def release(self) -> None:
        for job_id, attempt in self.some_attempt():
            ours = self.model.current(job_id, attempt)
            assert self.store.release_job(job_id, attempt) is ours
            job = self.model.jobs[job_id]
            if ours:
                job.last_attempt += 0 if job.cancel else 1
                self.model.end_attempt(job_id, 0.0)

    def cancel(self) -> None:
        for job_id in self.some_job():
            job = self.model.jobs[job_id]
            if job.state in {"succeeded", "failed"}:
                with pytest.raises(Conflict):
                    self.store.cancel_job(job_id)
                continue
            self.store.cancel_job(job_id)
            if job.state == "running":
                job.cancel = True
            else:
                job.state = "cancelled"

    def retry(self) -> None:
        for job_id in self.some_job():
            job = self.model.jobs[job_id]
            if job.state not in {"failed", "cancelled"} or self.model.alive(job.seed) is not None:
                with pytest.raises(Conflict):
                    self.store.retry_job(job_id, attempts=ATTEMPTS)
                continue
            self.store.retry_job(job_id, attempts=ATTEMPTS)
            job.last_attempt, job.cancel = job.attempt + ATTEMPTS, False
            job.state, job.due = "queued", self.model.now

    def requeue(self) -> None:
        running = {i: job for i, job in self.model.jobs.items() if job.state == "running"}
        stale = {i for i, job in running.items() if job.lease <= self.model.now}
        assert set(self.store.requeue_stale()) == stale
        for job_id in stale:
            self.model.end_attempt(job_id, 0.0)

    def wait(self) -> None:
        seconds = self.random.choice([1.0, 4.0, 7.0])
        self.clock.move(seconds)
        self.model.now += seconds

    def some_attempt(self) -> list[tuple[int, int]]:
        return [self.random.choice(self.held)] if self.held else []

    def some_job(self) -> list[int]:
        return [self.random.choice(list(self.model.jobs))] if self.model.jobs else []

    def compare(self) -> None:
        found = {job.id: job for job in self.store.jobs(page_size=10_000).items}
        assert found.keys() == self.model.jobs.keys()
        for job_id, job in self.model.jobs.items():
            seen = found[job_id]
            assert (str(seen.state), seen.attempt, seen.last_attempt, seen.cancel_requested) == (
                job.state,
                job.attempt,
                job.last_attempt,
                job.cancel,
            )
            assert (seen.score_id is not None) == (job.value is not None)
        assert self.store.evidence_version() == STOCKED + len(self.model.in_force)


@pytest.fixture(autouse=True)
def _subjects(fill: Fill) -> None:
    stock(fill)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_verbs_do_what_the_model_says(store: Store, clock: FrozenClock, seed: int) -> None:
    walk = Walk(store, clock, seed)
    for number in range(STEPS):
        walk.step(number)
        if number % 5 == 0:
            walk.compare()
    walk.compare()
    reached = {job.state for job in walk.model.jobs.values()}
    assert reached >= {"succeeded", "failed", "cancelled"}  # the walk went everywhere
    for job_id in walk.model.jobs:
        assert_history(store, job_id)
    in_force = store.scores(quarantined=False, page_size=10_000).items
    assert {score.seed: score.value for score in in_force} == walk.model.in_force


def assert_history(store: Store, job_id: int) -> None:
    """States moved along the arrows, attempts never fell, and the job was scored at most once."""
    states, attempts = zip(*moves(store, job_id), strict=True)
    assert states[0] == "queued"
    assert {(old, new) for old, new in pairwise(states) if old != new} <= ARROWS
    assert list(attempts) == sorted(attempts)
    assert states.count("succeeded") <= 1
    job = store.job(job_id)
    assert (job.score_id is not None) == (str(job.state) == "succeeded")


def test_workers_at_once_score_each_job_once(store: Store) -> None:
    ids = [answer.job.id for answer in store.submit_jobs([seeded(i) for i in range(40)], attempts=50)]  # type: ignore[union-attr]
    finished: list[int] = []
    noting = Lock()

    def work(seed: int) -> None:
        dice = random.Random(seed)
        while set(store.job_counts().depth) or store.job_counts().by_state["running"]:
            if dice.random() < 0.3:
                store.requeue_stale()
            job = store.claim_job(CPU, dice.choice([0.0, 60.0]))
            if job is not None and attempt_it(job, dice):
                with noting:
                    finished.append(job.id)

    def attempt_it(job: Job, dice: random.Random) -> bool:
        """Whether the store took the score."""
        if dice.random() < 0.2:
            store.heartbeat_job(job.id, job.attempt, dice.choice([0.0, 60.0]), Progress(fraction=0.5))
        chance = dice.random()
        if chance < 0.2:
            store.release_job(job.id, job.attempt)
        elif chance < 0.4:
            store.fail_job(job.id, job.attempt, KILLED, retry_in=0.0)
        elif chance < 0.45:
            store.fail_job(job.id, job.attempt, BROKEN)
        elif chance < 0.5:
            store.heartbeat_job(job.id, job.attempt, 0.0)  # and is not heard of again
        else:
            return store.finish_job(job.id, job.attempt, FOUND, seconds=1.0)
        return False

    at_once(*[lambda seed=seed: work(seed) for seed in range(4)])  # type: ignore[misc]
    assert len(finished) == len(set(finished))
    ended = {job.id: job for job in store.jobs(page_size=100).items}
    assert sorted(ended) == sorted(ids)
    assert {str(job.state) for job in ended.values()} == {"succeeded", "failed"}
    assert {job.id for job in ended.values() if job.state == "succeeded"} == set(finished)
    assert store.evidence_version() - STOCKED == len(finished) == len(store.scores(page_size=100).items)
    for job_id in ids:
        assert_history(store, job_id)
