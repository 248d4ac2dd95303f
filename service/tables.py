"""Answers as tables for people. Piped, they come without colours and without being cut."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PIPED_WIDTH = 200


def console(*, stderr: bool = False) -> Console:
    """Open a console; a pipe gets a fixed width and no highlighting."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPED_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, emoji=False, soft_wrap=False)


def show(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()
) -> None:
    """Print a table; a cell of None is a dash. Columns named in `right` hold numbers."""
    table = Table(title=escape(title) or None, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*("–" if cell is None else escape(str(cell)) for cell in row))
    console().print(table)


def say(sentence: str) -> None:
    """Print a sentence, folded to the terminal."""
    console().print(escape(sentence))


def show_families(page: dict[str, Any]) -> None:
    """Families with the number of their checkpoints."""
    rows = ([f["name"], f["checkpoints"], f["vanilla_id"]] for f in page["items"])
    show("Families", ("family", "checkpoints", "vanilla id"), rows, right=("checkpoints", "vanilla id"))


def show_checkpoints(page: dict[str, Any]) -> None:
    """Checkpoints with what is known of them."""
    columns = ("id", "checkpoint", "family", "parameters", "license", "vanilla")
    rows = (
        [
            c["id"],
            c["name"],
            c["family"],
            count(c["parameters"]),
            c["license"],
            "yes" if c["is_vanilla"] else "",
        ]
        for c in page["items"]
    )
    show("Checkpoints", columns, rows, right=("id", "parameters"))


def show_targets(page: dict[str, Any]) -> None:
    """Targets with what is known of them."""
    columns = ("id", "target", "task", "metric", "train size", "classes", "rows tested")
    rows = (
        [t["id"], t["name"], t["task"], t["metric"], t["train_size"], t["classes"], t["rows_tested"]]
        for t in page["items"]
    )
    show("Targets", columns, rows, right=("id", "train size", "classes", "rows tested"))


def show_scores(page: dict[str, Any]) -> None:
    """Scores with their quarantine, if any."""
    columns = ("id", "checkpoint", "target", "method", "value", "seed", "quarantine", "note")
    rows = (
        [
            s["id"],
            s["checkpoint"],
            s["target"],
            s["method"],
            f"{s['value']:.4f}",
            s["seed"],
            s["quarantine"] or "",
            s["quarantine_note"] or "",
        ]
        for s in page["items"]
    )
    show("Scores", columns, rows, right=("id", "value", "seed"))


def show_more(page: dict[str, Any]) -> None:
    """Say that the list goes on."""
    if page["next_page_token"] is not None:
        say(f"These are the first {len(page['items'])}. There are more: raise --limit.")


def show_import(done: dict[str, Any]) -> None:
    """Show what a finished import did, and why scores were quarantined."""
    report = done["report"]
    quarantined: dict[str, int] = report["scores_quarantined"]
    counts = (
        ("rows read", report["rows_read"]),
        ("scores stored", report["scores_stored"]),
        ("quarantined", sum(quarantined.values())),
        ("realigned", report["scores_realigned"]),
        ("scores unchanged", report["scores_unchanged"]),
        ("new checkpoints", report["checkpoints_new"]),
        ("new targets", report["targets_new"]),
    )
    show(f"Import {done['id']}: {done['source']}", ("", "count"), counts, right=("count",))
    if quarantined:
        meanings = _meanings()
        rows = [(reason, n, meanings.get(reason)) for reason, n in sorted(quarantined.items())]
        show("Quarantined: stored, but left out", ("reason", "scores", "what it means"), rows, ("scores",))
        say("See them with: headstart scores --quarantined")
    for note in report["notes"]:
        say(note)
    if report["scores_stored"] == 0:
        say(f"Nothing changed: all {report['scores_unchanged']} scores were there already.")


def _meanings() -> dict[str, str]:
    from headstart.evidence.quality import REASONS  # noqa: PLC0415 - brings numpy, and only here

    return REASONS


def count(number: int | None) -> str | None:
    """Shorten a number of parameters: 124.6M."""
    if number is None:
        return None
    for limit, unit in ((10**9, "B"), (10**6, "M")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return str(number)
