"""What a worker can import beside the usual: targets and checkpoints of the hub, where the libraries are."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headstart.evidence.ingest import Importer


@cache
def hub_importers() -> Mapping[str, Importer]:
    """The importers that this process can run, by the kind of import; the others wait for another worker."""
    found: dict[str, Importer] = {}
    if find_spec("huggingface_hub") is not None:
        from worker.hub_checkpoints import IMPORTERS as CHECKPOINTS  # noqa: PLC0415 - heavy, off the start

        found |= CHECKPOINTS
    if find_spec("datasets") is not None:
        from worker.hub_datasets import IMPORTERS as TARGETS  # noqa: PLC0415

        found |= TARGETS
    return found
