"""A bench whose finetunes are the curves of a drawn world, and a clock that only they move."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.entities import Checkpoint
from headstart.procedures.race import Race, RaceParams
from headstart.workbench import Briefing, Finetuned, Outputs, Paused
from tests.fake_bench import TARGET, FakeBench
from tests.race.worlds import EVALUATIONS, World

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from headstart.workbench import FinetuneSpec, Judge

ROWS = 2000
STEP_SECONDS, STEPS = 1.0, 10  # of a step, and steps between two evaluations


@dataclass
class Track:
    """What all benches of one race share."""

    world: World
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)  # with what was said
    left: list[float | None] = field(default_factory=list)  # seconds, with what was said
    asked: list[tuple[int, int, int | None]] = field(default_factory=list)  # place, seed, evaluations
    fails: Mapping[int, Exception] = field(default_factory=dict)  # by place
    dies_at: float | None = None  # seconds of the clock
    test_values: int = 0  # seed of what the test rows say
    trained: dict[tuple[int, int], int] = field(default_factory=dict)  # steps so far

    def clock(self) -> float:
        return self.seconds


class Died(BaseException):
    """As a cancel, or a worker killed."""


@dataclass
class RaceBench(FakeBench):
    track: Track = None  # type: ignore[assignment]
    share: tuple[int | None, float | None] = (None, None)

    def report(
        self, fraction: float, stage: str, message: str = "", seconds_left: float | None = None
    ) -> None:
        super().report(fraction, stage, message, seconds_left)
        self.track.said.append(message)
        self.track.fractions.append(fraction)
        self.track.left.append(seconds_left)

    def on(
        self,
        checkpoint: Checkpoint,
        *,
        seed: int,
        evaluations: int | None = None,
        seconds: float | None = None,
    ) -> RaceBench:
        track = self.track
        place = track.world.ids.index(checkpoint.id)
        track.asked.append((place, seed, evaluations))
        until = None if seconds is None else track.seconds + seconds
        folder = self.folder / f"{checkpoint.id}-{seed}"
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        return replace(self, checkpoint=checkpoint, seed=seed, folder=folder, share=(evaluations, until))

    def finetune(self, spec: FinetuneSpec, judge: Judge) -> Finetuned:
        track = self.track
        place = track.world.ids.index(self.checkpoint.id)
        if place in track.fails:
            raise track.fails[place]
        whole = track.world.run(place, spec.seed)
        most, until = self.share
        size = track.world.parameters[place] if track.world.parameters else 1.0
        at = track.trained.get((place, spec.seed), 0)
        while at < STEPS * len(whole.curve):
            if (until is not None and track.seconds >= until) or (most is not None and at >= STEPS * most):
                track.trained[place, spec.seed] = at
                raise Paused(
                    _told(whole.curve[: at // STEPS]),
                    step=at,
                    steps_planned=STEPS * EVALUATIONS,
                    seconds=at * STEP_SECONDS * size,
                )
            at += 1
            track.seconds += STEP_SECONDS * size
            if track.dies_at is not None and track.seconds >= track.dies_at:
                raise Died
        track.trained[place, spec.seed] = at
        collapsed = (place, self.seed) in track.world.collapses
        assert whole.validation is not None
        test = np.random.default_rng([track.test_values, place]).random()
        return Finetuned(
            classes=("no", "yes"),
            validation=_outputs(0.5 if collapsed else whole.validation),
            test=_outputs(test),
            curve=_told(whole.curve),
            facts={
                "learning_rate": 1e-4,
                "seconds": at * STEP_SECONDS * size,
                "steps": at,
                "steps_planned": STEPS * EVALUATIONS,
                "train_seconds": at * STEP_SECONDS * size,
            },
        )


def _told(curve: tuple[float, ...]) -> tuple[dict[str, float], ...]:
    return tuple({"step": STEPS * (k + 1), "validation": value} for k, value in enumerate(curve))


def _outputs(right: float) -> Outputs:
    """Of rows half of which are of either class, so many of them told right."""
    labels = np.arange(ROWS) % 2
    said = np.where(np.arange(ROWS) < round(right * ROWS), labels, 1 - labels)
    return Outputs(values=np.eye(2, dtype=np.float32)[said], labels=labels)


def bench_of(world: World, folder: Path, **changes: Any) -> RaceBench:
    names = ["vanilla", *(f"cand-{k}" for k in range(1, len(world.gain)))]
    sizes = world.parameters or (1.0,) * len(world.gain)
    candidates = tuple(
        Checkpoint(
            id=one,
            family="f",
            name=name,
            revision="",
            is_vanilla=not k,
            parameters=int(1e6 * size),
            license=None,
        )
        for k, (one, name, size) in enumerate(zip(world.ids, names, sizes, strict=True))
    )
    bench = RaceBench(
        found=None,  # type: ignore[arg-type]
        folder=folder,
        target=replace(TARGET, profile={"rows": {"validation": ROWS}}),
        briefing=Briefing(candidates=candidates, prior=world.prior.as_dict()),
        track=Track(world),
    )
    return replace(bench, **changes)


def params_of(world: World, **changes: Any) -> RaceParams:
    return RaceParams(family="f", candidates=world.ids, **changes)


def race(bench: RaceBench, **changes: Any) -> dict[str, Any]:
    return Race(bench, params_of(bench.track.world, **changes), bench.track.clock).run()
