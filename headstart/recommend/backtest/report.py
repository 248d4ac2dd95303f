"""What a backtest found, as plain values: a table, a plot and JSON are made from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One method in a comparison. `lead`: how far the leading method is above this one."""

    method: str
    overall: Estimate | None  # families averaged; None: nothing could be measured
    by_family: dict[str, Estimate | None]
    lead: Estimate | None
    lead_by_family: dict[str, Estimate | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Methods side by side by one measure."""

    protocol: str
    name: str  # what was asked, for people
    step: int | None  # k, where the same is asked after k finetunes
    measure: str  # or its unit
    less_is_better: bool
    lead: str  # the method that the others are compared with
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Level:
    """A forecast level, and the share of outcomes at or below its quantile."""

    level: float
    share: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Forecasts of P(beats the vanilla) that lie close together."""

    forecast: float  # mean
    rate: float  # share that did, a tie counted half
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Forecasts of checkpoints that stand alike in the order of expected gain on their target."""

    name: str
    cells: int
    covers_80: float
    expected: float  # true gain, points; means
    measured: float
    error_stderr: float  # of measured - expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Do the probabilities mean what they say? One family, or all of them ("")."""

    family: str
    cells: int
    covers_80: float
    covers_95: float
    width_80: float  # mean, points
    ties: float  # share of outcomes at exactly the vanilla's median
    levels: tuple[Level, ...]
    beats: tuple[Bin, ...]
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySize:
    """What the family gave to measure with."""

    family: str
    checkpoints: int
    measured: int  # checkpoints finetuned on any target
    targets: int  # with a gain
    cells: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole backtest."""

    families: tuple[FamilySize, ...]
    seed: int
    comparisons: tuple[Comparison, ...]
    reliability: tuple[Reliability, ...]
    seconds: dict[str, float]  # of one processor: "fit", and each protocol without its fits
    notes: tuple[str, ...]  # what could not be measured, and why
