"""API keys: who may do what, from the making of a key to its revocation."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from live_service import Live, serving, settings
from route_scopes import EXPECTED, routes
from structlog.testing import capture_logs
from typer.testing import CliRunner

from headstart.errors import StoreUnavailable, Unauthorized
from service.auth import KEY, OPEN, Caller, Gate, Keys, digest_of, new_token, scope_needed, shown_of
from service.cli import app as cli
from service.metrics import RequestMetrics
from service.middleware import FrontDoor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx
    from starlette.types import Message, Receive, Scope, Send

    from headstart.store import Store

LEVELS = ("read", "run", "admin")


def make(store: Store, name: str, scope: str) -> str:
    token = new_token()
    store.create_key(name, scope, digest_of(token.encode()), shown_of(token))
    return token


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def tokens(store: Store) -> dict[str, str]:
    return {scope: make(store, f"the {scope} one", scope) for scope in LEVELS}


@pytest.fixture
def guarded(store: Store, tokens: dict[str, str]) -> Iterator[Live]:
    """A service that others could reach, with one key of each scope."""
    with serving(store, settings(host="0.0.0.0")) as live:
        yield live


@pytest.fixture
def local(store: Store, tokens: dict[str, str]) -> Iterator[Live]:
    """A service on a loopback address, with one key of each scope."""
    with serving(store, settings()) as live:
        yield live


# tokens


def test_tokens_are_long_random_and_told_by_their_beginning() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"hs_[A-Za-z0-9_-]{43}", token) for token in tokens)
    assert all(shown_of(token) == token[:8] for token in tokens)


def test_a_digest_is_sha_256() -> None:
    assert digest_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# who may do what


def test_every_route_asks_for_the_scope_that_was_thought_of() -> None:
    assert {
        name: None if verb == "GET" and path in OPEN else scope_needed(verb, path)
        for name, (verb, path) in routes().items()
    } == EXPECTED


def test_each_scope_does_what_it_may_and_no_more(guarded: Live, tokens: dict[str, str]) -> None:
    for name, (verb, path) in routes().items():
        needed = EXPECTED[name]
        keyless = guarded.http.request(verb, path)
        assert (keyless.status_code == 401) == (needed is not None), (name, keyless.text)
        for scope, token in tokens.items():
            response = guarded.http.request(verb, path, headers=bearer(token))
            may = LEVELS.index(scope) >= LEVELS.index(needed or "read")
            assert (response.status_code == 403) != may, (name, scope, response.text)
            assert response.status_code != 401


def test_too_small_a_scope_names_both(guarded: Live, tokens: dict[str, str]) -> None:
    problem = guarded.problem("PATCH", "/scores/1", 403, headers=bearer(tokens["run"]), json={})
    assert "'admin'" in problem["detail"]
    assert "'the run one' has 'run'" in problem["detail"]
    assert problem["code"] == "forbidden"


@pytest.mark.parametrize("path", ["/scores/1%0A", "/deliveries/1/redeliver%0A", "/scores//1", "/jobs%0A"])
def test_odd_paths_open_nothing(guarded: Live, tokens: dict[str, str], path: str) -> None:
    for verb in ("PATCH", "POST", "DELETE", "PUT"):
        guarded.problem(verb, path, 401)
        guarded.problem(verb, path, 403, headers=bearer(tokens["read"]))
    if not path.startswith("/jobs"):
        guarded.problem("POST", path, 403, headers=bearer(tokens["run"]))


def test_what_is_not_there_asks_for_a_key_too(guarded: Live, tokens: dict[str, str]) -> None:
    guarded.problem("GET", "/nothing", 401)
    guarded.problem("OPTIONS", "/recommend", 401)
    guarded.problem("POST", "/healthz", 401)
    guarded.problem("GET", "/nothing", 404, headers=bearer(tokens["read"]))


# what is not a key


def test_without_a_key_the_problem_says_how_to_send_one(guarded: Live) -> None:
    response = guarded.http.post("/recommend", json={})
    assert response.headers["www-authenticate"] == "Bearer"
    problem = guarded.problem("POST", "/recommend", 401, json={})
    assert problem["code"] == "unauthorized"
    assert "Authorization: Bearer" in problem["detail"]
    assert "headstart keys create" in problem["detail"]


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Basic aGVhZDpzdGFydA==", "{good}", "Token {good}", "Bearer{good}"]
)
def test_a_header_of_another_form(local: Live, tokens: dict[str, str], given: str) -> None:
    header = given.format(good=tokens["admin"])
    problem = local.problem("GET", "/healthz", 401, headers={"authorization": header})
    assert "'Bearer KEY'" in problem["detail"]
    assert tokens["admin"] not in str(problem)


@pytest.mark.parametrize("given", ["{good}x", "{short}", "{good} {good}", "hs_", "ÿ", "null", "{digest}"])
def test_a_key_that_is_none(local: Live, tokens: dict[str, str], given: str) -> None:
    good = tokens["admin"]
    header = f"Bearer {given.format(good=good, short=good[:-1], digest=digest_of(good.encode()))}"
    response = local.http.get("/methods", headers=[(b"authorization", header.encode("latin-1"))])
    assert response.status_code == 401, "even where no key is needed"
    assert response.headers["www-authenticate"] == "Bearer"
    assert "not in force" in response.json()["detail"]
    assert good[3:-1] not in response.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_the_scheme_is_read_as_http_has_it(guarded: Live, tokens: dict[str, str], scheme: str) -> None:
    response = guarded.http.get("/methods", headers={"authorization": f"{scheme} {tokens['read']}"})
    assert response.status_code == 200


def test_refusals_have_a_request_id_and_are_counted(guarded: Live, tokens: dict[str, str]) -> None:
    response = guarded.http.get("/methods", headers={"x-request-id": "mine"})
    assert response.headers["x-request-id"] == response.json()["request_id"] == "mine"
    guarded.problem("POST", "/imports", 403, headers=bearer(tokens["read"]))
    counted = guarded.http.get("/metrics", headers=bearer(tokens["read"])).text
    assert 'status="401"} 1.0' in counted
    assert 'status="403"} 1.0' in counted


def test_a_body_too_large_is_not_weighed_before_the_key(guarded: Live, tokens: dict[str, str]) -> None:
    body = b"x" * 2_000_000
    guarded.problem("POST", "/recommend", 401, content=body)
    guarded.problem("POST", "/recommend", 413, content=body, headers=bearer(tokens["read"]))


# while it runs


def test_keys_come_into_force_and_out_of_it_while_the_service_runs(store: Store, guarded: Live) -> None:
    token = make(store, "late", "read")
    headers = bearer(token)
    until(lambda: guarded.http.get("/methods", headers=headers).status_code == 200)
    store.revoke_key("late")
    until(lambda: guarded.http.get("/methods", headers=headers).status_code == 401)
    guarded.problem("GET", "/methods", 401, headers=headers)


class Failing:
    """A store that answers as long as it is told to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked = 0
        self.up = True

    def keys(self) -> Any:
        self.asked += 1
        if not self.up:
            raise StoreUnavailable("The store is away.")
        return self._store.keys()


