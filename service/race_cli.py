"""`headstart race`: find out by finetunes which checkpoint of a family is the best start on a target."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

import typer
from rich.markup import escape

from service import job_tables, race_tables, tables
from service.client import Client, Refused
from service.command import DEFAULT_URL, AsJson, Url, given, print_json
from service.following import POLL_SECONDS, bars
from service.jobs_cli import followed, read_params
from service.probe_cli import hint_at_worker
from service.targets_cli import target_id_of

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
REFIT_SECONDS = 20.0  # for which the advice is waited for to count what the race has measured
MOST_LOOKED_AT = 500  # candidates of an answer


def race(
    *,
    target: Annotated[str, typer.Option(metavar="NAME|ID", help="What to finetune for; it has rows.")],
    family: Annotated[str, typer.Option(help="Whose checkpoints race. Its vanilla runs first.")],
    budget: Annotated[
        str | None, typer.Option(metavar="20m|2h|900s", help="Time it may take; left out: no limit.")
    ] = None,
    runs: Annotated[
        int | None, typer.Option(help="Finetunes it may begin, the vanilla's included; left out: no limit.")
    ] = None,
    candidates: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Names or ids; left out: the first of the family's ranking."),
    ] = None,
    most: Annotated[int | None, typer.Option(help="How many of the ranking [12].")] = None,
    worth: Annotated[
        float | None, typer.Option(help="Least gain over the vanilla, in points, worth a change [0.5].")
    ] = None,
    tuning: Annotated[
        str | None, typer.Option(metavar="full|lora|bitfit|head", help="What each finetune trains [full].")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of every finetune's recipe; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the first run of each candidate.")] = 0,
    priority: Annotated[int, typer.Option(help="-100 to 100; higher is sooner.")] = 0,
    webhook: Annotated[str | None, typer.Option(help="A URL that is told when the race has ended.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost, and submit nothing.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return as soon as it is queued.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Race a family's checkpoints on a target, and say where to start.

    The vanilla and the likeliest candidate are finetuned first; the others as far as it helps to decide.
    Every finetune that comes to its end is kept as a score, so a second race goes on where this one ended.

    Example: headstart race --target rte --family roberta-base --budget 20m

    Example: headstart race --target rte --family roberta-base --runs 6 --tuning lora --param epochs=3
    """
    request = {
        "family": family,
        "candidates": read_candidates(candidates),
        "most_candidates": most,
        "budget_seconds": None if budget is None else read_duration(budget),
        "budget_runs": runs,
        "worth": worth,
        "finetune": read_params("{}", param or ()) | given({"tuning": tuning}),
        "seed": seed,
        "priority": priority,
        "webhook": webhook,
        "dry_run": dry_run or None,
    }
    with Client(url) as client:
        target_id = target_id_of(client, target)
        answer = client.request("POST", f"/targets/{target_id}/race", json=given(request))
        if dry_run or no_wait:
            _show_accepted(answer, as_json=as_json)
            return
        if not as_json:
            _say_submitted(answer)
        job = finished(client, answer["job"]["id"], "The race", quiet=as_json)
        advice, counted = _advice(client, family, target_id, job["result"])
    if as_json:
        print_json({"job": job, "advice": advice})
        return
    race_tables.show_race(job["result"])
    tables.say(f"The advice now: {advice['sentence']}")
    if not counted:
        tables.say(
            f"It may not count all of this yet: headstart recommend --family {family} --target {target}"
        )


def read_duration(text: str) -> float:
    """Seconds of a duration such as 20m, 1h30m, 900s or 900."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip().lower())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip().lower():
        raise typer.BadParameter(f"--budget {text!r} is not a time such as 20m, 2h, 1h30m or 900s.")
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise typer.BadParameter(f"--budget {text!r} leaves no time to finetune anything.")
    return seconds


def read_candidates(text: str | None) -> list[int | str] | None:
    """Names and ids, as they are separated by commas."""
    if text is None:
        return None
    found = [one.strip() for one in text.split(",") if one.strip()]
    return [int(one) if one.isdecimal() else one for one in found]


def _show_accepted(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    elif "dry_run" in answer:
        race_tables.show_price(answer)
    else:
        _say_submitted(answer)
        tables.say(f"Follow it with: headstart jobs watch {answer['job']['id']}")


def _say_submitted(answer: dict[str, Any]) -> None:
    job = answer["job"]
    against = len(job["params"]["candidates"]) - 1
    said = f"Job {job['id']} races {against} checkpoint{'' if against == 1 else 's'} against the vanilla"
    if answer["status"] == "queued":
        tables.say(f"{said}.")
    else:
        tables.say(f"{said} already, and {job_tables.has_state(job['state'])}.")


def finished(client: Client, job_id: int, what: str, *, quiet: bool) -> dict[str, Any]:
    """The job when it has succeeded; Refused, naming `what` it was, where it has not."""
    with bars(quiet=quiet) as shown:
        bar = shown.add_task("waiting", total=1.0)
        if not quiet:
            hint_at_worker(client, job_id)
        for event in followed(client, job_id):
            progress = event["progress"]
            said = progress["message"] or progress["stage"] or event["state"]
            left = job_tables.time_left(progress["seconds_left"])
            described = escape(", ".join(filter(None, (said, left))))
            shown.update(bar, completed=progress["fraction"], description=described)
    job: dict[str, Any] = client.request("GET", f"/jobs/{job_id}")
    if job["state"] == "succeeded":
        return job
    failure = job["failure"]
    why = f": {failure['sentence']} {failure['remedy']}" if failure and job["state"] == "failed" else "."
    raise Refused(f"{what}, job {job_id}, {job_tables.has_state(job['state'])}{why}")


def _advice(
    client: Client, family: str, target_id: int, result: dict[str, Any]
) -> tuple[dict[str, Any], bool]:
    """The advice for the target, and whether it counts every finetune that the race has finished."""
    question = {"family": family, "target": {"id": target_id}}
    until = time.monotonic() + REFIT_SECONDS
    while True:
        looked = client.request("POST", "/recommend", json=question | {"limit": MOST_LOOKED_AT})
        counted = rests_on(looked, result)
        if counted or time.monotonic() > until:
            return client.request("POST", "/recommend", json=question), counted
        time.sleep(POLL_SECONDS)


def rests_on(advice: dict[str, Any], result: dict[str, Any]) -> bool:
    """Whether an answer counts all runs of a race that came to their end."""
    here = {one["checkpoint"]["id"]: one["evidence"]["measured_here"] for one in advice["candidates"]}
    vanilla = sum(one["vanilla_runs"] for one in advice["families"])
    return all(
        (vanilla if one["vanilla"] else here.get(one["id"], 0))
        >= sum(run["finished"] and not run["collapsed"] for run in one["runs"])
        for one in result["candidates"]
    )
