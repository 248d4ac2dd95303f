"""`headstart free-energy`, against a service, with the test as the worker."""

from __future__ import annotations

import json
import zlib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from job_service import BROKEN
from race_service import racing
from structlog.testing import capture_logs
from test_probe_cli import working
from typer.testing import CliRunner

from headstart.failures import NotApplicable
from headstart.method import Measurement
from headstart.store import Store, upgrade_schema
from service import following
from service.cli import app
from tests.checkpoint_folders import CARD, make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result
    from live_service import Live

    from headstart.entities import Job

    Seed = tuple[str, str]

PNG = b"\x89PNG\r\n\x1a\n"
NOT_CONVERGED = NotApplicable(
    "The chains have not converged, so there is no value. The chains disagree: R-hat is 1.310, over 1.05.",
    "Ask for more draws (600 of each chain) or a smaller radius.",
).failure()


def measured(value: float, stderr: float = 1.0, loss: float = 0.5, **more: Any) -> Measurement:
    details = {
        "loss": {"value": loss, "stderr": 0.01},
        "nl": {"value": 1000 * loss, "stderr": 10.0},
        "wbic": {"value": value, "stderr": stderr},
        "llc": {"value": 12.25, "stderr": 0.5},
        "trace": {"value": 1234.5, "stderr": 20.0},
        "notes": [],
    }
    return Measurement(value=value, stderr=stderr, rows_tested=1000, details=details | more)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def live(place: Path) -> Iterator[Live]:
    """A service that may read three checkpoints of a run, with a target that has rows, and no worker.

    One for all: each test measures with a seed of its own.
    """
    for step in (500, 1000, 1500):
        folder = place / "roots" / f"checkpoint-{step}"
        make_folder(folder, card=CARD, tokenizer__json=b'{"step": %d}' % step)
    given = {"roots": (place / "roots",), "embedded_worker": True}
    url = f"sqlite:///{place}/store.db"
    upgrade_schema(url)
    with closing(Store(url)) as store, capture_logs(), racing(store, place, **given) as live:
        yield live


