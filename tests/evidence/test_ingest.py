"""Imports from claim to report, on a real store."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from headstart.entities import Import, ImportBatch, ImportReport, ImportState
from headstart.errors import StoreUnavailable
from headstart.evidence import ingest
from headstart.evidence.ingest import UNEXPECTED, Errand, ImportLimits, run_next, summary
from headstart.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import FrozenClock, Web

LIMITS = ImportLimits(roots=(), allow_private=False, max_rows=1000, max_bytes=1 << 20, lease_seconds=60.0)
HEADER = "checkpoint,family,target,method,value\n"
ROWS = "acme/a,roberta-base,rte,finetune,0.75\nroberta-base,roberta-base,rte,finetune,0.5\n"


@pytest.fixture
def memory(clock: FrozenClock) -> Iterator[Store]:
    opened = Store("sqlite://", clock)
    yield opened
    opened.close()


def upload(store: Store, text: str, name: str = "history.csv", kind: str = "table") -> int:
    item = store.create_import(kind, "upload")
    store.append_upload(item.id, name, text.encode())
    return store.queue_import(item.id).id


def from_source(store: Store, source: str, kind: str = "table") -> int:
    return store.queue_import(store.create_import(kind, source).id).id


def run(store: Store, import_id: int, **limits: Any) -> Import:
    assert run_next(store, ImportLimits(**{**vars_of(LIMITS), **limits}))
    return store.get_import(import_id)


def vars_of(limits: ImportLimits) -> dict[str, Any]:
    return {name: getattr(limits, name) for name in limits.__dataclass_fields__}


def test_nothing_to_do_is_said(memory: Store) -> None:
    assert not run_next(memory, LIMITS)


def test_an_upload_is_stored_and_reported(store: Store) -> None:
    done = run(store, upload(store, HEADER + ROWS))
    assert done.state is ImportState.SUCCEEDED
    assert done.report is not None
    assert (done.report.rows_read, done.report.scores_stored, done.report.checkpoints_new) == (2, 2, 2)
    assert done.report.files == {"history.csv": hashlib.sha256((HEADER + ROWS).encode()).hexdigest()}
    assert summary(done.report) == "2 scores stored, 0 of them quarantined; 0 were stored before."
    family = store.family("roberta-base")
    assert store.checkpoint(family.vanilla_id or 0).name == "roberta-base"
    assert not run_next(store, LIMITS)


def test_the_same_file_again_changes_nothing_and_says_so(store: Store) -> None:
    run(store, upload(store, HEADER + ROWS))
    version = store.evidence_version()
    again = run(store, upload(store, HEADER + ROWS, "renamed.csv"))
    assert again.report is not None
    assert (again.report.scores_stored, again.report.scores_unchanged) == (0, 2)
    assert summary(again.report) == "Nothing new: all 2 scores were stored before."
    assert store.evidence_version() == version


def test_an_appended_history_stores_its_new_rows(store: Store) -> None:
    run(store, upload(store, HEADER + ROWS))
    grown = run(store, upload(store, HEADER + ROWS + ROWS.replace("0.75", "0.7").replace("0.5", "0.6")))
    assert grown.report is not None
    assert (grown.report.scores_stored, grown.report.scores_unchanged) == (2, 2)
    scores = store.scores(family="roberta-base").items
    assert sorted((s.seed, s.value) for s in scores) == [(0, 0.5), (0, 0.75), (1, 0.6), (1, 0.7)]


def test_a_second_value_of_one_source_is_quarantined_and_of_another_source_is_not(store: Store) -> None:
    seeded = "checkpoint,family,target,method,value,seed,source\nacme/a,roberta-base,rte,finetune,"
    run(store, upload(store, f"{seeded}0.5,1,x\n"))
    other = run(store, upload(store, f"{seeded}0.6,1,y\n")).report
    assert other is not None
    assert (other.scores_stored, other.scores_quarantined) == (1, {})
    against = run(store, upload(store, f"{seeded}0.7,1,x\n")).report
    assert against is not None
    assert against.scores_quarantined == {"contradicts": 1}


def test_a_broken_row_stores_nothing_of_the_file(store: Store) -> None:
    failed = run(store, upload(store, HEADER + ROWS + "acme/b,roberta-base,rte,finetune,much\n"))
    assert failed.state is ImportState.FAILED
    assert failed.error is not None
    assert failed.error.startswith("history.csv, line 4, column 'value': 'much' is not a number.")
    assert store.families() == ()
    assert store.evidence_version() == 0


def test_a_suspect_value_is_stored_in_quarantine(memory: Store) -> None:
    report = run(memory, upload(memory, HEADER + ROWS.replace("0.75", "75"))).report
    assert report is not None
    assert (report.scores_stored, report.scores_quarantined) == (2, {"out_of_range": 1})
    assert "1 of them quarantined" in summary(report)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("/etc/passwd", "HEADSTART_ROOTS"),
        ("http://127.0.0.1:9/a.csv", "not a public address"),
        ("ftp://example.org/a.csv", "not an http or https address"),
    ],
)
def test_a_source_that_may_not_be_read_fails_with_its_sentence(
    memory: Store, source: str, sentence: str
) -> None:
    failed = run(memory, from_source(memory, source))
    assert failed.state is ImportState.FAILED
    assert sentence in (failed.error or "")


def test_an_import_that_nobody_here_can_run_waits_for_a_process_that_can(memory: Store) -> None:
    import_id = upload(memory, HEADER, kind="hub-thing")
    assert not run_next(memory, LIMITS)
    assert memory.get_import(import_id).state is ImportState.QUEUED
    seen: list[tuple[str, dict[str, Any]]] = []

    def read(errand: Errand) -> ImportBatch:
        seen.append((errand.source, errand.params))
        return ImportBatch(checkpoints=(), targets=(), scores=(), report=ImportReport(rows_read=7))

    assert run_next(memory, LIMITS, {"hub-thing": read})
    done = memory.get_import(import_id)
    assert done.state is ImportState.SUCCEEDED
    assert done.report == ImportReport(rows_read=7)
    assert seen == [("upload", {})]


def test_a_folder_under_a_root_and_the_starter_are_read(memory: Store, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEADER + ROWS)
    assert run(memory, from_source(memory, str(tmp_path)), roots=(tmp_path,)).state is ImportState.SUCCEEDED
    starter = from_source(memory, str(tmp_path))
    assert run(memory, starter, starter=str(tmp_path)).state is ImportState.SUCCEEDED
    assert run(memory, from_source(memory, str(tmp_path))).state is ImportState.FAILED


def test_a_url_is_read_when_private_ones_are_allowed(memory: Store, web: Web) -> None:
    web.serve("/history.csv", (HEADER + ROWS).encode())
    done = run(memory, from_source(memory, f"{web.url}/history.csv"), allow_private=True)
    assert done.state is ImportState.SUCCEEDED
    assert run(memory, from_source(memory, f"{web.url}/history.csv")).state is ImportState.FAILED


def test_limits_are_kept(memory: Store) -> None:
    assert "more than 10 bytes" in (run(memory, upload(memory, HEADER + ROWS), max_bytes=10).error or "")
    assert "1 rows" in (run(memory, upload(memory, HEADER + ROWS), max_rows=1).error or "")


# -- what goes wrong on our side


def test_an_unexpected_error_fails_the_import_without_internals(memory: Store) -> None:
    def read(_: Errand) -> ImportBatch:
        raise KeyError("secret")

    import_id = upload(memory, HEADER)
    with pytest.raises(KeyError):
        run_next(memory, LIMITS, {"table": read})
    failed = memory.get_import(import_id)
    assert (failed.state, failed.error) == (ImportState.FAILED, UNEXPECTED)


def test_an_import_outlives_a_store_that_does_not_answer(memory: Store, clock: FrozenClock) -> None:
    def read(_: Errand) -> ImportBatch:
        raise StoreUnavailable("The store does not answer.")

    import_id = upload(memory, HEADER + ROWS)
    with pytest.raises(StoreUnavailable):
        run_next(memory, LIMITS, {"table": read})
    assert memory.get_import(import_id).state is ImportState.RUNNING
    assert not run_next(memory, LIMITS)
    clock.move(61)
    assert run(memory, import_id).state is ImportState.SUCCEEDED


def test_progress_is_seen_and_a_lost_lease_ends_quietly(
    memory: Store, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, str]] = []

    def read(errand: Errand) -> ImportBatch:
        progress: Any = errand.progress
        progress(0.25, "reading")
        progress(0.5, "too soon to be stored")
        item = memory.get_import(import_id)
        seen.append((item.progress, item.stage))
        clock.move(61)
        assert memory.claim_import(60.0) is not None  # another worker takes over
        monkeypatch.setattr(ingest, "HEARTBEAT_SECONDS", 0.0)
        for _ in range(2):
            progress._next = 0.0
            progress(0.75, "late")
        raise AssertionError("the lease was lost and nobody noticed")

    import_id = upload(memory, HEADER)
    assert run_next(memory, LIMITS, {"table": read})
    assert seen == [(0.25, "reading")]
    taken = memory.get_import(import_id)
    assert (taken.state, taken.attempt, taken.error) == (ImportState.RUNNING, 2, None)
