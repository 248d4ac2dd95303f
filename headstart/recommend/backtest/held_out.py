"""P5: cells held out in five folds; is the forecast of one run honest, and is it sharp?

CRPS (Gneiting & Raftery 2007) is the mean pinball loss over 99 quantiles, doubled: points, less is better. A
target's other gains alone give two forecasts to beat: their mean and spread as a normal, and themselves.

Advice is taken from the top of a list, so coverage is told by place as well: among the cells that one fit
foretells on one target, by expected gain. Cells of several fits must not be ordered together: the fit whose
own cells happen to be low is left with the high ones and expects more, so that the first of all are those
expected too much of (published families: -0.76 points against -0.23).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.backtest.baselines import HEADSTART
from headstart.recommend.backtest.bootstrap import compared, over_units
from headstart.recommend.backtest.material import without_cells
from headstart.recommend.backtest.report import Bin, Level, Place, Reliability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Int

    from headstart.recommend.backtest.engine import Engine, Fitted
    from headstart.recommend.backtest.material import Material
    from headstart.recommend.backtest.report import Comparison

FOLDS = 5
FEWEST = 50  # cells of a family, for shares of them to say anything
LEVELS = np.linspace(0.01, 0.99, 99)
SHOWN = np.linspace(0.05, 0.95, 19)
EDGES = (0.1, 0.025, 0.975, 0.9)  # of the intervals, beside LEVELS
BINS = 10  # of P(beats)
PLACES = {  # name -> (first, last) share of a fit's cells on a target, or (how many, None) of the first
    "the first": (1, None),
    "the first three": (3, None),
    "first tenth": (0.0, 0.1),
    "second to fifth": (0.1, 0.5),
    "sixth to ninth": (0.5, 0.9),
    "last tenth": (0.9, 1.0),
}
NORMAL, EMPIRICAL, RATE = "target's mean and spread", "target's other gains", "target's base rate"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """What was forecast for each of n held-out cells, and what it was."""

    target: Int[np.ndarray, "n"]
    crps: Float[np.ndarray, "n"]  # points
    crps_normal: Float[np.ndarray, "n"]
    crps_empirical: Float[np.ndarray, "n"]
    rank: Float[np.ndarray, "n"]  # the forecast's probability of no more than the outcome
    in_80: Bool[np.ndarray, "n"]
    in_95: Bool[np.ndarray, "n"]
    width_80: Float[np.ndarray, "n"]  # points
    p_beats: Float[np.ndarray, "n"]
    base_rate: Float[np.ndarray, "n"]  # of the target's other cells
    gain: Float[np.ndarray, "n"]  # as measured, points
    expected: Float[np.ndarray, "n"]  # true gain, points
    ahead: Int[np.ndarray, "n"]  # cells of the same fit and target of which more is expected
    beside: Int[np.ndarray, "n"]  # cells of the same fit and target, itself included

    @property
    def beats(self) -> Bool[np.ndarray, "n"]:
        """It scored above the vanilla's median, and not just as high."""
        return np.asarray(self.gain > 0)


def fold_of_cells(material: Material, rng: np.random.Generator) -> Int[np.ndarray, "C T"]:
    """The fold of each cell, at random."""
    return rng.integers(0, FOLDS, material.gains.shape)


def held_out_cells(
    engine: Engine, material: Material, others: Sequence[Material], hidden: Bool[np.ndarray, "C T"]
) -> Cells:
    """Hide these cells, fit, and forecast them."""
    fitted = engine.fit(without_cells(material.evidence, hidden), [other.evidence for other in others])
    seen = np.where(hidden, np.nan, material.gains)
    at = hidden & material.measured
    return joined([_of_target(fitted, material, seen, at, int(t)) for t in np.flatnonzero(at.any(axis=0))])


def _of_target(
    fitted: Fitted,
    material: Material,
    seen: Float[np.ndarray, "C T"],
    at: Bool[np.ndarray, "C T"],
    target: int,
) -> Cells:
    rows = np.flatnonzero(at[:, target])
    truth = material.gains[rows, target]
    view = fitted.known(target)
    forecast, expected = fitted.forecast(view, rows), fitted.gain(view, rows)
    low, lowest, highest, high = forecast.quantile(np.array(EDGES)).T
    rank = forecast.cdf(truth)
    column = seen[np.isfinite(seen[:, target]), target]
    if len(column) < 2:  # then all of the family's cells stand in
        column = seen[np.isfinite(seen)]
    return Cells(
        target=np.full(len(rows), target),
        crps=pinball(forecast.quantile(LEVELS), truth),
        crps_normal=pinball(_normal_quantiles(column), truth),
        crps_empirical=pinball(np.quantile(column, LEVELS)[None], truth),
        rank=rank,
        in_80=(low <= truth) & (truth <= high),
        in_95=(lowest <= truth) & (truth <= highest),
        width_80=high - low,
        p_beats=1 - forecast.cdf(np.zeros(len(rows))),
        base_rate=np.full(len(rows), np.mean(column > 0)),
        gain=truth,
        expected=expected,
        ahead=np.argsort(np.argsort(-expected, kind="stable"), kind="stable"),
        beside=np.full(len(rows), len(rows)),
    )


