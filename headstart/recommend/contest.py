"""Who is best of those that a question allows, in one family or in several: P(best), regret and next jobs.

One family's candidates and its vanilla are compared by their gains. Families are compared by scores, in every
joint draw the vanilla's level + the gain:

    score_fm = level_f + common_f u + own_f n_f - error_f + gain_fm,     that of the vanilla without gain_fm

with the errors of `levels.Level` where the level is foretold. `error` is that of a level measured on the
asked target: it is in the gains too, which are measured from it, and so falls out of the scores of candidates
and stays with the vanilla. Families share the u, and in each draw the known target that the asked one is
like. A family of which no candidate takes part is there with its vanilla.

Left out: where a vanilla does worse than foretold its candidates gain more, half a point a point in the
published families. So regret is overstated across families on a target never seen: of the three published
together 2.8 points are expected and 1.6 measured (36 targets, the best of one family on 33 of them; 3.6
where each family is like a known target of its own). In one family it is as expected, see `choice.draws`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend.choice import (
    DRAWS,
    component_ends,
    draws,
    joint,
    level_error,
    normal_quantiles,
    short_of,
    winners,
    winners_among,
)
from headstart.recommend.decide import expected, moments
from headstart.recommend.plan import FINETUNE, JobValues, Lessons, lessons, values_among

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Float32, Int

    from headstart.recommend.choice import Leaders, Winners
    from headstart.recommend.plan import Probe
    from headstart.recommend.posterior import Posterior
    from headstart.recommend.views import View

DRAWN = 128  # checkpoints of a family that are compared, in the order given
JOBS = 20  # of these the ones whose jobs are valued
SEED = 20221102
MOST_SCORE = 100.0


class Gains(NamedTuple):
    """What is known of the true gains of n checkpoints: of a Prediction what the contest needs."""

    gain: Float[np.ndarray, "n"]  # expected, points
    runs_here: Int[np.ndarray, "n"]
    mean: Float[np.ndarray, "n K"]
    spread: Float[np.ndarray, "n K"]
    shared: Float[np.ndarray, "n K"]
    factors: Float[np.ndarray, "n F"]


class Outlook(NamedTuple):
    """What is known together of n checkpoints of one view."""

    rows: Int[np.ndarray, "n"]  # positions in the posterior
    gain: Float[np.ndarray, "n"]  # expected, points
    runs_here: Int[np.ndarray, "n"]
    draws: Float32[np.ndarray, "n S"]  # joint, of the true gains in points
    level_error: Float32[np.ndarray, "S"]  # by which the vanilla's level was measured too high in each
    ends: tuple[int, ...]  # of the draws of each of the view's components
    lessons: Lessons


class Side(NamedTuple):
    """One family in a contest."""

    outlook: Outlook
    at: Int[np.ndarray, "r"]  # positions in the outlook that take part, ascending; their vanilla does as well
    level: float = 0.0  # expected of the vanilla, points
    common: float = 0.0  # standard errors of the level, 0 where it was measured on the asked target
    own: float = 0.0
    leaders: Leaders | None = None  # of the outlook's draws; with them a contest of some is faster
    vanilla: bool = True  # whether it may be started from where no candidate takes part

    @property
    def enters(self) -> bool:
        """Whether anything of the family takes part."""
        return self.vanilla or bool(len(self.at))


class Pick(NamedTuple):
    """What to start from if nothing more is measured: the best expected score, however small the gain is."""

    side: int
    position: int | None  # in the side's outlook, None: its vanilla
    gain: float  # expected over the side's vanilla, points
    regret: float  # expected, points


class Contest(NamedTuple):
    """What came of it. P(best) sums to one over all candidates and the vanillas together."""

    p_best: tuple[Float[np.ndarray, "n"], ...]  # of each side's outlook, 0 for those that took no part
    vanilla: float
    regret: float | None  # expected, of the first choice in points; None: there is none
    pick: Pick | None  # None: nothing takes part


def outlook(
    posterior: Posterior,
    view: View,
    rows: Int[np.ndarray, "n"],
    probes: Sequence[Probe] = (),
    known: Gains | None = None,
) -> Outlook:
    """Of the checkpoints at `rows`, DRAWN at most; `known`: what `gains_of` says of them."""
    found = gains_of(posterior, view, rows) if known is None else known
    widening = float(posterior.calibration[2])
    together, seconds = joint(view, found, widening), np.ones(len(rows))
    counted = [one._replace(probed=probed_by(posterior, view, one.method)) for one in probes]
    taught = lessons(view, together, found.gain, found.runs_here, seconds, counted, widening)
    return Outlook(
        rows=rows,
        gain=found.gain,
        runs_here=found.runs_here,
        draws=draws(view, together).astype(np.float32, copy=False),
        level_error=level_error(view, together, widening),
        ends=tuple(component_ends(view).tolist()),
        lessons=taught._replace(shift=taught.shift.astype(np.float32)),
    )


def probed_by(posterior: Posterior, view: View, method: str) -> int:
    """Checkpoints that a method probed on the viewed target, by all its protocols."""
    if view.probed is None or method not in posterior.probe_methods:
        return 0
    return int(posterior.probe_counts[view.probed, posterior.probe_methods.index(method)])


def gains_of(posterior: Posterior, view: View, rows: Int[np.ndarray, "n"]) -> Gains:
    """As `decide.predict`, without the intervals and probabilities, which take longest."""
    found, widening = moments(posterior, view, rows), float(posterior.calibration[2])
    variance = widening**2 * found.variance
    gain = expected(view, found.mean, variance)
    return Gains(
        gain, found.runs, found.mean, np.sqrt(variance), widening**2 * found.shared, found.factors.mean
    )


def contest(sides: Sequence[Side]) -> Contest:
    """Compare the candidates of all sides and their vanillas."""
    entered = [k for k, side in enumerate(sides) if side.enters]
    if not entered:
        return Contest(tuple(np.zeros(len(side.outlook.rows)) for side in sides), 1.0, None, None)
    if len(entered) == 1:
        return _within(sides, entered[0])
    return _across(sides, entered)


def _within(sides: Sequence[Side], entered: int) -> Contest:
    """Of one family: candidates are compared by their gains."""
    side = sides[entered]
    chances = [np.zeros(len(one.outlook.rows)) for one in sides]
    if not len(side.at):
        return Contest(tuple(chances), 1.0, None, Pick(entered, None, 0.0, 0.0))
    found, gain, drawn = _winners(side), side.outlook.gain[side.at], side.outlook.draws
    first = short_of(found.highest, drawn[side.at[0]])
    best = int(gain.argmax())
    if gain[best] > 0:
        lost = short_of(found.highest, drawn[side.at[best]]) if best else first
        pick = Pick(entered, int(side.at[best]), float(gain[best]), lost)
    else:
        pick = Pick(entered, None, 0.0, short_of(found.highest, None))
    chances[entered] = found.best.rows
    return Contest(tuple(chances), found.best.vanilla, first, pick)


def _winners(side: Side) -> Winners:
    drawn = side.outlook.draws
    if len(side.at) == len(drawn):
        return winners(drawn)
    return winners(drawn, side.at) if side.leaders is None else winners_among(drawn, side.leaders, side.at)


def _across(sides: Sequence[Side], entered: Sequence[int]) -> Contest:
    """Of several families: candidates and vanillas are compared by their scores over the best vanilla's."""
    # views of as many components have the same ones, in the same order: the known targets, or scales
    alike = len({len(sides[k].outlook.ends) for k in entered}) == 1
    both = [_scores(k, sides[k], alike=alike) for k in entered]
    scores, vanillas = [one for _, one in both], np.array([one for one, _ in both])
    best_vanilla = vanillas.max(axis=0)
    compared = np.concatenate([one - best_vanilla for one in scores])
    found = winners(compared)
    starts = np.cumsum([0, *map(len, scores)])
    chances = [np.zeros(len(side.outlook.rows)) for side in sides]
    for k, start, end in zip(entered, starts, starts[1:], strict=False):
        chances[k][sides[k].at] = found.best.rows[start:end]
    first = int(np.argmax([_first(sides[k]) for k in entered]))
    lost = short_of(found.highest, compared[starts[first]]) if len(compared) else None
    pick = _pick(sides, entered, found.highest, compared, starts, vanillas - best_vanilla)
    return Contest(tuple(chances), found.best.vanilla, lost, pick)


