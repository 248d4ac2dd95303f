"""Schemathesis over the whole OpenAPI document, every check on, against a real server."""

from __future__ import annotations

from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from live_service import settings as service_settings

from headstart.store import Store
from service.app import create_app

if TYPE_CHECKING:
    from live_service import Live

GOOD_TOKEN = "a-good-token"
KEYS = count()

with closing(Store("sqlite://")) as empty:
    schema = schemathesis.openapi.from_dict(create_app(service_settings(), empty).openapi())

# Strings whose contents only the service can judge: the generator is told what good ones look like.
schemathesis.openapi.format("page-token", st.just(GOOD_TOKEN))
schemathesis.openapi.format("import-source", st.sampled_from(["https://127.0.0.1:9/x.csv", "/nowhere/x.csv"]))


def with_good_token(case: schemathesis.Case, live: Live) -> None:
    """Put a token of this very list, with these very filters, in the place of its stand-in."""
    query = {key: value for key, value in case.query.items() if key != "page_token"}
    answer = live.http.get(case.path, params=query | {"page_size": 1})
    token = answer.json().get("next_page_token")
    case.query = query if token is None else query | {"page_token": token}


def with_one_file(case: schemathesis.Case) -> None:
    """Keep one file: the generator gives all of them one name, which the service refuses for a reason."""
    assert isinstance(case.body, dict)
    case.body["files"] = case.body["files"][:1]


def with_one_way(case: schemathesis.Case) -> None:
    """Keep one way of giving a target, which is a rule between fields that the document tells in words."""
    target = case.body.get("target") if isinstance(case.body, dict) else None
    if isinstance(target, dict):
        ways = [{"id"}, {"name"}, {"task", "train_size", "classes"}]
        given = [{k: v for k, v in target.items() if k in way and v is not None} for way in ways]
        case.body["target"] = next((one for one in given if one), {})


def without_a_race(case: schemathesis.Case) -> None:
    """Ask for advice alone: what a race takes beside is told in words."""
    if isinstance(case.body, dict):
        for field in ("refine", "budget_seconds", "budget_runs"):
            case.body.pop(field, None)


def with_the_usual_recipe(case: schemathesis.Case) -> None:
    """Race by the default recipe: what else there is to it is told at GET /methods/finetune."""
    assert isinstance(case.body, dict)
    case.body.pop("finetune", None)
    if "webhook" in case.body:
        case.body["webhook"] = "https://example.org/hook"


def with_a_plain_name(case: schemathesis.Case) -> None:
    """Name what is made as a checkpoint may be called, and weigh evenly: weights have to fit the members."""
    if isinstance(case.body, dict):
        if "name" in case.body:
            case.body |= {"name": "me/new", "weights": "uniform"}
        if "webhook" in case.body:
            case.body["webhook"] = "https://example.org/hook"


def with_a_method_that_runs(case: schemathesis.Case) -> None:
    """Ask for jobs of the one method that can be run here; what its params are is told at GET /methods."""
    assert isinstance(case.body, dict)
    for job in case.body.get("jobs", [case.body]):
        job |= {"method": "gauge", "params": {}}
        job.pop("family", None)  # of whatever name was generated
        job.pop("keep", None)  # of this method nothing can be kept
        if "webhook" in job:
            job["webhook"] = "https://example.org/hook"


def with_ended_jobs(live: Live) -> None:
    """End all jobs, since the events of one that waits have no end."""
    for job in live.store.jobs(state="queued", page_size=500).items:
        live.store.cancel_job(job.id)


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_operation_keeps_to_the_document(case: schemathesis.Case, fuzzed: Live) -> None:
    if case.query and case.query.get("page_token") == GOOD_TOKEN:
        with_good_token(case, fuzzed)
    if case.path == "/jobs/{job_id}/events":
        with_ended_jobs(fuzzed)
    assert case.meta is not None
    if case.meta.generation.mode.is_positive:
        if case.media_type == "multipart/form-data":
            with_one_file(case)
        if case.path == "/recommend":
            with_one_way(case)
            without_a_race(case)
        if case.path == "/targets/{target_id}/race":
            with_the_usual_recipe(case)
        if case.path.endswith(("/regions", "/centroids", "/region-study")):
            with_a_plain_name(case)
        if case.path in ("/jobs", "/jobs/batch") and case.method == "POST":
            with_a_method_that_runs(case)
        if "idempotency-key" in case.headers:
            case.headers["idempotency-key"] = f"key-{next(KEYS)}"  # the generator repeats itself
    case.call_and_validate(base_url=fuzzed.url)
