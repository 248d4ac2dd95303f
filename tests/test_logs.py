"""What the logs show of an exception, and what they never do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import structlog

from headstart.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def _restored() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def open_the_store(password: str) -> None:
    raise RuntimeError(f"cannot connect with {len(password)} letters")


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("json_lines", [True, False])
def test_an_exception_shows_no_variables(capsys: pytest.CaptureFixture[str], json_lines: bool) -> None:
    configure_logs(json_lines=json_lines)
    secret = "-".join(("hunter", "2"))  # so that no line of the code holds it
    try:
        open_the_store(secret)
    except RuntimeError:
        structlog.get_logger().exception("chore_failed")
    shown = capsys.readouterr().err
    assert "cannot connect with 8 letters" in shown
    assert "open_the_store" in shown
    assert "hunter-2" not in shown
    if json_lines:
        assert json.loads(shown)["exception"][0]["exc_type"] == "RuntimeError"
