"""`headstart`: the service's command, and an HTTP client for people."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from service import (
    advice_tables,
    backtest_cli,
    checkpoints_cli,
    free_energy_cli,
    jobs_cli,
    keys_cli,
    probe_cli,
    race_cli,
    regions_cli,
    tables,
    targets_cli,
)
from service.client import Client, Refused
from service.command import (
    DEFAULT_URL,
    AsJson,
    Limit,
    Url,
    given,
    group,
    opened,
    print_json,
    quoted,
    show_page,
)
from service.following import ended

MODEL_RECYCLING_FILES = ("models_tested.csv", "models_results_*_pretrain.csv")


class _OneSentence(TyperGroup):
    """A failure is one sentence on stderr and exit code 1, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Refused as error:
            tables.console(stderr=True).print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
            raise typer.Exit(1) from None


app = group(
    "Which base model should I start my finetune from?\n\nStart with: headstart serve",
    no_args_is_help=True,
    cls=_OneSentence,
)
importing = group("Import scores: published tables, or your own finetuning history.", no_args_is_help=True)
scoring = group("List the scores; set and lift quarantine.", invoke_without_command=True)
app.add_typer(importing, name="import")
app.add_typer(scoring, name="scores")
app.add_typer(checkpoints_cli.app, name="checkpoints")
app.add_typer(targets_cli.app, name="targets")
app.command("probe")(probe_cli.probe)
app.command("free-energy")(free_energy_cli.free_energy)
app.command("race")(race_cli.race)
app.command("regions")(regions_cli.regions)
app.command("centroid")(regions_cli.centroid)
app.command("region-study")(regions_cli.region_study)
app.command("backtest")(backtest_cli.backtest)
app.add_typer(jobs_cli.app, name="jobs")
app.add_typer(keys_cli.app, name="keys")


def main() -> None:
    """Run the command line."""
    app()


@app.command("serve")
def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to serve on [HEADSTART_HOST].")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one [HEADSTART_PORT].")] = None,
    logs: Annotated[bool, typer.Option("--logs", help="Write JSON log lines to stderr.")] = False,
    worker: Annotated[
        bool, typer.Option("--worker", help="Run jobs as well, in a worker process beside the service.")
    ] = False,
) -> None:
    """Serve on this machine, with the settings of the environment (HEADSTART_*).

    Example: headstart serve --worker --port 9000
    """
    from service.serving import serve  # noqa: PLC0415 - the client commands need none of it

    serve(host=host, port=port, logs=logs, worker=worker)


@app.command()
def recommend(
    *,
    family: Annotated[str | None, typer.Option(help="Only checkpoints of this family.")] = None,
    target: Annotated[str | None, typer.Option(help="A known target, by name or id.")] = None,
    task: Annotated[str | None, typer.Option(help="Of a target never seen: its task.")] = None,
    train_size: Annotated[int | None, typer.Option(help="Of a target never seen: rows to train on.")] = None,
    classes: Annotated[int | None, typer.Option(help="Of a target never seen: number of classes.")] = None,
    limit: Annotated[int | None, typer.Option(help="How many candidates.")] = None,
    max_parameters: Annotated[int | None, typer.Option(help="Only checkpoints up to this size.")] = None,
    license: Annotated[list[str] | None, typer.Option(help="Only this license; may be repeated.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Not this checkpoint; may be repeated.")] = None,
    worth: Annotated[float | None, typer.Option(help="Least gain, in points, worth a change.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say where each expected gain comes from.")
    ] = False,
    next_jobs: Annotated[int | None, typer.Option(help="How many measurements to propose, up to 20.")] = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Name the ones that none beats in score, size and cost at once.")
    ] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Ask which checkpoint to start from.

    Example: headstart recommend --family roberta-base --target rte --limit 5 --explain --next-jobs 5
    """
    described = {"task": task, "train_size": train_size, "classes": classes}
    named = {} if target is None else {"id": int(target)} if target.isdecimal() else {"name": target}
    question = {
        "family": family,
        "target": given(named | described) or None,
        "limit": limit,
        "max_parameters": max_parameters,
        "licenses": license or None,
        "exclude": exclude or None,
        "worth": worth,
        "explain": explain or None,
        "next_jobs": next_jobs,
        "pareto": pareto or None,
    }
    with Client(url) as client:
        advice = client.request("POST", "/recommend", json=given(question))
    if as_json:
        print_json(advice)
    else:
        advice_tables.show_advice(advice)


@app.command()
def families(
    name: Annotated[str | None, typer.Argument(help="Show the ranking of this family.")] = None,
    limit: Limit = 50,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the families, or show the ranking of one, and how well each static score foretells gain in it.

    Example: headstart families roberta-base --limit 10
    """
    with Client(url) as client:
        page = client.listed("/families" if name is None else f"/families/{quoted(name)}/ranking", {}, limit)
        family = None if name is None or as_json else client.request("GET", f"/families/{quoted(name)}")
    if as_json:
        print_json(page)
    elif family is None:
        tables.show_families(page)
    else:
        advice_tables.show_ranking(family["name"], page)
        advice_tables.show_static_scores(family["static_scores"])


