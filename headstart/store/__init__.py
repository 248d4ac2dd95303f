"""The store: one class over SQLAlchemy, and the tables Alembic migrates."""

from headstart.store.schema import SCHEMA_REVISION, upgrade_schema
from headstart.store.scores import params_digest
from headstart.store.store import Store

__all__ = ["SCHEMA_REVISION", "Store", "params_digest", "upgrade_schema"]
