"""Races as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.advice_tables import chance, duration, signed
from service.tables import say, show

if TYPE_CHECKING:
    from collections.abc import Sequence

NUMBERS = ("foretold", "gain", "80 % interval", "P(best)", "P(worth it)", "seconds")
ENDED = {
    "decided": "nothing more was worth its seconds",
    "hopeless": "no candidate was likely to be worth it",
    "budget": "the budget was spent",
    "all_finished": "there was nothing left to run",
}


def show_race(result: dict[str, Any]) -> None:
    """The candidates of a race that has ended, its verdict, and what it cost."""
    columns = ("checkpoint", *NUMBERS[:-1], "runs", NUMBERS[-1])
    show("", columns, [_candidate(one) for one in result["candidates"]], NUMBERS)
    say(result["sentence"])
    runs, ended = result["runs"], ENDED.get(result["ended"], result["ended"])
    said = f"It began {runs} finetune{'' if runs == 1 else 's'} in {duration(result['seconds'])}"
    if result["seconds_of_all"] > 0:
        said += (
            f", {result['share']:.0%} of the {duration(result['seconds_of_all'])} that all would have taken"
        )
    say(f"{said}, and ended since {ended}.")
    say("Gains are points over the vanilla on the validation rows; the test rows had no say in any of it.")
    for one in result["failures"]:
        say(f"{one['name']} left the race: {one['failure']}. {one['sentence']}")


def show_price(price: dict[str, Any]) -> None:
    """What a race would cost at most."""
    columns = ("checkpoint", "one finetune", "80 % interval")
    rows = [[_name(one), duration(one["seconds"]), interval(one["interval"])] for one in price["candidates"]]
    show("", columns, rows, columns[1:])
    said = f"The race would take at most {duration(price['seconds'])} ({interval(price['interval'])})"
    if price["seconds"] < price["seconds_of_all"]:
        said += f", its budget; finetuning all of them would take {duration(price['seconds_of_all'])}"
    say(f"{said}. Nothing was submitted.")
    if price["device"]:
        say(f"Told from jobs on {price['device']}.")
    if price["basis"] == "assumed":
        say("How long they take is a guess for one data-centre GPU.")


def interval(seconds: Sequence[float]) -> str:
    """An interval of seconds."""
    low, high = seconds
    return f"{duration(low)} to {duration(high)}"


def _candidate(one: dict[str, Any]) -> list[Any]:
    runs = _runs(one["runs"])
    seconds = f"{sum(run['seconds'] for run in one['runs'] if not run['known']):.0f}"
    if one["vanilla"]:
        return [_name(one), None, None, None, chance(one["p_best"], 1), None, runs, seconds]
    low, high = one["gain_interval"]
    return [
        _name(one),
        signed(one["prior_gain"]),
        signed(one["expected_gain"]),
        f"{signed(low)} … {signed(high)}",
        chance(one["p_best"], 1),
        chance(one["p_worth"]),
        runs,
        seconds,
    ]


def _name(one: dict[str, Any]) -> str:
    return f"{one['name']} (vanilla)" if one["vanilla"] else str(one["name"])


def _runs(runs: Sequence[dict[str, Any]]) -> str:
    """How far each of them came."""
    return ", ".join(map(_run, runs)) or "none"


def _run(run: dict[str, Any]) -> str:
    if run["collapsed"]:
        return "collapsed"
    far = "" if run["validation"] is None else f" at {run['validation']:.3f}"
    if run["known"]:
        return f"known{far}"
    if run["finished"]:
        return f"whole{far}"
    planned = run["steps_planned"]
    return f"{run['steps'] / planned:.0%}{far}" if planned else f"{run['steps']} steps{far}"
