"""Advice as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.tables import say, show

if TYPE_CHECKING:
    from collections.abc import Sequence

NUMBERS = ("#", "gain", "80 % interval", "P(beats)", "P(best)", "score")
SOURCES = ("target", "prior", "finetunes", "probes", "here")  # of an expected gain
SMALLEST = 0.005  # points: less is shown as nothing


def show_advice(advice: dict[str, Any]) -> None:
    """Show the verdict, the candidates with their evidence, what to measure next, and what to know before."""
    say(advice["sentence"])
    several = len(advice["families"]) > 1
    _show_candidates("", advice["candidates"], several=several)
    _say_regret(advice)
    _show_explanations(advice["candidates"])
    _say_reactions(advice["families"])
    _show_next_jobs(advice["next_jobs"], advice["seconds_basis"], several=several)
    if advice["pareto"]:
        say(f"No other beats these in score, size and cost at once: {', '.join(advice['pareto'])}.")
    for note in advice["notes"]:
        say(note)


def show_ranking(family: str, page: dict[str, Any]) -> None:
    """Show a family's static order."""
    _show_candidates(f"{family}, on targets like those known", page["items"], several=False)


def show_static_scores(scores: Sequence[dict[str, Any]]) -> None:
    """Show how well each static score foretells gain; why not, where that cannot be told."""
    columns = ("score", "checkpoints", "Spearman", "Pearson", "weight", "read on")
    told = [one for one in scores if one["reason"] is None]
    rows = [
        [
            one["name"],
            one["checkpoints"],
            *(_correlation(one[kind]) for kind in ("spearman", "pearson")),
            one["weight"] and f"{one['weight']['value']:+.2f} ± {one['weight']['stderr']:.2f}",
            one["reference"] and one["reference"]["target"],
        ]
        for one in told
    ]
    if rows:
        title = "How well each foretells a checkpoint's mean gain (95 % intervals)"
        show(title, columns, rows, columns[1:5])
    untold: dict[str, list[str]] = {}
    for one in scores:
        if one["reason"] is not None:
            untold.setdefault(one["reason"], []).append(one["name"])
    for reason, names in untold.items():
        say(f"What {', '.join(names)} would foretell cannot be told: {reason}")


def _correlation(one: dict[str, float]) -> str:
    return f"{one['value']:+.2f} ({one['low']:+.2f} … {one['high']:+.2f})"


def _show_candidates(title: str, candidates: list[dict[str, Any]], *, several: bool) -> None:
    """Rank by rank; with the family where there are several."""
    family = ["family"] if several else []
    columns = [
        "#", "checkpoint", *family, "gain", "80 % interval", "P(beats)", "P(best)", "score", "evidence",
    ]  # fmt: skip
    if candidates:
        rows = [_candidate(rank, one, several=several) for rank, one in enumerate(candidates, 1)]
        show(title, columns, rows, NUMBERS)


def _candidate(rank: int, candidate: dict[str, Any], *, several: bool) -> list[Any]:
    low, high = candidate["gain_interval"]
    score = candidate["expected_score"]
    return [
        rank,
        candidate["checkpoint"]["name"],
        *([candidate["checkpoint"]["family"]] if several else []),
        signed(candidate["expected_gain"]),
        f"{signed(low)} … {signed(high)}",
        chance(candidate["p_beats_vanilla"]),
        chance(candidate["p_best"], 1),
        None if score is None else f"{score:.3f}",
        _evidence(candidate["evidence"]),
    ]


def chance(p: float, digits: int = 0) -> str:
    """A probability in percent, never rounded to certainty; of many that share one, to a digit more."""
    least = 10.0**-digits
    if 100 * p > 100 - least:
        return f"> {100 - least:.{digits}f} %"
    return f"< {least:.{digits}f} %" if 100 * p < least else f"{100 * p:.{digits}f} %"


def _evidence(evidence: dict[str, Any]) -> str:
    finetuned = evidence["targets_finetuned"]
    parts = [f"finetuned on {finetuned} target{'' if finetuned == 1 else 's'}"] if finetuned else []
    parts += ["probed"] if evidence["probed"] else []
    parts += ["measured here"] if evidence["measured_here"] else []
    parts += ["probed here"] if evidence["probes_here"] else []
    age = evidence["age_days"]
    if parts and age is not None:
        parts.append(f"{age:.0f} days old")
    return ", ".join(parts) or "none"


def _say_regret(advice: dict[str, Any]) -> None:
    if advice["expected_regret"] is None:
        return
    said = (
        f"With the first choice, expect to miss the best of all by {advice['expected_regret']:.2f} points; a "
        f"vanilla is the best with probability {chance(advice['p_vanilla_best'])}."
    )
    stopping, jobs = advice["stopping"], advice["next_jobs"]
    if stopping["pick"] is None:
        said += f" If nothing more is measured, take the vanilla of {stopping['family']}."
    elif jobs:
        said += (
            f" Stopping now gives {signed(stopping['expected_gain'])} points by {stopping['pick']}; what is "
            "measured next is expected to add the regret it saves."
        )
    say(said)


def _show_next_jobs(jobs: Sequence[dict[str, Any]], basis: str, *, several: bool) -> None:
    """What to measure next."""
    if not jobs:
        return
    columns = ["#", "measure next", *(["family"] if several else []), "by", "takes", "regret it saves"]
    rows = [
        [
            rank,
            job["checkpoint"] + (" (once more)" if job["runs_here"] else ""),
            *([job["family"]] if several else []),
            job["method"],
            duration(job["seconds"]),
            "none" if job["value"] < SMALLEST else f"{job['value']:.2f} points",
        ]
        for rank, job in enumerate(jobs, 1)
    ]
    show("", columns, rows, ("#", "takes", "regret it saves"))
    if basis == "assumed":
        say("How long they take is a guess for one data-centre GPU.")


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _show_explanations(candidates: Sequence[dict[str, Any]]) -> None:
    """Where the expected gains come from, and the finetunes that moved them most."""
    told = [one for one in candidates if one.get("explanation") is not None]
    if not told:
        return
    rows = []
    for one in told:
        parts = [one["explanation"][source] for source in SOURCES]
        moved = "; ".join(
            f"{by['target']} {by['points']:+.2f} ({by['gain']:+.1f} where {by['foretold']:+.1f} was foretold)"
            for by in one["explanation"]["moved_by"][:2]
        )
        rows.append([one["checkpoint"]["name"], *map(_points, parts), _points(one["expected_gain"]), moved])
    columns = ["checkpoint", *SOURCES, "= gain", "moved most by its finetunes on"]
    show("Where the gains come from, in points", columns, rows, (*SOURCES, "= gain"))


def _say_reactions(families: Sequence[dict[str, Any]]) -> None:
    """How each family's target reacts, and how much of it is noise."""
    for one in families:
        found = one.get("explanation")
        if found is not None:
            quality, noise = (f"{100 * found[key]:.0f} %" for key in ("quality_share", "noise_share"))
            say(
                f"In {one['family']} a standard deviation of quality is worth {found['sensitivity']:.2f} "
                f"points here. Gains measured once spread by {found['apparent_spread']:.2f}: of that "
                f"variance {quality} is quality and {noise} seed noise."
            )


def _points(points: float) -> str:
    return signed(points) if abs(points) >= SMALLEST else "0"


def signed(points: float) -> str:
    """Points with their sign."""
    return f"{round(points, 2) or 0.0:+.2f}"  # 0.0: never "-0.00"
