"""Race: which of a few checkpoints is the best start on a target, by finetuning them as little as it takes.

What: finetunes of one recipe are begun, paused, moved on and ended until it is clear which candidate to start
from, or that the vanilla is as good. The result names it with probabilities; gains are in percentage points
of the target's metric over the vanilla, on the validation rows.
Source: the procedure of Choshen et al., "Where to start?", EMNLP 2023, arXiv 2211.00107: the vanilla and the
top-ranked candidate first, whose difference is the sensitivity test. It gives no threshold, no number of
seeds and no rule for picking; those are ours (`headstart.race.policy`, `docs/races.md`).

Nothing that decides has seen a test row: not the prior (`headstart.race.prior`), and of a finished finetune
only `validation`, `curve` and `collapsed` are read. Its score is kept at once, for the evidence.

What decisions rest on lies in the job's folder, so that the next attempt on this machine goes on from there.
Seconds of an attempt that was killed are lost from its last stretch on, and not charged to the budget.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field as Param
from pydantic import field_validator

from headstart.failures import (
    CheckpointNotFound,
    JobFailure,
    Killed,
    NonFinite,
    NotApplicable,
    OutOfMemory,
    Refused,
)
from headstart.method import Params, Procedure
from headstart.methods import finetune
from headstart.methods.finetune import FinetuneParams
from headstart.race.field import COLLAPSES, Field, sizes
from headstart.race.outcome import outcome
from headstart.race.policy import End, Ended, Step, first_runner, leading, next_step
from headstart.race.prior import Prior, ignorant
from headstart.race.runs import Run
from headstart.workbench import DEATHS, KnownRun, Paused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headstart.entities import Checkpoint
    from headstart.method import Measurement
    from headstart.workbench import Workbench

FORMAT = 2  # of the file; raised whenever what is in it changes
FILE = "race.json"
# Of one candidate, which leaves the race. Any other failure is the job's.
LEAVES = (CheckpointNotFound, NotApplicable, NonFinite, OutOfMemory, Refused)
MOST_DEATHS = 2  # of the process, in runs of one candidate with one seed: then that run is left
USUAL_SHARE = 0.4  # of finetuning everything, by which progress is told where there is no budget


class RaceParams(Params):
    """Who races, by which recipe, and how long."""

    family: str
    candidates: tuple[int, ...] = Param(min_length=1, description="Checkpoints by id, the vanilla first.")
    finetune: FinetuneParams = Param(default_factory=FinetuneParams, description="The recipe of every run.")
    budget_seconds: float | None = Param(None, description="Of this job, over all its attempts.")
    budget_runs: int | None = Param(None, description="Finetunes begun, the vanilla's included.")
    worth: float = Param(0.5, ge=0, le=100, description="Points that justify leaving the vanilla.")
    least_chance: float = Param(
        0.1, ge=0, le=1, description="P(some candidate is worth it) below which the race stops."
    )

    @field_validator("budget_seconds", "budget_runs")
    @classmethod
    def _above_zero(cls, value: float | None) -> float | None:
        if value is not None and value <= 0:
            raise ValueError(
                f"A budget of {value:g} buys no finetune: give more than 0, or none to race until decided."
            )
        return value


def run(bench: Workbench, params: RaceParams) -> dict[str, Any]:
    """Race, and tell the result.

    Raises: the failure of the vanilla, NotApplicable where there is nobody to race, and what ends any job.
    """
    return Race(bench, params, time.monotonic).run()


class Race:
    """The loop between the policy and the bench."""

    def __init__(self, bench: Workbench, params: RaceParams, clock: Callable[[], float]) -> None:
        self._bench, self._params, self._clock = bench, params, clock
        self._by_id = {one.id: one for one in bench.briefing.candidates}
        self._names = {one.id: one.name for one in bench.briefing.candidates}
        self._spent, self._furthest = 0.0, 0.0
        self._stalled: set[tuple[int, int]] = set()
        self._deaths: dict[tuple[int, int], int] = {}  # of the process, by the run it was at
        self._failures: list[dict[str, Any]] = []
        self._died = _deaths(bench)
        self._field = self._load(_field(bench, params))

    def run(self) -> dict[str, Any]:
        """Until it ends."""
        self._drop_collapsed()
        self._drop_deadly()
        while True:
            step = next_step(self._field)
            if isinstance(step, End):
                return self._end(step.why)
            if self._left is not None and self._left <= 0:
                return self._end("budget")
            self._tell(step)
            self._stretch(step)

    def _end(self, why: Ended) -> dict[str, Any]:
        return outcome(self._field, why, self._names, self._spent, self._failures)

    @property
    def _left(self) -> float | None:
        budget = self._params.budget_seconds
        return None if budget is None else budget - self._spent

    # -- one stretch of one run

    def _stretch(self, step: Step) -> None:
        checkpoint, started = self._by_id[self._field.ids[step.place]], self._clock()
        evaluations = None if (checkpoint.id, step.seed) in self._stalled else step.evaluations
        bench = self._bench.on(checkpoint, seed=step.seed, evaluations=evaluations, seconds=self._left)
        saved = False
        self._save(running=(checkpoint.id, step.seed))
        try:
            self._train(bench, checkpoint, step)
        finally:  # cancelled, or to be tried again
            self._spent += self._clock() - started
            saved = self._save()
        if saved and bench.folder != self._bench.folder and self._is_over(checkpoint, step.seed):
            shutil.rmtree(bench.folder, ignore_errors=True)  # states are several times the weights

    def _is_over(self, checkpoint: Checkpoint, seed: int) -> bool:
        return checkpoint.id in self._field.failed or self._run_of(checkpoint, seed).finished

    def _train(self, bench: Workbench, checkpoint: Checkpoint, step: Step) -> None:
        before, key = self._run_of(checkpoint, step.seed), (checkpoint.id, step.seed)
        try:
            found = finetune.run(bench, self._params.finetune)
        except Paused as paused:
            run = _paused(before, paused)
            if run.evaluations <= before.evaluations:  # begun anew after a collapse: no rung is before it
                self._stalled.add(key)
            self._field = self._field.with_run(run)
        except LEAVES as failure:
            self._leave(checkpoint, before, failure)
        else:
            self._finish(checkpoint, before, found)

    def _run_of(self, checkpoint: Checkpoint, seed: int) -> Run:
        mine = [one for one in self._field.runs if (one.checkpoint_id, one.seed) == (checkpoint.id, seed)]
        return mine[0] if mine else Run(checkpoint_id=checkpoint.id, seed=seed)

    def _finish(self, checkpoint: Checkpoint, before: Run, found: Measurement) -> None:
        details = found.details
        seconds = float(sum(one.get("seconds", 0.0) for one in finetune.runs_of(details)))
        run = replace(
            before,
            curve=_curve(details["curve"]),
            validation=float(details["validation"]),
            collapsed=bool(details["collapsed"]),
            seconds=seconds,
            steps=int(details.get("steps", 0)),
            steps_planned=int(details.get("steps_planned", 0)),
        )
        self._field = self._field.with_run(run)
        self._bench.keep_score(
            checkpoint, finetune.METHOD, self._params.finetune, before.seed, found, seconds
        )
        self._drop_collapsed()

    def _drop_collapsed(self) -> None:
        """Who collapsed too often is out; known runs count. A vanilla that has a level all the same stays."""
        for place, one in enumerate(self._field.ids):
            stays = place == 0 and self._field.has_finished(0)
            if self._field.collapsed(place) >= COLLAPSES and one not in self._field.failed and not stays:
                sentence = f"{COLLAPSES} runs of {self._names[one]!r} ended at the largest class or below."
                self._out(
                    self._by_id[one], NotApplicable(sentence, "Lower the learning rate, or train longer.")
                )

    def _drop_deadly(self) -> None:
        """A run that its process died of again and again, most often for memory, has failed."""
        for (checkpoint_id, seed), deaths in self._deaths.items():
            over = checkpoint_id not in self._by_id or self._is_over(self._by_id[checkpoint_id], seed)
            if deaths >= MOST_DEATHS and not over:
                name = self._names[checkpoint_id]
                failure = Killed(f"The process that finetuned {name!r} died {deaths} times.")
                checkpoint = self._by_id[checkpoint_id]
                self._leave(checkpoint, self._run_of(checkpoint, seed), failure)

    def _leave(self, checkpoint: Checkpoint, before: Run, failure: JobFailure) -> None:
        """A candidate that failed is out; one that another seed of has finished stays, without this one."""
        if self._field.has_finished(self._field.place(checkpoint.id)):
            self._field = self._field.with_run(replace(before, collapsed=True))
            self._note(checkpoint, failure)
        else:
            self._out(checkpoint, failure)

    def _out(self, checkpoint: Checkpoint, failure: JobFailure) -> None:
        if checkpoint.id == self._field.ids[0]:
            raise failure
        self._note(checkpoint, failure)
        self._field = self._field.without(checkpoint.id)

    def _note(self, checkpoint: Checkpoint, failure: JobFailure) -> None:
        told = failure.failure()
        self._failures.append(
            {"id": checkpoint.id, "name": checkpoint.name, "failure": told.name, "sentence": told.sentence}
        )

    # -- progress

    def _tell(self, step: Step) -> None:
        field, name = self._field, self._names[self._field.ids[step.place]]
        run = self._run_of(self._by_id[field.ids[step.place]], step.seed)
        begun = [one for one in field.runs if not one.known]
        number = 1 + (begun.index(run) if run in begun else len(begun))
        aim = "to its end" if step.evaluations is None else f"to evaluation {step.evaluations}"
        said = (
            f"run {number}: {name} {step.why}" if step.evaluations is None else f"run {number}: {name} {aim}"
        )
        if field.has_finished(0):
            leader, gain, chance = leading(field)
            by = f" by {gain:.1f} points" if leader else ""
            said += f"; {self._names[field.ids[leader]]} leads{by}, P(best) {chance:.2f}"
        self._furthest = max(self._furthest, self._fraction())
        self._bench.report(self._furthest, "racing", said, self._seconds_left())

    def _fraction(self) -> float:
        """Of the budget, or of the share of all finetunes that a race usually takes."""
        params, field, shares = self._params, self._field, [0.0]
        if params.budget_seconds:
            shares.append(self._spent / params.budget_seconds)
        if field.told_to_the_end:
            made = sum(
                len(one.curve) * field.parameters[field.place(one.checkpoint_id)]
                for one in field.runs
                if not one.known
            )
            second = first_runner(field)
            least = field.parameters[0] + (field.parameters[second] if second is not None else 0.0)
            usual = max(USUAL_SHARE * sum(field.parameters), least)
            shares.append(made / (usual * field.curves.usual_end))
        return min(max(shares), 0.95)

    def _seconds_left(self) -> float | None:
        """As at the pace so far, and no more than the budget leaves; told once a stretch."""
        if not self._spent or not self._furthest:
            return None
        told = self._spent * (1 - self._furthest) / self._furthest
        return told if self._left is None else min(told, self._left)

    # -- what the next attempt finds

    def _save(self, running: tuple[int, int] | None = None) -> bool:
        """Whether the disk took it. `running`: the run about to go on, should this process die of it."""
        told = {
            "format": FORMAT,
            "seconds": self._spent,
            "prior": self._field.prior.as_dict(),
            "runs": [one.to_json() for one in self._field.runs],
            "failed": sorted(self._field.failed),
            "failures": self._failures,
            "deaths": [[*key, count] for key, count in self._deaths.items()],
            "died": self._died,
            "running": running,
        }
        path = self._bench.folder / FILE
        new = path.with_suffix(".new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(told))
            new.replace(path)
        except OSError:  # a disk that is full costs the next attempt what this one knew
            return False
        return True

    def _load(self, field: Field) -> Field:
        """The field as an attempt before this one left it, where it did."""
        try:
            told = json.loads((self._bench.folder / FILE).read_text())
        except (OSError, ValueError):
            return field
        if told.get("format") != FORMAT:
            return field
        self._spent, self._failures = told["seconds"], told["failures"]
        self._deaths = {(one, seed): count for one, seed, count in told["deaths"]}
        if told["running"] is not None and self._died > told["died"]:
            at = told["running"][0], told["running"][1]
            self._deaths[at] = self._deaths.get(at, 0) + 1
        runs = tuple(Run.from_json(one) for one in told["runs"] if one["checkpoint_id"] in field.ids)
        return replace(
            field,
            prior=Prior.from_dict(told["prior"]).among(field.ids),
            runs=runs,
            failed=frozenset(told["failed"]) & frozenset(field.ids),
        )


def _field(bench: Workbench, params: RaceParams) -> Field:
    """Before anybody runs."""
    candidates = bench.briefing.candidates
    ids = tuple(one.id for one in candidates)
    if not ids or ids[0] != params.candidates[0]:
        raise CheckpointNotFound(
            f"The vanilla of {params.family!r}, checkpoint {params.candidates[0]}, has left the store.",
            "Register it again with POST /checkpoints, and ask for a new race.",
        )
    if len(ids) < 2:
        raise NotApplicable(
            f"Nobody but the vanilla of {params.family!r} would race.",
            "Name candidates, or register checkpoints of the family with POST /checkpoints.",
        )
    told, recipe = bench.briefing.prior, params.finetune
    rows = ((bench.target.profile or {}).get("rows") or {}).get("validation")
    return Field(
        ids=ids,
        parameters=sizes([one.parameters for one in candidates]),
        prior=ignorant(ids) if told is None else Prior.from_dict(told).among(ids),
        runs=_known(bench.briefing.known, ids),
        seed=bench.seed,
        worth=params.worth,
        least_chance=params.least_chance,
        most_runs=params.budget_runs,
        patience=recipe.patience,
        epsilon=recipe.epsilon,
        validation_rows=None if not rows else min(int(rows), recipe.max_rows),
    )


def _deaths(bench: Workbench) -> int:
    """How often a process died at this job on this machine."""
    try:
        return len((bench.folder / DEATHS).read_text().splitlines())
    except OSError:
        return 0


def _known(known: Sequence[KnownRun], ids: tuple[int, ...]) -> tuple[Run, ...]:
    return tuple(
        Run(
            checkpoint_id=one.checkpoint_id,
            seed=one.seed,
            curve=_curve(one.curve),
            validation=one.validation,
            collapsed=one.collapsed,
            known=True,
            seconds=one.seconds,
        )
        for one in known
        if one.checkpoint_id in ids
    )


def _curve(evaluations: Sequence[dict[str, float]]) -> tuple[float, ...]:
    return tuple(float(one["validation"]) for one in evaluations)


def _paused(before: Run, paused: Paused) -> Run:
    return replace(
        before,
        curve=_curve(paused.curve),
        seconds=paused.seconds,
        steps=paused.step,
        steps_planned=paused.steps_planned,
    )


RACE = Procedure(
    name="race",
    version="1",
    needs=("finetune", "labelled rows"),
    summary="Which of a few checkpoints is the best start on a target, by as little finetuning as it takes.",
    params=RaceParams,
    run=run,
)
