"""The verdict in words, and the notes that go with it. A person reads them in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.calibration import is_off
from headstart.recommend.decide import CERTAIN, Verdict
from headstart.recommend.plan import GROUP

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NO_EVIDENCE = (
    "There is no evidence yet. Import published results (headstart import model-recycling SOURCE) or your "
    "own finetuning history (headstart import table FILE)."
)
NO_CANDIDATE = "No checkpoint is left under these filters. Relax max_parameters, licenses or exclude."
ANY_TARGET, DESCRIBED = "a target like those known", "a target as described"
YOURS = "your target"  # in the imperative, where it has no name
WIDENED = 1.05  # a widening below this is not worth a note


def sentence(
    verdict: Verdict,
    *,
    checkpoint: str,
    vanilla: str,
    target: str,
    gain: float,
    low: float,
    high: float,
    p_beats: float,
    p_worth: float,
    worth: float,
    there: str | None = None,
    rests_on: str | None = None,
    next_job: str | None = None,
) -> str:
    """One to three sentences that a person acts on: what to do and how sure, what it rests on, what is next.

    Gains over `vanilla` in points, probabilities in 0..1; `low` and `high` bound the 80 % interval. `there`:
    the target where something is to be done on it, `target` unless it has another name. `rests_on`: of the
    first choice, from `rests_on_in_words`. `next_job`: from `job_in_words`.
    """
    points, interval = f"{points_in_words(gain, worth)} points", interval_in_words(low, high)
    better = chance_in_words(p_beats, CERTAIN)
    if verdict is Verdict.START_FROM:
        said = (
            f"Start from {checkpoint}: on {target} expect {points} over {vanilla} ({interval}), where "
            f"{worth:g} would do; it is better than {vanilla} with probability {better}."
        )
    elif verdict is Verdict.STAY_WITH_VANILLA:
        said = (
            f"Stay with {vanilla}: on {target} even the first choice, {checkpoint}, gains more than "
            f"{worth:g} points only with probability {chance_in_words(p_worth)}: expect {points} "
            f"({interval})."
        )
    else:
        doubts = _doubts(gain, p_beats, p_worth, worth)
        said = (
            f"Measure first: on {target} expect {points} from {checkpoint} over {vanilla} ({interval}), but "
            f"{doubts}."
        )
    if rests_on is not None:
        said += f" {rests_on}"
    if next_job is not None:
        lead = "Next" if verdict is Verdict.MEASURE_FIRST else "To be surer"
        said += f" {lead}: {next_job}."
    elif verdict is Verdict.MEASURE_FIRST:
        said += (
            f" Finetune both on {there or target}: the difference also tells how much it reacts to a good "
        )
        said += "start."
    return said


def only_vanilla_in_words(
    vanillas: Sequence[str], target: str, best: str | None = None, score: float | None = None
) -> str:
    """What to do where nobody knows a checkpoint beside the vanillas of the asked families.

    `best`: the vanilla with the highest expected score, where there are several to tell apart.
    """
    remedy = (
        "Register checkpoints that were trained from one (headstart checkpoints add), or import scores of "
        "some (headstart import table FILE)."
    )
    if len(vanillas) == 1:
        remedy = remedy.replace("from one", "from it")
        return f"Stay with {vanillas[0]}: only the vanilla of this family is known. {remedy}"
    known = f"only the vanillas {_and(vanillas)} are known"
    if best is None or score is None:
        return f"Stay with a vanilla: {known}. {remedy}"
    return f"Stay with {best}: {known}, and on {target} it is expected to score most ({score:.3f}). {remedy}"


def _doubts(gain: float, p_beats: float, p_worth: float, worth: float) -> str:
    """Why the first choice is not started from at once."""
    doubts = []
    if gain < worth:
        doubts.append(
            f"that is less than the {worth:g} asked for, which it gains with probability "
            f"{chance_in_words(p_worth)}"
        )
    if p_beats < CERTAIN or not doubts:
        doubts.append(f"it is better only with probability {chance_in_words(p_beats, CERTAIN)}")
        if p_beats < CERTAIN:
            doubts[-1] += f", where {CERTAIN:.2f} would do"
    return ", and ".join(doubts)


def rests_on_in_words(*, finetuned: int, runs_here: int, probed: bool, probes_here: int) -> str:
    """One sentence on what is known of a checkpoint.

    `finetuned`: other targets it was finetuned on; `runs_here`: its finetunes on the asked target; `probed`:
    whether the family's reference probe was run on it; `probes_here`: methods that probed it on the target.
    """
    probes = []
    if probes_here:
        probes.append(f"{_many(probes_here, 'probe')} on this target")
    if probed:
        probes.append("its linear probe")
    finetunes = []
    if runs_here:
        finetunes.append(f"{_many(runs_here, 'finetune')} on this target")
    if finetuned:
        finetunes.append(f"finetunes on {_many(finetuned, 'other target')}")
    if finetunes:
        return f"That rests on {_and([*finetunes, *probes])}."
    if probes:
        return f"Nobody has finetuned it: {_and([*probes, 'its name'])} speak for it."
    return "Nobody has finetuned or probed it: only its name and what it is made of speak for it."


def job_in_words(
    method: str, checkpoints: Sequence[str], target: str, seconds: float | None = None, *, again: bool = False
) -> str:
    """What to measure next, in the imperative; no full stop.

    `checkpoints`: several of which one probe tells nothing without the others'; `seconds`: what all of it is
    expected to take, where the rows are known; `again`: whether a finetune here is there already.
    """
    names = _and(checkpoints)
    verb = f"finetune {names}" if method == "finetune" else f"probe {names} with {method}"
    took = "" if seconds is None else f" ({duration_in_words(seconds)})"
    return f"{verb} on {target}{' once more' if again else ''}{took}"


def duration_in_words(seconds: float) -> str:
    """A duration as one would say it, to a digit or two."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    if minutes < 60:
        return f"about {_many(minutes if minutes < 20 else min(round(minutes, -1), 50), 'minute')}"
    hours = round(seconds / 3600)
    return f"about {_many(hours, 'hour') if hours < 48 else _many(round(hours / 24), 'day')}"


