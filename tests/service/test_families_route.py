from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from job_service import finished, measuring, post
from structlog.testing import capture_logs

from headstart.entities import CheckpointDraft, ImportBatch, ImportReport, RowsDraft, TargetDraft
from service import family_probe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from live_service import Live

    from headstart.store import Store

ROBERTA = "/families/roberta-base/probe"
ASKED = {"target": "with rows", "method": "reader"}


def stored(store: Store, batch: ImportBatch) -> None:
    store.queue_import(store.create_import("table", "upload").id)
    claimed = store.claim_import(60)
    assert claimed is not None
    assert store.finish_import(claimed.id, claimed.attempt, batch) is not None


def with_checkpoints(store: Store, *drafts: CheckpointDraft) -> None:
    stored(store, ImportBatch(checkpoints=drafts, targets=(), scores=(), report=ImportReport()))


@pytest.fixture
def live(store: Store, tmp_path: Path) -> Iterator[Live]:
    """A service over a store of its own, with a target that has rows; and no worker."""
    with capture_logs(), measuring(store, methods=("jobs_method", "rows_method")) as live:
        rows = tmp_path / "rows"
        rows.write_bytes(b"as a worker reads them")
        draft = RowsDraft(target="with rows", fingerprint="d1", profile={"rows": {"test": 5}}, file=rows)
        targets = (TargetDraft(name="with rows"),)
        report = ImportReport()
        stored(store, ImportBatch(checkpoints=(), targets=targets, scores=(), report=report, rows=draft))
        yield live


def test_every_checkpoint_is_queued_the_vanilla_first(live: Live) -> None:
    answer = post(live, ROBERTA, ASKED | {"seed": 3, "priority": 7, "params": {"rows": 5}})
    assert (answer["family"], answer["target"], answer["method"]) == ("roberta-base", "with rows", "reader")
    assert (answer["checkpoints"], answer["skipped"], answer["notes"]) == (2, 0, [])
    assert answer["counts"] == {"queued": 2, "joined": 0, "scored": 0}
    jobs = [live.store.job(job_id) for job_id in answer["job_ids"]]
    assert [job.checkpoint for job in jobs] == ["roberta-base", "alice/rob-mnli"]
    assert {(job.seed, job.priority, job.params["rows"], job.target) for job in jobs} == {
        (3, 7, 5, "with rows")
    }


def test_asking_again_measures_what_is_left(live: Live) -> None:
    first = post(live, ROBERTA, ASKED)
    finished(live.store)
    again = post(live, ROBERTA, ASKED)
    assert again["counts"] == {"queued": 0, "joined": 1, "scored": 1}
    assert again["job_ids"] == first["job_ids"][1:]


def test_the_same_key_gives_the_same_answer(live: Live) -> None:
    headers = {"idempotency-key": "once"}
    first = live.http.post(ROBERTA, json=ASKED, headers=headers)
    again = live.http.post(ROBERTA, json=ASKED, headers=headers)
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    other = live.http.post("/families/org/bert/probe", json=ASKED, headers=headers)
    assert other.json()["family"] == "org/bert"


def test_checkpoints_without_weights_are_skipped_and_named(live: Live) -> None:
    nameless = [CheckpointDraft(family="roberta-base", name=f"my run ({n})") for n in range(25)]
    with_checkpoints(live.store, *nameless)
    answer = post(live, ROBERTA, ASKED)
    assert (answer["counts"]["queued"], answer["skipped"], answer["checkpoints"]) == (2, 25, 27)
    assert len(answer["first_skipped"]) == 20
    assert answer["first_skipped"][0]["checkpoint"] == "my run (0)"
    assert "is no hub id" in answer["first_skipped"][0]["reason"]


def test_a_family_without_a_vanilla_that_can_be_measured_is_told(live: Live) -> None:
    with_checkpoints(live.store, CheckpointDraft(family="f", name="a/b"))
    (note,) = post(live, "/families/f/probe", ASKED)["notes"]
    assert "has no vanilla yet" in note
    with_checkpoints(live.store, CheckpointDraft(family="g", name="our base", is_vanilla=True))
    answer = post(live, "/families/g/probe", ASKED)
    assert "'our base' cannot be measured" in answer["notes"][0]
    assert answer["counts"]["queued"] == 0


