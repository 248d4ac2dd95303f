"""What a procedure is told of the store before it begins: its candidates, and what is known of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import NotFound
from headstart.failures import CheckpointNotFound
from headstart.methods.finetune import METHOD as FINETUNE
from headstart.methods.finetune import runs_of
from headstart.refit import others_of
from headstart.store.paging import all_items
from headstart.store.scores import params_digest
from headstart.workbench import Briefing, KnownRun

if TYPE_CHECKING:
    from headstart.entities import Checkpoint, Job, Score
    from headstart.store import Store


def brief(store: Store, job: Job) -> Briefing:
    """The briefing of a job whose params name a `family` and `candidates`, the vanilla first.

    One that finetunes nothing (it has no `finetune` among its params) is told the candidates alone.

    Raises: CheckpointNotFound (the vanilla has gone), StoreUnavailable.
    """
    candidates = _candidates(store, job.params["candidates"])
    if "finetune" not in job.params:
        return Briefing(candidates=candidates)
    return Briefing(
        candidates=candidates,
        known=_known(store, job, candidates),
        prior=_prior(store, job, candidates),
    )


def _candidates(store: Store, wanted: list[int]) -> tuple[Checkpoint, ...]:
    found = []
    for place, checkpoint_id in enumerate(wanted):
        try:
            found.append(store.checkpoint(checkpoint_id))
        except NotFound:
            if place == 0:
                raise CheckpointNotFound(
                    f"The store holds no checkpoint {checkpoint_id}, which is the vanilla of the candidates.",
                    "Ask again, with a family that has a vanilla.",
                ) from None
    return tuple(found)


def _known(store: Store, job: Job, candidates: tuple[Checkpoint, ...]) -> tuple[KnownRun, ...]:
    """Finetunes of the candidates on this target by the recipe of the params, by candidate and seed."""
    if job.target_id is None:
        return ()
    digest = params_digest(job.params.get("finetune", {}))
    found: dict[tuple[int, int], KnownRun] = {}
    for checkpoint in candidates:
        scores = all_items(
            store.scores, checkpoint_id=checkpoint.id, target_id=job.target_id, method=FINETUNE.name
        )
        for score in scores:
            same = score.params_digest == digest and score.method_version == FINETUNE.version
            run = known_run(score) if same else None
            # beside a score in force there may be one under quarantine, which counts for less
            if run is not None and (score.quarantine is None or (run.checkpoint_id, run.seed) not in found):
                found[run.checkpoint_id, run.seed] = run
    return tuple(found.values())


def known_run(score: Score) -> KnownRun | None:
    """The run behind a score in force, or one that collapsed; None where the score tells of none."""
    told: dict[str, Any] = score.provenance
    if score.quarantine not in {None, "collapsed"}:
        return None
    if told.get("validation") is None or not isinstance(told.get("curve"), list):  # it was published
        return None
    return KnownRun(
        checkpoint_id=score.checkpoint_id,
        seed=score.seed,
        validation=told["validation"],
        curve=tuple(told["curve"]),
        collapsed=score.quarantine is not None or bool(told.get("collapsed")),
        seconds=sum(one.get("train_seconds", 0.0) for one in runs_of(told)),
    )


def _prior(store: Store, job: Job, candidates: tuple[Checkpoint, ...]) -> dict[str, Any] | None:
    """What the evidence of other targets says of the candidates' gains; None where there is none."""
    from headstart.race.prior import prior_of  # noqa: PLC0415 - for those jobs that need it

    evidence = store.evidence(job.params["family"])
    others = others_of(evidence, [family.name for family in store.families()], store.evidence)
    if not any(np.any(one.target_ids[one.target] != job.target_id) for one in (evidence, *others)):
        return None
    targets = {target.id: target for target in store.all_targets()}
    asked = [targets[int(one)] for one in evidence.target_ids]
    prior = prior_of(
        evidence,
        others,
        job.target_id or 0,
        [checkpoint.id for checkpoint in candidates],
        np.array([one.train_size or np.nan for one in asked], dtype=float),
        np.array([one.classes or np.nan for one in asked], dtype=float),
    )
    return prior.as_dict()
