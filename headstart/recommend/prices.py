"""What a job will take before it runs: its operations foretold, on the line of jobs like it.

Rows are those of the target and its parameters, tokens of a row those that jobs found on the target; else
from the lengths that its profile counts, at CHARACTERS a token; else `cost.TOKENS`. A finetune is expected to
stop when those on record did. What is guessed widens the interval, which is one of 80 %.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from headstart.recommend import cost
from headstart.recommend.rates import STOP_DEVIATION
from headstart.recommend.timings import CACHED, FRESH, SAMPLED, Kind, sampling_of
from headstart.workbench import LAST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from headstart.entities import Target
    from headstart.recommend.cost import Basis
    from headstart.recommend.rates import Rates

# Of English under WordPiece: over 35 public sets, mean tokens foretold from the profile's quantiles of
# characters were 1.01 (median) times the true ones, with a deviation of 0.09 of the logarithm.
CHARACTERS, SPECIAL = 4.3, 2.0  # characters a token; tokens around a text, and one more for a pair
LENGTHS = ("least", "median", "p90", "p99", "most")
SHARES = (0.0, 0.5, 0.9, 0.99, 1.0)
# Deviations of log operations where something is told by another means, or not at all
BY_PROFILE, BY_NOTHING, ROWS_UNKNOWN, SIZE_UNKNOWN = 0.15, 0.8, 1.0, 0.7
ROLES = ("train", "validation", "test")
HELD_OUT = 0.2  # rows of another role, for one of train, where nothing is known
LINEAR_PROBE = "linear_probe"
READS_ALL = frozenset({LINEAR_PROBE})  # other probes read train alone
FINETUNE, EVALUATED = "finetune", "tuning"  # the method, and a parameter that others which train have too
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
MOST_TOKENS, MOST_ROWS = 256, 20_000  # defaults of all methods here


class Price(NamedTuple):
    """What a job takes."""

    seconds: float  # the median
    low: float  # of an interval that is to hold in 80 % of cases
    high: float
    basis: Basis  # measured: jobs of this kind are on record, on this device
    device: str | None  # that it is for; None: nobody knows, a data-centre GPU is assumed


class Amount(NamedTuple):
    """How much there is to compute, per parameter of the checkpoint."""

    work: float  # operations
    deviation: float  # of its logarithm, as far as it is a guess


NOTHING = Price(0.0, 0.0, 0.0, "measured", None)  # of what is there already


def price_of(
    rates: Rates,
    method: str,
    params: Mapping[str, Any],
    parameters: int | None,
    target: Target | None,
    *,
    cached: bool = False,
) -> Price:
    """The price of one job. `params`: with their defaults; `cached`: a probe whose features will be there."""
    trains = method == FINETUNE or EVALUATED in params
    kind = Kind(method, str(params.get("tuning", "full")) if trains else CACHED if cached else FRESH)
    line = rates.line(kind, DTYPES.get(str(params.get("precision"))))
    if trains:
        amount = finetune_amount(rates, params, target)
    elif params.keys() >= SAMPLED:
        amount = sampling_amount(rates, params, target)
    elif "max_tokens" in params if (known := rates.has_work(method)) is None else known:
        amount = probe_amount(rates, method, params, target)
    else:
        amount = Amount(0.0, 0.0)
    size, guessed = (float(parameters), 0.0) if parameters else (cost.PARAMETERS, SIZE_UNKNOWN)
    seconds, low, high = line.seconds(size * amount.work, math.hypot(amount.deviation, guessed))
    return Price(seconds, low, high, line.basis, line.device or None)


def together(prices: Iterable[Price]) -> Price:
    """Of all, one after the other. Their errors are taken to be one: most of it is the pace of the device."""
    found = [one for one in prices if one is not NOTHING]
    if not found:
        return NOTHING
    basis: Basis = "measured" if all(one.basis == "measured" for one in found) else "assumed"
    devices = {one.device for one in found}
    return Price(
        sum(one.seconds for one in found),
        sum(one.low for one in found),
        sum(one.high for one in found),
        basis,
        devices.pop() if len(devices) == 1 else None,
    )


def finetune_amount(rates: Rates, params: Mapping[str, Any], target: Target | None) -> Amount:
    """Of a finetune by these parameters, those of `methods.finetune`; others may lack some of them."""
    rows, unsure = _rows(target)
    train = _at_most(rows["train"], params.get("max_train_rows"))
    most = _number(params, "max_rows", MOST_ROWS)
    planned = _number(params, "epochs", 10.0)
    if params.get("max_steps"):
        planned = min(planned, params["max_steps"] / max(1.0, train / _number(params, "batch_rows", 256)))
    each = _number(params, "evaluations", 1)
    least = (1 + _number(params, "patience", 3)) / each
    epochs = rates.epochs(None if target is None else target.id, least, planned)
    tokens, doubt = _tokens(rates, params, target)
    work = cost.finetune_work(
        train_rows=train,
        validation_rows=min(most, rows["validation"]),
        test_rows=min(most, rows["test"]),
        tokens=tokens,
        epochs=epochs,
        passes=max(1.0, epochs * each) + 1,
        tuning=str(params.get("tuning", "full")),
    )
    stops = STOP_DEVIATION if least < planned else 0.0
    return Amount(work, math.hypot(unsure, doubt, stops))


def probe_amount(rates: Rates, method: str, params: Mapping[str, Any], target: Target | None) -> Amount:
    """Of the forward pass of a probe."""
    rows, unsure = _rows(target)
    most = _number(params, "max_rows", MOST_ROWS)
    read = sum(min(most, rows[role]) for role in _roles(method))
    tokens, doubt = _tokens(rates, params, target)
    return Amount(cost.FORWARD * read * tokens, math.hypot(unsure, doubt))


def sampling_amount(rates: Rates, params: Mapping[str, Any], target: Target | None) -> Amount:
    """Of chains around a checkpoint, by the parameters of `methods.free_energy`."""
    rows, unsure = _rows(target)
    read = _at_most(rows["train"], params.get("rows"))
    tokens, doubt = _tokens(rates, params, target)
    unsure = 0.0 if read < rows["train"] else unsure  # there are enough, as far as anybody knows
    return Amount(sum(sampling_of(params, read, tokens)), math.hypot(unsure, doubt))


def finetune_rows(rates: Rates, target: Target | None) -> float:
    """Train rows of TOKENS, on which EPOCHS cost what a finetune by its defaults costs on the target.

    So `cost.finetune_cost` prices many checkpoints at once, as `price_of` does one.
    """
    return finetune_amount(rates, {}, target).work / (cost.TRAIN * cost.TOKENS * cost.EPOCHS)


def probe_rows(rates: Rates, target: Target | None) -> float:
    """Rows of TOKENS, over which a pass costs what a linear probe's costs; for `cost.probe_cost`."""
    return probe_amount(rates, LINEAR_PROBE, {}, target).work / (cost.FORWARD * cost.TOKENS)


