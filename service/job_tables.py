"""Jobs as tables for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from service.advice_tables import duration
from service.race_tables import show_race
from service.region_tables import show_centroid, show_regions, show_study
from service.tables import say, show, show_scores

if TYPE_CHECKING:
    from collections.abc import Callable

SHOWN: dict[str, Callable[[dict[str, Any]], None]] = {  # how the result of a procedure is shown
    "race": show_race,
    "regions": show_regions,
    "centroid": show_centroid,
    "region_study": show_study,
}
RIGHT = ("id", "done", "attempt", "priority", "seed")


def show_jobs(page: dict[str, Any]) -> None:
    """Jobs with how far they are."""
    columns = ("id", "state", "done", "method", "checkpoint", "target", "seed", "attempt", "priority", "what")
    rows = (
        [
            job["id"],
            stopping(job),
            f"{job['progress']['fraction']:.0%}",
            job["method"],
            job["checkpoint"],
            job["target"],
            job["seed"],
            f"{job['attempt']} of {job['last_attempt']}",
            job["priority"],
            job["failure"]["name"] if job["failure"] else job["progress"]["stage"],
        ]
        for job in page["items"]
    )
    show("Jobs", columns, rows, RIGHT)


def show_job(job: dict[str, Any], score_of: Callable[[int], dict[str, Any]]) -> None:
    """One job field by field, and its score, or what came of a procedure."""
    progress, failure = job["progress"], job["failure"]
    show_result = SHOWN.get(job["method"])
    told = show_result is not None and job["result"] is not None
    said = (progress["stage"], progress["message"], time_left(progress["seconds_left"]))
    fields = {
        "state": stopping(job),
        "progress": ", ".join([f"{progress['fraction']:.0%}", *filter(None, said)]),
        "method": f"{job['method']} (version {job['method_version']})",
        "checkpoint": named(job["checkpoint"], job["checkpoint_id"]),
        "family": job["family"],
        "target": named(job["target"], job["target_id"]),
        "params": json.dumps(job["params"]),
        "seed": job["seed"],
        "queue": f"{job['queue']}, priority {job['priority']}",
        "attempt": f"{job['attempt']} of {job['last_attempt']}",
        "failure": f"{failure['name']}: {failure['sentence']} {failure['remedy']}" if failure else None,
        "result": json.dumps(job["result"]) if job["result"] and not told else None,
        "seconds": None if job["seconds"] is None else f"{job['seconds']:.1f}",
        "request id": job["request_id"],
        "submitted": job["created_at"],
        "started": job["started_at"],
        "finished": job["finished_at"],
    }
    rows = [(name, value) for name, value in fields.items() if value is not None]
    show(f"Job {job['id']}", ("", ""), rows)
    if job["score_id"] is not None:
        show_scores({"items": [score_of(job["score_id"])]})
    if show_result is not None and told:
        show_result(job["result"])


def show_submission(answer: dict[str, Any]) -> None:
    """Say what became of a request to measure."""
    job = answer["job"]
    if job is None:
        say("This is measured already.")
        show_scores({"items": [answer["score"]]})
    elif answer["status"] == "queued":
        say(f"Job {job['id']} is queued. Follow it with: headstart jobs watch {job['id']}")
    else:
        say(f"Job {job['id']} measures the same and {has_state(job['state'])}.")
        if job["failure"] is not None:
            say(f"{job['failure']['name']}: {job['failure']['sentence']} {job['failure']['remedy']}")


def show_price(price: dict[str, Any]) -> None:
    """What one job, or a batch of them, would take."""
    counts = (
        (price["jobs"], "to run"),
        (price["joined"], "under way"),
        (price["scored"], "measured already"),
    )
    said = ", ".join(f"{count} {what}" for count, what in counts if count)
    if not price["jobs"]:
        say(f"Nothing would be run: {said}.")
        return
    low, high = map(duration, price["interval"])
    say(
        f"{said}: about {duration(price['seconds'])} ({low} to {high}, 80 % interval). Nothing was submitted."
    )
    if price["device"]:
        say(f"For {price['device']}.")
    if price["basis"] == "assumed":
        say("It is a guess: too few jobs of the kind have run yet.")


def stopping(job: dict[str, Any]) -> str:
    """Its state, and whether its worker is asked to stop."""
    asked = job["state"] == "running" and job["cancel_requested"]
    return f"{job['state']}, asked to stop" if asked else str(job["state"])


def has_state(state: str) -> str:
    """The state as a verb."""
    return f"has {state}" if state in ("succeeded", "failed") else f"is {state}"


def named(name: str | None, identity: int | None) -> str | None:
    """A name with its id."""
    return None if name is None else f"{name} (id {identity})"


def time_left(seconds: float | None) -> str:
    """Seconds in words; nothing where they are not known or there are none."""
    if not seconds:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min left"
    return f"{minutes} min {rest} s left" if minutes else f"{rest} s left"
