"""Checkpoints along a run: their order, what was measured of each, and which to finetune from."""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from headstart.failures import NotApplicable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STEP = re.compile(r"(?:^|[-_.=/ ]|step|epoch|iter|iteration|ckpt|checkpoint)(\d+)/*$", re.IGNORECASE)
BESIDE = ("llc", "nl", "trace", "loss")  # what stands in a score's provenance beside the value
APART = 1.96  # standard errors by which two values are told apart
CONVERGED, NO_VALUE = "converged", "no value"


class Estimate(NamedTuple):
    """A number, and its standard error where it has one."""

    value: float
    stderr: float | None


class Point(NamedTuple):
    """A checkpoint of a run, and what became of its measurement."""

    name: str  # as people are shown it
    checkpoint: str  # as the service knows it, or as it was given where that refuses it
    step: int | None
    verdict: str  # CONVERGED; NO_VALUE: there cannot be one; "refused", "failed", ...; of a doubted score why
    why: str | None  # a sentence; None: nothing is to be said
    wbic: Estimate | None
    beside: Mapping[str, Estimate | None]  # by BESIDE
    job: Mapping[str, Any] | None
    score: Mapping[str, Any] | None

    @property
    def settled(self) -> bool:
        """Whether it came to an outcome: a score, or that there cannot be one."""
        return self.score is not None or self.verdict == NO_VALUE

    @property
    def notes(self) -> list[str]:
        """What to know before relying on the value."""
        notes = [] if self.score is None else self.score["provenance"].get("notes")
        return [str(one) for one in notes] if isinstance(notes, list) else []

    def told(self) -> dict[str, Any]:
        """For machines."""
        numbers = {"wbic": self.wbic, **self.beside}
        return {
            "name": self.name,
            "checkpoint": self.checkpoint,
            "step": self.step,
            "verdict": self.verdict,
            "why": self.why,
            **{key: None if one is None else one._asdict() for key, one in numbers.items()},
            "job": self.job,
            "score": self.score,
        }


class Choice(NamedTuple):
    """Which checkpoint to finetune from, and what would be chosen without free energy."""

    best: Point | None  # of the smallest converged WBIC; None: there is none
    next: Point | None  # of the next smallest; None: there is none
    above: Estimate | None  # WBIC of the next less that of the best, with its Monte Carlo error
    alike: tuple[Point, ...]  # those whose WBIC is not told apart from that of the best
    last: Point  # of the run
    least_loss: Point | None  # None: no loss is known
    orders_as_loss: bool | None  # WBIC orders the converged ones just as their loss does; None: under two
    sentence: str

    def told(self) -> dict[str, Any]:
        """For machines, checkpoints by their names at the service."""
        named = {"best": self.best, "next": self.next, "last": self.last, "least_loss": self.least_loss}
        return {
            **{key: None if one is None else one.checkpoint for key, one in named.items()},
            "above": None if self.above is None else self.above._asdict(),
            "alike": [one.checkpoint for one in self.alike],
            "orders_as_loss": self.orders_as_loss,
            "sentence": self.sentence,
        }


def step_of(name: str) -> int | None:
    """The training step at the end of a name: checkpoint-500, step_500, epoch3, 500; not that of model-v2."""
    found = STEP.search(name)
    return None if found is None else int(found[1])


def in_order(names: Sequence[str]) -> list[int]:
    """Positions by step; those without one come last, as they were given."""
    steps = [step_of(name) for name in names]
    return sorted(range(len(names)), key=lambda at: (steps[at] is None, steps[at] or 0, at))


def short_names(names: Sequence[str]) -> list[str]:
    """Each path by its last part, where no two have that in common; other names as they are."""
    short = [
        name.rstrip("/").rpartition("/")[2] if name.startswith(("/", ".", "~")) else name for name in names
    ]
    return short if len(set(short)) == len(set(names)) else list(names)


def point_of(name: str, job: Mapping[str, Any] | None, score: Mapping[str, Any] | None) -> Point:
    """What became of a job, or the score that was there: of one of the two at least."""
    checkpoint = str((score or job or {})["checkpoint"])
    verdict, why = _verdict(job, score)
    wbic, provenance = None, {}
    if score is not None:
        wbic, provenance = Estimate(score["value"], score["stderr"]), score["provenance"]
    beside = {key: _estimate(provenance.get(key)) for key in BESIDE}
    return Point(name, checkpoint, step_of(name), verdict, why, wbic, beside, job, score)


def refused(name: str, sentence: str) -> Point:
    """A checkpoint that the service did not take."""
    return Point(name, name, step_of(name), "refused", sentence, None, dict.fromkeys(BESIDE), None, None)


