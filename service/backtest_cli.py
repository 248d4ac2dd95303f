"""`headstart backtest`: how right is the advice, on the scores of this machine's store or of a table?

It reads the store itself, of HEADSTART_STORE, and changes nothing: it creates no store and upgrades none.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated

import typer

from service import tables
from service.client import Refused
from service.command import AsJson, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headstart.recommend.backtest.report import Report
    from headstart.recommend.backtest.study import Result, Study, Task

Protocol = StrEnum("Protocol", ["p1", "p2", "p3", "p4", "p5", "p6"])
Kind = StrEnum("Kind", {"MODEL_RECYCLING": "model-recycling", "TABLE": "table"})


def backtest(
    *,
    family: Annotated[list[str] | None, typer.Option(help="Only this family; may be repeated.")] = None,
    protocol: Annotated[
        list[Protocol] | None,
        typer.Option(
            help="Only this one; may be repeated. p1: order for a target never seen; p2, p3: order of "
            "checkpoints finetuned on no target, on three; p4: order once a few were measured; p5: honesty; "
            "p6: what to finetune next."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="A folder, file or URL of scores, instead of the store [HEADSTART_STORE]."),
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option(help="What the source is; a file is a table unless this says otherwise.")
    ] = None,
    cut: Annotated[
        int | None,
        typer.Option(min=1, help="Keep this many well-measured checkpoints per family, at random."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes. The results are the same.")] = 2,
    plot: Annotated[Path | None, typer.Option(help="Write pictures into this folder.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of tables.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hold out what was measured, foretell it, and compare: with baselines, and 95 % intervals.

    Example: headstart backtest --protocol p1 --protocol p5
    """
    if markdown and as_json:
        raise Refused("--markdown and --json are two ways to print the same. Choose one.")
    if kind is not None and source is None:
        raise Refused("--kind says what --source is. Name a source, or leave --kind out to read the store.")
    # One thread a process: more of them for matrices this small fight over the cores, and round differently.
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(threads, "1")
    from headstart.recommend.backtest.assemble import report  # noqa: PLC0415 - brings numpy and the store
    from headstart.recommend.backtest.served import Served  # noqa: PLC0415
    from headstart.recommend.backtest.study import PROTOCOLS, prepared  # noqa: PLC0415
    from service.backtest_evidence import materials  # noqa: PLC0415

    found = materials(source, kind, family or (), cut, seed)
    wanted = [one for one in PROTOCOLS if one in (protocol or PROTOCOLS)]
    study = prepared(found, Served(), families=family or (), protocols=wanted, seed=seed)
    _print(report(study, _results(study, jobs)), plot, markdown=markdown, as_json=as_json)


def _print(made: Report, plot: Path | None, *, markdown: bool, as_json: bool) -> None:
    """Draw the pictures that were asked for, then print the report."""
    from dataclasses import asdict  # noqa: PLC0415

    from service import backtest_plots, backtest_tables  # noqa: PLC0415 - brings what a client does without

    if plot is not None:
        for path in backtest_plots.draw(made, plot):
            tables.console(stderr=True).print(f"Wrote {path}", markup=False, soft_wrap=True)
    if as_json:
        print_json(asdict(made))
    elif markdown:
        typer.echo(backtest_tables.markdown(made))
    else:
        backtest_tables.show(made)


def _results(study: Study, jobs: int) -> Iterator[tuple[Task, Result]]:
    """Do every task, `jobs` at a time, and say on stderr how far it is."""
    from rich.progress import Progress  # noqa: PLC0415

    from headstart.recommend.backtest.study import tasks  # noqa: PLC0415

    todo = tasks(study)
    console = tables.console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("Holding out and foretelling", total=len(todo))
        for one in _done(study, todo, jobs):
            progress.advance(bar)
            yield one


def _done(study: Study, todo: Sequence[Task], jobs: int) -> Iterator[tuple[Task, Result]]:
    """In this process, or in new ones; in any order."""
    from concurrent.futures import ProcessPoolExecutor, as_completed  # noqa: PLC0415
    from multiprocessing import get_context  # noqa: PLC0415

    from headstart.recommend.backtest.study import done  # noqa: PLC0415

    if jobs == 1 or len(todo) < 2:
        yield from ((task, done(study, task)) for task in todo)
        return
    pool = ProcessPoolExecutor(
        min(jobs, len(todo)), mp_context=get_context("spawn"), initializer=_hold, initargs=(study,)
    )
    try:
        running = {pool.submit(_do, task): task for task in todo}
        for future in as_completed(running):
            yield running[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


_held: list[Study] = []  # of a process of the pool: too large to send with every task


def _hold(study: Study) -> None:
    _held[:] = [study]


def _do(task: Task) -> Result:
    from headstart.recommend.backtest.study import done  # noqa: PLC0415

    return done(_held[0], task)