def passes(method: str, params: Mapping[str, Any]) -> tuple[tuple[Any, ...], ...]:
    """The forward passes that a probe needs, one a role; probes with equal ones on a pair share them."""
    if EVALUATED in params or params.keys() >= SAMPLED or "max_tokens" not in params:
        return ()  # chains need one for their head, which is little beside them
    what = tuple(params.get(name) for name in ("pooling", "max_tokens", "max_rows", "precision"))
    return tuple((role, *what, *params.get("layers", (LAST,))) for role in _roles(method))


def _roles(method: str) -> tuple[str, ...]:
    return ROLES if method in READS_ALL else ROLES[:1]


def _rows(target: Target | None) -> tuple[dict[str, float], float]:
    """Rows of each role, and the deviation of log rows where they are a guess."""
    profile = (target.profile if target is not None else None) or {}
    counted = profile.get("rows")
    if isinstance(counted, dict) and all(role in counted for role in ROLES):
        return {role: float(counted[role]) for role in ROLES}, 0.0
    known = target.train_size if target is not None else None
    train = float(known or cost.TRAIN_ROWS)
    test = float((target.rows_tested if target is not None else None) or HELD_OUT * train)
    rows = {"train": train, "validation": HELD_OUT * train, "test": test}
    return rows, BY_PROFILE if known else ROWS_UNKNOWN


def _tokens(rates: Rates, params: Mapping[str, Any], target: Target | None) -> tuple[float, float]:
    """Tokens of a row, and the deviation of their logarithm."""
    most = int(_number(params, "max_tokens", MOST_TOKENS))
    if target is not None:
        recorded = rates.tokens(target.id, most)
        if recorded is not None:
            return recorded, 0.0
        foretold = profiled_tokens(target.profile or {}, most)
        if foretold is not None:
            return foretold, BY_PROFILE
    return min(cost.TOKENS, most), BY_NOTHING


def profiled_tokens(profile: Mapping[str, Any], most: int) -> float | None:
    """Mean tokens of a train row, cut at `most`, from the quantiles of its characters; None without them.

    The quantiles are joined by straight lines.
    """
    counted = profile.get("characters")
    lengths = counted.get("train") if isinstance(counted, dict) else None
    if not isinstance(lengths, dict) or not all(name in lengths for name in LENGTHS):
        return None
    special = SPECIAL + (1 if profile.get("pair") else 0)
    tokens = np.minimum([lengths[name] / CHARACTERS + special for name in LENGTHS], most)
    return float(np.trapezoid(tokens, SHARES))


def _at_most(number: float, most: object) -> float:
    return min(number, float(most)) if isinstance(most, int | float) and most > 0 else number


def _number(params: Mapping[str, Any], name: str, usual: float) -> float:
    found = params.get(name)
    return float(found) if isinstance(found, int | float) and found > 0 else float(usual)
