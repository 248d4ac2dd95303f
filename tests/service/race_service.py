"""A service with a family to race and a target that has rows, and what a race could end with."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from live_service import fill, serving, settings

from headstart.entities import (
    CheckpointDraft,
    ImportBatch,
    ImportReport,
    RowsDraft,
    ScoreDraft,
    TargetDraft,
)
from headstart.refit import refit_stale

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from live_service import Live

    from headstart.store import Store

FAMILY = "roberta-base"
NAMELESS = "my run (1)"  # the best of all, and nobody has its weights
RUNNABLE = ("alice/rob-mnli", "org/c1", "org/c2", "org/c3")
ELSEWHERE = ("rte", "mnli", "org/set")


def stored(store: Store, **parts: Any) -> None:
    store.queue_import(store.create_import("table", "upload").id)
    claimed = store.claim_import(60)
    assert claimed is not None
    nothing: dict[str, Any] = {"checkpoints": (), "targets": (), "scores": (), "report": ImportReport()}
    assert store.finish_import(claimed.id, claimed.attempt, ImportBatch(**nothing | parts)) is not None


def measured(name: str, target: str, value: float, seed: int = 0) -> ScoreDraft:
    return ScoreDraft(
        family=FAMILY, checkpoint=name, target=target, method="finetune", value=value, seed=seed
    )


@contextmanager
def racing(store: Store, folder: Path, *more: ScoreDraft, **given: Any) -> Iterator[Live]:
    """Serve them, without a worker; `more` are scores."""
    fill(store)
    names = {"org/c1": 0.54, "org/c2": 0.58, "org/c3": 0.66, NAMELESS: 0.9}
    rows = folder / "rows"
    rows.write_bytes(b"as a worker reads them")
    stored(
        store,
        checkpoints=tuple(CheckpointDraft(family=FAMILY, name=name, parameters=10**6) for name in names),
        targets=(TargetDraft(name="films"),),
        scores=tuple(measured(name, target, value) for name, value in names.items() for target in ELSEWHERE),
        rows=RowsDraft(target="films", fingerprint="d1", profile={"rows": {"test": 5}}, file=rows),
    )
    stored(store, scores=more)
    refit_stale(store)
    with serving(store, settings(**{"webhook_secret": "s"} | given)) as live:
        yield live


def id_of(live: Live, name: str) -> int:
    (found,) = (one for one in live.store.checkpoints(search=name).items if one.name == name)
    return found.id


def films(live: Live) -> str:
    return f"/targets/{live.store.target_named('films').id}/race"


def run_of(seed: int = 0, *, finished: bool = True, **more: Any) -> dict[str, Any]:
    usual = {"evaluations": 10, "steps": 100, "steps_planned": 100, "validation": 0.8, "seconds": 50.0}
    return {"seed": seed, **usual, "finished": finished, "collapsed": False, "known": False} | more


def result_of(live: Live, job: dict[str, Any]) -> dict[str, Any]:
    """What a race between all candidates of a job could end with."""
    ids = job["params"]["candidates"]
    candidates = [
        {
            "id": one,
            "name": live.store.checkpoint(one).name,
            "vanilla": at == 0,
            "prior_gain": 0.5 * (at > 0),
            "expected_gain": 2.25 * (at == 1),
            "gain_interval": [1.0, 3.5] if at == 1 else [-0.5, 0.5],
            "p_best": 0.97 if at == 1 else 0.03 / (len(ids) - 1),
            "p_worth": 0.95 if at == 1 else 0.1,
            "runs": [run_of()] if at < 2 else [run_of(finished=False, steps=25, evaluations=2)],
        }
        for at, one in enumerate(ids)
    ]
    return {
        "verdict": "start_from",
        "pick": {"id": ids[1], "name": candidates[1]["name"]},
        "sentence": f"Start from {candidates[1]['name']}.",
        "p_best": 0.97,
        "p_worth": 0.95,
        "p_any_worth": 0.96,
        "expected_gain": 2.25,
        "gain_interval": [1.0, 3.5],
        "expected_regret": 0.02,
        "ended": "decided",
        "candidates": candidates,
        "seconds": 150.0,
        "runs": len(ids),
        "seconds_of_all": 600.0,
        "share": 0.25,
        "failures": [
            {"id": 9, "name": "org/gone", "failure": "CheckpointNotFound", "sentence": "It is gone."}
        ],
    }
