"""headstart regions and headstart centroid, against a live service and a worker that is played."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import typer
from job_service import BROKEN, claimed
from race_service import stored
from region_service import (
    FAMILY,
    STRANGER,
    UNSEEN,
    at_work,
    end,
    id_of,
    result_of,
    shared_region,
    without_jobs,
)
from structlog.testing import capture_logs
from typer.testing import CliRunner

from headstart.entities import CheckpointDraft
from service import region_tables
from service.cli import app
from service.regions_cli import read_weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result
    from live_service import Live


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with capture_logs(), shared_region(tmp_path_factory.mktemp("regions")) as live:
        yield live


@pytest.fixture
def live(shared: Live) -> Live:
    return without_jobs(shared)


def run(live: Live, *arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"HEADSTART_URL": live.url, "COLUMNS": "200"})


def printed(live: Live, *arguments: str) -> str:
    result = run(live, *arguments)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    return result.stdout


def refused(live: Live, *arguments: str, code: int = 1) -> str:
    result = run(live, *arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


def test_it_waits_and_prints_the_regions_their_members_and_what_to_know(live: Live, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "map.png"
    with at_work(live, end):
        text = printed(live, "regions", FAMILY, "--map", str(picture))
    rows = [line.split() for line in text.splitlines() if line.strip()]
    assert ["1", "mnli", "3", "0.260", "0.020", "0.97", "mnli", "3"] in rows
    assert ["me/rte-0", str(id_of(live, "me/rte-0")), "2", "rte", "1.25", "verified"] in rows
    assert ["me/sst2-0", str(id_of(live, "me/sst2-0")), "–", "sst2", "1.25", "verified"] in rows
    for sentence in (
        "The weights show 2 regions.",
        "100% have the commonest source of theirs (adjusted Rand index 0.900).",
        "Mean cosine within regions 0.260, between them 0.020; a sketch is 0.0039 off.",
        f"{STRANGER} is not of the family: It lies 1.41 norms away.",
        "me/broken could not be read: Refused. A shard of it is cut short.",
    ):
        assert sentence in text, sentence
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = printed(live, "jobs", "show", str(live.store.jobs(page_size=500).items[-1].id))
    assert "The weights show 2 regions." in shown
    assert '"tightness"' not in shown


def test_what_was_found_last_is_shown_without_a_job(live: Live) -> None:
    with at_work(live, end):
        printed(live, "regions", FAMILY, "--seed", "5")
    jobs = len(live.store.jobs(page_size=500).items)
    shown = json.loads(printed(live, "regions", FAMILY, "--show", "--json"))
    assert shown["regions"][0]["name"] == "mnli"
    assert len(live.store.jobs(page_size=500).items) == jobs
    assert f"POST /families/{UNSEEN}/regions" in refused(live, "regions", UNSEEN, "--show")
    assert "There is no family 'nobody'" in refused(live, "regions", "nobody")
    assert "Choose another place" in refused(live, "regions", FAMILY, "--show", "--map", "/nowhere/x.png")


def test_one_that_fails_says_why(live: Live) -> None:
    def fail(live: Live) -> None:
        job = claimed(live.store)
        assert live.store.fail_job(job.id, job.attempt, BROKEN)

    with at_work(live, fail):
        said = refused(live, "regions", FAMILY, "--seed", "6")
    assert "The search for regions, job" in said
    assert BROKEN.sentence in said


def test_some_may_be_named(live: Live) -> None:
    names = f"me/rte-0, me/mnli-0,{id_of(live, 'me/sst2-0')}"
    answer = json.loads(
        printed(live, "regions", FAMILY, "--checkpoints", names, "--clusters", "2", "--no-wait", "--json")
    )
    wanted = [id_of(live, one) for one in (FAMILY, "me/rte-0", "me/mnli-0", "me/sst2-0")]
    assert answer["job"]["params"] == {"family": FAMILY, "candidates": wanted, "clusters": 2}


def test_without_regions_or_sources_the_tables_say_so(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    bare = result_of(
        live,
        regions=[],
        members=[],
        purity=None,
        rand=None,
        cosine={"within": None, "between": None},
        copies=[[1, 2]],
        chosen_by="No region.",
    )
    region_tables.show_regions(bare | {"stale": True, "registered_since": 2})
    text = capsys.readouterr().out
    assert "No region." in text
    assert "within regions –, between them –" in text
    assert "The same body under several names: 1, 2." in text
    assert "2 registered checkpoints are not in it" in text
    assert "commonest source" not in text


def make(live: Live) -> None:
    job = claimed(live.store)
    made = CheckpointDraft(
        family=FAMILY, name=job.params["name"], revision=f"sha256:{job.id}", details={"path": "/kept/c"}
    )
    members = [
        {"id": one, "name": live.store.checkpoint(one).name, "weight": weight}
        for one, weight in zip(job.params["candidates"][1:], job.params["weights"], strict=True)
    ]
    result: dict[str, Any] = {"members": members, "left_out": job.params["told"]["left_out"]}
    assert live.store.finish_job(job.id, job.attempt, None, seconds=1.0, result=result, registers=made)


def test_a_centroid_is_made_and_told(live: Live) -> None:
    members = "me/rte-0,me/mnli-0,me/mnli-1"
    with at_work(live, make):
        text = printed(live, "centroid", FAMILY, "--name", "me/c1", "--members", members, "--target", "rte")
    rows = [line.split() for line in text.splitlines() if line.strip()]
    assert ["me/mnli-0", str(id_of(live, "me/mnli-0")), "0.5000"] in rows
    assert "Left out: me/rte-0: tuned on rte." in text
    assert f"Checkpoint {id_of(live, 'me/c1')} is me/c1, in /kept/c." in text
    assert "headstart probe --checkpoint me/c1" in text


def test_weights_sources_and_ids(live: Live) -> None:
    rte = live.store.target_named("rte").id
    asked = (
        "centroid",
        FAMILY,
        "--name",
        "me/c2",
        "--source",
        "rte",
        "--source",
        "mnli",
        "--no-wait",
        "--json",
    )
    job = json.loads(
        printed(live, *asked, "--target", str(rte), "--include-target-members", "--weights", "posterior")
    )["job"]
    assert len(job["params"]["weights"]) == 5
    assert job["params"]["told"]["weights"] == "posterior"
    between = ("centroid", FAMILY, "--name", "me/c3", "--members", "me/rte-0,me/rte-1", "--no-wait")
    assert "is queued" in printed(live, *between, "--weights", "1.5,-0.5")
    assert live.store.jobs(state="queued").items[-1].params["weights"] == [1.5, -0.5]


def test_what_cannot_be_is_refused(live: Live) -> None:
    one = ("centroid", FAMILY, "--name", "me/c9")
    assert "--region, --members and --source" in refused(live, *one, code=2)
    assert "--region, --members and --source" in refused(
        live, *one, "--region", "1", "--members", "a", code=2
    )
    assert "'half' is neither" in refused(live, *one, "--members", "a,b", "--weights", "half", code=2)
    assert "alone is meant" in refused(live, *one, "--members", "me/rte-0")
    assert "None is left" in refused(live, *one, "--members", "me/rte-0,me/rte-1", "--target", "rte")
    stored(live.store, checkpoints=(CheckpointDraft(family=FAMILY, name="me/taken"),))
    taken = refused(live, "centroid", FAMILY, "--name", "me/taken", "--members", "me/rte-0,me/rte-1")
    assert "is that of checkpoint" in taken


def test_weights_are_a_rule_or_numbers() -> None:
    assert read_weights(" uniform ") == "uniform"
    assert read_weights("0.5, .25,1e-1") == [0.5, 0.25, 0.1]
    for wrong in ("0.5;0.5", "nan,1", "inf,1", ""):
        with pytest.raises(typer.BadParameter):
            read_weights(wrong)


@pytest.mark.parametrize("command", ["regions", "centroid", "region-study"])
def test_help_has_an_example(live: Live, command: str) -> None:
    assert f"Example: headstart {command}" in printed(live, command, "--help")
