"""The importer "checkpoint": a folder under the roots becomes a checkpoint with weights.

Its revision is the digest of the files that make it. Where the store knows a checkpoint of this family and
name without a revision (from published scores), that one is completed: its evidence is this checkpoint's.
Files that are registered already keep the name and family they have (the oldest of those they have, in the
family given if one is), unless another name is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.checkpoints.card import MOST_BYTES, clean, read_card
from headstart.checkpoints.describe import (
    check_config,
    check_shapes,
    details_of,
    license_of,
    parameters_of,
)
from headstart.checkpoints.files import (
    CONFIG,
    MOST_CONFIG_BYTES,
    TOKENIZER_CONFIG,
    digest_of,
    find_folder,
    headers_of,
    read_object,
)
from headstart.checkpoints.lineage import Base, Lineage, base_of, family_of, lineage_of, same_name
from headstart.checkpoints.place import FOLDER, place_of
from headstart.entities import CheckpointDraft, ImportBatch, ImportReport
from headstart.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headstart.checkpoints.files import Folder
    from headstart.checkpoints.safetensors import Header
    from headstart.entities import Checkpoint
    from headstart.evidence.ingest import Errand
    from headstart.store.store import Store

LONGEST_NAME = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A checkpoint as it was read, wherever it lies."""

    name: str  # if none was given
    pin: str  # a commit, or a digest
    config: Mapping[str, Any]
    card: Mapping[str, Sequence[str]]
    headers: tuple[Header, ...]
    details: dict[str, Any]  # where it lies


def import_folder(errand: Errand) -> ImportBatch:
    """Read the folder that the errand names. `params`: name, family, is_vanilla, each as given or null.

    Raises: Forbidden (outside the roots, pickles, code of its own), Unreachable, InvalidInput (anything in it
    that contradicts), Conflict (the family has another vanilla).
    """
    limits = errand.limits
    roots = (*limits.roots, *limits.checkpoint_roots)
    folder = find_folder(Path(errand.source), roots, pickles=limits.allow_pickles)
    errand.progress(0.0, "reading the config")
    config = read_object(folder.path / CONFIG, MOST_CONFIG_BYTES)
    tokenizer = folder.path / TOKENIZER_CONFIG
    tokenizer_config = read_object(tokenizer, MOST_CONFIG_BYTES) if tokenizer in folder.tokenizer else {}
    check_config(config, tokenizer_config)
    headers = headers_of(folder)
    digest = digest_of(folder, lambda read: errand.progress(0.75 * read, "reading the weights"))
    found = Found(
        name=str(folder.path),
        pin=digest,
        config=config,
        card=_card_of(folder),
        headers=headers,
        details={
            "source": FOLDER,
            "path": str(folder.path),
            "files": {path.name: path.stat().st_size for path in folder.files},
        },
    )
    return batch_of(found, errand.params, errand.store)


def batch_of(found: Found, params: Mapping[str, Any], store: Store) -> ImportBatch:
    """What is to be stored of a checkpoint: itself, and the vanilla that it names in a family that is new.

    Raises: InvalidInput, Conflict.
    """
    check_shapes(found.config, found.headers)
    family = params.get("family")
    name = params.get("name")
    if name is None and (known := _registered(found.pin, family, store)) is not None:
        name, family = known.name, known.family
    name = checked_name(name or found.name)
    families = [one.name for one in store.families()]

    def named(name: str) -> Sequence[Checkpoint]:
        return store.checkpoints_named([name]).get(name, ())

    base = base_of(
        name, found.card, found.config, is_known=lambda hint: family_of(hint, families, named) is not None
    )
    lineage = lineage_of(
        name,
        base,
        family=family,
        is_vanilla=bool(params.get("is_vanilla")),
        families=families,
        named=named,
    )
    name, revision, lineage = _identity(
        name, found.pin, lineage, store, insists=bool(params.get("is_vanilla"))
    )
    drafted = _drafted(found, base, lineage, name, revision)
    drafts = [drafted]
    if lineage.vanilla is not None:
        drafts.append(CheckpointDraft(family=lineage.family, name=lineage.vanilla, is_vanilla=True))
    return ImportBatch(
        checkpoints=tuple(drafts),
        targets=(),
        scores=(),
        report=ImportReport(notes=_notes(lineage, base)),
        registers=drafted,
    )


def _drafted(found: Found, base: Base | None, lineage: Lineage, name: str, revision: str) -> CheckpointDraft:
    told = {} if base is None else {"base_model": base.name, "base_model_told_by": base.told_by}
    details = details_of(found.config, found.card, found.headers)
    return CheckpointDraft(
        family=lineage.family,
        name=name,
        revision=revision,
        is_vanilla=lineage.is_vanilla,
        parameters=parameters_of(found.config, found.headers),
        license=license_of(found.card),
        details=details | found.details | {"revision": found.pin} | told,
    )


def checked_name(name: str) -> str:
    """A name as it can be stored. Raises InvalidInput."""
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise InvalidInput(
            f"{clean(name)[:60]!r} cannot be a checkpoint's name. Give one of 1 to {LONGEST_NAME} "
            "printable characters."
        )
    return name


def _card_of(folder: Folder) -> dict[str, list[str]]:
    if folder.card is None:
        return {}
    try:
        with folder.card.open("rb") as file:
            return read_card(file.read(MOST_BYTES).decode("utf-8", "replace"))
    except OSError:
        return {}


def _identity(
    name: str, pin: str, lineage: Lineage, store: Store, *, insists: bool
) -> tuple[str, str, Lineage]:
    """Under what name and revision it is stored, and whether as the vanilla, of which a family has one.

    Conflict where it is to be the vanilla (`insists`) and another checkpoint is.
    """
    vanilla = _vanilla_of(lineage.family, store) if lineage.is_vanilla else None
    if vanilla is not None:
        if same_name(vanilla.name, name) and place_of(vanilla).revision in ("", pin):
            return vanilla.name, vanilla.revision, lineage
        if insists:
            raise Conflict(_other_vanilla(lineage.family, vanilla))
        lineage = Lineage(lineage.family, is_vanilla=False)
    for one in store.checkpoints_named([name]).get(name, ()):
        if one.family == lineage.family and place_of(one).revision in ("", pin):
            return name, one.revision, lineage
    return name, pin, lineage


def _registered(pin: str, family: str | None, store: Store) -> Checkpoint | None:
    """The oldest checkpoint that these very files were registered as, in this family or, if None, in any."""
    return next((one for one in store.checkpoints_pinned(pin) if family in (None, one.family)), None)


def _vanilla_of(family: str, store: Store) -> Checkpoint | None:
    known = next((one for one in store.families() if one.name == family), None)
    return None if known is None or known.vanilla_id is None else store.checkpoint(known.vanilla_id)


def _other_vanilla(family: str, vanilla: Checkpoint) -> str:
    revision = place_of(vanilla).revision
    at = f" at {revision[:19]}" if revision else ""
    return (
        f"The vanilla of the family {family!r} is {vanilla.name!r}{at} (id {vanilla.id}), and a family has "
        "one. Give another name or family, or leave is_vanilla out."
    )


def _notes(lineage: Lineage, base: Base | None) -> tuple[str, ...]:
    if lineage.is_vanilla:
        return (f"It is the vanilla of the family {lineage.family!r}.",)
    told = "" if base is None else f", since its {base.told_by} names {base.name!r} as what it came from"
    return (f"It belongs to the family {lineage.family!r}{told}.",)
