"""What both entry points of the worker begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstart.errors import InvalidInput
from headstart.settings import read_settings

if TYPE_CHECKING:
    from headstart.settings import Settings


def entry_settings() -> Settings:
    """The settings of the environment; one that cannot be used ends the process with a sentence."""
    try:
        return read_settings()
    except InvalidInput as error:
        raise SystemExit(error.message) from None
