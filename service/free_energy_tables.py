"""Free energy along a run as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.free_energy_run import NO_VALUE
from service.tables import say, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.free_energy_run import Choice, Estimate, Point

RIGHT = ("step", "WBIC", "llc", "n L", "trace", "loss")
LEGEND = (
    "WBIC = n L + llc / beta, in nats of the n rows read, ± its Monte Carlo error; less is better. n L: "
    "their loss at the checkpoint; llc: local learning coefficient; trace: of the loss's Hessian; loss: nats "
    "a row."
)


def show_run(target: str, points: Sequence[Point], choice: Choice) -> None:
    """Each checkpoint with its numbers, why some have none, and which to finetune from."""
    columns = ("checkpoint", "step", "WBIC", "llc", "n L", "trace", "loss", "verdict")
    show(f"Free energy on {target}", columns, map(_row, points), RIGHT)
    if any(one.wbic for one in points):
        say(LEGEND)
    for one in points:
        if one.why:
            say(f"{one.name} ({one.verdict}): {one.why}")
        for note in one.notes:
            say(f"{one.name}: {note}")
    say(choice.sentence)


def show_queued(points: Sequence[Point]) -> None:
    """What became of each request, where nobody waits."""
    for one in points:
        if one.score is not None:
            say(f"{one.name}: measured already, score {one.score['id']} is {one.score['value']:.2f}.")
        elif one.job is not None:
            found = f"found {NO_VALUE}" if one.verdict == NO_VALUE else f"is {one.verdict}"
            say(f"{one.name}: job {one.job['id']} {found}.{_why(one)}")
        else:
            say(f"{one.name}: {one.verdict}.{_why(one)}")
    say(
        "Follow them with: headstart jobs list --method free_energy. Then ask again: what is there is reused."
    )


def _why(point: Point) -> str:
    return f" {point.why}" if point.why else ""


def _row(point: Point) -> list[str | int | None]:
    beside = point.beside
    return [
        point.name,
        point.step,
        _cell(point.wbic, ".2f"),
        _cell(beside["llc"], ".2f"),
        _cell(beside["nl"] and beside["nl"]._replace(stderr=None), ".2f"),
        _cell(beside["trace"], ".4g"),
        _cell(beside["loss"], ".4f"),
        f"{point.verdict}, see below" if point.why else point.verdict,
    ]


def _cell(one: Estimate | None, form: str) -> str | None:
    if one is None:
        return None
    error = "" if one.stderr is None else f" ± {one.stderr:{form}}"
    return f"{one.value:{form}}{error}"
