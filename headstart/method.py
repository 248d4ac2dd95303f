"""What a method declares about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a method is defined."""

    paper: str  # citation with identifier
    equation: str  # the defining formula, in the words of the paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way of scoring, with name and version. A score is only compared with scores of its own method.

    The version is raised whenever the same input could give another value.
    """

    name: str
    version: str
    subject: Literal["checkpoint x target"]
    unit: str
    range: tuple[float, float]  # lowest and highest value a score can have
    higher_is_better: bool
    needs: tuple[str, ...]  # ingredients, dearest first
    source: Source
    summary: str  # one sentence for GET /methods
