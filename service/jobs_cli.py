"""`headstart jobs`: submit, list, show, watch, cancel and retry jobs."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from service import job_tables, tables
from service.client import BrokenOff, Client, Refused
from service.command import DEFAULT_URL, AsJson, Limit, Url, group, print_json, show_page
from service.following import bars

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.progress import Progress, TaskID

ENDED = ("succeeded", "failed", "cancelled")
RECONNECT_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # how long a service that went away is waited for

app = group("Measure: submit jobs, follow them, cancel them, try them again.", no_args_is_help=True)
JobId = Annotated[int, typer.Argument(help="Id of the job.", min=1)]


@app.command()
def submit(
    method: Annotated[str, typer.Argument(help="A method that can be run: see GET /methods.")],
    *,
    checkpoint: Annotated[str, typer.Option(help="What to measure, by name or id.")],
    target: Annotated[str, typer.Option(help="What to measure it on, by name or id.")],
    family: Annotated[str | None, typer.Option(help="Tells checkpoints of one name apart.")] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A parameter of the method; repeatable.")
    ] = None,
    params_json: Annotated[str, typer.Option(help="Parameters of the method, as a JSON object.")] = "{}",
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    priority: Annotated[int, typer.Option(help="-100 to 100; higher is sooner.")] = 0,
    webhook: Annotated[str | None, typer.Option(help="A URL that is told when the job has ended.")] = None,
    keep: Annotated[
        str | None, typer.Option(help="Keep what a finetune comes to as a checkpoint of this name.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it has ended.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take, and submit nothing.")
    ] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Measure a checkpoint on a target.

    Example: headstart jobs submit linear_probe --checkpoint roberta-base --target rte --wait
    """
    request: dict[str, Any] = {
        "method": method,
        "checkpoint": _id_or_name(checkpoint),
        "target": _id_or_name(target),
        "params": read_params(params_json, param or ()),
        "seed": seed,
        "priority": priority,
    }
    optional = {"family": family, "webhook": webhook, "keep": keep, "dry_run": dry_run or None}
    request |= {name: value for name, value in optional.items() if value is not None}
    with Client(url) as client:
        answer = client.request("POST", "/jobs", json=request)
        if dry_run:
            show_price(answer, as_json=as_json)
        elif wait and answer["job"] is not None:
            _follow(client, answer["job"]["id"], as_json=as_json)
        elif as_json:
            print_json(answer)
        else:
            job_tables.show_submission(answer)


@app.command("list")
def list_jobs(
    *,
    state: Annotated[
        str | None, typer.Option(help="Only queued, running, succeeded, failed or cancelled ones.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Only by this method.")] = None,
    limit: Limit = 50,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the jobs, oldest first.

    Example: headstart jobs list --state running
    """
    with Client(url) as client:
        page = client.listed("/jobs", {"state": state, "method": method}, limit)
    show_page(page, job_tables.show_jobs, as_json=as_json)


@app.command()
def show(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show a job, and its score.

    Example: headstart jobs show 12
    """
    with Client(url) as client:
        _show(client, client.request("GET", f"/jobs/{job_id}"), as_json=as_json)


@app.command()
def watch(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Follow a job until it has ended; fails if the job has failed.

    Example: headstart jobs watch 12
    """
    with Client(url) as client:
        job = client.request("GET", f"/jobs/{job_id}")  # what is wrong is told at once
        _follow(client, job["id"], as_json=as_json)


@app.command()
def cancel(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Cancel a job; one that runs is asked to stop.

    Example: headstart jobs cancel 12
    """
    with Client(url) as client:
        job = client.request("POST", f"/jobs/{job_id}/cancel")
    if as_json:
        print_json(job)
    else:
        tables.say(f"Job {job_id} is {job_tables.stopping(job)}.")


@app.command()
def retry(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Queue a failed or cancelled job again.

    Example: headstart jobs retry 12
    """
    with Client(url) as client:
        job = client.request("POST", f"/jobs/{job_id}/retry")
    if as_json:
        print_json(job)
    else:
        tables.say(f"Job {job_id} is {job['state']}. Follow it with: headstart jobs watch {job_id}")


def read_params(text: str, pairs: Iterable[str]) -> dict[str, Any]:
    """The parameters of a JSON object, and above them those of KEY=VALUE; values are JSON, or else text."""
    try:
        params = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"--params-json is not JSON: {error}.") from None
    if not isinstance(params, dict):
        raise typer.BadParameter(f'--params-json is {text[:80]}, not an object like {{"rows": 100}}.')
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"--param {pair!r} is not of the form KEY=VALUE.")
        try:
            params[key] = json.loads(value)
        except ValueError:
            params[key] = value
    return params


def read_events(chunks: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(id, data) of each whole event in a stream of server-sent events."""
    fields: dict[str, str] = {}
    rest = ""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            name, _, value = line.partition(":")
            if line:
                fields[name] = value.removeprefix(" ")  # of a comment the name is empty
            elif "data" in fields:
                yield int(fields["id"]), json.loads(fields["data"])
                fields = {}


def followed(client: Client, job_id: int) -> Iterator[dict[str, Any]]:
    """The events of a job until it has ended, across breaks of the connection."""
    after = 0
    gone_since: float | None = None

    def heard() -> Iterator[str]:
        nonlocal gone_since
        for chunk in client.streamed(f"/jobs/{job_id}/events", {"Last-Event-ID": str(after)}):
            gone_since = None  # a comment will do: of a job that waits nothing else comes
            yield chunk
        gone_since = None

    while True:
        try:
            for revision, event in read_events(heard()):
                after = revision  # the next connection goes on from here
                yield event
                if event["state"] in ENDED:
                    return
        except BrokenOff:
            now = time.monotonic()
            gone_since = now if gone_since is None else gone_since
            if now - gone_since >= PATIENCE_SECONDS:
                raise
        time.sleep(RECONNECT_SECONDS)


def track(client: Client, job_id: int, shown: Progress, task: TaskID, name: str = "") -> None:
    """Move a bar with a job until that has ended; its text begins with the name."""
    for event in followed(client, job_id):
        progress = event["progress"]
        left = job_tables.time_left(progress["seconds_left"])
        said = ", ".join(filter(None, (progress["stage"] or event["state"], left)))
        shown.update(task, completed=progress["fraction"], description=escape(f"{name}{said}"))


def _follow(client: Client, job_id: int, *, as_json: bool) -> None:
    """Show the progress of a job, and in the end the job; Refused unless it has succeeded."""
    with bars(quiet=as_json) as shown:
        track(client, job_id, shown, shown.add_task("waiting", total=1.0))
    job = client.request("GET", f"/jobs/{job_id}")
    if as_json or job["state"] == "succeeded":
        _show(client, job, as_json=as_json)
    if job["state"] == "succeeded":
        return
    failure = job["failure"]
    why = f": {failure['sentence']} {failure['remedy']}" if failure and job["state"] == "failed" else "."
    raise Refused(f"Job {job_id} {job_tables.has_state(job['state'])}{why}")


def _show(client: Client, job: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        job_tables.show_job(job, lambda score_id: client.request("GET", f"/scores/{score_id}"))


def show_price(answer: dict[str, Any], *, as_json: bool) -> None:
    """Show what jobs would take."""
    if as_json:
        print_json(answer)
    else:
        job_tables.show_price(answer)


def _id_or_name(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
