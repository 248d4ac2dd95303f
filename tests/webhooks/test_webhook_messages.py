"""What webhooks say, how they are signed, when they are tried, and which addresses they take."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
import random
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from receivers import OPTIONS, SECRET

from headstart.entities import Failure, Job, JobState, Progress
from headstart.errors import InvalidInput
from headstart.webhooks import (
    DELAYS,
    check_webhook,
    payload,
    retry_delay,
    sign,
)

PAGE = Path(__file__).parents[2] / "docs/webhooks.md"


# -- signing


def test_the_signature_of_the_specification() -> None:
    """The test vector of the Standard Webhooks libraries."""
    signature = sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_without_the_prefix_signs_as_it_stands() -> None:
    expected = hmac.new("gehéim".encode(), b"a.1.{}", hashlib.sha256).digest()
    assert sign("gehéim", "a", 1, b"{}") == f"v1,{base64.b64encode(expected).decode()}"


def test_options_do_not_show_the_secret() -> None:
    assert "MfKQ" not in repr(OPTIONS)


# -- the payload

JOB = Job(
    id=7,
    method="logme",
    method_version="1",
    checkpoint_id=12,
    checkpoint="roberta-base",
    family="roberta",
    target_id=3,
    target="rte",
    params={"secret": "of the caller"},
    seed=0,
    queue="cpu",
    priority=0,
    state=JobState.SUCCEEDED,
    attempt=1,
    last_attempt=3,
    cancel_requested=False,
    progress=Progress(),
    failure=None,
    score_id=4711,
    result=None,
    seconds=1.5,
    request_id="r",
    revision=9,
    created_at=datetime(2026, 1, 2, 3, 3, 5, 678901, tzinfo=UTC),
    started_at=datetime(2026, 1, 2, 3, 3, 6, 678901, tzinfo=UTC),
    finished_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
)


def test_the_payload_is_the_one_of_the_documentation() -> None:
    page = PAGE.read_text()
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    body = payload(JOB)
    assert json.loads(body) == json.loads(example)
    assert b" " not in body
    assert body.isascii()


def test_a_failure_is_in_the_payload() -> None:
    failure = Failure(name="Killed", sentence="Vorüber.", remedy="Mehr Speicher.")
    job = dataclasses.replace(JOB, state=JobState.FAILED, failure=failure, score_id=None, started_at=None)
    body = json.loads(payload(job))
    assert body["type"] == "job.failed"
    assert body["data"]["state"] == "failed"
    assert body["data"]["failure"] == {
        "name": "Killed",
        "sentence": "Vorüber.",
        "remedy": "Mehr Speicher.",
    }
    assert body["data"]["score_id"] is body["data"]["started_at"] is None


# -- the schedule


def test_delays_grow_and_are_scattered() -> None:
    rng = random.Random(1)
    assert DELAYS == (5.0, 30.0, 120.0, 600.0, 3600.0)
    for tries, delay in enumerate(DELAYS, start=1):
        drawn = [retry_delay(tries, rng) for _ in range(500)]
        assert delay * 0.8 <= min(drawn) < delay * 0.82
        assert delay * 1.18 < max(drawn) <= delay * 1.2


# -- addresses


@pytest.mark.parametrize(
    "url", ["https://example.org/hook?key=1", "http://10.0.0.1:8000/", "https://bücher.example/ä"]
)
def test_an_address_that_webhooks_can_go_to(url: str) -> None:
    check_webhook(url, secret_set=True)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is not an http or https address"),
        ("ftp://example.org/", "is not an http or https address"),
        ("https:///hook", "is not an http or https address"),
        ("https://example.org:99999/", "is not an http or https address"),
        ("http://[::1", "is not a URL"),
        ("http://a\nb/", "is not a URL"),
        ("http://\ud800/", "is not a URL"),
        ("https://me:hush@example.org/", "user name or password"),
        ("https://me@example.org/", "user name or password"),
        ("https://example.org/" + "x" * 981, "longer than 1000 bytes"),
        ("https://example.org/" + "ä" * 491, "longer than 1000 bytes"),
    ],
)
def test_an_address_that_webhooks_cannot_go_to(url: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        check_webhook(url, secret_set=True)
    (problem,) = caught.value.problems
    assert problem.field == "webhook"
    assert problem.message.endswith(".")
    assert "hush" not in caught.value.message
    caught.value.message.encode()


def test_the_longest_address() -> None:
    check_webhook("https://example.org/" + "x" * 980, secret_set=True)


def test_without_a_secret_every_address_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Set HEADSTART_WEBHOOK_SECRET"):
        check_webhook("https://example.org/", secret_set=False)
