"""What jobs that ran tell of the time that jobs take: of each score its operations, device and seconds.

Read from the provenance that methods write, which may be anybody's: what cannot be a count is passed over,
and a score without seconds (an imported one) tells nothing. Operations are those of `cost`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from headstart.recommend.cost import FORWARD, Sampling, finetune_work, sampling_work

if TYPE_CHECKING:
    from collections.abc import Mapping

CACHED = "cached"  # way of a probe whose features were there
FRESH = ""  # way of any other
SAMPLED = frozenset({"chains", "draws"})  # parameters that methods which run chains have


class Timing(NamedTuple):
    """A score that was measured here, as the store tells it."""

    id: int
    method: str
    params: Mapping[str, Any]
    parameters: int | None  # of its checkpoint
    target_id: int
    facts: Mapping[str, Any]  # its provenance


class Kind(NamedTuple):
    """What is timed alike."""

    method: str
    way: str  # the tuning of a finetune; of a probe FRESH or CACHED


class Work(NamedTuple):
    """What a job did, or a part of it, and how long that took."""

    kind: Kind
    device: str  # "" where the method does not say
    dtype: str
    operations: float  # 0.0: the method does not tell
    seconds: float  # above 0
    started: bool = True  # the seconds hold the start


class Length(NamedTuple):
    """How long the rows of a target were to a tokenizer."""

    target_id: int
    tokens: float  # of a row, after the cut
    most: int  # tokens at which rows were cut
    cut: float  # share of rows that were


class Stop(NamedTuple):
    """When a finetune ended."""

    target_id: int
    epochs: float
    early: bool  # since validation gained no more


def works_of(timing: Timing) -> tuple[Work, ...]:
    """What the job of a score did; nothing where its provenance does not tell the seconds.

    Of a finetune two parts: its training, and all else. Of chains too: their steps, and all else.
    """
    facts, seconds = timing.facts, _positive(timing.facts.get("seconds"))
    if seconds is None:
        return ()
    device, dtype = str(facts.get("device") or ""), str(facts.get("dtype") or "")
    size = _positive(timing.parameters)
    if "train_seconds" in facts:
        kind = Kind(timing.method, str(facts.get("tuning") or "full"))
        return () if size is None else _finetune(facts, Work(kind, device, dtype, size, seconds))
    if timing.params.keys() >= SAMPLED:
        kind = Kind(timing.method, FRESH)
        return () if size is None else _sampled(timing, Work(kind, device, dtype, size, seconds))
    kind = Kind(timing.method, CACHED if facts.get("cached") is True else FRESH)
    tokens = _positive(facts.get("tokens"))
    operations = 0.0 if tokens is None or size is None else FORWARD * size * tokens
    return (Work(kind, device, dtype, operations, seconds),)


def sampling_of(params: Mapping[str, Any], rows: float, tokens: float) -> Sampling:
    """Operations per parameter of chains by the parameters of `methods.free_energy`, or by odd ones."""
    named = ("batch_rows", "chains", "draws", "burn_in")
    batch_rows, chains, draws, burn_in = (_positive(params.get(name)) or 0.0 for name in named)
    return sampling_work(
        rows=rows,
        tokens=tokens,
        batch_rows=batch_rows,
        chains=chains,
        steps=draws + burn_in,
        traced=_positive(params.get("trace_probes")) is not None,
        picked=_positive(params.get("step")) is None,
        headed=params.get("objective") == "classification",
        controlled=params.get("controlled") is True,
    )


def _sampled(timing: Timing, whole: Work) -> tuple[Work, ...]:
    """The parts of chains, from their seconds in all and, as operations, the parameters.

    Those that went on from a state on disk leave no rest, as a finetune's.
    """
    facts, stages = timing.facts, timing.facts.get("stage_seconds")
    rows, tokens = _positive(facts.get("rows")), _positive(facts.get("tokens"))
    seconds = _positive(stages.get("chains")) if isinstance(stages, dict) else None
    if rows is None or tokens is None or seconds is None:
        return ()
    found = sampling_of(timing.params, rows, tokens / rows)
    steps = whole._replace(operations=whole.operations * found.chains, seconds=seconds, started=False)
    rest = whole.seconds - seconds
    if rest <= 0 or _positive(facts.get("resumed_at_step")):
        return (steps,)
    return steps, whole._replace(operations=whole.operations * found.before, seconds=rest)


def length_of(timing: Timing) -> Length | None:
    """How long the target's rows were; None where the provenance does not tell."""
    facts = timing.facts
    most = _positive(facts.get("max_tokens"))
    tokens = _row_tokens(facts) if "train_seconds" in facts else _probed_tokens(facts)
    if most is None or tokens is None:
        return None
    return Length(timing.target_id, tokens, int(most), _positive(facts.get("truncated")) or 0.0)


