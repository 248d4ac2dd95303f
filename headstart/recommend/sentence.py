"""The verdict in words."""

from __future__ import annotations

from headstart.recommend.decide import Verdict

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
