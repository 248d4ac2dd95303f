"""What a race is told before it begins."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from headstart.entities import (
    CheckpointDraft,
    ImportBatch,
    ImportReport,
    Job,
    JobDraft,
    ScoreDraft,
    TargetDraft,
)
from headstart.failures import CheckpointNotFound
from headstart.method import Measurement
from headstart.methods.finetune import METHOD, FinetuneParams
from headstart.store import Store
from headstart.workbench import Briefing, KnownRun
from worker.briefing import brief

if TYPE_CHECKING:
    from collections.abc import Iterator

RECIPE = FinetuneParams(epochs=3)
CURVE = [{"step": 5, "epoch": 1.0, "seconds": 1.0, "loss": 0.5, "validation": 0.7}]
FOUND = Measurement(
    value=0.6,
    stderr=0.02,
    rows_tested=100,
    details={"validation": 0.7, "curve": CURVE, "collapsed": False, "train_seconds": 2.5},
)


@pytest.fixture
def store() -> Iterator[Store]:
    """Checkpoints 1 (vanilla) to 4 of one family, targets 1 (asked) to 5."""
    store = Store("sqlite://")
    fill(
        store,
        checkpoints=tuple(
            CheckpointDraft(family="f", name=f"org/{number}", is_vanilla=number == 1)
            for number in range(1, 5)
        ),
        targets=tuple(TargetDraft(name=f"t{number}", train_size=1000, classes=2) for number in range(1, 6)),
    )
    yield store
    store.close()


def fill(store: Store, **what: Any) -> None:
    empty = ImportBatch(checkpoints=(), targets=(), scores=(), report=ImportReport())
    store.queue_import(store.create_import("table", "upload").id)
    claimed = store.claim_import(60)
    assert claimed is not None
    store.finish_import(claimed.id, claimed.attempt, replace(empty, **what))


def measured(
    store: Store, checkpoint_id: int, seed: int = 0, found: Measurement = FOUND, **changed: Any
) -> None:
    """The score of an ordinary job."""
    draft = JobDraft(
        method=METHOD.name,
        method_version=METHOD.version,
        checkpoint_id=checkpoint_id,
        target_id=1,
        params=RECIPE.model_dump(mode="json"),
        seed=seed,
    )
    store.submit_jobs([replace(draft, **changed)])
    job = store.claim_job(("cpu",), 60)
    assert job is not None
    assert store.finish_job(job.id, job.attempt, found, seconds=3.0)


def race(store: Store, *candidates: int) -> Job:
    params = {"family": "f", "candidates": candidates, "finetune": RECIPE.model_dump(mode="json")}
    draft = JobDraft(
        method="race", method_version="1", checkpoint_id=None, target_id=1, params=params, queue="gpu"
    )
    (answer,) = store.submit_jobs([draft])
    assert answer.job is not None
    return store.job(answer.job.id)


def published(*cells: tuple[int, int, float]) -> tuple[ScoreDraft, ...]:
    return tuple(
        ScoreDraft(
            family="f", checkpoint=f"org/{checkpoint}", target=f"t{target}", method="finetune", value=value
        )
        for checkpoint, target, value in cells
    )


def test_candidates_come_in_their_order_and_one_that_has_gone_is_left_out(store: Store) -> None:
    briefing = brief(store, race(store, 1, 4, 99, 2))
    assert [one.id for one in briefing.candidates] == [1, 4, 2]
    assert briefing.candidates[0] == store.checkpoint(1)
    assert (briefing.known, briefing.prior) == ((), None)
    with pytest.raises(CheckpointNotFound, match="no checkpoint 99, which is the vanilla"):
        brief(store, race(store, 99, 2))


def test_finetunes_by_the_same_recipe_are_known(store: Store) -> None:
    measured(store, 1, seed=7)
    measured(store, 2)
    measured(store, 2, seed=5, params=FinetuneParams().model_dump(mode="json"))  # another recipe
    measured(store, 2, seed=6, target_id=2)
    measured(store, 2, seed=8, method_version="0")
    measured(store, 3)  # no candidate
    fill(store, scores=published((4, 1, 0.9)))  # tells of no validation rows
    twice = [{"train_seconds": 2.0}, {"train_seconds": 1.5}]
    collapsed = replace(
        FOUND, details=FOUND.details | {"collapsed": True, "runs": twice}, quarantine="collapsed"
    )
    measured(store, 4, found=collapsed)
    measured(store, 2, seed=9)
    outlier = next(score for score in store.scores(checkpoint_id=2).items if score.seed == 9)
    store.set_quarantine(outlier.id, "outlier", None)
    briefing = brief(store, race(store, 1, 2, 4))
    run = KnownRun(checkpoint_id=1, seed=7, validation=0.7, curve=tuple(CURVE), collapsed=False, seconds=2.5)
    assert briefing.known == (
        run,
        replace(run, checkpoint_id=2, seed=0),
        replace(run, checkpoint_id=4, seed=0, collapsed=True, seconds=3.5),
    )


def test_the_prior_is_of_other_targets(store: Store) -> None:
    measured(store, 1)
    measured(store, 2)
    assert brief(store, race(store, 1, 2)).prior is None  # of this target alone
    levels = {2: 0.5, 3: 0.6, 4: 0.7, 5: 0.55}
    cells = [(1, target, level) for target, level in levels.items()]
    cells += [(2, target, level + 0.05) for target, level in levels.items()]
    cells += [(3, target, level - 0.05) for target, level in levels.items()]
    fill(store, scores=published(*cells))
    briefing = brief(store, race(store, 1, 3, 2))
    prior = briefing.prior
    assert prior is not None
    assert prior["checkpoint_ids"] == [1, 3, 2]
    assert prior["gain"][0] == 0.0
    assert prior["gain"][1] < prior["gain"][2]
    assert np.linalg.eigvalsh(prior["covariance"]).min() > -1e-9
    assert Briefing.from_json(briefing.to_json()) == briefing
