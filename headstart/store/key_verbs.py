"""The verbs of API keys."""

from __future__ import annotations

from headstart.store.transactions import Transactions


class KeyVerbs(Transactions):
    """API keys: made, listed, revoked."""
