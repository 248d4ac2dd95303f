"""The verbs of webhook deliveries, which `submit_jobs` subscribes to, and which are due at the job's end."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from headstart.store import deliveries
from headstart.store.transactions import Transactions

if TYPE_CHECKING:
    from headstart.entities import Delivery, Page


class DeliveryVerbs(Transactions):
    """Webhook deliveries: claimed, tried, listed, sent again."""

    def claim_delivery(self, lease_seconds: float) -> Delivery | None:
        """Take the delivery that is due longest; without a recorded try it is due again after the lease."""
        with self._write() as connection:
            return deliveries.claim(connection, lease_seconds, self._shared_now())

    def record_try(
        self,
        claimed: Delivery,
        *,
        status: int | None,
        error: str | None,
        seconds: float,
        delivered: bool,
        next_in: float | None,
    ) -> bool:
        """Log a try of a claimed delivery: delivered, or due again in `next_in` seconds, or (None) failed.

        False: it was claimed, rearmed or sent again meanwhile; then the try is logged and changes nothing.
        """
        entry = {
            "at": self._clock().astimezone(UTC).isoformat(),
            "status": status,
            "error": error,
            "seconds": seconds,
        }
        with self._write() as connection:
            now = self._shared_now()
            return deliveries.note_try(connection, claimed, entry, next_in, delivered, now)

    def delivery(self, delivery_id: int) -> Delivery:
        """The delivery of this id."""
        with self._read() as connection:
            return deliveries.read(connection, delivery_id)

    def deliveries(
        self,
        *,
        job_id: int | None = None,
        state: str | None = None,
        page_size: int = 50,
        page_token: str | None = None,
    ) -> Page[Delivery]:
        """A page of the deliveries that pass every filter. NotFound if there is no such job."""
        with self._read() as connection:
            return deliveries.page_of_deliveries(connection, job_id, state, page_size, page_token)

    def redeliver(self, delivery_id: int) -> Delivery:
        """Make the delivery due now, with all its tries and its log kept. Conflict while its job goes on."""
        with self._write() as connection:
            return deliveries.redeliver(connection, delivery_id, self._shared_now())

    def delivery_counts(self) -> dict[str, int]:
        """Deliveries by state."""
        with self._read() as connection:
            return deliveries.count_by_state(connection)
