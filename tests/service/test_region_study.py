"""POST /families/{name}/region-study, and headstart region-study."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from job_service import claimed
from race_service import stored
from region_service import (
    FAMILY,
    HUB,
    UNSEEN,
    at_work,
    found,
    path,
    regional,
    result_of,
    shared_region,
    without_jobs,
)
from structlog.testing import capture_logs
from study_result import study_result
from typer.testing import CliRunner

from headstart.entities import CheckpointDraft
from service.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result
    from live_service import Live

    from headstart.store import Store

ASKED: dict[str, Any] = {"target": "rte", "region": 1}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with capture_logs(), shared_region(tmp_path_factory.mktemp("study")) as live:
        found(live)
        yield live


@pytest.fixture
def live(shared: Live) -> Live:
    return without_jobs(shared)


def names(live: Live, ids: list[int]) -> list[str]:
    return [live.store.checkpoint(one).name for one in ids]


def test_it_is_a_job_on_those_not_tuned_on_the_target(live: Live) -> None:
    answer = live.http.post(path("region-study"), json=ASKED | {"pairs": 2, "seed": 4})
    assert answer.status_code == 202, answer.text
    job = answer.json()["job"]
    assert (job["method"], job["checkpoint"], job["target"], job["seed"]) == (
        "region_study",
        FAMILY,
        "rte",
        4,
    )
    assert names(live, job["params"]["inside"]) == ["me/mnli-0", "me/mnli-1", "me/mnli-2"]
    others = [FAMILY, "me/mnli-0", "me/mnli-1", "me/mnli-2", "me/sst2-0"]
    assert names(live, job["params"]["candidates"]) == others  # no rte, and nobody of another pretraining
    assert (job["params"]["region"], job["params"]["pairs"], job["params"]["max_rows"]) == (1, 2, 2000)
    assert (
        live.http.post(path("region-study"), json=ASKED | {"pairs": 2, "seed": 4}).json()["status"]
        == "joined"
    )


def test_of_many_some_are_drawn_and_means_are_none_of_them(store: Store, tmp_path: Path) -> None:
    with regional(store, tmp_path) as live:
        drafts = [CheckpointDraft(family=FAMILY, name=f"me/t{k}", details=HUB) for k in range(450)]
        mean = CheckpointDraft(family=FAMILY, name="me/mean", details=HUB | {"centroid_of": [2, 3]})
        stored(store, checkpoints=(*drafts, mean))
        result = result_of(live)
        many = sorted(
            one.id for (one,) in store.checkpoints_named([one.name for one in (*drafts, mean)]).values()
        )
        row = {"source": None, "norm": 1.0, "x": 0.0, "y": 0.0, "lineage": "verified", "reason": "Near."}
        members = [
            row | {"id": one, "name": str(one), "region": 1 if at % 2 else None}
            for at, one in enumerate(many)
        ]
        result["regions"][0]["members"] += [one["id"] for one in members if one["region"] == 1]
        result["regions"][0]["members"].append(many[-1])
        found(live, regions=result["regions"], members=[*result["members"], *members])
        first, again, other = (
            live.http.post(path("region-study"), json=ASKED | {"seed": seed}).json()["job"]["params"]
            for seed in (0, 0, 1)
        )
    assert (len(first["inside"]), len(first["candidates"])) == (200, 401)
    assert first["inside"] == sorted(first["inside"])
    assert many[-1] not in first["candidates"]
    assert first == again
    assert first["inside"] != other["inside"]


@pytest.mark.parametrize(
    ("family", "changes", "status", "said"),
    [
        (FAMILY, {"region": 2}, 409, "me/rte-0, me/rte-1. Choose another region or target."),
        (FAMILY, {"region": 9}, 404, "no region 9"),
        (FAMILY, {"target": "mnli"}, 409, "holds no rows of 'mnli'"),
        (FAMILY, {"target": "mnlx"}, 404, "mnli"),
        (FAMILY, {"pairs": 51}, 422, "pairs"),
        (FAMILY, {"region": None}, 422, "region"),
        (FAMILY, {"webhook": "ftp://x"}, 422, "webhook"),
        (UNSEEN, {}, 404, f"POST /families/{UNSEEN}/regions"),
        ("nobody", {}, 404, "nobody"),
    ],
)
def test_what_cannot_be_is_refused(
    live: Live, family: str, changes: dict[str, Any], status: int, said: str
) -> None:
    problem = live.problem("POST", path("region-study", family), status, json=ASKED | changes)
    assert said in problem["detail"]
    assert live.store.jobs(state="queued").items == ()


def run(live: Live, *arguments: str) -> Result:
    return CliRunner().invoke(
        app, ("region-study", FAMILY, *arguments), env={"HEADSTART_URL": live.url, "COLUMNS": "200"}
    )


def end(live: Live) -> None:
    job = claimed(live.store)
    assert live.store.finish_job(job.id, job.attempt, None, seconds=1.0, result=study_result())


def test_the_command_waits_and_prints_tables_and_draws(live: Live, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with at_work(live, end):
        result = run(live, "--target", "rte", "--region", "1", "--seed", "1", "--plot", str(tmp_path / "new"))
    assert result.exit_code == 0, result.output
    text = result.stdout
    for part in (
        "How often the first has the lower loss on rte",
        "90% interval",
        "a mixture of members",
        "0.95",
        "0.90 … 1.00",
        "10 and 4",
        "-0.0200",
        "The middle is at or below both ends on 100% of the lines.",
        "in nats a row",
        "me/broken was left out: Refused. It is cut.",
    ):
        assert part in text, part
    assert (tmp_path / "new" / "region_study.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_the_job(live: Live) -> None:
    with at_work(live, end):
        result = run(live, "--target", "rte", "--region", "1", "--seed", "2", "--json")
    assert '"better"' in result.stdout
    assert result.exit_code == 0


def test_one_without_lines_or_losses_is_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    from service.region_plot import study_png
    from service.region_tables import show_study

    bare = study_result(curve=None, lines=[], better=[], points=[], left_out=[])
    show_study(bare)
    assert "less is better" in capsys.readouterr().out
    assert study_png(bare).startswith(b"\x89PNG")


def test_without_matplotlib_the_plot_is_refused(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with at_work(live, end):
        result = run(live, "--target", "rte", "--region", "1", "--seed", "3", "--plot", str(tmp_path))
    assert result.exit_code == 1
    assert "headstart-advice[plot]" in result.stderr


def test_no_wait_says_how_to_follow(live: Live) -> None:
    result = run(live, "--target", str(live.store.target_named("rte").id), "--region", "1", "--no-wait")
    assert "is queued. Follow it with: headstart jobs watch" in result.stdout
