"""What jobs will take, told before they are submitted: over HTTP and in the terminal."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from job_service import ASKED, finished, measuring, post, submitted
from structlog.testing import capture_logs
from typer.testing import CliRunner

from headstart.entities import JobDraft, SubmissionStatus
from headstart.methods import METHODS
from headstart.recommend.rates import Rates
from headstart.recommend.timings import CACHED, FRESH, Kind, Work
from service.cli import app
from service.jobs import Foreseen
from service.pricing import quotes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result
    from live_service import Live

    from headstart.store import Store

DRY = {"dry_run": True}
SUBMIT = ("jobs", "submit", "gauge", "--checkpoint", "roberta-base", "--target", "rte", "--dry-run")
PROBE = ("probe", "--checkpoint", "roberta-base", "--target", "rte", "--method", "gauge", "--dry-run")


@pytest.fixture
def live(store: Store) -> Iterator[Live]:
    """A service over a store of its own, whose log keeps out of what the command prints."""
    with capture_logs(), measuring(store) as live:
        yield live


def priced(live: Live, **changes: Any) -> dict[str, Any]:
    return post(live, "/jobs", ASKED | DRY | changes, status=200)


def run(live: Live, *arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"HEADSTART_URL": live.url, "COLUMNS": "200"})


def stored(live: Live) -> int:
    return len(live.store.jobs().items)


def test_a_new_job_is_priced_and_not_stored(live: Live) -> None:
    found = priced(live)
    low, high = found["interval"]
    assert 0 < low < found["seconds"] < high
    assert (found["dry_run"], found["basis"], found["device"]) == (True, "assumed", None)
    assert (found["jobs"], found["joined"], found["scored"]) == (1, 0, 0)
    assert stored(live) == 0


def test_jobs_that_ran_make_the_price(live: Live) -> None:
    for seed in range(12):
        submitted(live, seed=seed)
        finished(live.store, value=0.5 + seed / 100, seconds=40.0)
    found = priced(live, seed=99)
    assert found["basis"] == "measured"
    assert found["seconds"] == pytest.approx(40.0, rel=0.2)
    assert found["interval"][1] / found["interval"][0] < 4


def test_what_is_there_costs_nothing(live: Live) -> None:
    submitted(live)
    assert priced(live) == priced(live) | {"seconds": 0.0, "interval": [0.0, 0.0], "joined": 1, "jobs": 0}
    finished(live.store)
    assert priced(live) == priced(live) | {"seconds": 0.0, "interval": [0.0, 0.0], "scored": 1, "jobs": 0}


def test_a_batch_is_the_sum_of_its_jobs(live: Live) -> None:
    submitted(live, seed=1)
    jobs = [ASKED | {"seed": seed} for seed in (0, 1, 2, 2)]
    found = post(live, "/jobs/batch", {"jobs": jobs} | DRY, status=200)
    assert [one["status"] for one in found["items"]] == ["queued", "joined", "queued", "joined"]
    assert (found["jobs"], found["joined"], found["scored"]) == (2, 2, 0)
    assert found["seconds"] == pytest.approx(sum(one["seconds"] for one in found["items"]), abs=0.2)
    assert found["items"][1]["seconds"] == 0.0
    assert stored(live) == 1


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"target": "nowhere"}, 404),
        ({"checkpoint": 99}, 404),
        ({"method": "survey"}, 422),
        ({"params": {"rows": 0}}, 422),
        ({"seed": -1}, 422),
        ({"webhook": "ftp://x"}, 422),
    ],
)
def test_a_dry_run_is_refused_as_the_real_one_is(live: Live, wrong: dict[str, Any], status: int) -> None:
    problems = [
        live.problem("POST", "/jobs", status, json=ASKED | wrong | more)["errors"] for more in ({}, DRY)
    ]
    assert problems[0] == problems[1]
    batches = [
        live.problem("POST", "/jobs/batch", status, json={"jobs": [ASKED | wrong]} | more)["errors"]
        for more in ({}, DRY)
    ]
    assert batches[0] == batches[1]


def test_an_item_of_a_batch_cannot_be_dry_by_itself(live: Live) -> None:
    problem = live.problem("POST", "/jobs/batch", 422, json={"jobs": [ASKED | DRY]})
    assert problem["errors"][0]["field"] == "jobs.0.dry_run"
    live.problem("POST", "/jobs", 422, json=ASKED | {"dry_run": "please"})


def test_an_idempotency_key_is_free_after_a_dry_run(live: Live) -> None:
    headers = {"idempotency-key": "k"}
    assert live.http.post("/jobs", json=ASKED | DRY, headers=headers).status_code == 200
    assert live.http.post("/jobs", json=ASKED, headers=headers).status_code == 202


def test_probes_that_share_a_pass_pay_for_it_once() -> None:
    def asked(method: str, **given: Any) -> Foreseen:
        params = METHODS[method].params(**given).model_dump(mode="json")
        draft = JobDraft(method=method, method_version="1", checkpoint_id=1, target_id=1, params=params)
        return Foreseen(draft, SubmissionStatus.QUEUED, None, None)

    def worked(way: str, seconds: float) -> list[Work]:
        return [Work(Kind(one, way), "CPU", "float32", 1e14, seconds) for one in METHODS for _ in range(20)]

    rates = Rates((*worked(FRESH, 60.0), *worked(CACHED, 2.0)))
    jobs = [
        asked("logme"),
        asked("knn"),
        asked("linear_probe"),
        asked("hscore"),
        asked("knn", max_rows=5_000),
    ]
    cheap = [one.price.seconds < 10 for one in quotes(rates, jobs)]
    assert cheap == [False, True, False, True, False]  # the linear probe reads two roles more


def test_a_finetune_whose_checkpoint_is_kept_costs_what_a_finetune_does() -> None:
    recipe = METHODS["finetune"].params().model_dump(mode="json")
    plain = JobDraft(method="finetune", method_version="1", checkpoint_id=1, target_id=1, params=recipe)
    kept = replace(plain, method="keep", params={"name": "me/kept", "finetune": recipe})
    once, again = quotes(
        Rates(), [Foreseen(one, SubmissionStatus.QUEUED, None, None) for one in (plain, kept)]
    )
    assert once == again


# -- in the terminal


def test_submit_says_what_it_would_take(live: Live) -> None:
    result = run(live, *SUBMIT)
    assert result.exit_code == 0, result.output
    assert "1 to run: about " in result.stdout
    assert "80 % interval). Nothing was submitted." in result.stdout
    assert "It is a guess" in result.stdout
    assert json.loads(run(live, *SUBMIT, "--json").stdout)["dry_run"] is True
    assert stored(live) == 0
    submitted(live)
    assert "Nothing would be run: 1 under way." in run(live, *SUBMIT).stdout


def test_probe_says_what_it_would_take(live: Live) -> None:
    result = run(live, *PROBE)
    assert result.exit_code == 0, result.output
    assert "1 to run: about " in result.stdout
    assert stored(live) == 0


def test_probe_registers_nothing_for_a_price(live: Live) -> None:
    unknown = run(live, "probe", "--checkpoint", "org/unknown", "--target", "rte", "--dry-run")
    assert unknown.exit_code == 1
    assert "org/unknown" in unknown.stderr
    path = run(live, "probe", "--checkpoint", "./here", "--target", "rte", "--dry-run")
    assert path.exit_code == 2
    assert "registers nothing" in path.stderr
    family = run(live, "probe", "--family", "roberta-base", "--target", "rte", "--dry-run")
    assert family.exit_code == 2
    assert live.store.imports().items[1:] == ()
