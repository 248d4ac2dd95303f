"""One runner with its real child process, in this process, on a real store."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from headstart.entities import Job, JobDraft, JobState, Progress
from headstart.errors import StoreUnavailable
from headstart.failures import FAILURES
from headstart.store import Store, upgrade_schema
from headstart.workbench import DEATHS
from tests.drill import METHOD, DrillParams
from tests.one_pair import import_one_pair
from worker.process import Died
from worker.runner import Runner, RunnerOptions, retry_delay
from worker.scratch import sweep
from worker.workbench import Premises

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUEUES = ("cpu", "gpu")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Runner, threading.Event]]:
    """A store with one checkpoint and one target, and a runner whose child the tests share."""
    folder = tmp_path_factory.mktemp("runner")
    url = f"sqlite:///{folder / 'store.db'}"
    upgrade_schema(url)
    store = Store(url)
    import_one_pair(store)
    stop = threading.Event()
    runner = Runner(store, options(folder), stop, structlog.get_logger())
    yield store, runner, stop
    runner.close()
    store.close()


PREMISES = Premises(roots=(), cache=Path("cache"), max_cache_bytes=1 << 30, allow_pickles=False)


def options(folder: Path, **changed: Any) -> RunnerOptions:
    usual: dict[str, Any] = {
        "lease_seconds": 2.0,
        "job_seconds": 60.0,
        "retry_seconds": 0.01,
        "methods": ("tests.drill",),
        "scratch": folder / "scratch",
        "premises": dataclasses.replace(PREMISES, cache=folder / "cache"),
    }
    return RunnerOptions(**usual | changed)


@pytest.fixture
def store(workplace: tuple[Store, Runner, threading.Event]) -> Store:
    return workplace[0]


@pytest.fixture
def runner(workplace: tuple[Store, Runner, threading.Event]) -> Runner:
    return workplace[1]


_numbers = iter(range(10_000))


def submit(store: Store, *, seed: int = 0, version: str = METHOD.version, **params: Any) -> int:
    draft = JobDraft(
        method=METHOD.name,
        method_version=version,
        checkpoint_id=1,
        target_id=1,
        params=DrillParams(number=next(_numbers), **params).model_dump(mode="json"),
        seed=seed,
    )
    (answer,) = store.submit_jobs([draft])
    assert answer.job is not None
    return answer.job.id


def run_until_ended(store: Store, runner: Runner, job_id: int) -> Job:
    until = time.monotonic() + 60
    while (job := store.job(job_id)).finished_at is None:
        assert time.monotonic() < until
        if not runner.run_next(QUEUES):
            time.sleep(0.01)
    return job


def ready(runner: Runner) -> None:
    """Wait until its child could take a job, which takes a while on a busy machine."""
    runner.warm()
    assert runner._child is not None
    assert runner._child.ready(60)


def during(store: Store, runner: Runner, job_id: int, act: Callable[[Job], object]) -> Job:
    """Do something as soon as the job has reported, while the runner runs it."""

    def watch() -> None:
        until = time.monotonic() + 30
        while not (job := store.job(job_id)).progress.stage and time.monotonic() < until:
            time.sleep(0.01)
        act(job)

    thread = threading.Thread(target=watch)
    thread.start()
    job = run_until_ended(store, runner, job_id)
    thread.join()
    return job


def test_a_job_becomes_a_score(store: Store, runner: Runner) -> None:
    job = run_until_ended(store, runner, submit(store))
    assert job.state is JobState.SUCCEEDED
    score = store.score(job.score_id or 0)
    assert score.value == job.params["number"] / 1000
    assert (score.stderr, score.rows_tested, score.source) == (0.01, 100, f"job {job.id}")
    assert score.provenance["pid"] not in (None, os.getpid())
    assert score.provenance["r_hat"] == [1.0, None]
    assert job.seconds is not None


def test_the_child_is_reused_while_it_is_healthy(store: Store, runner: Runner) -> None:
    def pid(**params: Any) -> int:
        job = run_until_ended(store, runner, submit(store, **params))
        return int(store.score(job.score_id or 0).provenance["pid"])

    first = pid()
    for end in ("interrupt", "not_applicable", "nan"):
        run_until_ended(store, runner, submit(store, end=end))
    assert pid() == first
    run_until_ended(store, runner, submit(store, end="raise"))
    second = pid()
    assert second != first
    run_until_ended(store, runner, submit(store, end="hoard"))
    assert pid() != second


@pytest.mark.parametrize(
    ("end", "name", "attempts", "says"),
    [
        ("nan", "NonFinite", 1, "nan"),
        ("raise", "Unexpected", 1, "RuntimeError: no"),
        ("interrupt", "Interrupted", 3, "broke off"),
        ("not_applicable", "NotApplicable", 1, "not applicable"),
        ("hoard", "OutOfMemory", 1, "memory"),
        ("kill", "Killed", 3, "SIGKILL"),
        ("segfault", "Killed", 3, "SIGSEGV"),
        ("far_out", "OutOfRange", 1, "0..100"),
        ("not_json", "Unexpected", 1, "not JSON serializable"),
        ("orphan", "Killed", 3, "SIGKILL"),
    ],
)
def test_every_failure_has_a_name_a_sentence_and_a_remedy(
    store: Store, runner: Runner, end: str, name: str, attempts: int, says: str
) -> None:
    version = store.evidence_version()
    job = run_until_ended(store, runner, submit(store, end=end))
    assert (job.state, job.attempt, job.score_id) == (JobState.FAILED, attempts, None)
    assert job.failure is not None
    assert (job.failure.name, job.failure.remedy) == (name, FAILURES[name].remedy)
    assert says in job.failure.sentence
    assert job.failure.sentence.endswith(".")
    assert "Traceback" not in job.failure.sentence
    assert store.evidence_version() == version


def test_a_number_of_numpy_is_a_number(store: Store, runner: Runner) -> None:
    job = run_until_ended(store, runner, submit(store, end="numpy"))
    assert store.score(job.score_id or 0).value == 0.5


def test_a_child_that_cannot_start_costs_no_job_an_attempt(store: Store, tmp_path: Path) -> None:
    broken = Runner(store, options(tmp_path, methods=("no.such",)), threading.Event(), structlog.get_logger())
    job_id = submit(store)
    for _ in range(3):
        with pytest.raises(Died):
            broken.run_next(QUEUES)
    assert (store.job(job_id).state, store.job(job_id).attempt) == (JobState.QUEUED, 0)
    store.cancel_job(job_id)


def test_a_scratch_folder_that_cannot_be_written_is_said(store: Store, tmp_path: Path) -> None:
    (tmp_path / "scratch").write_text("a file")
    runner = Runner(store, options(tmp_path), threading.Event(), structlog.get_logger())
    job = run_until_ended(store, runner, submit(store))
    runner.close()
    assert job.failure is not None
    assert (job.failure.name, job.attempt) == ("Interrupted", 3)
    assert "scratch folder" in job.failure.sentence


def test_a_signal_to_the_whole_group_gives_the_job_back(store: Store, tmp_path: Path) -> None:
    stop = threading.Event()
    leaving = Runner(store, options(tmp_path), stop, structlog.get_logger())
    ready(leaving)
    job_id = submit(store, seconds=30.0)

    def kill_all(job: Job) -> None:
        assert leaving._child is not None
        assert leaving._child.pid is not None
        os.kill(leaving._child.pid, signal.SIGTERM)  # ignored: meant for the worker
        time.sleep(0.2)
        assert leaving._child.alive()
        stop.set()
        os.kill(leaving._child.pid, signal.SIGKILL)

    watcher = threading.Timer(1.5, lambda: kill_all(store.job(job_id)))
    watcher.start()
    assert leaving.run_next(QUEUES)
    watcher.join()
    leaving.close()
    job = store.job(job_id)
    assert (job.state, job.attempt, job.last_attempt) == (JobState.QUEUED, 1, 4)
    store.cancel_job(job_id)


def test_old_scratch_folders_of_ended_jobs_are_swept(store: Store, runner: Runner, tmp_path: Path) -> None:
    ended = run_until_ended(store, runner, submit(store)).id
    waiting = submit(store)
    for name in (f"job-{ended}", f"job-{waiting}", "job-999999", "job-x", "other"):
        (tmp_path / name).mkdir()
    assert sweep(store, tmp_path) == 0
    assert sweep(store, tmp_path, older_than=-1) == 1
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([f"job-{waiting}", "job-999999", "job-x", "other"])
    store.cancel_job(waiting)


def test_what_failed_once_may_succeed_later(store: Store, runner: Runner) -> None:
    job = run_until_ended(store, runner, submit(store, end="kill", ends_well_at=3))
    assert (job.state, job.attempt, job.failure) == (JobState.SUCCEEDED, 3, None)
    assert [event.failure for event in store.job_events(job.id)].count("Killed") == 2


def test_progress_is_told_while_it_runs(store: Store, runner: Runner) -> None:
    job_id = submit(store, seconds=5.0)
    seen: list[tuple[float, Progress]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            job = store.job(job_id)
            if job.state is JobState.RUNNING and (not seen or seen[-1][1] != job.progress):
                seen.append((time.monotonic(), job.progress))
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    run_until_ended(store, runner, job_id)
    ended.set()
    thread.join()
    assert len(seen) >= 5
    assert max(later - earlier for (earlier, _), (later, _) in pairwise(seen)) < 2.0
    fractions = [progress.fraction for _, progress in seen]
    assert fractions == sorted(fractions)
    told = seen[-2][1]
    assert told.stage == "drilling"
    assert told.seconds_left == pytest.approx(5.0 * (1 - told.fraction), abs=1.0)


def test_a_cancel_is_obeyed_at_the_next_step(store: Store, runner: Runner) -> None:
    started = time.monotonic()
    job = during(store, runner, submit(store, seconds=30.0), lambda job: store.cancel_job(job.id))
    assert (job.state, job.score_id) == (JobState.CANCELLED, None)
    assert time.monotonic() - started < 8


def test_a_method_that_does_not_listen_is_cancelled_by_force(
    store: Store, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runner.GRACE_SECONDS", 0.5)
    job_id = submit(store, seconds=30.0, step=0.0)
    timer = threading.Timer(1.0, store.cancel_job, [job_id])
    timer.start()
    job = run_until_ended(store, runner, job_id)
    timer.join()
    assert job.state is JobState.CANCELLED


def test_a_job_that_takes_too_long_is_ended(store: Store, tmp_path: Path) -> None:
    impatient = Runner(store, options(tmp_path, job_seconds=1.0), threading.Event(), structlog.get_logger())
    job = run_until_ended(store, impatient, submit(store, seconds=30.0, step=0.0))
    impatient.close()
    assert job.failure is not None
    assert (job.state, job.attempt, job.failure.name) == (JobState.FAILED, 1, "TimedOut")
    assert "longer than 1 s" in job.failure.sentence


def test_another_version_of_the_method_is_refused(store: Store, runner: Runner) -> None:
    job = run_until_ended(store, runner, submit(store, version="2"))
    assert job.failure is not None
    assert job.failure.name == "MethodUnknown"


def test_a_lost_claim_is_noticed_and_its_result_thrown_away(store: Store, runner: Runner) -> None:
    version = store.evidence_version()

    def take_over(job: Job) -> None:
        assert store.release_job(job.id, job.attempt)
        assert store.claim_job(QUEUES, 60) is not None
        assert store.end_cancelled(job.id, job.attempt + 1)

    job = during(store, runner, submit(store, seconds=4.0), take_over)
    assert (job.state, job.attempt) == (JobState.CANCELLED, 2)
    runner.run_next(QUEUES)
    assert store.evidence_version() == version


def test_the_scratch_folder_is_kept_between_attempts_and_cleared_at_the_end(
    store: Store, runner: Runner, tmp_path: Path
) -> None:
    job = run_until_ended(store, runner, submit(store, end="kill", ends_well_at=2, leave_trace=True))
    assert job.state is JobState.SUCCEEDED
    score = store.score(job.score_id or 0)
    assert set(score.provenance["found"]) == {"attempt-1", DEATHS}
    assert not os.path.exists(score.provenance["folder"])


def test_a_result_waits_for_a_store_that_does_not_answer(
    store: Store, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(store)
    away = 3
    finish = store.finish_job

    def sometimes(*arguments: Any, **named: Any) -> bool:
        nonlocal away
        away -= 1
        if away >= 0:
            raise StoreUnavailable("The store is away.")
        return finish(*arguments, **named)

    monkeypatch.setattr(store, "finish_job", sometimes)
    job = run_until_ended(store, runner, job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
    assert away == -1


def test_a_runner_told_to_stop_gives_its_job_back(store: Store, tmp_path: Path) -> None:
    stop = threading.Event()
    leaving = Runner(store, options(tmp_path), stop, structlog.get_logger())
    ready(leaving)
    job_id = submit(store, seconds=30.0)
    threading.Timer(1.0, stop.set).start()
    assert leaving.run_next(QUEUES)
    leaving.close()
    job = store.job(job_id)
    assert (job.state, job.attempt, job.last_attempt) == (JobState.QUEUED, 1, 4)
    store.cancel_job(job_id)


def test_the_child_leaves_when_its_worker_is_gone(store: Store, runner: Runner) -> None:
    from worker.process import Child

    child = Child(("tests.drill",), None, PREMISES)
    assert child.ready(60)
    assert child.pid is not None
    child._connection.close()  # what the kernel does for a worker that was killed
    until = time.monotonic() + 10
    while child.alive():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_child_sees_the_gpu_it_is_given(store: Store, tmp_path: Path) -> None:
    on_gpu = Runner(store, options(tmp_path, device="3"), threading.Event(), structlog.get_logger())
    job = run_until_ended(store, on_gpu, submit(store))
    on_gpu.close()
    assert store.score(job.score_id or 0).provenance["cuda"] == "3"


def test_back_off_doubles_and_is_spread(store: Store) -> None:
    job = store.job(submit(store))
    store.cancel_job(job.id)
    for attempt in (1, 2, 3, 60):
        delays = [retry_delay(dataclasses.replace(job, attempt=attempt), 5.0) for _ in range(200)]
        middle = min(300.0, 5.0 * 2 ** (attempt - 1))
        assert 0.5 * middle <= min(delays) < 0.7 * middle
        assert 1.3 * middle < max(delays) <= 1.5 * middle


def test_a_child_that_is_killed_while_idle_is_replaced(store: Store, runner: Runner) -> None:
    job = run_until_ended(store, runner, submit(store))
    os.kill(store.score(job.score_id or 0).provenance["pid"], signal.SIGKILL)
    time.sleep(0.2)
    job = run_until_ended(store, runner, submit(store))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
