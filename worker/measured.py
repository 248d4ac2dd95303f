"""What a method found, before it is stored: numbers that JSON and the store can hold, or a named failure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headstart.failures import NonFinite, OutOfRange

if TYPE_CHECKING:
    from headstart.method import Measurement, Method


def checked(found: Measurement, method: Method) -> Measurement:
    """The measurement in plain numbers.

    Raises: NonFinite, OutOfRange (a value that the method says it cannot give).
    """
    plain = replace(
        found,
        value=float(found.value),
        stderr=None if found.stderr is None else float(found.stderr),
        details=finite(found.details),
    )
    low, high = method.range
    for name, value in (("value", plain.value), ("standard error", plain.stderr)):
        if value is not None and not abs(value) < float("inf"):
            raise NonFinite(f"The {name} is {value}.")
    if not low <= plain.value <= high:
        raise OutOfRange(
            f"The value {plain.value:g} is outside {low:g}..{high:g}, the range of {method.name!r}."
        )
    return plain


def finite(details: Any) -> Any:
    """Diagnostics as JSON can hold them: what is no number there becomes null."""
    if isinstance(details, float):
        return details if abs(details) < float("inf") else None
    if isinstance(details, dict):
        return {str(name): finite(value) for name, value in details.items()}
    if isinstance(details, list | tuple):
        return [finite(value) for value in details]
    return details
