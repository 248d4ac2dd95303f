"""The least that a job needs: one checkpoint and one target, put into the store by an import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstart.entities import CheckpointDraft, ImportBatch, ImportReport, TargetDraft

if TYPE_CHECKING:
    from headstart.store import Store


def import_one_pair(store: Store) -> tuple[int, int]:
    """Import them, and return their ids. Doing so again changes nothing."""
    store.queue_import(store.create_import("table", "upload").id)
    claimed = store.claim_import(60)
    assert claimed is not None
    batch = ImportBatch(
        checkpoints=(CheckpointDraft(family="roberta-base", name="roberta-base", is_vanilla=True),),
        targets=(TargetDraft(name="rte"),),
        scores=(),
        report=ImportReport(),
    )
    store.finish_import(claimed.id, claimed.attempt, batch)
    return store.checkpoints().items[0].id, store.targets().items[0].id