def test_the_last_known_keys_hold_while_the_store_is_away(store: Store, tokens: dict[str, str]) -> None:
    failing = Failing(store)
    keys = Keys(failing, 0.01)  # type: ignore[arg-type]
    keys.start()
    try:
        header = f"Bearer {tokens['run']}".encode()
        assert keys.find(header).name == "the run one"
        with capture_logs() as logs:
            failing.up = False
            asked = failing.asked
            until(lambda: failing.asked > asked + 3)
            assert keys.find(header).name == "the run one"
        assert [(entry["event"], entry["reason"]) for entry in logs] == [
            ("keys_not_read", "The store is away.")
        ]
        store.revoke_key("the run one")
        failing.up = True
        until(lambda: not keys_find(keys, header))
    finally:
        keys.stop()


def keys_find(keys: Keys, header: bytes) -> bool:
    try:
        keys.find(header)
    except Unauthorized:
        return False
    return True


def test_without_ever_an_answer_of_the_store_nobody_is_called_a_stranger(store: Store) -> None:
    failing = Failing(store)
    failing.up = False
    keys = Keys(failing, 60)  # type: ignore[arg-type]
    keys.start()
    try:
        with pytest.raises(StoreUnavailable, match="Try again"):
            keys.find(b"Bearer hs_x")
    finally:
        keys.stop()