def test_revisions_of_one_name_are_measured_each(live: Live) -> None:
    with_checkpoints(
        live.store, *(CheckpointDraft(family="f", name="a/b", revision=f"c{n}") for n in range(3))
    )
    answer = post(live, "/families/f/probe", ASKED)
    assert answer["counts"]["queued"] == 3
    found = {live.store.job(job_id).checkpoint_id for job_id in answer["job_ids"]}
    assert len(found) == 3


def test_thousands_are_submitted_in_several_transactions(live: Live) -> None:
    with_checkpoints(live.store, *(CheckpointDraft(family="f", name=f"a/{n}") for n in range(2300)))
    answer = post(live, "/families/f/probe", ASKED)
    assert answer["counts"] == {"queued": 2300, "joined": 0, "scored": 0}
    assert len(set(answer["job_ids"])) == 2300
    assert live.http.get("/jobs?page_size=500").json()["next_page_token"] is not None


def test_a_family_too_large_is_refused(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family_probe, "MOST_CHECKPOINTS", 1)
    assert "/jobs/batch" in live.problem("POST", ROBERTA, 413, json=ASKED)["detail"]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/families/roberta-bse/probe", ASKED, 404, "roberta-base"),
        (ROBERTA, ASKED | {"target": "with row"}, 404, "with rows"),
        (ROBERTA, ASKED | {"target": 999}, 404, "999"),
        (ROBERTA, ASKED | {"method": "readr"}, 404, "reader"),
        (ROBERTA, ASKED | {"method": "finetune"}, 422, "no probe"),
        (ROBERTA, ASKED | {"target": "rte"}, 409, "holds no rows of 'rte'"),
        (ROBERTA, ASKED | {"params": {"rows": 0}}, 422, "params.rows"),
        (ROBERTA, {"method": "reader"}, 422, "target"),
        (ROBERTA, ASKED | {"checkpoint": "x"}, 422, "checkpoint"),
    ],
)
def test_a_wrong_request_queues_nothing(
    live: Live, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    problem = live.problem("POST", path, status, json=body)
    assert said in problem["detail"]
    assert len(problem["errors"]) <= 1
    assert live.store.jobs().items == ()


# -- the same checks on single jobs


def test_a_job_that_needs_rows_is_refused_where_there_are_none(live: Live) -> None:
    job = {"method": "reader", "checkpoint": "roberta-base", "target": "rte"}
    problem = live.problem("POST", "/jobs", 409, json=job)
    assert "POST /targets" in problem["detail"]
    assert problem["errors"][0]["field"] == "target"
    by_id = job | {"target": live.store.target_named("rte").id}
    assert "'rte'" in live.problem("POST", "/jobs", 409, json=by_id)["detail"]
    post(live, "/jobs", job | {"target": "with rows"})
    post(live, "/jobs", job | {"method": "gauge"})


def test_a_job_that_needs_weights_is_refused_where_there_can_be_none(live: Live) -> None:
    with_checkpoints(live.store, CheckpointDraft(family="f", name="my run (3)"))
    (checkpoint,) = live.store.checkpoints_named(["my run (3)"])["my run (3)"]
    for wanted in ("my run (3)", checkpoint.id):
        job = {"method": "gauge", "checkpoint": wanted, "target": "rte"}
        problem = live.problem("POST", "/jobs", 409, json=job)
        assert "POST /checkpoints" in problem["detail"]
        assert problem["errors"][0]["field"] == "checkpoint"


def test_a_batch_names_each_place_and_takes_none(live: Live) -> None:
    right = {"method": "reader", "checkpoint": "roberta-base", "target": "with rows"}
    jobs = [right, right | {"target": "rte"}, right | {"checkpoint": 9999}]
    problem = live.problem("POST", "/jobs/batch", 409, json={"jobs": jobs})
    assert [one["field"] for one in problem["errors"]] == ["jobs.1.target", "jobs.2.checkpoint"]
    assert live.store.jobs().items == ()
