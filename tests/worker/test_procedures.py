"""One runner with its real child process, on jobs that make scores beside their own end."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from headstart.entities import Job, JobDraft, JobState, SubmissionStatus
from headstart.errors import StoreUnavailable
from headstart.store import Store, upgrade_schema
from tests.drill import METHOD, PROCEDURE, CircuitParams, DrillParams
from tests.one_pair import import_one_pair
from tests.worker.test_runner import QUEUES, during, options, run_until_ended
from worker.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstart.entities import Score

_rounds = iter(range(0, 100_000, 100))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Runner]]:
    folder = tmp_path_factory.mktemp("procedures")
    url = f"sqlite:///{folder / 'store.db'}"
    upgrade_schema(url)
    store = Store(url)
    import_one_pair(store)
    runner = Runner(store, options(folder), threading.Event(), structlog.get_logger())
    yield store, runner
    runner.close()
    store.close()


@pytest.fixture
def store(workplace: tuple[Store, Runner]) -> Store:
    return workplace[0]


@pytest.fixture
def runner(workplace: tuple[Store, Runner]) -> Runner:
    return workplace[1]


def submit(
    store: Store, *, rounds: int = 2, version: str = "1", budget: float | None = None, **drill: Any
) -> int:
    params = CircuitParams(
        number=next(_rounds), rounds=rounds, budget_seconds=budget, drill=DrillParams(**drill)
    )
    draft = JobDraft(
        method=PROCEDURE.name,
        method_version=version,
        checkpoint_id=None,
        target_id=1,
        params=params.model_dump(mode="json"),
        seed=3,
    )
    (answer,) = store.submit_jobs([draft])
    assert answer.job is not None
    return answer.job.id


def kept(store: Store, job: Job) -> list[Score]:
    return [score for score in store.scores(page_size=1000).items if score.provenance["job"] == job.id]


def test_a_procedure_ends_with_its_result_and_has_kept_its_scores(store: Store, runner: Runner) -> None:
    version = store.evidence_version()
    job = run_until_ended(store, runner, submit(store))
    assert (job.state, job.score_id, job.failure) == (JobState.SUCCEEDED, None, None)
    assert job.result is not None
    assert (job.result["attempt"], job.result["odd"], job.result["found"][0]) == (1, None, "1-3")
    assert [one["name"] for one in job.result["briefing"]["candidates"]] == ["roberta-base"]
    scores = kept(store, job)
    first = job.params["number"]
    assert [score.value for score in scores] == [first / 1000, (first + 1) / 1000]
    assert {(score.seed, score.provenance["seconds"]) for score in scores} == {(3, 0.5)}
    assert store.evidence_version() == version + 2
    alone = JobDraft(
        method=METHOD.name,
        method_version=METHOD.version,
        checkpoint_id=1,
        target_id=1,
        params=DrillParams(number=first).model_dump(mode="json"),
        seed=3,
    )
    (answer,) = store.submit_jobs([alone])
    assert (answer.status, answer.score) == (SubmissionStatus.SCORED, scores[0])


def test_what_was_kept_stays_when_the_process_is_killed_and_is_not_kept_twice(
    store: Store, runner: Runner
) -> None:
    job = run_until_ended(store, runner, submit(store, end="kill", ends_well_at=2))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert [score.provenance["attempt"] for score in kept(store, job)] == [1, 1]


@pytest.mark.parametrize(("end", "name"), [("not_applicable", "NotApplicable"), ("raise", "Unexpected")])
def test_what_was_kept_stays_when_it_fails(store: Store, runner: Runner, end: str, name: str) -> None:
    job = run_until_ended(store, runner, submit(store, end=end))
    assert job.failure is not None
    assert (job.state, job.failure.name, job.result) == (JobState.FAILED, name, None)
    assert len(kept(store, job)) == 2


def test_what_was_kept_is_there_while_it_runs_and_stays_when_it_is_cancelled(
    store: Store, runner: Runner
) -> None:
    seen: list[tuple[int, str, str]] = []

    def look_and_cancel(job: Job) -> None:
        until = time.monotonic() + 10
        while len(kept(store, job)) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        now = store.job(job.id)
        seen.append((len(kept(store, job)), now.state, now.progress.message))
        store.cancel_job(job.id)

    started = time.monotonic()
    job = during(store, runner, submit(store, seconds=30.0), look_and_cancel)
    assert job.state is JobState.CANCELLED
    assert time.monotonic() - started < 20
    assert [told[:2] for told in seen] == [(2, JobState.RUNNING)]
    assert len(kept(store, job)) == 2


def test_a_value_that_is_no_number_is_not_kept(store: Store, runner: Runner) -> None:
    job = run_until_ended(store, runner, submit(store, end="nan"))
    assert job.failure is not None
    assert job.failure.name == "NonFinite"
    assert kept(store, job) == []


@pytest.mark.parametrize(("given", "told"), [(None, 30.0), (1e6, 30.0), (7.0, 7.0)])
def test_its_budget_ends_before_the_job_is_timed_out(
    store: Store, runner: Runner, given: float | None, told: float
) -> None:
    job = run_until_ended(store, runner, submit(store, rounds=0, budget=given))
    assert job.result is not None
    assert (job.result["budget_seconds"], job.params["budget_seconds"]) == (told, given)


def test_another_version_is_refused(store: Store, runner: Runner) -> None:
    job = run_until_ended(store, runner, submit(store, version="2"))
    assert job.failure is not None
    assert job.failure.name == "MethodUnknown"


def test_scores_wait_for_a_store_that_does_not_answer(
    store: Store, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, away = store.keep_score, 4

    def sometimes(*arguments: Any, **named: Any) -> int | None:
        nonlocal away
        away -= 1
        if away >= 0:
            raise StoreUnavailable("The store is away.")
        return keep(*arguments, **named)

    monkeypatch.setattr(store, "keep_score", sometimes)
    job = run_until_ended(store, runner, submit(store, rounds=3))
    assert (job.state, job.attempt, len(kept(store, job))) == (JobState.SUCCEEDED, 1, 3)
    assert away == -3


def test_a_lost_claim_keeps_nothing_more(
    store: Store, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = store.keep_score

    def after_another_took_it(job_id: int, attempt: int, *rest: Any, **named: Any) -> int | None:
        if store.job(job_id).attempt == attempt and attempt == 1:
            assert store.release_job(job_id, attempt)
            assert store.claim_job(QUEUES, 60) is not None
            store.cancel_job(job_id)
            assert store.end_cancelled(job_id, 2)
        return keep(job_id, attempt, *rest, **named)

    monkeypatch.setattr(store, "keep_score", after_another_took_it)
    job = run_until_ended(store, runner, submit(store, seconds=30.0))
    assert (job.state, job.attempt, kept(store, job)) == (JobState.CANCELLED, 2, [])


def test_the_claim_is_renewed_while_it_is_briefed(
    store: Store, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import runner as module

    brief = module.brief

    def slow(*arguments: Any) -> Any:
        time.sleep(3.0)  # the lease is one of 2 s
        assert store.requeue_stale() == ()
        return brief(*arguments)

    monkeypatch.setattr(module, "brief", slow)
    job = run_until_ended(store, runner, submit(store))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