def points_in_words(points: float, limit: float | None = None) -> str:
    """A gain with its sign, to a tenth of a point, or finer where that would cross `limit`."""
    said = _beside(points, limit, "+", 1)
    return "0.0" if said in {"+0.0", "-0.0"} else said


def interval_in_words(low: float, high: float) -> str:
    """An 80 % interval, in points."""
    return f"4 times in 5 between {points_in_words(low)} and {points_in_words(high)}"


def chance_in_words(p: float, limit: float | None = None) -> str:
    """A probability to two digits, finer where that would cross `limit`, never rounded to certainty."""
    if p > 0.99:
        return "above 0.99"
    return "below 0.01" if p < 0.01 else _beside(p, limit, "", 2)


def _beside(x: float, limit: float | None, sign: str, digits: int) -> str:
    """x to so many digits, or to more, up to 4, that leave it on its own side of the limit."""
    if limit is None:
        return f"{x:{sign}.{digits}f}"
    for more in range(digits, 5):
        if (round(x, more) < limit) == (x < limit):
            return f"{x:{sign}.{more}f}"
    return f"just {'under' if x < limit else 'over'} {limit:{sign}.{digits}f}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def drift_in_words(coverage: float, cells: int, widening: float, family: str | None = None) -> str | None:
    """The drift guard's note, or None where the intervals hold about what they say.

    `coverage`: share of the family's `cells` finetunes that lay in the 80 % interval foretold without them;
    `widening`: the factor >= 1 that every interval is therefore multiplied by (`Posterior.calibration`).
    """
    off = is_off(np.array([coverage, cells, widening]))
    if widening < WIDENED and not off:
        return None
    of = "" if family is None else f" of {family}"
    done = f"all intervals are widened {widening:.1f} times" if widening >= WIDENED else "they are too wide"
    return (
        f"Of {_many(cells, 'finetune')}{of}, each foretold without its own score, {100 * coverage:.0f} % "
        f"fell within their 80 % interval: {done}."
    )


def pooled_in_words(family: str, others: Sequence[str], finetuned: int) -> str | None:
    """The note that a family of few finetuned checkpoints borrows from others, or None where it does not."""
    if not others:
        return None
    few = f"Only {_many(finetuned, 'checkpoint')}" if finetuned else "No checkpoint"
    return (
        f"{few} of {family} {'was' if finetuned <= 1 else 'were'} finetuned: how targets react, and what "
        f"probes and names are worth, is learnt together with {_and(others)}."
    )


def probes_in_words(
    probed: int, family: str, target: str, methods: Iterable[tuple[str, int, float, int]], *, reference: bool
) -> str:
    """What the probes made on a target are worth there.

    `methods`: of each method its name, the checkpoints it tells apart there, its weight, and the pairs the
    weight was learnt from. `reference`: whether the static ranking stands on linear probes of this target.
    """
    many = "checkpoint was" if probed == 1 else "checkpoints were"
    parts = [f"{probed} {many} probed on {target} in {family}"]
    if reference:
        parts.append("its linear probe is the family's reference and in the quality of each already")
    untaught = []
    for name, told, weight, cells in methods:
        if not cells:
            untaught.append(name)
        elif not weight:
            parts.append(f"{name} has no weight: {cells} finetunes on probed targets do not speak for it")
        elif not told:
            parts.append(
                f"{name} says nothing here: it takes {GROUP} checkpoints probed alike, whose scores differ"
            )
        else:
            parts.append(
                f"{name} has a weight of {weight:.2f}, learnt from {cells} finetunes on probed targets"
            )
    if untaught:
        parts.append(
            f"{', '.join(untaught)} {'has' if len(untaught) == 1 else 'have'} no weight yet: no finetune in "
            "this family on a probed target shows what it is worth"
        )
    return "; ".join(parts) + "."


def static_in_words(family: str, reference: str | None) -> str:
    """What an answer stands on in a family none of whose checkpoints was finetuned beside its vanilla."""
    if reference is None:
        return (
            f"Nothing tells the checkpoints of {family} apart yet: none was finetuned on a target that the "
            "vanilla was finetuned on, and none was linearly probed. Probe the family first "
            "(POST /families/{name}/probe)."
        )
    return (
        f"No checkpoint of {family} was finetuned on a target that its vanilla was finetuned on: the order "
        f"is that of the linear probe on {reference}, and the size of the gains is a guess made before any."
    )