# what others see of it


def test_two_keys_may_use_one_idempotency_key(local: Live, store: Store, tokens: dict[str, str]) -> None:
    def upload(value: str, **headers: str) -> httpx.Response:
        table = f"checkpoint,family,target,method,value\na,b,c,finetune,{value}\n"
        files = [("files", ("t.csv", table.encode()))]
        given = {"idempotency-key": "mine"} | headers
        return local.http.post("/imports", data={"kind": "table"}, files=files, headers=given)

    run, admin = bearer(tokens["run"]), bearer(tokens["admin"])
    callers = ({}, run, admin)
    first = [upload(f"0.{n}", **headers) for n, headers in enumerate(callers, 1)]
    assert [response.status_code for response in first] == [202] * 3
    assert len({response.json()["id"] for response in first}) == 3
    again = [upload(f"0.{n}", **headers) for n, headers in enumerate(callers, 1)]
    assert [response.headers["idempotent-replayed"] for response in again] == ["true"] * 3
    assert [response.content for response in again] == [response.content for response in first]
    other = upload("0.9", **run)
    assert other.status_code == 422
    assert "'mine'" in other.json()["detail"]
    assert len(store.imports().items) == 3


async def _broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise RuntimeError("broken")


async def _ask(door: FrontDoor, header: bytes) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [(b"authorization", header), (b"host", b"localhost")]
    scope = {"type": "http", "method": "GET", "path": "/methods", "headers": headers}
    await door(scope, receive, send)
    return sent


def test_a_failure_is_logged_with_the_name_of_the_key_and_without_the_key(
    store: Store, tokens: dict[str, str]
) -> None:
    keys = Keys(store, 60)
    keys.start()
    keys.stop()
    gate = Gate(settings(), keys)
    door = FrontDoor(_broken, metrics=RequestMetrics(), gate=gate, max_body_bytes=9, max_upload_bytes=9)
    with capture_logs() as logs:
        sent = asyncio.run(_ask(door, f"Bearer {tokens['run']}".encode()))
    assert sent[0]["status"] == 500
    assert [entry["key"] for entry in logs] == ["the run one"]
    assert tokens["run"][3:] not in repr(logs) + repr(sent)


def test_the_scope_of_a_request_says_whose_it_is(store: Store, tokens: dict[str, str]) -> None:
    keys = Keys(store, 60)
    keys.start()
    keys.stop()
    gate = Gate(settings(), keys)
    scope: Scope = {"type": "http", "method": "GET", "path": "/methods"}
    gate.admit(scope, Caller(f"Bearer {tokens['run']}".encode(), None, None), [])
    assert scope[KEY].name == "the run one"
    gate.admit(scope, Caller(None, b"localhost", None), [])
    assert scope[KEY] is None


# the command line


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, arguments, env={"HEADSTART_API_KEY": "", **environment})
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def test_the_command_sends_the_key_of_the_environment(guarded: Live, tokens: dict[str, str]) -> None:
    url = {"HEADSTART_URL": guarded.url}
    code, _, sentence = run("families", **url)
    assert code == 1
    assert "HEADSTART_API_KEY" in sentence
    assert run("families", **url, HEADSTART_API_KEY=f" {tokens['read']}\n")[0] == 0
    code, _, sentence = run("scores", "lift", "1", "--note", "x", **url, HEADSTART_API_KEY=tokens["run"])
    assert code == 1
    assert "'admin'" in sentence
    for odd in ("a b", "ü"):
        code, _, sentence = run("families", **url, HEADSTART_API_KEY=odd)
        assert (code, sentence.count("\n")) == (1, 1)
        assert "HEADSTART_API_KEY" in sentence


def test_the_document_offers_bearer_keys_and_asks_for_none(local: Live) -> None:
    document = local.http.get("/openapi.json").json()
    assert document["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    assert document["security"] == [{"bearer": []}, {}]
    operations = [one for verbs in document["paths"].values() for one in verbs.values()]
    assert all({"401", "403", "429"} <= set(one["responses"]) for one in operations)
