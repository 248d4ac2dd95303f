"""`headstart backtest`: from a table or the store to tables, JSON, Markdown and pictures."""

from __future__ import annotations

import builtins
import json
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from headstart.evidence.ingest import ImportLimits, run_next
from headstart.settings import Settings
from headstart.store import Store, upgrade_schema
from service.backtest_cli import backtest
from service.client import Refused
from service.command import group

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

app = group("The command, by itself.")
app.callback()(lambda: None)  # so that it keeps its name beside no other
app.command("backtest")(backtest)


def write_table(path: Path, checkpoints: int = 14, targets: int = 5) -> Path:
    """One family as its owner would have it: three runs of the vanilla, one of every other checkpoint."""
    rng = np.random.default_rng(0)
    lines = ["checkpoint,family,target,method,value,seed,rows_tested"]
    quality = rng.normal(size=checkpoints)
    for t in range(targets):
        runs = [("base", seed, 0.7 + 0.005 * rng.normal()) for seed in range(3)]
        runs += [
            (f"a{m % 3}/m{m}", 0, 0.7 + 0.02 * quality[m] + 0.01 * rng.normal()) for m in range(checkpoints)
        ]
        lines += [f"{name},base,t{t},finetune,{round(v, 3)},{seed},1000" for name, seed, v in runs]
    probes = [("base", 0.5), *((f"a{m % 3}/m{m}", 0.5 + 0.05 * quality[m]) for m in range(checkpoints))]
    lines += [f"{name},base,mnli,linear_probe,{v:.3f},0,1000" for name, v in probes]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("backtest") / "scores.csv")


def run(*arguments: object, store: str = "sqlite://") -> Result:
    words = ["backtest", *(str(one) for one in arguments)]
    return CliRunner().invoke(app, words, env={"HEADSTART_STORE": store, "COLUMNS": "200"})


def printed(*arguments: object, **options: Any) -> str:
    result = run(*arguments, **options)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(*arguments: object, **options: Any) -> str:
    result = run(*arguments, **options)
    assert isinstance(result.exception, Refused), result.output
    assert result.stdout == ""
    return str(result.exception)


def test_a_table_is_imported_and_every_protocol_answers(table: Path) -> None:
    shown = printed("--source", table, "--jobs", 1)
    for title in ("P1. A target never seen", "P2. Checkpoints never", "P3. Checkpoints", "P4.", "P5.", "P6."):
        assert title in shown
    assert re.search(r"base +15 +14 +5 +70", shown)
    assert "linear probe" in shown
    assert "Processor time: fits" in shown


def test_processes_change_nothing_and_json_is_for_machines(table: Path) -> None:
    asked = ("--source", table, "--protocol", "p2", "--protocol", "p5", "--json")
    one, two = (json.loads(printed(*asked, "--jobs", jobs)) for jobs in (1, 2))
    assert one.pop("seconds").keys() == two.pop("seconds").keys()
    assert one == two
    assert {asked["protocol"] for asked in one["comparisons"]} == {"p2", "p5"}
    (whole,) = one["reliability"]
    assert whole["cells"] == 70
    assert 0.4 < whole["covers_80"] <= 1
    line = one["comparisons"][0]["lines"][0]
    assert set(line["overall"]) == {"value", "low", "high"}
    assert list(line["by_family"]) == ["base"]


def test_the_store_of_the_settings_is_read_and_not_changed(table: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    upgrade_schema(url)
    store = Store(url)
    store.queue_import(store.create_import("table", str(table)).id)
    run_next(store, ImportLimits.from_settings(Settings(roots=(table.parent,))))
    version = store.evidence_version()
    assert "| headstart |" in printed("--protocol", "p1", "--jobs", 1, "--markdown", store=url)
    assert store.evidence_version() == version
    assert store.newest_posteriors("any") == {}
    store.close()


def test_no_store_is_created(tmp_path: Path) -> None:
    said = refused(store=f"sqlite:///{tmp_path}/new/store.db")
    assert said.startswith(f"There is no store at '{tmp_path}/new/store.db'. Set HEADSTART_STORE to ")
    assert list(tmp_path.iterdir()) == []


def test_no_store_is_upgraded(tmp_path: Path) -> None:
    for found, said in (("0001", "The store has schema 0001; this"), (None, "The store has no schema; this")):
        path = tmp_path / f"{found}.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
            if found:
                connection.execute("INSERT INTO alembic_version VALUES (?)", (found,))
            connection.commit()
        before = path.read_bytes()
        assert refused(store=f"sqlite:///{path}").startswith(said)
        assert path.read_bytes() == before


def test_markdown_is_a_table_of_markdown(table: Path) -> None:
    text = printed("--source", table, "--protocol", "p1", "--jobs", 1, "--markdown")
    body = re.search(r"\| Spearman \| base \| mean.*\n((?:\|.*\n)+)", text)
    assert body is not None
    lines = body[1].splitlines()
    assert lines[0] == "| --- | --- | --- | --- |"
    assert lines[1].startswith("| headstart | ")
    assert {line.count("|") for line in lines} == {5}


def test_pictures_are_drawn(table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "plots"
    result = run("--source", table, "--jobs", 1, "--plot", folder, "--json")
    json.loads(result.stdout)
    assert {one.name for one in folder.iterdir()} == {"reliability.png", "cold_target.png", "sequence.png"}
    assert all(one.read_bytes().startswith(b"\x89PNG") for one in folder.iterdir())
    assert result.stderr.count("Wrote ") == 3


def test_a_picture_of_what_was_not_measured_is_not_drawn(table: Path, tmp_path: Path) -> None:
    printed("--source", table, "--protocol", "p5", "--jobs", 1, "--plot", tmp_path / "plots")
    assert [one.name for one in (tmp_path / "plots").iterdir()] == ["reliability.png"]


def test_without_matplotlib_it_says_what_to_install(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    said = refused("--source", table, "--protocol", "p5", "--jobs", 1, "--plot", tmp_path)
    assert said == "Plots need matplotlib. Install it with: pip install 'headstart-advice[plot]'"


def test_small_evidence_is_said_in_a_sentence(tmp_path: Path) -> None:
    small = write_table(tmp_path / "small.csv", checkpoints=3, targets=2)
    shown = printed("--source", small, "--jobs", 1)
    assert shown.count("base is too small") == 1
    assert "base is too small: for p1, p4, p6 it has 0 targets with 5 finetuned checkpoints (3 are" in shown
    assert "P1. A target" not in shown


def test_a_cut_leaves_as_many_checkpoints(table: Path) -> None:
    shown = json.loads(printed("--source", table, "--protocol", "p1", "--cut", 8, "--jobs", 1, "--json"))
    assert shown["families"] == [
        {"family": "base", "checkpoints": 9, "measured": 8, "targets": 5, "cells": 40}
    ]


def test_what_cannot_be_done_is_one_sentence(table: Path, tmp_path: Path) -> None:
    assert refused("--source", table, "--family", "gpt") == "There is no family 'gpt'. Known: base."
    nothing = f"sqlite:///{tmp_path}/empty.db"
    upgrade_schema(nothing)
    assert refused(store=nothing).startswith("There are no scores to test on.")
    assert refused("--kind", "table").startswith("--kind says what --source is.")
    assert refused("--source", table, "--markdown", "--json").endswith("Choose one.")
    assert "nowhere" in refused("--source", tmp_path / "nowhere")
    assert run("--protocol", "p7").exit_code == 2
