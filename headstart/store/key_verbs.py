"""The verbs of API keys. What is stored of a key is a digest: no verb takes or gives the key itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstart.store import keys
from headstart.store.transactions import Transactions

if TYPE_CHECKING:
    from headstart.entities import ApiKey


class KeyVerbs(Transactions):
    """API keys: made, listed, revoked."""

    def create_key(self, name: str, scope: str, digest: str, shown: str) -> ApiKey:
        """Store a key by the digest of it; Conflict if the name was ever used."""
        with self._write() as connection:
            return keys.create(connection, name, scope, digest, shown, self._clock())

    def keys(self) -> tuple[ApiKey, ...]:
        """Every key, the revoked ones too, ascending id."""
        with self._read() as connection:
            return keys.read_all(connection)

    def revoke_key(self, name: str) -> ApiKey:
        """Revoke the key of this name. Doing so again changes nothing."""
        with self._write() as connection:
            return keys.revoke(connection, name, self._clock())