@scoring.callback()
def scores(
    ctx: typer.Context,
    *,
    family: Annotated[str | None, typer.Option(help="Only of this family.")] = None,
    checkpoint_id: Annotated[int | None, typer.Option(help="Only of this checkpoint.")] = None,
    target_id: Annotated[int | None, typer.Option(help="Only on this target.")] = None,
    method: Annotated[str | None, typer.Option(help="Only by this method.")] = None,
    quarantined: Annotated[
        bool | None, typer.Option("--quarantined/--in-force", help="Only those left out, or only the others.")
    ] = None,
    limit: Limit = 50,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the scores; set and lift quarantine.

    Example: headstart scores --quarantined --family roberta-base
    """
    if ctx.invoked_subcommand is not None:
        return
    wanted = {
        "family": family,
        "checkpoint_id": checkpoint_id,
        "target_id": target_id,
        "method": method,
        "quarantined": quarantined,
    }
    with Client(url) as client:
        page = client.listed("/scores", wanted, limit)
    show_page(page, tables.show_scores, as_json=as_json)


@scoring.command()
def quarantine(
    score_id: Annotated[int, typer.Argument(help="Id of the score.")],
    reason: Annotated[str, typer.Option(help="Why: lower case and underscores.")],
    note: Annotated[str, typer.Option(help="One sentence on what was seen.")],
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Leave a score out of the evidence.

    Example: headstart scores quarantine 17 --reason wrong_split --note "Scored on the validation split."
    """
    _change(url, score_id, {"quarantine": reason, "note": note}, as_json=as_json)


@scoring.command()
def lift(
    score_id: Annotated[int, typer.Argument(help="Id of the score.")],
    note: Annotated[str, typer.Option(help="One sentence on why it may be trusted.")],
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Take a score back into the evidence.

    Example: headstart scores lift 17 --note "Run again by hand, the value stands."
    """
    _change(url, score_id, {"quarantine": None, "note": note}, as_json=as_json)


def _change(url: str, score_id: int, change: dict[str, Any], *, as_json: bool) -> None:
    with Client(url) as client:
        score = client.request("PATCH", f"/scores/{score_id}", json=change)
    if as_json:
        print_json(score)
    else:
        tables.show_scores({"items": [score], "next_page_token": None})


NoWait = Annotated[bool, typer.Option("--no-wait", help="Return as soon as the import is accepted.")]


@importing.command("model-recycling")
def import_model_recycling(
    source: Annotated[str, typer.Argument(help="A folder with the published tables, or its base URL.")],
    no_wait: NoWait = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Import the published model-recycling tables.

    Example: headstart import model-recycling ./model-recycling/results
    """
    paths: list[Path] = []
    if "://" not in source:
        paths = sorted({path for glob in MODEL_RECYCLING_FILES for path in Path(source).glob(glob)})
        if not paths:
            raise Refused(
                f"There is no {' or '.join(MODEL_RECYCLING_FILES)} in the folder {source!r}. Check the path."
            )
    _import("model-recycling", source, paths, url, no_wait=no_wait, as_json=as_json)


@importing.command("table")
def import_table(
    file: Annotated[str, typer.Argument(help="A CSV, JSONL or Parquet file, or its URL.")],
    no_wait: NoWait = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Import your own finetuning history.

    Columns: checkpoint, family, target, method, value and, if known, stderr, seed, rows_tested, source.

    Example: headstart import table finetunes.csv
    """
    if "://" not in file and not Path(file).is_file():
        raise Refused(f"There is no file {file!r}. Check the path.")
    _import("table", file, [] if "://" in file else [Path(file)], url, no_wait=no_wait, as_json=as_json)


def _import(kind: str, source: str, paths: list[Path], url: str, *, no_wait: bool, as_json: bool) -> None:
    with ExitStack() as stack:
        client = stack.enter_context(Client(url))
        if paths:
            files = [("files", (path.name, stack.enter_context(opened(path)))) for path in paths]
            accepted = client.request("POST", "/imports", data={"kind": kind}, files=files, timeout=None)
        else:
            accepted = client.request("POST", "/imports", json={"kind": kind, "source": source})
        done = accepted if no_wait else ended(client, accepted, quiet=as_json)
    if as_json:
        print_json(done)
    elif no_wait:
        tables.say(f"Import {done['id']} is {done['state']}. Follow it at GET /imports/{done['id']}.")
    if done["state"] == "failed":
        raise Refused(done["error"] or "The import failed.")
    if done["state"] == "succeeded" and not as_json:
        tables.show_import(done)
