"""What `headstart serve` refuses, and the life of a key with a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from live_service import settings

from service.auth import digest_of
from service.client import Refused
from service.serving import check_bind

if TYPE_CHECKING:
    from pathlib import Path

    from headstart.store import Store

HEADSTART = (sys.executable, "-m", "service")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_others_are_served_only_where_they_can_have_a_key(store: Store, host: str) -> None:
    with pytest.raises(Refused, match=r"headstart keys create NAME --scope admin") as refused:
        check_bind(settings(host=host), store)
    assert host in str(refused.value)
    store.create_key("k", "read", digest_of(b"hs_k"), "hs_k")
    check_bind(settings(host=host), store)
    store.revoke_key("k")
    with pytest.raises(Refused):
        check_bind(settings(host=host), store)
    check_bind(settings(host=host, open_bind=True), store)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"])
def test_this_machine_needs_no_key(store: Store, host: str) -> None:
    check_bind(settings(host=host), store)


def headstart(folder: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        [*HEADSTART, *arguments],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def environment(folder: Path) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HEADSTART_")}
    return clean | {
        "HEADSTART_STORE": f"sqlite:///{folder}/new/store.db",
        "HEADSTART_STARTER": "",
        "HEADSTART_EMBEDDED_WORKER": "false",
        "COLUMNS": "200",
    }


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    shown, sentence = headstart(tmp_path, "keys", "create", "laptop", "--scope", "run")
    token = shown.strip()
    assert shown == f"{token}\n", "alone on its line, for scripts"
    assert token not in sentence
    assert "never shown again" in sentence
    assert "Authorization: Bearer" in sentence
    assert "HEADSTART_API_KEY" in sentence
    made: dict[str, Any] = json.loads(
        headstart(tmp_path, "keys", "create", "ci job", "--scope", "read", "--json")[0]
    )
    assert made["key"].startswith(made["shown"])
    assert (made["name"], made["scope"], made["revoked_at"]) == ("ci job", "read", None)
    table, _ = headstart(tmp_path, "keys", "list")
    assert f"{token[:8]}…" in table
    assert "ci job" in table
    assert "'laptop' is revoked" in headstart(tmp_path, "keys", "revoke", "laptop")[0]
    items = json.loads(headstart(tmp_path, "keys", "list", "--json")[0])["items"]
    assert [(key["name"], key["revoked_at"] is None) for key in items] == [
        ("laptop", False),
        ("ci job", True),
    ]
    assert set(items[0]) == {"id", "name", "scope", "shown", "created_at", "revoked_at"}
    for arguments, sentence in (
        (("revoke", "laptpo"), "laptop"),
        (("create", "laptop", "--scope", "read"), "'laptop'"),
        (("create", "a\tb", "--scope", "read"), "printable"),
        (("create", " ", "--scope", "read"), "printable"),
    ):
        out, told = headstart(tmp_path, "keys", *arguments, code=1)
        assert out == ""
        assert sentence in told
        assert told.count("\n") == 1
    headstart(tmp_path, "keys", "create", "x", "--scope", "root", code=2)
    headstart(tmp_path, "keys", "create", "x", code=2)


def test_a_key_lives_and_dies_beside_a_running_service_and_is_written_nowhere(tmp_path: Path) -> None:
    first = headstart(tmp_path, "keys", "create", "first", "--scope", "admin")[0].strip()
    command = [*HEADSTART, "serve", "--host", "0.0.0.0", "--port", "0", "--logs"]
    answers: list[httpx.Response] = []
    with subprocess.Popen(
        command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            question = [process.stdout.readline() for _ in range(3)][2]
            assert '-H "Authorization: Bearer $HEADSTART_API_KEY"' in question
            base = "http://" + question.split()[2].removesuffix("/recommend")
            with httpx.Client(base_url=base, trust_env=False) as http:

                def status(token: str) -> int:
                    headers = {"authorization": f"Bearer {token}"} if token else {}
                    answers.append(http.get("/methods", headers=headers))
                    return answers[-1].status_code

                def becomes(token: str, wanted: int) -> None:
                    started = time.monotonic()
                    while status(token) != wanted:
                        assert time.monotonic() - started < 10
                        time.sleep(0.05)

                assert (status(""), status(first), status(first + "x")) == (401, 200, 401)
                second = headstart(tmp_path, "keys", "create", "second", "--scope", "read")[0].strip()
                becomes(second, 200)
                headstart(tmp_path, "keys", "revoke", "first")
                becomes(first, 401)
                assert status(second) == 200
        finally:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
    written = [out, err, *(answer.text + str(answer.headers) for answer in answers)]
    for token in (first, second):
        assert not any(token[8:] in text for text in written)
        files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        assert not any(token[8:].encode() in data for data in files)
        assert any(digest_of(token.encode()).encode() in data for data in files)
