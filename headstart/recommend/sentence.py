"""The verdict in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstart.recommend.decide import Verdict
from headstart.recommend.surprises import FEWEST

if TYPE_CHECKING:
    from collections.abc import Iterable

NO_EVIDENCE = (
    "There is no evidence yet. Import published results (headstart import model-recycling SOURCE) or your "
    "own finetuning history (headstart import table FILE)."
)
NO_CANDIDATE = "No checkpoint is left under these filters. Relax max_parameters, licenses or exclude."


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
) -> str:
    """One or two sentences that a person acts on. Gains in points, probabilities in 0..1."""
    chance = chance_in_words(p_beats)
    expected = f"{gain:+.1f} points ({low:+.1f} to {high:+.1f})"
    if verdict is Verdict.START_FROM:
        return (
            f"Start from {checkpoint}: on {target} expect {expected} over {vanilla}; "
            f"it beats it with probability {chance}."
        )
    if verdict is Verdict.STAY_WITH_VANILLA:
        return (
            f"Stay with {vanilla}: on {target} even the first choice, {checkpoint}, has a chance of only "
            f"{chance_in_words(p_worth)} to gain more than {worth:g} points."
        )
    return (
        f"Measure first: on {target} expect {expected} from {checkpoint}, but it beats {vanilla} with "
        f"probability {chance} only. Finetune both; the difference also tells how much {target} "
        "reacts to a good start."
    )


def chance_in_words(p: float) -> str:
    """A probability to two digits, never rounded to certainty."""
    if p > 0.99:
        return "above 0.99"
    return "below 0.01" if p < 0.01 else f"{p:.2f}"


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
                f"{name} says nothing here: it takes {FEWEST} checkpoints probed alike, whose scores differ"
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
