"""Answers that cannot be recorded; what the wire shows of Idempotency-Key is tested with the routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from headstart.entities import RecordedResponse
from headstart.errors import StoreUnavailable
from service.idempotency import RequestKey, answer_once

if TYPE_CHECKING:
    import pytest

    from headstart.store import Store


def test_what_was_done_is_told_though_it_cannot_be_recorded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise StoreUnavailable("The store does not answer. Try again.")

    monkeypatch.setattr(store, "record_response", gone)
    made = RecordedResponse(status=202, headers={}, body=b"{}")
    with capture_logs() as logged:
        answer = answer_once(store, RequestKey("k", None), "POST /jobs", "digest", lambda: made)
    assert answer == (made, False)
    assert [line["event"] for line in logged] == ["answer_not_recorded"]
