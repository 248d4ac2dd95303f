"""`python -m migrations`: bring the store of HEADSTART_STORE to the newest schema."""

from __future__ import annotations

import sys

from headstart.errors import StoreUnavailable
from headstart.settings import Settings
from headstart.store.schema import SCHEMA_REVISION, upgrade_schema


def main() -> int:
    """Upgrade and say so in one line; on failure print the sentence and return 1."""
    try:
        upgrade_schema(Settings().store.get_secret_value())
    except StoreUnavailable as error:
        print(error.message, file=sys.stderr)
        return 1
    print(f"The store is at schema {SCHEMA_REVISION}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
