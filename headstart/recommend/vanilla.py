"""The vanilla of a family on each target: its level, its seed noise, and the runs to compare seed by seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.overlap import median_variance
from headstart.statistics import robust_spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Bool, Float, Int

    from headstart.recommend.evidence import FamilyEvidence


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Levels:
    """The vanilla's R runs, and what the runs of a candidate are compared with.

    Q columns: the P protocols that the vanilla ran, ascending, and a last one for all others.
    """

    protocols: Int[np.ndarray, "P"]
    seeds: Int[np.ndarray, "S"]  # ascending
    key: Int[np.ndarray, "R"]  # target, column and position of the seed in one number; ascending
    deviation: Float[np.ndarray, "R"]  # points from the level of its target and column
    sound: Bool[np.ndarray, "R"]  # it did not fail
    level: Float[np.ndarray, "T Q"]  # points; NaN: never run
    runs: Int[np.ndarray, "T Q"]  # that the level is the median of
    sound_runs: Int[np.ndarray, "T Q"]
    rows: Float[np.ndarray, "T"]  # of the usual test split, the one that most of the runs are of

    def columns(self, protocol: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """The column that each protocol is compared in."""
        return _find(self.protocols, protocol, len(self.protocols))

    def partners(
        self, target: Int[np.ndarray, "n"], column: Int[np.ndarray, "n"], seed: Int[np.ndarray, "n"]
    ) -> Int[np.ndarray, "n"]:
        """Position of the vanilla's run of that target, column and seed; -1: there is none."""
        position = _find(self.seeds, seed, -1)
        key = (target * self.level.shape[1] + column) * max(len(self.seeds), 1) + position
        return _find(self.key, np.where(position < 0, -1, key), -1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vanilla:
    """The vanilla on each of T targets, in points (0..100). NaN where it was never run."""

    level: Float[np.ndarray, "T"]  # median of the runs
    runs: Int[np.ndarray, "T"]  # distinct seeds of each protocol
    noise: Float[np.ndarray, "T"]  # standard deviation between seeds, shrunk
    level_stderr: Float[np.ndarray, "T"]  # of what all gains on the target are measured from
    seed_correlation: float  # of a candidate's run with the vanilla's at the same seed, 0..1
    levels: Levels


def sound(values: Float[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Which runs of one checkpoint on one target, in points, did not fail.

    A failed run is further than max(4 robust standard deviations, 2 points) from the median.
    """
    return np.asarray(np.abs(values - np.median(values)) <= max(4 * robust_spread(values), 2.0))


def seed_noise(values: Float[np.ndarray, "n"], rows_tested: float) -> float:
    """Standard deviation between seeds, in points, from runs of one checkpoint on one target.

    Failed runs are left out; the variance is shrunk with the weight of 4 runs towards the binomial variance
    of the test split. NaN when there is neither a second run nor a test size.
    """
    kept = values[sound(values)]
    share = min(max(float(np.median(values)) / 100, 0.0), 1.0)
    binomial = 1e4 * share * (1 - share) / rows_tested
    freedom = len(kept) - 1
    variance = float(np.var(kept, ddof=1)) if freedom else binomial
    if freedom and not np.isnan(binomial):
        variance = (freedom * variance + 4 * binomial) / (freedom + 4)
    return float(np.sqrt(np.maximum(variance, 1e-4)))


def unpaired(evidence: FamilyEvidence) -> Vanilla:
    """The vanilla by itself: nothing yet of the seeds it shares with candidates."""
    at = np.zeros(0, dtype=np.int64)
    if evidence.vanilla is not None:
        at = np.flatnonzero((evidence.checkpoint == evidence.vanilla) & np.isfinite(evidence.value))
    protocols, column = np.unique(evidence.protocol[at], return_inverse=True)
    seeds, seed = np.unique(evidence.seed[at], return_inverse=True)
    size, width = len(evidence.target_ids), len(protocols) + 1
    keys = (evidence.target[at] * width + column) * max(len(seeds), 1) + seed
    key, copy, copies = np.unique(keys, return_inverse=True, return_counts=True)
    value = np.bincount(copy, weights=100 * evidence.value[at], minlength=len(key)) / copies
    target, column = np.divmod(key // max(len(seeds), 1), width)
    level, noise = np.full((size, width), np.nan), np.full(size, np.nan)
    runs, sound_runs = np.zeros((2, size, width), dtype=np.int64)
    healthy, rows = np.ones(len(key), dtype=bool), _usual_rows(evidence, at)
    for t, here in _slices(target):
        level[t], runs[t], sound_runs[t], healthy[here] = _levels_of(value[here], column[here], width)
        noise[t] = seed_noise(_centred(value[here], column[here]), float(rows[t]))
    noise = _topped_up(noise, sound_runs[:, -1] - 1, rows)
    return Vanilla(
        level=level[:, -1],
        runs=runs[:, -1],
        noise=noise,
        level_stderr=noise * np.sqrt(median_variance(runs[:, -1])),
        seed_correlation=0.0,
        levels=Levels(
            protocols=protocols,
            seeds=seeds,
            key=key,
            deviation=value - level[target, column],
            sound=healthy,
            level=level,
            runs=runs,
            sound_runs=sound_runs,
            rows=rows,
        ),
    )


def _topped_up(
    noise: Float[np.ndarray, "T"], freedom: Int[np.ndarray, "T"], rows: Float[np.ndarray, "T"]
) -> Float[np.ndarray, "T"]:
    """Seed noise, topped up to 4 degrees of freedom with the typical where no test size says what to expect.

    The typical variance is the median over the targets; that of a variance with n degrees of freedom lies low
    by the factor (1 - 2 / 9n)**3 (Wilson & Hilferty 1931). One point where nothing is known at all.
    """
    bare, known = np.isnan(rows), np.isfinite(noise)
    low = np.where(bare, (1 - 2 / (9 * np.maximum(freedom, 1))) ** 3, 1.0)
    typical = float(np.median(noise[known] ** 2 / low[known])) if known.any() else 1.0
    few = np.flatnonzero(bare & (freedom >= 0) & (freedom < 4))
    mine = np.where(known[few], freedom[few] * noise[few] ** 2, 0.0)
    topped = noise.copy()
    topped[few] = np.sqrt((mine + (4 - freedom[few]) * typical) / 4)
    return topped


def _levels_of(
    values: Float[np.ndarray, "n"], column: Int[np.ndarray, "n"], width: int
) -> tuple[Float[np.ndarray, "Q"], Int[np.ndarray, "Q"], Int[np.ndarray, "Q"], Bool[np.ndarray, "n"]]:
    """Level, runs and sound runs of each column on one target; which runs are sound.

    A protocol has a level of its own from two runs on, or where no more than one lies elsewhere: a lone
    run does not outvote several.
    """
    healthy = sound(values)
    level, runs = np.full(width, np.median(values)), np.full(width, len(values))
    sound_runs = np.full(width, healthy.sum())
    for p in np.unique(column):
        own = column == p
        if own.sum() >= min(2, len(values) - 1):
            healthy[own] = sound(values[own])
            level[p], runs[p], sound_runs[p] = np.median(values[own]), own.sum(), healthy[own].sum()
    return level, runs, sound_runs, healthy


def _centred(values: Float[np.ndarray, "n"], column: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The runs with the medians of all protocols of two or more moved to one place, if there are several."""
    several = np.flatnonzero(np.bincount(column) > 1)
    moved, middle = values.copy(), np.median(values)
    for p in several if len(several) > 1 else ():
        moved[column == p] += middle - np.median(values[column == p])
    return moved


def _usual_rows(evidence: FamilyEvidence, at: Int[np.ndarray, "v"]) -> Float[np.ndarray, "T"]:
    """Median test rows of the vanilla's scores, at `at`; the target's where they do not say."""
    rows = np.where(evidence.target_rows > 0, evidence.target_rows, np.nan)
    told = at[(evidence.rows_tested[at] > 0) & np.isfinite(evidence.rows_tested[at])]
    told = told[np.argsort(evidence.target[told], kind="stable")]
    for t, here in _slices(evidence.target[told]):
        rows[t] = np.median(evidence.rows_tested[told[here]])
    return rows


def _slices(index: Int[np.ndarray, "n"]) -> Iterator[tuple[int, slice]]:
    """Each value of an ascending index, and where it stands."""
    values, starts = np.unique(index, return_index=True)
    for value, start, end in zip(values, starts, [*starts[1:], len(index)], strict=False):
        yield int(value), slice(int(start), int(end))


def _find(known: Int[np.ndarray, "k"], wanted: Int[np.ndarray, "n"], missing: int) -> Int[np.ndarray, "n"]:
    """Position of each in the ascending `known`, or `missing`."""
    if not len(known):
        return np.full(len(wanted), missing)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, at, missing)
