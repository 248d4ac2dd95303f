"""Synthetic evidence of any size, drawn from the model with published proportions."""

from __future__ import annotations

import numpy as np

from headstart.entities import CheckpointDraft, ImportBatch, ImportReport, ScoreDraft, TargetDraft
from headstart.refit import refit_stale
from headstart.store import Store, upgrade_schema

FAMILY = "synthetic-base"
TARGETS = [f"target-{t:02d}" for t in range(36)]
FINETUNED = 400  # checkpoints finetuned on every target; the others have a linear probe only
VANILLA_RUNS = 20


def fill(url: str, checkpoints: int, seed: int = 0) -> Store:
    """Open a fresh store with one family of `checkpoints` checkpoints, fitted."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=checkpoints)
    names = [f"author-{i % 997}/model-{i}" for i in range(checkpoints)]
    licenses = rng.choice(np.array(["mit", "apache-2.0", "cc-by-nc-4.0", ""]), size=checkpoints)
    sizes = rng.integers(20_000_000, 400_000_000, size=checkpoints)
    drafts = [CheckpointDraft(family=FAMILY, name=FAMILY, is_vanilla=True, parameters=124_000_000)]
    drafts += [
        CheckpointDraft(family=FAMILY, name=n, parameters=int(p), license=str(lic) or None)
        for n, p, lic in zip(names, sizes, licenses, strict=True)
    ]
    scores = [_score(FAMILY, "target-00", 0.5, method="linear_probe")]
    probes = np.clip(0.5 + 0.05 * quality + 0.05 * rng.normal(size=checkpoints), 0.34, 0.9)
    scores += [
        _score(n, "target-00", float(p), method="linear_probe") for n, p in zip(names, probes, strict=True)
    ]
    for t, target in enumerate(TARGETS):
        level, scale = 0.6 + 0.01 * t, rng.uniform(0.005, 0.03)
        runs = level + 0.3 * scale * rng.normal(size=VANILLA_RUNS)
        scores += [_score(FAMILY, target, float(v), seed=k) for k, v in enumerate(runs)]
        few = quality[:FINETUNED]
        values = level + scale * (0.5 * few + 0.5 * rng.normal(size=len(few)))
        scores += [_score(n, target, float(v)) for n, v in zip(names, values, strict=False)]
    upgrade_schema(url)
    store = Store(url)
    made = store.queue_import(store.create_import("table", "synthetic").id)
    claimed = store.claim_import(3600)
    assert claimed is not None
    targets = tuple(
        TargetDraft(name=t, train_size=int(rng.integers(200, 400_000)), classes=int(rng.integers(2, 20)))
        for t in TARGETS
    )
    batch = ImportBatch(
        checkpoints=tuple(drafts), targets=targets, scores=tuple(scores), report=ImportReport()
    )
    store.finish_import(made.id, claimed.attempt, batch)
    refit_stale(store)
    return store


def _score(
    checkpoint: str, target: str, value: float, *, seed: int = 0, method: str = "finetune"
) -> ScoreDraft:
    return ScoreDraft(
        family=FAMILY, checkpoint=checkpoint, target=target, method=method, value=value, seed=seed
    )
