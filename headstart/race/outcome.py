"""How a race ended, in numbers and a sentence. The pick's gain is its posterior mean, not its measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.race.belief import Belief, Chances, believe, chances
from headstart.race.policy import pick
from headstart.recommend.decide import Verdict
from headstart.recommend.levels import NORMAL_QUANTILE_90

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headstart.race.field import Field
    from headstart.race.policy import Ended
    from headstart.race.runs import Run

UNDECIDED = "undecided"
DIGITS = 4


def outcome(
    field: Field, ended: Ended, names: Mapping[int, str], spent: float, failures: list[dict[str, Any]]
) -> dict[str, Any]:
    """The result of a race's job, as JSON has it."""
    belief = believe(field)
    found = chances(belief, field.worth, field.runners)
    compared = field.was_seen(0) and any(map(field.was_seen, field.runners))
    chosen = pick(field, belief) if compared else 0
    if chosen and belief.gain[chosen - 1] < field.worth:
        chosen = 0
    told = [_candidate(field, belief, found, names, place) for place in range(len(field.ids))]
    verdict = Verdict.START_FROM if chosen else Verdict.STAY_WITH_VANILLA
    of_all = seconds_of_all(field)
    return {
        "verdict": str(verdict) if compared else UNDECIDED,
        "pick": {"id": field.ids[chosen], "name": names[field.ids[chosen]]},
        "sentence": _told(field, belief, found, names, chosen, ended) if compared else _why_undecided(field),
        "p_best": told[chosen]["p_best"],
        "p_worth": told[chosen]["p_worth"],
        "expected_gain": told[chosen]["expected_gain"],
        "gain_interval": told[chosen]["gain_interval"],
        "expected_regret": _rounded(max(0.0, found.highest - _gain(belief, chosen))),
        "p_any_worth": _rounded(found.any_worth),
        "ended": ended,
        "candidates": told,
        "seconds": _rounded(spent),
        "runs": field.begun,
        "seconds_of_all": _rounded(of_all),
        "share": _rounded(spent / of_all) if of_all > 0 else 0.0,
        "failures": failures,
    }


def seconds_of_all(field: Field) -> float:
    """Of finetuning every candidate once to its end, the vanilla among them.

    As measured; else by parameters and the evaluations that finished runs made. 0 where nothing has finished.
    """
    runs = [run for run in field.told_to_the_end if run.seconds > 0]
    work = sum(run.evaluations * field.parameters[field.place(run.checkpoint_id)] for run in runs)
    if not work:
        return 0.0
    rate = sum(run.seconds for run in runs) / work
    total = 0.0
    for place, size in enumerate(field.parameters):
        own = [run.seconds for run in runs if run.checkpoint_id == field.ids[place]]
        total += float(np.mean(own)) if own else rate * size * field.curves.usual_end
    return total


def _gain(belief: Belief, place: int) -> float:
    return float(belief.gain[place - 1]) if place else 0.0


def _rounded(value: float) -> float:
    return round(float(value), DIGITS) + 0.0  # no -0.0


def _candidate(
    field: Field, belief: Belief, found: Chances, names: Mapping[int, str], place: int
) -> dict[str, Any]:
    gain = _gain(belief, place)
    half = NORMAL_QUANTILE_90 * float(belief.spread[place - 1]) if place else 0.0
    return {
        "id": field.ids[place],
        "name": names[field.ids[place]],
        "vanilla": place == 0,
        "prior_gain": _rounded(field.prior.gain[place] if place else 0.0),
        "expected_gain": _rounded(gain),
        "gain_interval": [_rounded(gain - half), _rounded(gain + half)],
        "p_best": _rounded(found.best[place]),
        "p_worth": _rounded(found.worth[place - 1] if place else 0.0),
        "runs": [_run(run) for run in field.of(place)],
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "seed": run.seed,
        "evaluations": run.evaluations,
        "steps": run.steps,
        "steps_planned": run.steps_planned,
        "validation": run.validation if run.validation is not None else max(run.curve, default=None),
        "finished": run.finished,
        "collapsed": run.collapsed,
        "known": run.known,
        "seconds": _rounded(run.seconds),
    }


def _told(
    field: Field, belief: Belief, found: Chances, names: Mapping[int, str], chosen: int, ended: Ended
) -> str:
    """The verdict in words, and where the budget cut it short that it is what the budget allows to say."""
    said = _sentence(field, belief, found, names, chosen)
    if ended != "budget":
        return said
    return f"{said} The budget ended before more could be told: a larger one may say otherwise."


def _sentence(field: Field, belief: Belief, found: Chances, names: Mapping[int, str], chosen: int) -> str:
    if chosen:
        gain, half = _gain(belief, chosen), NORMAL_QUANTILE_90 * float(belief.spread[chosen - 1])
        return (
            f"Start from {names[field.ids[chosen]]}: on the validation rows it is expected to score "
            f"{gain:.1f} points above the vanilla (80 % interval {gain - half:.1f} to {gain + half:.1f}), "
            f"and it is the best of the {len(field.ids)} with probability {found.best[chosen]:.2f}."
        )
    best = max(field.runners, key=lambda place: (_gain(belief, place), -place))
    return (
        f"Stay with the vanilla: the most is expected of {names[field.ids[best]]}, "
        f"{_gain(belief, best):+.1f} points, and the probability that any candidate gains more than "
        f"{field.worth:g} is {found.any_worth:.2f}."
    )


def _why_undecided(field: Field) -> str:
    if not field.runners:
        return "Undecided: no candidate could be run to its end; failures says why."
    return (
        "Undecided: the budget ended before the vanilla and one candidate could be compared. What was "
        "finished is kept as a score, and a race with a larger budget does not run it again."
    )