def _first(side: Side) -> float:
    """Expected score of a side's first choice, in points; that of no candidate is the lowest."""
    return side.level + float(side.outlook.gain[side.at[0]]) if len(side.at) else -np.inf


def _pick(
    sides: Sequence[Side],
    entered: Sequence[int],
    highest: Float32[np.ndarray, "S"],
    compared: Float32[np.ndarray, "r S"],
    starts: Int[np.ndarray, "f+1"],
    vanillas: Float[np.ndarray, "f S"],
) -> Pick:
    """The best expected score of all; a vanilla's where no candidate's is."""
    gains = [sides[k].outlook.gain[sides[k].at] for k in entered]
    levels = [sides[k].level for k in entered]
    scores = [level + gain.max(initial=-np.inf) for level, gain in zip(levels, gains, strict=True)]
    at, vanilla = int(np.argmax(scores)), int(np.argmax(levels))
    if scores[at] > levels[vanilla]:
        best = int(gains[at].argmax())
        lost = short_of(highest, compared[starts[at] + best])
        return Pick(entered[at], int(sides[entered[at]].at[best]), float(gains[at][best]), lost)
    return Pick(entered[vanilla], None, 0.0, short_of(highest, vanillas[vanilla]))


def _scores(
    index: int, side: Side, *, alike: bool
) -> tuple[Float[np.ndarray, "S"], Float[np.ndarray, "r S"]]:
    """Draws of the scores of a side's vanilla, and of its candidates; every index has noise of its own.

    `alike`: the draws of a component stay in their places.
    """
    order = _order(index, side.outlook.ends if alike else (DRAWS,))
    vanilla = side.level + side.common * _noise(-1) + side.own * _noise(index)
    vanilla = vanilla - side.outlook.level_error[order]
    scores = vanilla + side.outlook.draws[side.at][:, order]
    return np.minimum(vanilla, MOST_SCORE), np.asarray(np.minimum(scores, MOST_SCORE))


