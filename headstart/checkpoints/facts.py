"""Facts of a checkpoint that say something about its quality before anything was measured.

They are read from its details, which any source may have written: whatever cannot be one is unknown, NaN.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

CLASSIFIER = "ForSequenceClassification"  # how the name of an architecture with a classification head ends
MOST_LAYERS = 10_000  # more is no depth


class Facts(NamedTuple):
    """Facts of one checkpoint. NaN: unknown."""

    layers: float = math.nan  # hidden layers, 0..MOST_LAYERS
    classification: float = math.nan  # 1.0: its head classifies texts, 0.0: it does not
    modified: float = math.nan  # seconds since the epoch, above 0: when it was last modified


UNKNOWN = Facts()


def facts_of(details: object) -> Facts:
    """The facts that the details of a checkpoint tell.

    The architecture tells of the head; published scores name none, and say `classification`. A time without a
    zone is taken for UTC.
    """
    if not details or not isinstance(details, dict):
        return UNKNOWN
    return Facts(
        _layers(details.get("layers")),
        _classification(details.get("architecture"), details.get("classification")),
        _modified(details.get("last_modified")),
    )


def facts_in(texts: Sequence[str]) -> Float[np.ndarray, "N facts"]:
    """The facts that details tell which were stored as JSON: a row each, in the columns of Facts."""
    facts = chain.from_iterable(facts_of(details) for details in _parsed(texts))
    return np.fromiter(facts, np.float64).reshape(-1, len(Facts._fields))


def _parsed(texts: Sequence[str]) -> list[Any]:
    """The JSON of each text, None where it is none. One list is parsed in a third of the time."""
    found = _json(f"[{','.join(texts)}]")
    if isinstance(found, list) and len(found) == len(texts):
        return found
    return [_json(text) for text in texts]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _layers(told: object) -> float:
    if not isinstance(told, (int, float, str)) or isinstance(told, bool):
        return math.nan
    try:
        count = float(told)
    except (ValueError, OverflowError):
        return math.nan
    return count if 0 <= count <= MOST_LAYERS and count.is_integer() else math.nan


def _classification(architecture: object, told: object) -> float:
    if architecture and isinstance(architecture, str):
        return float(architecture.endswith(CLASSIFIER))
    return _TOLD.get(str(told).lower(), math.nan) if isinstance(told, (str, bool)) else math.nan


_TOLD = {"true": 1.0, "false": 0.0}


def _modified(told: object) -> float:
    if not isinstance(told, str):
        return math.nan
    try:
        moment = datetime.fromisoformat(told)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return math.nan
    return seconds if seconds > 0 else math.nan  # a clock that nobody set stands at the epoch