def choose(points: Sequence[Point]) -> Choice:
    """Which of the points, in their order along the run, to finetune from; there is one or more."""
    ranked = sorted((one for one in points if one.verdict == CONVERGED), key=_value)
    with_loss = [one for one in points if one.beside["loss"] is not None]
    least_loss = min(with_loss, key=_loss, default=None)
    comparable = len(ranked) > 1 and all(one in with_loss for one in ranked)
    as_loss = ranked == sorted(ranked, key=_loss) if comparable else None
    if not ranked:
        said = "No checkpoint has a converged value: free energy does not say where to start."
        return Choice(None, None, None, (), points[-1], least_loss, as_loss, said)
    best, *others = ranked
    alike = tuple(one for one in others if not _told_apart(_above(best, one)))
    sentences = [_best_sentence(best, others, alike), _dumb_sentence(best, points[-1], least_loss)]
    if as_loss and len(ranked) > 2:
        sentences.append("WBIC orders the checkpoints just as their loss does.")
    following = others[0] if others else None
    above = None if following is None else _above(best, following)
    return Choice(best, following, above, alike, points[-1], least_loss, as_loss, " ".join(sentences))


def _verdict(job: Mapping[str, Any] | None, score: Mapping[str, Any] | None) -> tuple[str, str | None]:
    if score is not None and score["quarantine"] is None:
        return CONVERGED, None
    if score is not None:
        reason = str(score["quarantine"]).replace("_", " ")
        return reason, score["quarantine_note"]
    if job is None:
        return "unknown", None
    failure = job["failure"]
    if failure is None or job["state"] != "failed":
        return str(job["state"]), None
    sentence = " ".join(filter(None, (failure["sentence"], failure["remedy"])))
    if failure["name"] == NotApplicable.__name__:  # not converged, for one: the sentence says
        return NO_VALUE, sentence
    return "failed", f"{failure['name']}: {sentence}"


def _best_sentence(best: Point, others: Sequence[Point], alike: Sequence[Point]) -> str:
    if not others:
        return f"Only {best.name} has a converged value: there is nothing to compare it with."
    by = f"its WBIC is the smallest, {_nats(_above(best, others[0]))} below the next, {others[0].name}"
    if not alike:
        return f"Finetune from {best.name}: {by}."
    *some, last = [one.name for one in alike]
    named = f"{', '.join(some)} and {last}" if some else last
    return f"Finetune from {best.name}, though free energy does not tell it from {named}: {by}."


def _dumb_sentence(best: Point, last: Point, least_loss: Point | None) -> str:
    """Where one would start without free energy, beside where it says."""
    choices = {"the last checkpoint": last}
    if least_loss is last:
        both = " and the one of the least loss" if last is best else ", also the one of the least loss,"
        choices = {f"the last checkpoint{both}": last}
    elif least_loss is not None:
        choices["the one of the least loss"] = least_loss
    same = [what for what, one in choices.items() if one is best]
    others = [_beside(best, one, what) for what, one in choices.items() if one is not best]
    if not others:
        return f"It is also {same[0]}: free energy says nothing else."
    said = "; ".join([*(f"it is also {what}" for what in same), *others])
    return f"{said[0].upper()}{said[1:]}."


def _beside(best: Point, other: Point, what: str) -> str:
    """What another choice costs, in nats of WBIC."""
    if other.wbic is None:
        return f"{what} is {other.name}, which has no value"
    if other.verdict != CONVERGED:
        return f"{what} is {other.name}, whose value is {other.verdict}"
    return f"{what} is {other.name}, {_nats(_above(best, other))} above it"


def _above(best: Point, other: Point) -> Estimate:
    """WBIC of the other less that of the best: on the same rows, by chains of their own."""
    errors = [None if one.wbic is None else one.wbic.stderr for one in (best, other)]
    known = [one for one in errors if one is not None]
    return Estimate(_value(other) - _value(best), math.hypot(*known) if len(known) == len(errors) else None)


def _told_apart(above: Estimate) -> bool:
    return above.stderr is not None and above.value > APART * above.stderr


def _nats(one: Estimate) -> str:
    error = "" if one.stderr is None else f" ± {one.stderr:.2f}"
    return f"{one.value:.2f}{error} nats"


def _value(point: Point) -> float:
    return math.inf if point.wbic is None else point.wbic.value


def _loss(point: Point) -> float:
    loss = point.beside["loss"]
    return math.inf if loss is None else loss.value


def _estimate(told: object) -> Estimate | None:
    """As it stands in a score's provenance, which may be anybody's."""
    if not isinstance(told, dict):
        return None
    value, stderr = _number(told.get("value")), _number(told.get("stderr"))
    return None if value is None else Estimate(value, stderr)


def _number(told: object) -> float | None:
    if isinstance(told, bool) or not isinstance(told, int | float):
        return None
    return float(told) if abs(told) <= sys.float_info.max else None  # NaN is not
