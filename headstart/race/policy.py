"""What a race does next: the paper's procedure first, then whatever is worth most a second.

1. The vanilla to its end, then the candidate with the highest prior gain to its end. Their difference is a
   candidate's result and tells how much the target reacts at once (Choshen et al. 2023, arXiv 2211.00107).
2. Where P(any gain > worth) is less than `least_chance`, the race is hopeless and ends.
3. Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943) by the posterior instead of by halves: a
   run goes over rungs of 1, 2, 4, 8 ... evaluations, and the one moved is that whose result is expected to
   take most regret off a second. That is the knowledge gradient (Frazier, Powell & Dayanik 2009, doi
   10.1287/ijoc.1080.0314), at the best of all rungs it could be moved to (Frazier & Powell 2010, doi
   10.1287/deca.1090.0155): the first rung alone may tell nothing where two would.
   On offer: to move a paused run, to begin a candidate, and another seed for the two leaders, the vanilla
   being one where it leads.
4. It ends where a whole finetune would take less than LEAST points off the regret, after the run of the one
   it picks has come to its end: a start has to be finetuned before it can be used.

Seconds are evaluations x parameters, times a rate that is the same for all actions and so decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from headstart.race.belief import Belief, believe, chances
from headstart.race.field import MOST_SEEDS, Field
from headstart.recommend.plan import knowledge_gradient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float

    from headstart.race.runs import Run

Ended = Literal["decided", "hopeless", "budget", "all_finished"]

# Points of regret that a whole finetune has to take off, about a third of the 0.5 points that justify a
# change unless the request says otherwise. In the worlds of `bench.race` twice of it saves a tenth to a
# quarter of the seconds and adds 0.02 to 0.08 points of regret; two thirds of it take a tenth to a sixth more
# for 0.02 to 0.05 points.
LEAST = 0.15


class Step(NamedTuple):
    """Train one candidate further."""

    place: int
    seed: int
    evaluations: int | None  # in all, then pause; None: to the end
    why: str


class End(NamedTuple):
    """The race is over."""

    why: Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One run that could be moved, or begun, and what the best of the rungs before it is worth."""

    place: int
    run: Run | None  # None: it has to be begun
    value: float  # points of regret
    cost: float  # whole finetunes of the vanilla

    @property
    def rate(self) -> float:
        """Points for a finetune's seconds."""
        return self.value / self.cost


def next_step(field: Field) -> Step | End:
    """Decide. The same field, the same decision."""
    for place in (0, first_runner(field)):
        if place is not None and not field.has_finished(place) and not field.is_out(place):
            return _to_the_end(field, place)
    if not field.runners:
        return End("all_finished")
    belief = believe(field)
    if chances(belief, field.worth, field.runners).any_worth < field.least_chance:
        return End("hopeless")
    return _best_move(field, belief) or _last(field, belief)


def _best_move(field: Field, belief: Belief) -> Step | None:
    """None: no move that may be made takes enough off the regret."""
    allowed = [one for one in options(field, belief) if one.run is not None or _may_begin(field)]
    best = max(allowed, key=lambda one: one.rate, default=None)
    return _move(field, best) if best is not None and best.rate >= LEAST else None


def _last(field: Field, belief: Belief) -> Step | End:
    """The pick's run to its end; then it is over."""
    choice = pick(field, belief)
    if choice and belief.gain[choice - 1] >= field.worth and not field.has_finished(choice):
        return _to_the_end(field, choice)
    if any(one.rate >= LEAST for one in options(field, belief)):
        return End("budget")
    waits = any(_paused(field, place) is not None for place in (0, *field.runners))
    return End("all_finished" if all(map(field.has_finished, field.runners)) and not waits else "decided")


def first_runner(field: Field) -> int | None:
    """The candidate with the highest prior gain, of equals the first; None: none is left."""
    return max(field.runners, key=lambda place: (field.prior.gain[place], -place), default=None)


def pick(field: Field, belief: Belief) -> int:
    """The candidate seen that most is expected of; the vanilla (0) where that is no gain.

    What was not run is not picked, whatever is expected of it: a race is asked for what was seen.
    """
    seen = [place for place in field.runners if field.was_seen(place)]
    best = max(seen, key=lambda place: (belief.gain[place - 1], -place), default=0)
    return best if best and belief.gain[best - 1] > 0 else 0


