"""The life of one job on a worker: claim, run in a child, keep the claim alive, end it in the store.

The store is the truth: every step asks whether this attempt still holds the job, and when it does not, what
the child does is thrown away. A store that does not answer is waited for; the child goes on meanwhile.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from headstart.entities import CheckpointDraft, Heartbeat, JobDraft, LineageVerdict, Progress
from headstart.errors import StoreUnavailable
from headstart.failures import FAILURES, Interrupted, JobFailure, Killed, TimedOut, Unexpected
from headstart.method import Measurement, Procedure
from headstart.workbench import Briefing
from worker.briefing import brief
from worker.child import Order, known_work
from worker.fresh import Fresh
from worker.process import Child, Died
from worker.scratch import folder_of, note_death
from worker.target_rows import fetch_rows
from worker.workbench import Premises

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from headstart.entities import Checkpoint, Job, Target
    from headstart.method import Method
    from headstart.settings import Settings
    from headstart.store import Store

BEAT_SECONDS = 1.0  # between two heartbeats: the longest that progress waits, or a cancel goes unseen
GRACE_SECONDS = 10.0  # for a cancelled method to reach its next step, before its process is killed
LONGEST_RETRY_SECONDS = 300.0
RESERVE_SECONDS = 300.0  # of a job, for what no budget breaks off: a checkpoint loaded, a decision


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """How jobs are run; made from the settings."""

    lease_seconds: float
    job_seconds: float
    retry_seconds: float  # before the second attempt; doubled for each further one
    methods: tuple[str, ...]
    scratch: Path
    premises: Premises
    device: str | None = None  # CUDA_VISIBLE_DEVICES of the child; None: as the worker's

    @classmethod
    def from_settings(cls, settings: Settings, runners: int) -> RunnerOptions:
        """Take from the settings what concerns a runner, one of so many."""
        return cls(
            lease_seconds=settings.lease_seconds,
            job_seconds=settings.job_seconds,
            retry_seconds=settings.retry_seconds,
            methods=settings.methods,
            scratch=settings.scratch,
            premises=Premises.from_settings(settings, runners),
        )


@dataclass(slots=True)
class _Attempt:
    """Where one attempt stands."""

    job: Job
    started: float
    next_beat: float = 0.0
    progress: Progress | None = None  # what the store was not told yet
    kill_at: float | None = None  # set by a cancel
    scores: list[dict[str, Any]] = field(default_factory=list)  # to be kept at once, that the store has not


class Runner:
    """Runs one job at a time in one child process, which is reused while it is healthy."""

    def __init__(self, store: Store, options: RunnerOptions, stop: threading.Event, log: Any) -> None:
        self._store = store
        self._options = options
        self._stop = stop
        self._log = log
        self._child: Child | None = None
        self._checkpoints = Fresh(store.checkpoint)
        self._targets = Fresh(store.target)
        self._beat = min(BEAT_SECONDS, options.lease_seconds / 4)

    def warm(self) -> None:
        """Start the child before there is a job for it."""
        if self._child is None:
            self._child = Child(self._options.methods, self._options.device, self._options.premises)

    def run_next(self, queues: Sequence[str]) -> bool:
        """Run the job first in line, and say whether there was one.

        The child comes first: one that cannot start costs no job an attempt. Raises Died where it does not
        start, StoreUnavailable where the store does not answer.
        """
        child = self._ready_child()
        if child is None:
            return False
        job = self._store.claim_job(queues, self._options.lease_seconds)
        if job is None:
            return False
        log = self._log.bind(job_id=job.id, attempt=job.attempt, request_id=job.request_id)
        log.info("job_started", method=job.method)
        started = time.monotonic()
        ended = self._run(child, job, started, log)
        log.info("job_left", ended=ended, seconds=round(time.monotonic() - started, 3))
        return True

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _ready_child(self) -> Child | None:
        """A child that can take an order; None when told to stop before there is one."""
        if self._child is not None and not self._child.alive():
            self.close()
        self.warm()
        assert self._child is not None  # noqa: S101 - warm made it
        try:
            while not self._child.ready(self._beat):
                if self._stop.is_set():
                    return None
        except Died:
            self.close()
            raise
        return self._child

    def _run(self, child: Child, job: Job, started: float, log: Any) -> str:
        """Run a claimed job to its end, and return the word for it."""
        attempt = _Attempt(job=job, started=started, next_beat=started + self._beat)
        try:
            child.order(self._order(job))
            return self._follow(child, attempt, log)
        except Died as died:
            self.close()
            if self._stop.is_set():  # whoever stops the worker may have stopped its child as well
                return self._settle(attempt, self._store.release_job, "given back", log)
            note_death(folder_of(self._options.scratch, job.id))
            return self._fail(attempt, Killed(str(died)), log)
        except JobFailure as failure:
            return self._fail(attempt, failure, log)
        except StoreUnavailable:
            self.close()
            return "left to its lease"
        except Exception:  # a fault of ours must not leave the job running for ever
            log.exception("runner_failed")
            self.close()
            return self._fail(attempt, Unexpected("The worker failed on this job."), log)

    def _order(self, job: Job) -> Order:
        folder = folder_of(self._options.scratch, job.id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Interrupted(f"The scratch folder cannot be written: {error.strerror}.") from None
        checkpoint, target = self._subjects(job)
        rows = fetch_rows(self._store, target, self._options.premises.cache)
        return Order(
            job_id=job.id,
            attempt=job.attempt,
            method=job.method,
            method_version=job.method_version,
            checkpoint=checkpoint,
            target=target,
            params=self._params(job),
            seed=job.seed,
            folder=str(folder.resolve()),
            rows=None if rows is None else str(rows),
            briefing=self._briefing(job),
        )

    def _work(self, job: Job) -> Method | Procedure | None:
        """What the job asks for; None where this worker does not know it."""
        return known_work(self._options.methods).get(job.method)

    def _params(self, job: Job) -> dict[str, Any]:
        """The job's; a procedure's budget ends before the job would be timed out, and all be lost."""
        asked = self._work(job)
        if not isinstance(asked, Procedure) or "budget_seconds" not in job.params:
            return job.params
        longest, given = self._options.job_seconds, job.params["budget_seconds"]
        most = max(longest / 2, longest - RESERVE_SECONDS)
        return job.params | {"budget_seconds": most if given is None else min(given, most)}

    def _briefing(self, job: Job) -> Briefing:
        """What a procedure that chooses among candidates is told; making it takes a fit of the evidence."""
        asked = self._work(job)
        if not isinstance(asked, Procedure) or "candidates" not in job.params:
            return Briefing()
        with self._kept_alive(job):
            return brief(self._store, job)

    @contextmanager
    def _kept_alive(self, job: Job) -> Iterator[None]:
        """Renew the claim meanwhile; what the store answers to that is for the first beat to see."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self._beat):
                with suppress(StoreUnavailable):
                    self._store.heartbeat_job(job.id, job.attempt, self._options.lease_seconds)

        thread = threading.Thread(target=renew, name="renew", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _subjects(self, job: Job) -> tuple[Checkpoint | None, Target | None]:
        """The job's checkpoint and target: as they are now for a method that reads weights and rows.

        For others, what was known of them a minute ago will do.
        """
        method = self._work(job)
        if method is not None and method.needs_rows:
            self._checkpoints.forget(job.checkpoint_id)
            self._targets.forget(job.target_id)
        return self._checkpoints.get(job.checkpoint_id), self._targets.get(job.target_id)

    def _follow(self, child: Child, attempt: _Attempt, log: Any) -> str:
        """Listen to the child until the attempt has ended in one way or another."""
        while True:
            now = time.monotonic()
            told = child.listen(max(0.0, attempt.next_beat - now))
            if told is not None and "progress" in told:
                attempt.progress = _with_seconds_left(Progress(**told["progress"]), now - attempt.started)
            elif told is not None and "score" in told:
                attempt.scores.append(told["score"])
                attempt.next_beat = now  # which stores it
            elif told is not None:
                return self._settle_outcome(attempt, told["outcome"], log)
            if time.monotonic() >= attempt.next_beat:
                ended = self._tend(child, attempt, log)
                if ended is not None:
                    return ended

    def _tend(self, child: Child, attempt: _Attempt, log: Any) -> str | None:
        """Once a beat: stop, time out, renew the claim; return a word if that ended the attempt."""
        job, now = attempt.job, time.monotonic()
        attempt.next_beat = now + self._beat
        if self._stop.is_set():
            self.close()
            return self._settle(attempt, self._store.release_job, "given back", log)
        if now - attempt.started > self._options.job_seconds:
            self.close()
            return self._fail(
                attempt, TimedOut(f"The job ran longer than {self._options.job_seconds:g} s."), log
            )
        if attempt.kill_at is not None and now >= attempt.kill_at:
            self.close()
            return self._settle(attempt, self._store.end_cancelled, "cancelled", log, last=True)
        try:
            verdict = Heartbeat.LOST
            if self._keep_scores(attempt):
                verdict = self._store.heartbeat_job(
                    job.id, job.attempt, self._options.lease_seconds, attempt.progress
                )
        except StoreUnavailable as error:
            log.warning("heartbeat_failed", reason=error.message)
            return None
        attempt.progress = None
        if verdict is Heartbeat.LOST:
            self.close()
            return "lost to another attempt"
        if verdict is Heartbeat.CANCEL and attempt.kill_at is None:
            attempt.kill_at = now + GRACE_SECONDS
            child.cancel(job.id)
        return None

    def _keep_scores(self, attempt: _Attempt) -> bool:
        """Store the scores that the job has made beside its own end; False: the claim is lost."""
        while attempt.scores:
            one = attempt.scores.pop(0)
            draft, found = JobDraft(**one["draft"]), Measurement(**one["measurement"])
            try:
                kept = self._store.keep_score(
                    attempt.job.id, attempt.job.attempt, draft, found, seconds=one["seconds"]
                )
            except StoreUnavailable:
                attempt.scores.insert(0, one)
                raise
            if kept is None:
                return False
        return True

    def _settle_outcome(self, attempt: _Attempt, outcome: dict[str, Any], log: Any) -> str:
        """Store what the child found."""
        seconds = float(outcome["seconds"])
        if not outcome["healthy"]:
            self.close()
        if "measurement" in outcome:
            found = Measurement(**outcome["measurement"])

            def finish(job_id: int, number: int) -> bool:
                return self._store.finish_job(job_id, number, found, seconds=seconds)

            return self._settle(attempt, finish, "succeeded", log, last=True)
        if "result" in outcome:
            made = outcome["registers"] and CheckpointDraft(**outcome["registers"])
            lineages = [LineageVerdict(**one) for one in outcome["lineages"]]

            def end(job_id: int, number: int) -> bool:
                return self._store.finish_job(
                    job_id,
                    number,
                    None,
                    seconds=seconds,
                    result=outcome["result"],
                    registers=made,
                    lineages=lineages,
                )

            return self._settle(attempt, end, "succeeded", log, last=True)
        if "cancelled" in outcome:
            return self._settle(attempt, self._store.end_cancelled, "cancelled", log, last=True)
        told = outcome["failure"]
        failure = FAILURES.get(told["name"], Unexpected)(told["sentence"], told["remedy"])
        return self._fail(attempt, failure, log, seconds=seconds)

    def _fail(self, attempt: _Attempt, why: JobFailure, log: Any, *, seconds: float | None = None) -> str:
        job, failure = attempt.job, why.failure()
        log.warning("job_failed", failure=failure.name, sentence=failure.sentence, retryable=why.retryable)
        wait = retry_delay(job, self._options.retry_seconds) if why.retryable else None
        ran = time.monotonic() - attempt.started if seconds is None else seconds

        def fail(job_id: int, number: int) -> bool:
            return self._store.fail_job(job_id, number, failure, retry_in=wait, seconds=ran)

        last = wait is None or job.attempt >= job.last_attempt
        return self._settle(attempt, fail, f"failed: {failure.name}", log, last=last)

    def _settle(
        self, attempt: _Attempt, end: Callable[[int, int], bool], word: str, log: Any, *, last: bool = False
    ) -> str:
        """End the attempt in the store, waiting until it answers; with the `last` one its scratch goes."""
        job, pause = attempt.job, 0.1
        while True:
            try:
                held = self._keep_scores(attempt) and end(job.id, job.attempt)
                break
            except StoreUnavailable as error:
                if self._stop.is_set():
                    log.warning("left_to_its_lease", reason=error.message)
                    return "left to its lease"
                log.warning("result_waits_for_the_store", reason=error.message)
            self._stop.wait(pause)
            pause = min(5.0, pause * 2)
        if held and last:
            shutil.rmtree(folder_of(self._options.scratch, job.id), ignore_errors=True)
        return word if held else "lost to another attempt"


def retry_delay(job: Job, first_seconds: float) -> float:
    """Seconds before the next attempt: doubled each time, and spread, so that many do not return at once."""
    tried = max(0, job.attempt - 1)
    longest = min(LONGEST_RETRY_SECONDS, first_seconds * 2.0 ** min(tried, 20))
    return longest * random.uniform(0.5, 1.5)  # noqa: S311 - jitter


def _with_seconds_left(progress: Progress, elapsed: float) -> Progress:
    """Fill in the seconds left, from the share done so far, where the method does not say."""
    if progress.seconds_left is not None or not 0.0 < progress.fraction <= 1.0:
        return progress
    return replace(progress, seconds_left=elapsed * (1.0 - progress.fraction) / progress.fraction)
