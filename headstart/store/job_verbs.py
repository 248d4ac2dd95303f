"""The verbs of jobs. Their contract stands with that of the store, in `store.py`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from headstart.store import attempts, jobs, submissions, timings, turns
from headstart.store.transactions import Transactions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headstart.entities import (
        CheckpointDraft,
        Failure,
        Heartbeat,
        Job,
        JobCounts,
        JobDraft,
        JobEvent,
        LineageVerdict,
        Page,
        Progress,
        Submission,
        SubmissionStatus,
    )
    from headstart.method import Measurement
    from headstart.recommend.timings import Timing


class JobVerbs(Transactions):
    """Jobs, for their users and for their workers."""

    # for users

    def submit_jobs(
        self, drafts: Sequence[JobDraft], *, attempts: int = 3, request_id: str = ""
    ) -> tuple[Submission, ...]:
        """Answer each draft, in their order and in one transaction, or store nothing.

        By the score in force (or one that collapsed or did not converge here, which measured again it would
        again), by an equal job that waits or runs (or found the method not applicable), or by a new one.
        """
        with self._write() as connection:
            return submissions.submit(connection, drafts, attempts, request_id, self._shared_now())

    def foresee_jobs(self, drafts: Sequence[JobDraft]) -> tuple[SubmissionStatus, ...]:
        """What `submit_jobs` would answer to each draft now. Nothing is stored."""
        with self._read() as connection:
            return submissions.foresee(connection, drafts)

    def timings(self, most: int = 1000) -> tuple[Timing, ...]:
        """The newest scores that were measured here, quarantined or not, with what tells their time."""
        with self._read() as connection:
            return timings.read_timings(connection, most)

    def job(self, job_id: int) -> Job:
        """The job of this id."""
        with self._read() as connection:
            return jobs.read(connection, job_id)

    def jobs(
        self,
        *,
        state: str | None = None,
        method: str | None = None,
        checkpoint_id: int | None = None,
        target_id: int | None = None,
        page_size: int = 50,
        page_token: str | None = None,
    ) -> Page[Job]:
        """A page of the jobs that pass every filter. NotFound if a filter names what is not there."""
        with self._read() as connection:
            return jobs.page_of_jobs(
                connection,
                state=state,
                method=method,
                checkpoint_id=checkpoint_id,
                target_id=target_id,
                size=page_size,
                token=page_token,
            )

    def newest_job(self, method: str, checkpoint_id: int) -> Job | None:
        """The last submitted of the jobs of this method and checkpoint that succeeded; None: none has."""
        with self._read() as connection:
            return jobs.read_newest(connection, method, checkpoint_id)

    def cancel_job(self, job_id: int) -> Job:
        """End a waiting job, or ask the worker of a running one to stop. Doing so again changes nothing.

        Conflict if it succeeded or failed.
        """
        with self._write() as connection:
            return jobs.cancel(connection, job_id, self._shared_now())

    def retry_job(self, job_id: int, *, attempts: int = 3, request_id: str = "") -> Job:
        """Queue a failed or cancelled job again; Conflict for any other, or if an equal one is under way."""
        with self._write() as connection:
            return jobs.retry(connection, job_id, attempts, request_id, self._shared_now())

    def job_events(self, job_id: int, after: int = 0) -> tuple[JobEvent, ...]:
        """What happened to the job after this revision: all its moves, and its newest progress."""
        with self._read() as connection:
            return jobs.read_events(connection, job_id, after)

    def job_revisions(self, job_ids: Iterable[int]) -> dict[int, int]:
        """The revision of each of these jobs: it is raised by every change."""
        with self._read() as connection:
            return jobs.read_revisions(connection, job_ids)

    def job_counts(self) -> JobCounts:
        """The jobs at a glance."""
        with self._read() as connection:
            now = self._shared_now()
            seen = now if isinstance(now, datetime) else connection.execute(select(now)).scalar_one()
            return jobs.read_counts(connection, seen)

    # for workers

    def claim_job(self, queues: Sequence[str], lease_seconds: float) -> Job | None:
        """Take the job first in line of these queues: of those due the highest priority, then longest due."""
        with self._write() as connection:
            return attempts.claim(connection, queues, lease_seconds, self._shared_now())

    def heartbeat_job(
        self, job_id: int, attempt: int, lease_seconds: float, progress: Progress | None = None
    ) -> Heartbeat:
        """Prolong the lease, say how far the job is, and learn whether to go on."""
        with self._write() as connection:
            return attempts.heartbeat(
                connection, job_id, attempt, lease_seconds, progress, self._shared_now()
            )

    def finish_job(
        self,
        job_id: int,
        attempt: int,
        measurement: Measurement | None,
        *,
        seconds: float,
        result: dict[str, Any] | None = None,
        registers: CheckpointDraft | None = None,
        lineages: Sequence[LineageVerdict] = (),
    ) -> bool:
        """End the job and store its score: both, or nothing (False: the claim is lost).

        A checkpoint that it made is registered with that; the result's "checkpoint" tells its id, name, path
        and digest. So is what it found of the lineage of checkpoints, but for vanillas, and those that a
        person has judged.
        """
        attempts.check_finite(measurement, seconds)
        with self._write() as connection:
            now = self._shared_now()
            return attempts.succeed(
                connection, job_id, attempt, measurement, result, seconds, now, registers, lineages
            )

    def keep_score(
        self, job_id: int, attempt: int, draft: JobDraft, measurement: Measurement, *, seconds: float
    ) -> int | None:
        """Store a score that a running job made beside its own end, under the key of `draft`; return its id.

        That of the equal score where it is stored already. None: the claim is lost.
        """
        attempts.check_finite(measurement, seconds)
        with self._write() as connection:
            now = self._shared_now()
            return attempts.keep_score(connection, job_id, attempt, draft, measurement, seconds, now)

    def fail_job(
        self,
        job_id: int,
        attempt: int,
        failure: Failure,
        *,
        retry_in: float | None = None,
        seconds: float | None = None,
    ) -> bool:
        """End the attempt: back to the line in `retry_in` seconds if attempts remain, else failed.

        A job whose user wants it stopped is cancelled. False: the claim is lost.
        """
        attempts.check_finite(None, seconds)
        with self._write() as connection:
            now = self._shared_now()
            return attempts.fail(connection, job_id, attempt, failure, retry_in, seconds, now)

    def end_cancelled(self, job_id: int, attempt: int) -> bool:
        """End a running job at its user's wish. False: the claim is lost."""
        with self._write() as connection:
            return attempts.end_cancelled(connection, job_id, attempt, self._shared_now())

    def release_job(self, job_id: int, attempt: int) -> bool:
        """Give a running job back to the line; the attempt does not count. False: the claim is lost."""
        with self._write() as connection:
            return attempts.release(connection, job_id, attempt, self._shared_now())

    def requeue_stale(self) -> tuple[int, ...]:
        """Take jobs from workers whose lease ran out: back to the line, or failed after the last attempt."""
        with self._write() as connection:
            return attempts.requeue_stale(connection, self._shared_now())

    def count_due(self, queue: str) -> int:
        """How many jobs of a queue could be claimed now."""
        with self._read() as connection:
            return attempts.count_due(connection, queue, self._shared_now())

    def take_unrung(self, queue: str, silent_seconds: float, most: int) -> tuple[int, ...]:
        """Ids of jobs that are due and nobody rang for lately; they count as rung now."""
        with self._write() as connection:
            return attempts.take_unrung(connection, queue, silent_seconds, most, self._shared_now())

    def take_turn(self, name: str, seconds: float) -> bool:
        """Take the turn to do what only one process should do now; False while another has it."""
        with self._write() as connection:
            return turns.take(connection, name, seconds, self._shared_now())