@pytest.fixture
def folders(place: Path) -> list[str]:
    """As a shell sorts them."""
    return [str(place / "roots" / f"checkpoint-{step}") for step in (1000, 1500, 500)]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.02)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Under which nothing is measured yet."""
    return "--seed", str(zlib.crc32(request.node.name.encode()))


def jobs_of(live: Live, seed: Seed) -> list[Job]:
    return [job for job in live.store.jobs(page_size=500).items if job.seed == int(seed[1])]


def run(live: Live, *arguments: str, target: str = "films") -> Result:
    command = ("free-energy", *arguments, "--target", target)
    return CliRunner().invoke(app, command, env={"HEADSTART_URL": live.url, "COLUMNS": "200"})


def printed(live: Live, *arguments: str) -> str:
    result = run(live, *arguments)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    return " ".join(result.stdout.split())


def refused(live: Live, *arguments: str, target: str = "films", code: int = 1) -> str:
    result = run(live, *arguments, target=target)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def test_a_run_is_scored_in_the_order_of_its_steps(live: Live, folders: list[str], seed: Seed) -> None:
    ends = [measured(900.0, loss=0.75), measured(700.0, loss=0.25), measured(710.5, loss=0.5)]
    with working(live.store, *ends):
        said = printed(live, *folders, *seed)
    assert "Free energy on films" in said
    rows = [
        "checkpoint-500 500 900.00 ± 1.00 12.25 ± 0.50 750.00 1234 ± 20 0.7500 ± 0.0100 converged",
        "checkpoint-1000 1000 700.00 ± 1.00 12.25 ± 0.50 250.00 1234 ± 20 0.2500 ± 0.0100 converged",
        "checkpoint-1500 1500 710.50 ± 1.00",
    ]
    places = [said.index(row) for row in rows]
    assert places == sorted(places)
    assert (
        "Finetune from checkpoint-1000: its WBIC is the smallest, 10.50 ± 1.41 nats below the next, "
        "checkpoint-1500. It is also the one of the least loss; the last checkpoint is checkpoint-1500, "
        "10.50 ± 1.41 nats above it. WBIC orders the checkpoints just as their loss does."
    ) in said
    jobs = jobs_of(live, seed)
    assert [str(job.checkpoint).rpartition("/")[2] for job in jobs] == [
        "checkpoint-500", "checkpoint-1000", "checkpoint-1500",
    ]  # fmt: skip
    assert {job.method for job in jobs} == {"free_energy"}
    assert {job.family for job in jobs} == {"roberta-base"}
    assert printed(live, *folders, *seed) == said  # the scores are there
    assert len(jobs_of(live, seed)) == 3


def test_what_did_not_converge_stops_none_of_the_others(live: Live, folders: list[str], seed: Seed) -> None:
    with working(live.store, measured(900.0), NOT_CONVERGED, measured(890.0)):
        said = printed(live, *folders, *seed)
    assert "checkpoint-1000 1000 – – – – – no value, see below" in said
    assert "checkpoint-1000 (no value): The chains have not converged" in said
    assert "R-hat is 1.310, over 1.05. Ask for more draws (600 of each chain)" in said
    assert "Finetune from checkpoint-1500" in said
    assert "checkpoint-1000 (no value)" in printed(live, *folders, *seed)  # it is not asked again
    assert len(jobs_of(live, seed)) == 3


def test_a_doubted_value_is_shown_and_chosen_by_nobody(live: Live, folders: list[str], seed: Seed) -> None:
    end = measured(700.0)
    doubted = Measurement(
        value=end.value,
        stderr=end.stderr,
        details=end.details | {"notes": ["The value may hang on the step."]},
        quarantine="not_converged",
        quarantine_note="1 chains are too few to tell: run 4 or more.",
    )
    with working(live.store, doubted):
        said = printed(live, folders[0], "--preset", "paper", *seed)
    assert "700.00 ± 1.00" in said
    assert "not converged, see below" in said
    assert "checkpoint-1000 (not converged): 1 chains are too few to tell" in said
    assert "checkpoint-1000: The value may hang on the step." in said
    assert "No checkpoint has a converged value" in said
    assert printed(live, folders[0], "--preset", "paper", *seed) == said  # it would come to the same
    (job,) = jobs_of(live, seed)
    assert (job.params["preset"], job.params["chains"]) == ("paper", 1)


def test_a_failure_is_told_and_fails_in_the_end(live: Live, folders: list[str], seed: Seed) -> None:
    with working(live.store, measured(900.0), BROKEN, measured(890.0)):
        result = run(live, *folders, *seed)
    assert result.exit_code == 1
    said = " ".join(result.stdout.split())
    assert "checkpoint-1000 (failed): Unexpected: The method broke off" in said
    assert "Finetune from checkpoint-1500" in said
    assert "There is no free energy of checkpoint-1000 (failed). See: headstart jobs show " in result.stderr


def test_json_and_the_curve(live: Live, folders: list[str], seed: Seed, tmp_path: Path) -> None:
    curve = tmp_path / "curve.png"
    with working(live.store, measured(900.0), NOT_CONVERGED, measured(899.0)):
        result = run(live, *folders, *seed, "--json", "--plot", str(curve))
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [one["step"] for one in told["items"]] == [500, 1000, 1500]
    assert [one["verdict"] for one in told["items"]] == ["converged", "no value", "converged"]
    assert told["items"][0]["wbic"] == {"value": 900.0, "stderr": 1.0}
    assert told["items"][0]["trace"] == {"value": 1234.5, "stderr": 20.0}
    assert told["items"][1]["wbic"] is None
    assert told["items"][0]["score"]["provenance"]["nl"]["value"] == 500.0
    choice = told["choice"]
    assert choice["best"] == choice["last"] == told["items"][2]["checkpoint"] == folders[1]
    assert choice["alike"] == [folders[2]]
    assert choice["above"]["value"] == 1.0
    assert "though free energy does not tell it from checkpoint-500" in choice["sentence"]
    assert curve.read_bytes().startswith(PNG)


def test_parameters_are_passed_on(live: Live, folders: list[str], seed: Seed) -> None:
    given = (
        "--objective",
        "masked-lm",
        "--radius",
        "0.5",
        "--chains",
        "6",
        "--draws",
        "400",
        "--rows",
        "200",
    )
    asked = (folders[0], *given, "--param", "burn_in=70", *seed, "--no-wait")
    said = printed(live, *asked)
    (job,) = jobs_of(live, seed)
    assert f"checkpoint-1000: job {job.id} is queued." in said
    wanted = {"objective": "masked-lm", "radius": 0.5, "chains": 6, "draws": 400, "rows": 200, "burn_in": 70}
    assert {name: job.params[name] for name in wanted} == wanted
    told = json.loads(run(live, *asked, "--json").stdout)
    assert [(one["verdict"], one["job"]["id"]) for one in told["items"]] == [("queued", job.id)]
    live.store.cancel_job(job.id)


def test_names_and_ids_do_as_well_as_folders(live: Live, seed: Seed) -> None:
    (one,) = live.store.checkpoints(search="org/c2").items
    with working(live.store, measured(900.0), measured(800.0)):
        said = printed(live, "org/c1", str(one.id), "--family", "roberta-base", *seed)
    assert "org/c1 – 900.00" in said
    assert "org/c2 – 800.00" in said
    assert "Finetune from org/c2" in said
    hinted = run(live, "org/c1", "org/c2", str(one.id), *seed)
    assert "is the same checkpoint as org/c2: it stands once." in " ".join(hinted.stderr.split())


def test_what_is_wrong_is_one_sentence(live: Live, folders: list[str], place: Path) -> None:
    roots = place / "roots"
    before = len(live.store.imports().items)
    assert "There is no folder like" in refused(live, f"{roots}/ckpt-*")
    assert "There is no target 'flims'. Nearest known: films." in refused(live, *folders, target="flims")
    (roots / "runs").mkdir(exist_ok=True)
    assert "There is no config.json in" in refused(live, str(roots / "runs"))
    assert len(live.store.imports().items) == before  # nothing was registered in vain
    assert "There is no folder" in refused(live, str(roots / "gone"))
    assert "roberta-base" in refused(live, "roberta-bse")
    families = refused(live, "org/c1", "bob/bert-qa")
    assert "and org/c1 is of roberta-base, bob/bert-qa of org/bert. Give --family" in families
    assert "is not of the family" in refused(live, "bob/bert-qa", "--family", "roberta-base")
    assert "holds no rows of 'rte'" in refused(live, folders[0], target="rte")
    assert not live.store.jobs(state="queued").items
    assert "--no-wait" in refused(live, folders[0], "--no-wait", "--plot", "x.png", code=2)
    assert "radius is nan: give a number." in refused(live, folders[0], "--radius", "nan", code=2)
    assert "beta is inf" in refused(live, folders[0], "--param", "beta=Infinity", code=2)
    assert "at most 300 characters" in refused(live, "x" * 5000)


def test_folders_are_told_from_ids_and_one_that_may_not_be_looked_into_is_left_to_the_service(
    live: Live, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    make_folder(place / "999999", card=CARD)
    assert "999999 is read as the id of a checkpoint. For the folder write ./999999." in refused(
        live, "999999"
    )

    def closed(_: Path) -> bool:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", closed)
        assert "HEADSTART_ROOTS" in refused(live, "/closed/checkpoint-1")


def test_parameters_that_contradict_each_other_are_refused_once(live: Live, folders: list[str]) -> None:
    said = refused(live, *folders, "--chains", "2")
    assert "2 chains cannot tell whether they have converged" in said
    assert said.endswith("So are the other 2.")
    assert "euler" in refused(live, folders[0], "--param", "precondition=0.9")
    assert "greater than" in refused(live, folders[0], "--radius", "-1")


def test_what_is_no_checkpoint_is_left_out_and_a_broken_one_refused(
    live: Live, place: Path, seed: Seed
) -> None:
    (place / "roots" / "runs").mkdir(exist_ok=True)
    (place / "roots" / "trainer_state.json").write_text("{}")
    broken = place / "roots" / "checkpoint-9"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    beside = [str(path) for path in sorted((place / "roots").iterdir())]
    with working(live.store, measured(900.0), measured(890.0), measured(895.0)):
        result = run(live, *beside, *seed)
    assert result.exit_code == 1
    said, warned = " ".join(result.stdout.split()), "".join(result.stderr.split())
    assert "checkpoint-9 9 – – – – – refused, see below" in said
    assert "Finetune from checkpoint-1000" in said
    assert "runs" in warned and "trainer_state.json" in warned  # noqa: PT018
    assert "Thereisnofreeenergyofcheckpoint-9(refused)." in warned


def test_a_run_is_priced_before_it_is_submitted(live: Live, folders: list[str]) -> None:
    assert "2 to run: about " in printed(live, "org/c1", "org/c2", "--dry-run")
    assert "registers nothing" in refused(live, folders[0], "--dry-run", code=2)
    assert not live.store.jobs(state="queued").items


# -- the wire around it


def test_the_method_says_what_its_values_are(live: Live) -> None:
    told = live.http.get("/methods/free_energy").json()
    assert (told["low"], told["high"], told["higher_is_better"]) == (None, None, False)
    assert told["unit"].startswith("nats")
    assert (told["runnable"], told["queue"]) == (True, "gpu")
    wanted = {"preset", "objective", "radius", "chains", "draws", "rows"}  # options of the command
    assert wanted < set(told["params"]["properties"])


@pytest.mark.parametrize(
    ("params", "field", "sentence"),
    [
        ({"chains": 2}, "params", "2 chains cannot tell whether they have converged"),
        ({"radius": 1, "localisation": 2}, "params", "radius is 1 and localisation 2: give one."),
        ({"preset": "quick"}, "params.preset", "'converged' or 'paper', but is \"quick\"."),
        ({"draws": 5}, "params.draws", "greater than or equal to 24, but is 5."),
        ({"gamma": 1}, "params.gamma", "There is no such field."),
    ],
)
def test_wrong_parameters_are_told_in_sentences(
    live: Live, params: dict[str, Any], field: str, sentence: str
) -> None:
    asked = {"method": "free_energy", "checkpoint": "org/c1", "target": "films", "params": params}
    (problem,) = live.problem("POST", "/jobs", 422, json=asked)["errors"]
    assert problem["field"] == field
    assert sentence in problem["message"]


def test_longer_chains_cost_more(live: Live) -> None:
    def price(**params: Any) -> float:
        asked = {"method": "free_energy", "checkpoint": "org/c1", "target": "films", "seed": 77}
        answer = live.http.post("/jobs", json=asked | {"params": params, "dry_run": True}).json()
        return float(answer["seconds"])

    assert price() < price(draws=100_000) < price(draws=100_000, chains=64)


def test_it_is_one_more_probe_as_well(live: Live, seed: Seed) -> None:
    command = ("probe", "--checkpoint", "org/c3", "--target", "films", "--method", "free_energy", *seed)
    with working(live.store, measured(900.0)):
        result = CliRunner().invoke(app, command, env={"HEADSTART_URL": live.url, "COLUMNS": "200"})
    assert "free_energy 900.0000 ± 1.0000" in " ".join(result.stdout.split()), result.output
