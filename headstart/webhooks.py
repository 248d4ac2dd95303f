"""Webhooks: whoever asked is told that a job has ended, signed as standardwebhooks.com says.

A delivery is tried until the receiver answers 2xx, MOST_TRIES times at most. What the receiver or the network
does is never an exception here: it is an outcome, and stands in the delivery's log.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import httpx

from headstart import __version__
from headstart.addresses import http_url, pinned, reason
from headstart.errors import Forbidden, HeadstartError, InvalidInput, Problem

if TYPE_CHECKING:
    import random
    import ssl
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from headstart.entities import Delivery, Job
    from headstart.store import Store

DELAYS = (5.0, 30.0, 120.0, 600.0, 3600.0)  # seconds after the first, second, ... try
MOST_TRIES = len(DELAYS) + 1
JITTER = 0.2  # of a delay, either way: what failed together does not come back together
LONGEST_WAIT = 3600.0  # seconds that a receiver can ask for by Retry-After
LEASE_SECONDS = 60.0  # after which another process takes over a try that was never recorded
MOST_READ_BYTES = 64 << 10  # of the answer
MOST_URL_BYTES = 1000
GONE = 410
_PREFIX = "whsec_"


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """How webhooks are signed and sent."""

    secret: str = field(repr=False)
    allow_private: bool = False
    timeout_seconds: float = 10.0  # for a whole try, however steadily the answer drips


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of one try."""

    status: int | None = None
    error: str | None = None  # one sentence; None: delivered
    final: bool = False  # trying again cannot help
    wait: float = 0.0  # seconds that the receiver asks for