def stop_of(timing: Timing) -> Stop | None:
    """When a finetune ended; None for anything else, and for one that validation could not have stopped."""
    facts, epochs = timing.facts, _positive(timing.facts.get("epochs"))
    if epochs is None or facts.get("ended") not in ("patience", "epochs"):
        return None
    return Stop(timing.target_id, epochs, facts["ended"] == "patience")


def _finetune(facts: Mapping[str, Any], whole: Work) -> tuple[Work, ...]:
    """The parts of a finetune, from its seconds in all and, as operations, the parameters.

    Of all its runs: one that collapsed was made twice. The seconds of one that went on from a state on disk
    are those of its last stretch, and leave no rest; those of training are of all stretches.
    """
    runs = facts.get("runs")
    told = [one for one in runs if isinstance(one, dict)] if isinstance(runs, list) else []
    runs = told or [facts]
    found = [_run(one, whole.kind.way) for one in runs]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return ()
    trained, seconds = sum(one.trained for one in known), sum(one.seconds for one in known)
    training = whole._replace(operations=whole.operations * trained, seconds=seconds, started=False)
    rest = whole.seconds - seconds
    if rest <= 0 or any(_positive(one.get("resumed_at_step")) for one in runs):
        return (training,)
    held = whole.operations * sum(one.held for one in known)
    return training, whole._replace(operations=held, seconds=rest)


class _Run(NamedTuple):
    trained: float  # operations per parameter of training and its evaluations
    held: float  # of the last looks at the validation and test rows
    seconds: float  # of the former


def _run(facts: Mapping[str, Any], tuning: str) -> _Run | None:
    tokens, seconds = _row_tokens(facts), _positive(facts.get("train_seconds"))
    rows, curve = facts.get("rows"), facts.get("curve")
    if tokens is None or seconds is None or not isinstance(rows, dict):
        return None
    train, validation, test = (_positive(rows.get(role)) or 0.0 for role in ("train", "validation", "test"))
    trained = finetune_work(
        train_rows=train,
        validation_rows=validation,
        test_rows=0.0,
        tokens=tokens,
        epochs=_positive(facts.get("epochs")) or 0.0,
        passes=float(len(curve)) if isinstance(curve, list) else 0.0,
        tuning=tuning,
    )
    return _Run(trained, FORWARD * tokens * (validation + test), seconds)


def _sum(numbers: list[float | None]) -> float:
    return sum(one or 0.0 for one in numbers)


def _row_tokens(facts: Mapping[str, Any]) -> float | None:
    """Tokens of a train row of a finetune, which counts them over all of its epochs."""
    rows = facts.get("rows")
    seen = [
        _positive(facts.get("tokens")),
        _positive(facts.get("epochs")),
        _positive(rows.get("train")) if isinstance(rows, dict) else None,
    ]
    tokens, epochs, train = seen
    return None if tokens is None or epochs is None or train is None else tokens / (epochs * train)


def _probed_tokens(facts: Mapping[str, Any]) -> float | None:
    tokens, rows = _positive(facts.get("tokens")), facts.get("rows")
    read = _sum([_positive(one) for one in rows.values()]) if isinstance(rows, dict) else _positive(rows)
    return tokens / read if tokens and read else None


def _positive(number: object) -> float | None:
    """The number, if it is one above 0."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return float(number) if math.isfinite(number) and number > 0 else None
