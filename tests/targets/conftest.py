"""What the tests of targets share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from headstart.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def store() -> Iterator[Store]:
    """A store in memory."""
    opened = Store("sqlite://")
    yield opened
    opened.close()
