"""`headstart probe` and `headstart checkpoints`, against a service, with the test as the worker."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from job_service import BROKEN, NOT_FOR_IT, measuring
from structlog.testing import capture_logs
from typer.testing import CliRunner

from headstart.entities import CheckpointDraft, ImportBatch, ImportReport
from headstart.method import Measurement
from service import following, probe_cli
from service.checkpoints_cli import local_path
from service.cli import app
from service.probe_cli import target_name_of
from tests.checkpoint_folders import CARD, make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result
    from live_service import Live

    from headstart.entities import Failure
    from headstart.store import Store

DETAILS = {
    "null": {"mean": 0.25, "high": 0.3125, "p": 0.0476, "draws": 20},
    "device": "a processor",
    "dtype": "bfloat16",
    "tokens": 12345,
    "truncated": 0.125,
    "cached": True,
}
PROBE = ("probe", "--checkpoint", "roberta-base", "--target", "rte", "--method", "gauge")


@pytest.fixture
def live(store: Store, tmp_path: Path) -> Iterator[Live]:
    make_folder(tmp_path / "roots" / "mine", card=CARD)
    (tmp_path / "roots" / "other").mkdir()
    with (
        capture_logs(),
        measuring(store, roots=(tmp_path / "roots",), embedded_worker=True) as live,
    ):
        yield live


def run(live: Live, *arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"HEADSTART_URL": live.url, "COLUMNS": "200"})


def printed(live: Live, *arguments: str) -> str:
    result = run(live, *arguments)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    return " ".join(result.stdout.split())


def refused(live: Live, *arguments: str) -> str:
    result = run(live, *arguments)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


@contextmanager
def working(store: Store, *ends: Measurement | Failure) -> Iterator[None]:
    """A worker that ends the jobs that come in this way, one after the other."""

    def work() -> None:
        for end in ends:
            until = time.monotonic() + 10
            while (job := store.claim_job(("cpu", "gpu"), 60)) is None and time.monotonic() < until:
                time.sleep(0.02)
            assert job is not None
            if isinstance(end, Measurement):
                store.finish_job(job.id, job.attempt, end, seconds=2.5)
            else:
                store.fail_job(job.id, job.attempt, end)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def test_a_probe_waits_and_prints_value_null_and_cost(live: Live) -> None:
    found = Measurement(value=0.625, stderr=0.0125, rows_tested=277, details=DETAILS)
    with working(live.store, found):
        table = printed(live, *PROBE)
    assert "roberta-base on rte" in table
    row = "gauge 0.6250 ± 0.0125 0.2500 0.3125 0.048 277 12,345 12.5% 2.5 (cached) a processor, bfloat16"
    assert row in table
    assert printed(live, *PROBE) == table  # the score is there


def test_a_score_that_tells_little_is_shown_all_the_same(live: Live) -> None:
    with working(live.store, Measurement(value=0.5)):
        assert "gauge 0.5000 – – – – – – 2.5 –" in printed(live, *PROBE)


def test_every_layer_has_a_row(live: Live) -> None:
    one = {"value": 0.5, "stderr": 0.01, "null": DETAILS["null"]}
    layers = {"layers": {"last": one, "mean": one | {"value": 0.75}}}
    with working(live.store, Measurement(value=0.5, stderr=0.01, details=DETAILS | layers)):
        table = printed(live, *PROBE)
    assert "gauge (layer last) 0.5000 ± 0.0100" in table
    assert "gauge (layer mean) 0.7500 ± 0.0100 0.2500 0.3125 0.048" in table


def test_not_applicable_is_an_outcome_with_its_sentence(live: Live) -> None:
    with working(live.store, NOT_FOR_IT):
        assert "gauge: NotApplicable. The target has one class only." in printed(live, *PROBE)
    assert "NotApplicable" in printed(live, *PROBE)


def test_a_failure_is_told_and_fails(live: Live) -> None:
    with working(live.store, BROKEN):
        result = run(live, *PROBE)
    assert result.exit_code == 1
    assert "gauge: Unexpected. The method broke off with KeyError: 'label'." in " ".join(
        result.stdout.split()
    )
    assert "gauge (job 1, failed)" in result.stderr
    assert "headstart jobs show 1" in result.stderr


def test_parameters_are_passed_on(live: Live) -> None:
    problem = refused(live, *PROBE, "--layers", "last", "--max-rows", "7")
    assert "layers" in problem
    printed(live, *PROBE, "--seed", "5", "--no-wait")
    assert live.store.job(1).seed == 5


def test_no_wait_says_which_jobs(live: Live) -> None:
    assert "gauge: job 1 is queued." in printed(live, *PROBE, "--no-wait")
    answer = json.loads(run(live, *PROBE, "--no-wait", "--json").stdout)
    assert [(one["status"], one["job"]["id"]) for one in answer["items"]] == [("joined", 1)]


def test_json_has_jobs_and_scores(live: Live) -> None:
    with working(live.store, Measurement(value=0.5, stderr=0.25, details=DETAILS)):
        (item,) = json.loads(run(live, *PROBE, "--json").stdout)["items"]
    assert (item["method"], item["job"]["state"]) == ("gauge", "succeeded")
    assert item["score"]["provenance"]["null"]["high"] == 0.3125


def test_a_folder_is_registered_and_then_known(live: Live, tmp_path: Path) -> None:
    path = str(tmp_path / "roots" / "mine")
    arguments = ("probe", "--checkpoint", path, "--target", "rte", "--method", "gauge")
    with working(live.store, Measurement(value=0.5)):
        assert "mine on rte" in printed(live, *arguments)
    (job,) = live.store.jobs().items
    assert (job.checkpoint, job.family) == (path, "roberta-base")
    assert "0.5000" in printed(live, *arguments)
    assert len(live.store.jobs().items) == 1


def test_what_is_wrong_is_one_sentence(live: Live, tmp_path: Path) -> None:
    other = tmp_path / "roots" / "other"
    arguments = ("--target", "rte", "--method", "gauge")
    assert "There is no model.safetensors" in refused(live, "probe", "--checkpoint", str(other), *arguments)
    assert "There is no folder" in refused(live, "probe", "--checkpoint", f"{other}/x", *arguments)
    assert "HEADSTART_ROOTS" in refused(live, "probe", "--checkpoint", "/etc", *arguments)
    assert "roberta-base" in refused(live, "probe", "--checkpoint", "roberta-bse", *arguments)
    assert run(live, "probe", *arguments).exit_code == 2


def test_what_the_service_does_not_know_is_asked_of_the_hub(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "HINT_SECONDS", 0.0)
    found = CheckpointDraft(family="f", name="me/mine", revision="c1")
    batch = ImportBatch(checkpoints=(found,), targets=(), scores=(), report=ImportReport(), registers=found)

    def answer() -> None:
        item = live.store.claim_import(60, ("hub-checkpoint",))
        assert item is not None
        assert (item.source, item.params["family"]) == ("me/mine", None)
        assert live.store.finish_import(item.id, item.attempt, batch) is not None

    timer = threading.Timer(1.5, answer)
    timer.start()
    asked = ("probe", "--checkpoint", "me/mine", "--target", "rte", "--method", "gauge", "--no-wait")
    result = run(live, *asked)
    timer.join()
    assert "gauge: job 1 is queued." in result.stdout, result.output
    assert "'me/mine' yet: a worker asks the hub for it." in result.stderr
    assert "Start one with: headstart serve --worker" in result.stderr
    assert live.store.job(1).checkpoint == "me/mine"
    assert run(live, *asked).stderr == ""  # it is known now


def test_a_checkpoint_that_is_known_is_asked_of_nobody(live: Live) -> None:
    before = live.store.imports().items
    printed(
        live,
        *("probe", "--checkpoint", "alice/rob-mnli", "--target", "rte", "--method", "gauge", "--no-wait"),
    )
    assert live.store.job(1).checkpoint == "alice/rob-mnli"
    assert live.store.imports().items == before


def test_what_is_not_there_comes_with_its_remedy(live: Live) -> None:
    before = live.store.imports().items
    sentence = refused(live, "probe", "--checkpoint", "textattack/mnli", "--target", "nyu-mll/glue")
    assert "There is no target 'nyu-mll/glue'." in sentence
    assert "headstart targets add NAME" in sentence
    assert "--hub ID --config CONFIG" in sentence
    assert "Nearest known: rte." in refused(live, *PROBE[:3], "--target", "rt")
    assert live.store.imports().items == before  # nothing was registered in vain
    unknown = ("jobs", "submit", "gauge", "--checkpoint", "roberta-bse", "--target", "rte")
    sentence = refused(live, *unknown)
    assert "Nearest known: roberta-base. Register it by POST /checkpoints, or headstart check" in sentence
    assert "headstart targets add" in refused(live, *unknown[:4], "roberta-base", "--target", "sst2")


def test_rows_are_named_by_their_file_or_folder(live: Live, tmp_path: Path) -> None:
    rows = "text,label\n" + "".join(f"row {n} of it,{'ab'[n % 2]}\n" for n in range(60))
    file = tmp_path / "roots" / "tickets" / "train.csv"
    file.parent.mkdir()
    file.write_text(rows)
    asked = ("probe", "--checkpoint", "roberta-base", "--method", "gauge", "--no-wait", "--target")
    printed(live, *asked, str(file))
    printed(live, *asked, str(file), "--target-name", "mine")
    assert {job.target for job in live.store.jobs().items} == {"tickets", "mine"}
    assert run(live, *asked, "rte", "--target-name", "mine").exit_code == 2


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/tickets.csv.gz", "tickets"),
        ("/data/tickets", "tickets"),
        ("/data/.tickets.csv", "tickets"),
        ("/data/tickets/train.csv", "tickets"),
        ("/data/tickets/dev/Test.jsonl", "tickets"),
        ("/train.csv", "train"),
    ],
)
def test_a_role_names_no_rows(path: str, name: str) -> None:
    assert target_name_of(Path(path)) == name


def test_who_waits_is_told_that_no_worker_is_there(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_cli, "HINT_SECONDS", 0.0)
    threading.Timer(1.0, live.store.cancel_job, [1]).start()
    sentence = refused(live, *PROBE)
    assert "No worker has taken the jobs yet" in sentence
    assert "gauge (job 1, cancelled)" in sentence


def test_a_family_is_queued_and_counted(live: Live) -> None:
    table = printed(live, "probe", "--family", "roberta-base", "--target", "rte", "--method", "gauge")
    assert "gauge of the 2 checkpoints of roberta-base on rte" in table
    assert "queued 2 joined 0 scored 0 skipped 0" in table
    again = run(live, "probe", "--family", "roberta-base", "--target", "rte", "--method", "gauge", "--json")
    assert json.loads(again.stdout)["counts"] == {"queued": 0, "joined": 2, "scored": 0}
    two = ("--method", "gauge", "--method", "logme")
    assert run(live, "probe", "--family", "roberta-base", "--target", "rte", *two).exit_code == 2


# -- headstart checkpoints


def test_checkpoints_are_listed_as_ever(live: Live) -> None:
    assert "alice/rob-mnli" in printed(live, "checkpoints", "--family", "roberta-base", "--search", "mnli")
    assert len(json.loads(run(live, "checkpoints", "--json").stdout)["items"]) == 4


def test_a_checkpoint_is_added_and_shown(live: Live, tmp_path: Path) -> None:
    path = str(tmp_path / "roots" / "mine")
    page = printed(live, "checkpoints", "add", path, "--name", "mine", "--family", "f", "--vanilla")
    assert "family f (it is the vanilla)" in page
    assert "head sequence classification with 3 labels" in page
    assert "license apache-2.0" in page
    assert "2 layers, 4 wide, 10 tokens known" in page
    assert "It is the vanilla of the family 'f'." in page
    assert "It was known already." in printed(live, "checkpoints", "add", path, "--name", "mine")


def test_a_checkpoint_of_the_hub_is_left_to_a_worker(live: Live) -> None:
    page = printed(live, "checkpoints", "add", "me/mine", "--revision", "v1", "--no-wait")
    assert "Import 2 is queued" in page
    assert live.store.get_import(2).params["revision"] == "v1"
    assert run(live, "checkpoints", "add", "/x", "--revision", "v1").exit_code == 2


def test_who_waits_for_an_import_is_told_what_for(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "HINT_SECONDS", 0.0)

    def fail() -> None:
        item = live.store.claim_import(60, ("hub-checkpoint",))
        assert item is not None
        live.store.fail_import(item.id, item.attempt, "The hub has no such checkpoint.")

    timer = threading.Timer(1.5, fail)
    timer.start()
    sentence = refused(live, "checkpoints", "add", "me/mine")
    timer.join()
    assert "No process has begun import 2 yet. Start one with: headstart serve --worker" in sentence
    assert "The hub has no such checkpoint." in sentence


def test_what_means_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "gpt2").mkdir()
    assert local_path("models/mine") == tmp_path / "models" / "mine"
    assert local_path("~/x") == local_path("./x") == tmp_path / "x"
    assert [local_path(name) for name in ("gpt2", "models/other", "12", "owner/name")] == [None] * 4
