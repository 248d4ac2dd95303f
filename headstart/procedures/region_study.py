"""Region study: whether a region of weight space is one, by the generalised loss in it, around it and beyond.

What: the generalised loss (`headstart.generalised_loss`) on the job's target of the vanilla, of the
checkpoints inside a region and outside it, of random convex combinations of those inside (weights drawn from
Dirichlet(1)), of their centroid, and of points on the lines between pairs of them and beyond. From that
P_B(a, b), the probability that a random member of `a` has lower loss than one of `b`, and the curves along
the lines.
Source: Gueta et al., Findings of EMNLP 2023 (arXiv 2302.04863): In, In', Ex, P_B, interpolation and
extrapolation. There P_B(In' vs Ex) is 1.00, P_B(In' vs In) 0.88 to 0.97, and between two models of a region
the loss is at or below both ends. The statistics, and their intervals, are in `headstart.regions.study`.

A member of the region that was tuned on the target answers another question: who asks leaves it out.

Each point that was measured lies in the job's folder, so that the next attempt on this machine goes on from
there. A mixture's weights are there only until it is measured.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from headstart.failures import CheckpointNotFound, JobFailure, NonFinite, NotApplicable, Refused
from headstart.generalised_loss import generalised_loss
from headstart.method import Procedure
from headstart.probe import PassParams
from headstart.procedures.centroid import MOST_WEIGHT
from headstart.regions import study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from jaxtyping import Float

    from headstart.entities import Checkpoint
    from headstart.workbench import Workbench

FORMAT = 1  # of the file; raised whenever what is in it changes
FILE = "region-study.json"
LEAST_INSIDE = 2
MOST_POINTS = 2000
# Of one checkpoint or mixture, which is then left out. Any other failure is the job's, as is the vanilla's.
LEFT_OUT = (CheckpointNotFound, NotApplicable, NonFinite, Refused)
VANILLA, INSIDE, OUTSIDE, HULL, CENTROID, LINE = "vanilla", "inside", "outside", "hull", "centroid", "line"
COMPARED = (
    *((HULL, OUTSIDE), (HULL, INSIDE), (INSIDE, OUTSIDE), (INSIDE, VANILLA), (HULL, VANILLA)),
    *((CENTROID, INSIDE), (CENTROID, OUTSIDE), (CENTROID, VANILLA)),
)

Strength = Annotated[float, Field(gt=0, le=1e6)]


class RegionStudyParams(PassParams):
    """Which checkpoints, and where between them the loss is looked at."""

    family: str
    candidates: tuple[int, ...] = Field(
        description="Checkpoints by id: the vanilla, then all others. Those not inside are outside."
    )
    inside: tuple[int, ...] = Field(description="Members of the region, by id, not tuned on the target.")
    region: int | str | None = Field(None, description="What the region is called.")
    hull_samples: int = Field(10, ge=0, le=500, description="Random convex combinations of those inside.")
    pairs: int = Field(3, ge=0, le=100, description="Of those inside, drawn at random, joined by lines.")
    line_points: tuple[float, ...] = Field(
        (-0.5, -0.25, 0.25, 0.5, 0.75, 1.25, 1.5),
        max_length=50,
        description="Places on each line: 0 is the one end, 1 the other, and both are always looked at; "
        "below 0 and above 1 lies what is beyond them.",
    )
    l2: Annotated[tuple[Strength, ...], Field(min_length=1, max_length=30)] = Field(
        (1.0, 0.1, 0.01, 0.001, 0.0001),
        description="Strengths of the probe's penalty. The validation rows choose among them.",
    )

    @field_validator("line_points")
    @classmethod
    def _not_too_far(cls, points: tuple[float, ...]) -> tuple[float, ...]:
        far = [point for point in points if abs(point) > MOST_WEIGHT - 1]
        if far:
            raise ValueError(f"A point at {far[0]:g} is too far out: at most {MOST_WEIGHT - 1:g} either way.")
        return points

    @property
    def places(self) -> tuple[float, ...]:
        """On each line, in their order, the ends among them."""
        return tuple(sorted({0.0, 1.0, *self.line_points}))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.candidates)) < len(self.candidates):
            raise ValueError("A candidate is named twice: give each once, the vanilla first.")
        unknown = sorted(set(self.inside) - set(self.candidates[1:]))
        if unknown:
            raise ValueError(f"Checkpoint {unknown[0]} is inside and no candidate behind the vanilla.")
        if len(set(self.inside)) < max(LEAST_INSIDE, len(self.inside)):
            raise ValueError(
                f"A region of {len(set(self.inside))} has no inside: give {LEAST_INSIDE} members or more, "
                "each once."
            )
        points = len(self.candidates) + self.hull_samples + self.pairs * len(self.places)
        if points > MOST_POINTS:
            raise ValueError(f"The study would look at {points} points, over {MOST_POINTS}: ask for fewer.")
        return self


def run(bench: Workbench, params: RegionStudyParams) -> dict[str, Any]:
    """Measure every point, and compare.

    Raises: the failure of the vanilla, NotApplicable where fewer than two of those inside can be read, and
    what ends any job.
    """
    return Study(bench, params).run()


class Study:
    """The points, one after the other."""

    def __init__(self, bench: Workbench, params: RegionStudyParams) -> None:
        self._bench, self._params = bench, params
        self._by_id = {one.id: one for one in bench.briefing.candidates}
        self._left_out: list[dict[str, Any]] = []
        self._points: list[dict[str, Any]] = []
        self._known = self._load()
        lines = params.pairs * len(params.places)
        self._total = len(params.candidates) + 1 + params.hull_samples + lines

    def run(self) -> dict[str, Any]:
        """Until all are measured."""
        vanilla, *others = self._params.candidates
        self._measure(VANILLA, {vanilla: 1.0})
        inside = [one for one in others if one in self._params.inside and self._try(INSIDE, {one: 1.0})]
        if len(inside) < LEAST_INSIDE:
            raise NotApplicable(
                f"Of the {len(self._params.inside)} members of the region {len(inside)} can be measured: a "
                "region has at least two.",
                "; ".join(one["sentence"] for one in self._left_out) or None,
            )
        for one in others:
            if one not in self._params.inside:
                self._try(OUTSIDE, {one: 1.0})
        self._try(CENTROID, dict.fromkeys(inside, 1.0 / len(inside)))
        for weights in hull_weights(len(inside), self._params.hull_samples, self._bench.seed):
            self._try(HULL, dict(zip(inside, weights, strict=True)))
        drawn = line_pairs(inside, self._params.pairs, self._bench.seed)
        for pair in drawn:
            for at in self._params.places:
                self._try(LINE, line_weights(pair, at), pair=list(pair), at=at)
        return self._told(inside, drawn)

    # -- one point

    def _try(self, kind: str, weights: Mapping[int, float], **place: Any) -> bool:
        """Whether the point could be measured; why not is noted."""
        try:
            self._measure(kind, weights, **place)
        except LEFT_OUT as failure:
            self._note(kind, weights, failure)
            return False
        return True

    def _measure(self, kind: str, weights: Mapping[int, float], **place: Any) -> None:
        key = json.dumps(sorted(weights.items()))
        if key not in self._known:
            done = len(self._points) + len(self._left_out)
            self._bench.report(min(1.0, done / self._total), "region study", f"{kind}, point {done + 1}")
            started = time.monotonic()
            found = self._loss_of(weights)
            self._known[key] = found | {"seconds": round(time.monotonic() - started, 3)}
            self._save()
        told = {"kind": kind, "ids": list(weights), "weights": list(weights.values()), **place}
        self._points.append(told | self._known[key])

    def _loss_of(self, weights: Mapping[int, float]) -> dict[str, Any]:
        if len(weights) > 1:
            members = [self._checkpoint(one) for one in weights]
            vanilla = self._checkpoint(self._params.candidates[0])
            bench = self._bench.mixed(members, list(weights.values()), vanilla)
        else:
            bench = self._bench.on(self._checkpoint(next(iter(weights))), seed=self._bench.seed)
        strengths = sorted(set(self._params.l2), reverse=True)
        try:
            features = bench.features(self._params.spec())
            found = generalised_loss(features, self._bench.target.metric, strengths)
        finally:
            if bench.folder != self._bench.folder:
                shutil.rmtree(bench.folder, ignore_errors=True)  # the mixture's weights
        return {name: getattr(found, name) for name in ("loss", "stderr", "score", "l2", "rows")}

    def _checkpoint(self, wanted: int) -> Checkpoint:
        if wanted not in self._by_id:
            raise CheckpointNotFound(
                f"The store holds no checkpoint {wanted}, which the study was asked for."
            )
        return self._by_id[wanted]

    def _note(self, kind: str, weights: Mapping[int, float], failure: JobFailure) -> None:
        told = failure.failure()
        names = [self._by_id[one].name if one in self._by_id else str(one) for one in weights]
        self._left_out.append(
            {"kind": kind, "ids": list(weights), "name": " + ".join(names)}
            | {"failure": told.name, "sentence": told.sentence}
        )

    # -- the result

    def _told(self, inside: Sequence[int], drawn: Sequence[tuple[int, int]]) -> dict[str, Any]:
        target = self._bench.target
        return {
            "family": self._params.family,
            "target": {"id": target.id, "name": target.name, "task": target.task, "metric": target.metric},
            "region": self._params.region,
            "loss": "share of the variance" if target.task == "regression" else "nats a row",
            "level": study.LEVEL,
            "names": {str(one.id): one.name for one in self._by_id.values()},
            "better": [
                {"a": a, "b": b, **compared}
                for a, b in COMPARED
                if (compared := self._compared(a, b, inside))
            ],
            "curve": self._curve(drawn),
            "lines": [self._line(pair) for pair in drawn],
            "points": self._points,
            "left_out": self._left_out,
        }

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self._points if one["kind"] == kind]

    def _compared(self, a: str, b: str, inside: Sequence[int]) -> dict[str, Any] | None:
        """P_B(a, b) with its interval; None where one of the two has no points."""
        of_a, of_b = self._of(a), self._of(b)
        found = study.probability_better(
            np.array([one["loss"] for one in of_a]),
            np.array([one["loss"] for one in of_b]),
            shares_a=shares(of_a, inside),
            shares_b=shares(of_b, inside),
            seed=self._bench.seed,
        )
        return None if found is None else {"points": [len(of_a), len(of_b)], **found._asdict()}

    def _line(self, pair: tuple[int, int]) -> dict[str, Any]:
        """What was measured on a line, in the order of the places; None where a point was left out."""
        found = {one["at"]: one for one in self._of(LINE) if one["pair"] == list(pair)}
        points = [found.get(at) for at in self._params.places]
        told = {
            name: [None if one is None else one[name] for one in points]
            for name in ("loss", "stderr", "score")
        }
        return {"pair": list(pair), "at": list(self._params.places), **told}

    def _curve(self, drawn: Sequence[tuple[int, int]]) -> dict[str, Any] | None:
        """The mean curve over all lines, see `headstart.regions.study`; None where there is no line."""
        if not drawn:
            return None
        places = np.array(self._params.places)
        losses = np.array([self._line(pair)["loss"] for pair in drawn], dtype=np.float64)
        found = study.curve(places, losses, ends=np.array(drawn), seed=self._bench.seed)
        told = found._asdict() | {"excess": [one._asdict() for one in found.excess]}
        return told | {"below_both": None if found.below_both is None else found.below_both._asdict()}

    # -- what the next attempt finds

    def _save(self) -> None:
        path = self._bench.folder / FILE
        new = path.with_suffix(".new")
        with suppress(OSError):  # a disk that is full costs the next attempt what this one found
            new.write_text(json.dumps({"format": FORMAT, "known": self._known}))
            new.replace(path)

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            told = json.loads((self._bench.folder / FILE).read_text())
        except (OSError, ValueError):
            return {}
        return dict(told["known"]) if told.get("format") == FORMAT else {}


def hull_weights(members: int, samples: int, seed: int) -> list[list[float]]:
    """Random convex combinations of so many members: Dirichlet(1), uniform over the simplex."""
    drawn = np.random.default_rng((seed, 0)).dirichlet(np.ones(members), samples)
    found: list[list[float]] = drawn.tolist()
    return found


def line_pairs(members: Sequence[int], most: int, seed: int) -> list[tuple[int, int]]:
    """As many pairs of members as there are, at most `most`, no member more often than need be."""
    pairs = list(combinations(members, 2))
    order = np.random.default_rng((seed, 1)).permutation(len(pairs))
    used, taken = dict.fromkeys(members, 0), list[tuple[int, int]]()
    left = [pairs[place] for place in order]
    while left and len(taken) < most:
        pair = min(left, key=lambda one: (used[one[0]] + used[one[1]], max(used[one[0]], used[one[1]])))
        left.remove(pair)
        taken.append(pair)
        for one in pair:
            used[one] += 1
    return taken


def line_weights(pair: tuple[int, int], at: float) -> dict[int, float]:
    """The mixture of two checkpoints at a place on the line from the first, at 0, to the second, at 1."""
    weights = {pair[0]: 1.0 - at, pair[1]: at}
    return {one: weight for one, weight in weights.items() if weight != 0}


def shares(points: Sequence[Mapping[str, Any]], inside: Sequence[int]) -> Float[np.ndarray, "p m"] | None:
    """What each point is mixed of, as weights over the members inside; None where it is none of them."""
    if not all(one["kind"] in (INSIDE, HULL, CENTROID) for one in points):
        return None
    found = np.zeros((len(points), len(inside)))
    for row, one in enumerate(points):
        for checkpoint, weight in zip(one["ids"], one["weights"], strict=True):
            found[row, inside.index(checkpoint)] = weight
    return found


REGION_STUDY = Procedure(
    name="region_study",
    version="1",
    needs=("features", "labelled rows", "weights"),
    summary="The generalised loss in a region of weight space, around it and on lines through it.",
    params=RegionStudyParams,
    run=run,
)