@lru_cache(maxsize=256)
def _noise(index: int) -> Float[np.ndarray, "S"]:
    """Standard normals, each of S quantiles once: independent of any other index's."""
    return np.random.default_rng([SEED, index + 1]).permutation(normal_quantiles())


@lru_cache(maxsize=256)
def _order(index: int, ends: tuple[int, ...]) -> Int[np.ndarray, "S"]:
    """An order of draws, random by the index, that leaves blocks with these ends where they are."""
    rng = np.random.default_rng([SEED, index + 1, 1])
    blocks = zip((0, *ends[:-1]), ends, strict=True)
    return np.concatenate([start + rng.permutation(end - start) for start, end in blocks])


def linked(measured: Bool[np.ndarray, "F T"]) -> Bool[np.ndarray, "F F"]:
    """Whose levels are told apart by a target that both were measured on, or by a chain of such targets."""
    found = measured.astype(np.int64) @ measured.T.astype(np.int64) > 0
    for _ in range(len(found)):
        found = found.astype(np.int64) @ found > 0
    return found


class Jobs(NamedTuple):
    """The jobs on the first candidates of all sides, as one list."""

    values: JobValues  # `gain` is the expected score in points
    side: Int[np.ndarray, "n"]
    position: Int[np.ndarray, "n"]  # in the side's outlook

    def timed(self, seconds: Float[np.ndarray, "n"]) -> JobValues:
        """The values, with what a finetune of each takes."""
        took = self.values.seconds.copy()
        took[:, 0] = seconds
        return self.values._replace(seconds=took)


def jobs(sides: Sequence[Side]) -> Jobs:
    """What measuring each of the first candidates of every side once more is worth to the choice among all.

    A job moves its own family's scores only; what the others offer is the floor that they have to pass. Until
    they are `timed`, all finetunes take a second.
    """
    if len(sides) == 1:
        (side,) = sides
        at = side.at[:JOBS]
        values = values_among(side.outlook.lessons, at)
        return Jobs(values._replace(gain=side.level + values.gain), np.zeros(len(at), dtype=np.int64), at)
    best = [max(_first(side), side.level) if side.enters else -np.inf for side in sides]
    methods = tuple(dict.fromkeys([FINETUNE, *(m for side in sides for m in side.outlook.lessons.methods)]))
    found = [_empty(methods)]
    places = [np.zeros((0, 2), dtype=np.int64)]
    for k, side in enumerate(sides):
        at = side.at[:JOBS]
        floor = max([0.0, *(other - side.level for j, other in enumerate(best) if j != k)])
        values = values_among(side.outlook.lessons, at, floor)
        family = np.full(len(at), k)
        found.append(_aligned(values._replace(gain=side.level + values.gain, family=family), methods))
        places.append(np.column_stack([np.full(len(at), k), at]))
    place = np.concatenate(places)
    stacked = (np.concatenate(columns) for columns in zip(*(one[1:] for one in found), strict=True))
    return Jobs(JobValues(methods, *stacked), place[:, 0], place[:, 1])


def _empty(methods: tuple[str, ...]) -> JobValues:
    none = np.zeros((0, len(methods)))
    return JobValues(
        methods=methods,
        value=none,
        seconds=none,
        gain=np.zeros(0),
        finetuned=np.zeros(0, dtype=bool),
        lacking=none.astype(np.int64),
        family=np.zeros(0, dtype=np.int64),
    )


def _aligned(values: JobValues, methods: tuple[str, ...]) -> JobValues:
    """With a column for each of these methods; nothing is gained by one that is not on offer."""
    columns, shape = [methods.index(method) for method in values.methods], (len(values.gain), len(methods))
    value, seconds, lacking = np.zeros(shape), np.ones(shape), np.ones(shape, dtype=np.int64)
    value[:, columns], seconds[:, columns] = values.value, values.seconds
    lacking[:, columns] = values.lacking
    return values._replace(methods=methods, value=value, seconds=seconds, lacking=lacking)
