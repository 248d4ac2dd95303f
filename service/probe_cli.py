"""`headstart probe`: measure a checkpoint, or a whole family, on a target, and show the scores as a table."""

from __future__ import annotations

import time
from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from headstart.checkpoints.place import is_hub_id
from headstart.errors import NotFound
from service import job_tables, tables
from service.checkpoints_cli import in_folder, local_path, on_hub, register
from service.client import Client, Refused
from service.command import DEFAULT_URL, AsJson, Url, given, print_json, quoted
from service.following import HINT_SECONDS, POLL_SECONDS, START_A_WORKER, bars, hint, imported
from service.jobs_cli import show_price, track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rich.progress import Progress

METHODS = ("linear_probe", "logme", "hscore", "knn")
REFERENCE = "linear_probe"  # of a family
NOT_APPLICABLE = "NotApplicable"
MOST_LISTED = 1000  # names looked through for one
ADD_A_TARGET = (
    "Add its rows with: headstart targets add NAME, and --path PATH, --file FILE or --hub ID --config CONFIG."
)


def probe(
    *,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|NAME|ID", help="What to measure; a folder, or OWNER/NAME of the hub, is registered."
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(help="Of the checkpoint; without --checkpoint: measure every checkpoint of it."),
    ] = None,
    target: Annotated[
        str, typer.Option(metavar="NAME|PATH|ID", help="What to measure on; a file or folder is registered.")
    ],
    target_name: Annotated[
        str | None, typer.Option(help="Of a PATH; left out: that of the file, or of the folder it is in.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help=f"Repeatable; left out: {', '.join(METHODS)}.")
    ] = None,
    layers: Annotated[
        list[str] | None, typer.Option(help="last, mean, or the number of a layer; repeatable.")
    ] = None,
    max_rows: Annotated[int | None, typer.Option(min=1, help="Most rows of each role.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Return as soon as the jobs are queued.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take, and submit nothing.")
    ] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Probe a checkpoint on a target: scores of its frozen body, with their errors and nulls.

    A PATH begins with / . or ~, or holds a slash and is there; the service reads it from under one of the
    folders in HEADSTART_ROOTS. OWNER/NAME that the service does not know is read from the hub by a worker.
    All methods share one forward pass.

    Example: headstart probe --checkpoint ./my-roberta --target rte --method logme --method knn
    """
    if checkpoint is None and family is None:
        raise typer.BadParameter("give --checkpoint, or --family for all of its checkpoints.")
    if dry_run and checkpoint is None:
        raise typer.BadParameter("--dry-run is for the probes of one --checkpoint.")
    params = given({"layers": layers or None, "max_rows": max_rows})
    with Client(url) as client:
        on = as_known(target) if dry_run else target_of(client, target, target_name, quiet=as_json)
        if checkpoint is None:
            _probe_family(client, str(family), on, method, {"params": params, "seed": seed}, as_json=as_json)
            return
        what = as_known(checkpoint) if dry_run else checkpoint_of(client, checkpoint, family, quiet=as_json)
        asked = {"checkpoint": what, "target": on, "params": params, "seed": seed} | given({"family": family})
        wanted = [asked | {"method": name} for name in dict.fromkeys(method or METHODS)]
        if dry_run:
            answer = client.request("POST", "/jobs/batch", json={"jobs": wanted, "dry_run": True})
            show_price(answer, as_json=as_json)
            return
        answers = client.request("POST", "/jobs/batch", json={"jobs": wanted})["items"]
        if no_wait:
            _show_submitted(answers, as_json=as_json)
            return
        jobs = [one["job"] for one in answers if one["job"] is not None]
        ended = {job["id"]: job for job in finish(client, jobs, quiet=as_json)}
        found = [outcome_of(client, one, ended) for one in answers]
    _show(found, as_json=as_json)


def as_known(text: str) -> int | str:
    """What jobs that are only priced are to name. Nothing is registered for them."""
    if (path := local_path(text)) is not None:
        raise typer.BadParameter(
            f"--dry-run registers nothing: give the name or id by which {path} is known."
        )
    return int(text) if text.isdecimal() else text


def checkpoint_of(client: Client, text: str, family: str | None, *, quiet: bool) -> int | str:
    """What jobs are to name; a folder, and what the hub alone may know, is registered first."""
    if (path := local_path(text)) is not None:
        return int(register(client, in_folder(path), family, quiet=quiet)["id"])
    if "/" in text and is_hub_id(text) and not may_be_known(client, "/checkpoints", text):
        if not quiet:
            hint(f"The service does not know {text!r} yet: a worker asks the hub for it.")
        return int(register(client, on_hub(text), family, quiet=quiet)["id"])
    return int(text) if text.isdecimal() else text


def target_of(client: Client, text: str, name: str | None, *, quiet: bool) -> int | str:
    """What the jobs are to name; rows of a path are added first. Refused for a name that is not there."""
    if (path := local_path(text)) is not None:
        request = {"name": name or target_name_of(path), "path": str(path)}
        accepted = client.request("POST", "/targets", json=request)
        return int(imported(client, accepted, quiet=quiet)["report"]["target_id"])
    if name is not None:
        raise typer.BadParameter("--target-name is of a PATH; a target that is there has its name.")
    if text.isdecimal():
        return int(text)
    if not may_be_known(client, "/targets", text):
        known = [one["name"] for one in client.listed("/targets", {}, MOST_LISTED)["items"]]
        raise Refused(f"{NotFound('target', text, known)} {ADD_A_TARGET}")
    return text


def target_name_of(path: Path) -> str:
    """What rows are called: the name of their file or folder before its dots, unless it tells but a role."""
    from headstart.targets.files import ROLE_NAMES  # noqa: PLC0415 - brings numpy, and for paths alone

    names = [path.name.lstrip(".").partition(".")[0], *(above.name for above in path.parents)]
    return next((name for name in names if name and name.lower() not in ROLE_NAMES), names[0])


def may_be_known(client: Client, path: str, name: str) -> bool:
    """Whether the service lists this very name, or too many like it to tell."""
    page = client.listed(path, {"search": name}, MOST_LISTED)
    return page["next_page_token"] is not None or any(one["name"] == name for one in page["items"])


def finish(
    client: Client,
    jobs: Sequence[dict[str, Any]],
    *,
    quiet: bool,
    called: Callable[[dict[str, Any]], str] = itemgetter("method"),
) -> list[dict[str, Any]]:
    """Wait until all jobs have ended, and return them so. `called`: what a job's bar is named."""
    with bars(quiet=quiet) as shown:
        tasks = {job["id"]: shown.add_task(escape(f"{called(job)}: waiting"), total=1.0) for job in jobs}
        if jobs and not quiet:
            hint_at_worker(client, jobs[0]["id"])
        return [_follow(client, job, shown, tasks[job["id"]], called(job)) for job in jobs]


def _follow(client: Client, job: dict[str, Any], shown: Progress, task: Any, name: str) -> dict[str, Any]:
    track(client, job["id"], shown, task, f"{name}: ")
    ended: dict[str, Any] = client.request("GET", f"/jobs/{job['id']}")
    shown.update(task, completed=1.0, description=escape(f"{name}: {ended['state']}"))
    return ended


def hint_at_worker(client: Client, job_id: int) -> None:
    """Say so where nobody begins the first of the jobs and nobody is at work either."""
    until = time.monotonic() + HINT_SECONDS
    with suppress(Refused):  # the service went away: following goes on when it is back
        while client.request("GET", f"/jobs/{job_id}")["state"] == "queued":
            if time.monotonic() > until:
                if not client.listed("/jobs", {"state": "running"}, 1)["items"]:
                    hint(f"No worker has taken the jobs yet; they stay queued. {START_A_WORKER}")
                return
            time.sleep(POLL_SECONDS)


def outcome_of(client: Client, answer: dict[str, Any], ended: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """What became of one method: its job as it ended, and its score."""
    job: Any = None if answer["job"] is None else ended[answer["job"]["id"]]
    score: Any = answer["score"]
    if job is not None and job["score_id"] is not None:
        score = client.request("GET", f"/scores/{job['score_id']}")
    return {"method": (job if score is None else score)["method"], "job": job, "score": score}


def _show(found: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Show the scores, and why there is none of the others. Refused where a job has failed."""
    if as_json:
        print_json({"items": list(found)})
    else:
        scores = [one["score"] for one in found if one["score"] is not None]
        if scores:
            show_scores(scores)
        for one in found:
            if one["score"] is None and one["job"]["failure"]:
                failure = one["job"]["failure"]
                tables.say(f"{one['method']}: {failure['name']}. {failure['sentence']} {failure['remedy']}")
    lost = [one for one in found if one["score"] is None and not _is_outcome(one["job"])]
    if lost:
        named = ", ".join(f"{one['method']} (job {one['job']['id']}, {one['job']['state']})" for one in lost)
        raise Refused(f"There is no score of {named}. See: headstart jobs show {lost[0]['job']['id']}")


def _is_outcome(job: dict[str, Any]) -> bool:
    return job["failure"] is not None and job["failure"]["name"] == NOT_APPLICABLE


def show_scores(scores: Sequence[dict[str, Any]]) -> None:
    """Scores of one checkpoint on one target, each beside its null and what it took."""
    columns = ("method", "value", "null", "null 95 %", "p", "rows", "tokens", "cut", "seconds", "on")
    right = columns[1:-1]
    first = scores[0]
    rows = [row for score in scores for row in _rows(score)]
    tables.show(f"{first['checkpoint']} on {first['target']}", columns, rows, right)
    tables.say(
        "value ± standard error; null: the same with the labels permuted, its mean and 95 % level; p: how "
        "often that reaches the value; cut: rows whose text was cut; (cached): the features were there."
    )


def _rows(score: dict[str, Any]) -> Iterator[list[Any]]:
    """A row of the score, and one of each further layer that it was measured on."""
    told = score["provenance"]
    seconds = told.get("seconds")
    cached = " (cached)" if told.get("cached") else ""
    layers = list(told["layers"].items()) if isinstance(told.get("layers"), dict) else []
    yield [
        f"{score['method']} (layer {layers[0][0]})" if layers else score["method"],
        *_estimate(score["value"], score["stderr"], told.get("null") or {}),
        score["rows_tested"],
        _number(told.get("tokens"), ",.0f"),
        _number(told.get("truncated"), ".1%"),
        None if seconds is None else f"{seconds:.1f}{cached}",
        ", ".join(str(told[key]) for key in ("device", "dtype") if told.get(key)) or None,
    ]
    for layer, one in layers[1:]:
        estimate = _estimate(one["value"], one["stderr"], one["null"])
        yield [f"{score['method']} (layer {layer})", *estimate, "", "", "", "", ""]


def _estimate(value: float, stderr: float | None, null: dict[str, Any]) -> list[str | None]:
    error = "" if stderr is None else f" ± {stderr:.4f}"
    levels = (_number(null.get(key), ".4f") for key in ("mean", "high"))
    return [f"{value:.4f}{error}", *levels, _number(null.get("p"), ".3f")]


def _number(value: Any, form: str) -> str | None:
    return format(value, form) if isinstance(value, int | float) else None


def _show_submitted(answers: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"items": list(answers)})
        return
    for one in answers:
        job, score = one["job"], one["score"]
        if job is None:
            tables.say(f"{score['method']}: measured already, score {score['id']} is {score['value']:.4f}.")
        else:
            tables.say(f"{job['method']}: job {job['id']} {job_tables.has_state(job['state'])}.")
    tables.say("Follow them with: headstart jobs list, or headstart jobs watch ID")


def _probe_family(
    client: Client,
    family: str,
    target: int | str,
    methods: list[str] | None,
    asked: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Queue one method for a whole family, and say what became of it; nobody waits for thousands of jobs."""
    if methods is not None and len(methods) > 1:
        raise typer.BadParameter("a family is probed by one method at a time.")
    body = asked | {"target": target, "method": (methods or [REFERENCE])[0]}
    answer = client.request("POST", f"/families/{quoted(family)}/probe", json=body)
    if as_json:
        print_json(answer)
        return
    counts = [*answer["counts"].items(), ("skipped", answer["skipped"])]
    title = (
        f"{answer['method']} of the {answer['checkpoints']} checkpoints of {family} on {answer['target']}:"
    )
    tables.say(title)
    tables.show("", ("", "checkpoints"), counts, right=("checkpoints",))
    for one in answer["first_skipped"]:
        tables.say(f"Skipped: {one['reason']}")
    for note in answer["notes"]:
        tables.say(note)
    if answer["job_ids"]:
        tables.say(f"Follow them with: headstart jobs list --method {answer['method']}")
