"""A checkpoint that a job wrote, described as the import of its folder would describe it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headstart.checkpoints.card import read_card
from headstart.checkpoints.describe import details_of, parameters_of
from headstart.checkpoints.files import CARD, CONFIG, MOST_CONFIG_BYTES, find_folder, headers_of, read_object
from headstart.checkpoints.place import FOLDER
from headstart.entities import CheckpointDraft

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from worker.checkpoints import CheckpointFiles


def draft_of(
    files: CheckpointFiles,
    root: Path,
    *,
    family: str,
    name: str,
    license: str | None,
    came_from: Mapping[str, Any],
) -> CheckpointDraft:
    """The draft of a folder below `root`; `came_from` says in its details what it was made of."""
    folder = find_folder(files.folder, [root], pickles=False)
    config = read_object(folder.path / CONFIG, MOST_CONFIG_BYTES)
    card = read_card((folder.path / CARD).read_text(encoding="utf-8"))
    headers = headers_of(folder)
    place = {
        "source": FOLDER,
        "path": str(folder.path),
        "files": {path.name: path.stat().st_size for path in folder.files},
        "revision": files.digest,
    }
    return CheckpointDraft(
        family=family,
        name=name,
        revision=files.digest,
        parameters=parameters_of(config, headers),
        license=license,
        details=details_of(config, card, headers) | place | dict(came_from),
    )
