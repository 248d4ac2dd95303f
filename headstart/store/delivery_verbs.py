"""The verbs of webhook deliveries."""

from __future__ import annotations

from headstart.store.transactions import Transactions


class DeliveryVerbs(Transactions):
    """Webhook deliveries: claimed, tried, listed, sent again."""