def check_webhook(url: str, secret_set: bool) -> None:
    """Refuse an address that no webhook can go to. Where its name leads is checked when it is connected to.

    Raises: InvalidInput, with a problem on the field "webhook".
    """
    wrong = None
    if not secret_set:
        wrong = "Webhooks are off, since nothing signs them. Set HEADSTART_WEBHOOK_SECRET, or leave it out."
    elif len(url.encode("utf-8", "replace")) > MOST_URL_BYTES:
        wrong = f"The address {url[:80]!a}... is longer than {MOST_URL_BYTES} bytes. Give a shorter one."
    else:
        try:
            if http_url(url).userinfo:
                wrong = "The address holds a user name or password. Leave it out, and check the signature."
        except InvalidInput as e:
            wrong = e.message
    if wrong is not None:
        raise InvalidInput(f"webhook: {wrong}", [Problem("webhook", wrong)])


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The webhook-signature of a message sent at `timestamp` (Unix seconds)."""
    message = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.digest(signing_key(secret), message, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def signing_key(secret: str) -> bytes:
    """The bytes to sign with: of base64 after "whsec_", which the setting made sure of, or the secret."""
    if secret.startswith(_PREFIX):
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    return secret.encode()


def message_id(delivery: Delivery, job: Job) -> str:
    """Names this end of the job for this receiver: the same for every try, so that repeats can be told."""
    return f"job-{job.id}-{delivery.id}-{job.revision}"  # a job's end raises its revision, attempts may not


def payload(job: Job) -> bytes:
    """The body of the webhook of a job that has ended: ASCII JSON."""
    data = {
        "id": job.id,
        "method": job.method,
        "checkpoint_id": job.checkpoint_id,
        "checkpoint": job.checkpoint,
        "target_id": job.target_id,
        "target": job.target,
        "state": job.state,
        "attempt": job.attempt,
        "failure": None if job.failure is None else asdict(job.failure),
        "score_id": job.score_id,
        "seed": job.seed,
        "created_at": _iso(job.created_at),
        "started_at": _iso(job.started_at),
        "finished_at": _iso(job.finished_at),
    }
    body = {"type": f"job.{job.state}", "timestamp": data["finished_at"], "data": data}
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def retry_delay(tries: int, rng: random.Random) -> float:
    """Seconds to wait after so many tries (from 1 on)."""
    return DELAYS[min(tries, len(DELAYS)) - 1] * rng.uniform(1.0 - JITTER, 1.0 + JITTER)


def deliver_next(store: Store, options: WebhookOptions, rng: random.Random) -> bool:
    """Try the delivery that is due longest; False if there is none. Not to be called in a running event loop.

    Without a secret nothing is claimed: another process may have it.

    Raises: what the store does.
    """
    if not options.secret:
        return False
    delivery = store.claim_delivery(LEASE_SECONDS)
    if delivery is None:
        return False
    job = store.job(delivery.job_id)
    if job.finished_at is None:
        return True  # it is tried again, and the delivery waits for it
    started = time.monotonic()
    outcome = _try(delivery, job, options)
    seconds = time.monotonic() - started
    tries = delivery.tries + 1
    again = outcome.error is not None and not outcome.final and tries < MOST_TRIES
    store.record_try(
        delivery,
        status=outcome.status,
        error=outcome.error,
        seconds=round(seconds, 3),
        delivered=outcome.error is None,
        next_in=max(retry_delay(tries, rng), outcome.wait) if again else None,
    )
    return True


def _try(delivery: Delivery, job: Job, options: WebhookOptions) -> _Outcome:
    """Send the webhook once."""
    name, now, body = message_id(delivery, job), int(time.time()), payload(job)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"headstart/{__version__}",
        "webhook-id": name,
        "webhook-timestamp": str(now),
        "webhook-signature": sign(options.secret, name, now, body),
    }
    try:
        answer = _send(delivery.url, headers, body, options)
    except Forbidden as e:
        return _Outcome(error=e.message, final=True)
    except HeadstartError as e:
        return _Outcome(error=e.message)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as e:
        return _Outcome(error=f"The receiver cannot be told: {reason(e)[:300]}.")
    return _judge(answer)


@cache
def _tls() -> ssl.SSLContext:
    """Made once, since reading the certificates takes longer than most deliveries."""
    return httpx.create_ssl_context()


def _send(url: str, headers: dict[str, str], body: bytes, options: WebhookOptions) -> httpx.Response:
    seconds = options.timeout_seconds
    started = time.monotonic()
    client = httpx.AsyncClient(
        verify=_tls(), trust_env=False, timeout=httpx.Timeout(seconds, connect=seconds / 2)
    )
    requests = _in_time(
        lambda: pinned(
            client, "POST", http_url(url), allow_private=options.allow_private, headers=headers, content=body
        ),
        seconds,
    )
    # A loop of its own, for the one thing that asyncio alone can do: a limit on the time of the whole.
    return asyncio.run(_exchange(client, requests, seconds - (time.monotonic() - started)))


def _in_time(look_up: Callable[[], tuple[httpx.Request, ...]], seconds: float) -> tuple[httpx.Request, ...]:
    """What the look-up finds; TimeoutError after so many seconds.

    In a daemon thread, since no look-up of a name can be broken off, and the loop would wait for its end.
    """
    found: Future[tuple[httpx.Request, ...]] = Future()

    def work() -> None:
        try:
            found.set_result(look_up())
        except BaseException as e:  # raised where the result is asked for
            found.set_exception(e)

    threading.Thread(target=work, name="webhook-address", daemon=True).start()
    return found.result(seconds)


async def _exchange(
    client: httpx.AsyncClient, requests: Sequence[httpx.Request], seconds: float
) -> httpx.Response:
    """Send to the first address that takes the connection; the answer counts once its headers are there."""
    answer: httpx.Response | None = None
    try:
        async with asyncio.timeout(seconds), client:
            for request in requests[:-1]:
                try:
                    answer = await client.send(request, stream=True)
                    break
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    pass  # the next address may take it
            if answer is None:
                answer = await client.send(requests[-1], stream=True)
            await _read(answer)
    except (TimeoutError, httpx.HTTPError):
        if answer is None:
            raise
    return answer


async def _read(answer: httpx.Response) -> None:
    """Let the receiver finish its answer, within bounds: nobody looks at it."""
    count = 0
    async for chunk in answer.aiter_raw():
        count += len(chunk)
        if count >= MOST_READ_BYTES:
            break
    await answer.aclose()


def _judge(answer: httpx.Response) -> _Outcome:
    """What the status of an answer means."""
    status = answer.status_code
    if answer.is_success:
        return _Outcome(status)
    if status == GONE:
        return _Outcome(status, "The receiver wants no more of this (status 410 Gone).", final=True)
    if answer.has_redirect_location:
        to = answer.headers["location"][:200]
        return _Outcome(
            status,
            f"The receiver redirects to {to!a}, and webhooks follow no redirect. Submit jobs with that.",
        )
    wait = answer.headers.get("retry-after", "")
    seconds = min(float(wait), LONGEST_WAIT) if wait.isascii() and wait.isdigit() and len(wait) < 10 else 0.0
    return _Outcome(status, f"The receiver answered with status {status} instead of 2xx.", wait=seconds)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
