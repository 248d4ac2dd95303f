"""The rows of targets on this machine: fetched from the store once, under their fingerprint."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from headstart.failures import Interrupted

if TYPE_CHECKING:
    from pathlib import Path

    from headstart.entities import Target
    from headstart.store import Store


def fetch_rows(store: Store, target: Target | None, cache: Path) -> Path | None:
    """The file with the target's rows; None if it has none.

    Raises: Interrupted (the cache cannot be written), StoreUnavailable.
    """
    if target is None or target.fingerprint is None:
        return None
    path = cache / "rows" / f"{target.fingerprint}.parquet"
    if path.exists():
        return path
    part = path.with_suffix(f".{uuid4().hex}.part")  # of this fetch alone: others may fetch the same rows
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            for chunk in store.target_rows(target.id):
                file.write(chunk)
        part.replace(path)  # whole or not at all
    except OSError as error:
        raise Interrupted(f"The rows of the target cannot be kept in {cache}: {error.strerror}.") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return path