def options(field: Field, belief: Belief) -> list[Option]:
    """Every run that could be moved or begun, with its value; `field` has finished runs."""
    plans = [plan for place in _eligible(field, belief) for plan in _plans(field, belief, place)]
    if not plans:
        return []
    rows = np.array(field.runners) - 1
    shift = np.array([plan.shift[rows] for plan in plans])
    values = knowledge_gradient(belief.gain[rows], shift).tolist()
    best: dict[int, Option] = {}
    for plan, value in zip(plans, values, strict=True):
        one = Option(place=plan.place, run=plan.run, value=value, cost=plan.cost)
        if plan.place not in best or one.rate > best[plan.place].rate:
            best[plan.place] = one
    return list(best.values())


def _eligible(field: Field, belief: Belief) -> list[int]:
    """Candidates with a run to move or to begin: those unfinished, and the two leaders, for another seed."""
    order = sorted([0, *field.runners], key=lambda place: (-_gain(belief, place), place))
    leaders = [place for place in order[:2] if len(field.of(place)) < MOST_SEEDS]
    waiting = [place for place in field.runners if not field.has_finished(place)]
    moving = [place for place in (0, *field.runners) if _paused(field, place)]
    return sorted({*waiting, *leaders, *moving})


def _gain(belief: Belief, place: int) -> float:
    return float(belief.gain[place - 1]) if place else 0.0


class _Plan(NamedTuple):
    """A run moved to one of the rungs before it."""

    place: int
    run: Run | None
    shift: Float[np.ndarray, "n"]  # by which what it shows moves each gain, standard deviation in points
    cost: float


def _plans(field: Field, belief: Belief, place: int) -> Iterator[_Plan]:
    run, curves = _paused(field, place), field.curves
    end = curves.usual_end
    made = run.evaluations if run else 0
    of_all = end * field.parameters[0]
    for rung in [*_rungs(made, end), None]:
        after = max(end, made + 1) if rung is None else rung
        left = 0.0
        if rung is not None:
            told = curves.rises(rung)
            ahead = told.foretell(told.centre)
            left = ahead.own + ahead.common**2
        shift = _shift(field, belief, place, run, left)
        yield _Plan(place, run, shift, field.parameters[place] * (after - made) / of_all)


def _shift(field: Field, belief: Belief, place: int, run: Run | None, left: float) -> Float[np.ndarray, "n"]:
    """Of the gains, by a run whose end is then foretold with an error of variance `left`."""
    telling = field.telling
    if run is None or run not in telling:
        spread = belief.level_var[place] + belief.seed_noise**2 + left
        return np.asarray(belief.with_level[place] / np.sqrt(spread))
    at = telling.index(run)
    now = belief.foretold_var[at]
    if left >= now:
        return np.zeros(len(belief.gain))
    # as if its end were seen once more, with the variance that makes the error what it then is
    return np.asarray(belief.with_end[at] / np.sqrt(belief.end_var[at] + now * left / (now - left)))


def _rungs(made: int, end: float) -> list[int]:
    """1, 2, 4, 8 ... of them that lie beyond those made, and before the end."""
    found, rung = [], 1
    while rung < end:
        if rung > made:
            found.append(rung)
        rung *= 2
    return found


def _move(field: Field, option: Option) -> Step:
    """To the next rung."""
    made = option.run.evaluations if option.run else 0
    ahead = _rungs(made, field.curves.usual_end)
    seed = option.run.seed if option.run else field.next_seed(option.place)
    if option.run is not None:
        why = "further"
    else:
        why = "another seed" if field.has_finished(option.place) else "begun"
    return Step(option.place, seed, ahead[0] if ahead else None, why)


def _to_the_end(field: Field, place: int) -> Step | End:
    run = _paused(field, place)
    if run is None and not _may_begin(field):
        return End("budget")
    return Step(place, run.seed if run else field.next_seed(place), None, "to its end")


def _may_begin(field: Field) -> bool:
    return field.most_runs is None or field.begun < field.most_runs


def _paused(field: Field, place: int) -> Run | None:
    return next((run for run in field.of(place) if not run.finished), None)


def leading(field: Field) -> tuple[int, float, float]:
    """Who leads as it stands, its expected gain in points, and P(it is the best)."""
    belief = believe(field)
    found = chances(belief, field.worth, field.runners)
    best = pick(field, belief)
    return best, _gain(belief, best), float(found.best[best])