def pinball(quantiles: Float[np.ndarray, "n 99"], truth: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """CRPS from the quantiles at LEVELS."""
    gap = truth[:, None] - quantiles
    return np.asarray(2 * np.maximum(LEVELS * gap, (LEVELS - 1) * gap).mean(axis=1))


def joined(parts: Sequence[Cells]) -> Cells:
    """All cells one after another."""
    names = [one.name for one in fields(Cells)]
    return Cells(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def cell_comparisons(
    found: dict[str, Cells], names: dict[str, tuple[str, ...]], families: Sequence[str], seed: int
) -> list[Comparison]:
    """CRPS and Brier score beside what the target's other gains foretell. Targets are drawn with all cells.

    Args:
        names: of each family's targets.
    """
    targets = sorted({names[f][t] for f, cells in found.items() for t in np.unique(cells.target)})
    place = {name: u for u, name in enumerate(targets)}

    def drawn(values: dict[str, Float[np.ndarray, "n"]]) -> Float[np.ndarray, "F D"]:
        mean, count = np.full((len(families), len(targets)), np.nan), np.zeros((len(families), len(targets)))
        for f, family in enumerate(families):
            if family in found:
                unit = np.array([place[name] for name in names[family] if name in place])
                at = np.array([place[names[family][t]] for t in found[family].target])
                count[f] = np.bincount(at, minlength=len(targets))
                total = np.bincount(at, weights=values[family], minlength=len(targets))
                mean[f, unit] = np.where(
                    count[f, unit] > 0, total[unit] / np.maximum(count[f, unit], 1), np.nan
                )
        return over_units(mean, count, seed)

    def score(name: str) -> Float[np.ndarray, "F D"]:
        return drawn({f: getattr(cells, name) for f, cells in found.items()})

    def brier(name: str) -> Float[np.ndarray, "F D"]:
        return drawn({f: (getattr(cells, name) - cells.beats) ** 2 for f, cells in found.items()})

    sharp = {HEADSTART: score("crps"), NORMAL: score("crps_normal"), EMPIRICAL: score("crps_empirical")}
    honest = {HEADSTART: brier("p_beats"), RATE: brier("base_rate")}
    asked = (("forecast of one run", "CRPS, points", sharp), ("P(beats the vanilla)", "Brier score", honest))
    return [
        compared(
            f"A held-out cell: {what}",
            statistics,
            families,
            protocol="p5",
            measure=measure,
            lead=HEADSTART,
            less_is_better=True,
        )
        for what, measure, statistics in asked
    ]


def reliability(cells: Cells, family: str) -> Reliability:
    """Shares of outcomes beside the probabilities forecast for them.

    Small test splits tie: a gain of exactly 0 is half a win here, as a forecast without ties has to take it.
    """
    won = (np.sign(cells.gain) + 1) / 2
    bin_of = np.minimum((cells.p_beats * BINS).astype(np.int64), BINS - 1)
    bins = []
    for one in np.unique(bin_of):
        here = bin_of == one
        bins.append(Bin(float(cells.p_beats[here].mean()), float(won[here].mean()), int(here.sum())))
    return Reliability(
        family=family,
        cells=len(cells.rank),
        covers_80=float(cells.in_80.mean()),
        covers_95=float(cells.in_95.mean()),
        width_80=float(cells.width_80.mean()),
        ties=float((cells.gain == 0).mean()),
        places=tuple(_place(cells, name) for name in PLACES),
        levels=tuple(Level(float(level), float((cells.rank <= level).mean())) for level in SHOWN),
        beats=tuple(bins),
    )


def _place(cells: Cells, name: str) -> Place:
    """How forecasts fare at one place. The cells of a target are taken to err together."""
    low, high = PLACES[name]
    share = cells.ahead / cells.beside
    here = cells.ahead < low if high is None else (share >= low) & (share < high)
    error, count = (cells.gain - cells.expected)[here], int(here.sum())
    together = np.bincount(cells.target[here], weights=error - error.mean() if count else error)
    return Place(
        name=name,
        cells=count,
        covers_80=float(cells.in_80[here].mean()) if count else 0.0,
        expected=float(cells.expected[here].mean()) if count else 0.0,
        measured=float(cells.gain[here].mean()) if count else 0.0,
        error_stderr=float(np.sqrt(np.sum(together**2))) / max(count, 1),
    )


def _normal_quantiles(column: Float[np.ndarray, "m"]) -> Float[np.ndarray, "1 99"]:
    from scipy.special import ndtri  # noqa: PLC0415 - the service starts without scipy

    return np.asarray(column.mean() + column.std() * ndtri(LEVELS))[None]
