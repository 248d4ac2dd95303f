"""From scores to gains, seed by seed: one cell per checkpoint and target, and how much it is worth.

Gains are percentage points over the vanilla on the same target (Choshen et al. 2023, arXiv 2211.00107, with
the median where the paper takes the mean: published vanilla runs contain failures).

- A run is one seed of one protocol. Scores that repeat it are averaged and count as one; one that
  contradicts it widens the cell.
- It is compared with the median of the vanilla's runs of its protocol (`vanilla.Levels`).
- Where both ran the same seeds of a protocol, their runs are weighed as `overlap.difference` says. A failed
  run of the vanilla is no partner, and the candidate's run at that seed is left out if it has another:
  what fails one checkpoint at a seed tends to fail all.
- Runs of more than one protocol count seed by seed: a seed has weight one, split over its protocols.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.overlap import difference, seed_correlation
from headstart.recommend.vanilla import Vanilla, seed_noise, unpaired

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from headstart.recommend.evidence import FamilyEvidence

__all__ = ["Cells", "Vanilla", "compare", "gain_cells", "robust_scale", "seed_noise", "vanilla_levels"]

# Bounds of a run's noise variance, in runs of the usual test split: what training adds stays on the largest
# split, and the smallest is worth next to nothing.
VARIANCES = (0.25, 400.0)
MOST_WORTH = 100.0  # runs that a told standard error can make of a gain: one of 0 is a formula at its end
UNSTEADY = 2.0  # times the seed noise's variance that the seeds of a cell may vary by before it is widened


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """One gain per measured (checkpoint, target), the vanilla apart; ascending.

    `effective` is the number of independent runs on the target's usual test split that the gain is worth: its
    own noise has variance noise**2 / effective, beside the level_stderr**2 that it shares with the target's
    other gains. It honours seeds in common with the vanilla, test sizes, told standard errors, and runs that
    disagree.
    """

    checkpoint: Int[np.ndarray, "n"]
    target: Int[np.ndarray, "n"]
    gain: Float[np.ndarray, "n"]  # points
    runs: Int[np.ndarray, "n"]  # distinct seeds
    stderr: Float[np.ndarray, "n"]  # points, as told by all runs of the cell; NaN: not told
    effective: Float[np.ndarray, "n"]  # > 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Runs:
    """The candidates' r runs, ascending by checkpoint, target, seed and column; n cells, G groups.

    A group is the runs of one cell and one column of the vanilla's levels.
    """

    checkpoint: Int[np.ndarray, "n"]
    target: Int[np.ndarray, "n"]
    cell: Int[np.ndarray, "r"]
    group: Int[np.ndarray, "r"]
    group_cell: Int[np.ndarray, "G"]
    group_column: Int[np.ndarray, "G"]
    seed: Int[np.ndarray, "r"]
    deviation: Float[np.ndarray, "r"]  # points from the level of its target and column
    share: Float[np.ndarray, "r"]  # of its seed, over the columns that have it
    information: Float[np.ndarray, "r"]  # in runs of the usual test split; 0: left out
    told: Float[np.ndarray, "r"]  # variance in points**2 by its stderr; NaN: not told
    partner: Int[np.ndarray, "r"]  # the vanilla's sound run with its protocol and seed, -1: none


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Gains:
    """Of each of G groups."""

    gain: Float[np.ndarray, "G"]  # points
    own: Float[np.ndarray, "G"]  # its noise's variance over the seed noise's
    common: Float[np.ndarray, "G"]  # the same, of what it has in common with the target's other gains
    information: Float[np.ndarray, "G"]  # in runs of the usual test split


def compare(evidence: FamilyEvidence) -> tuple[Vanilla, Cells]:
    """The vanilla on every target and the gain of every measured pair, in one go."""
    vanilla = unpaired(evidence)
    runs = _runs(evidence, vanilla)
    vanilla = replace(vanilla, seed_correlation=_correlation(runs, vanilla))
    groups = _differences(runs, vanilla)
    return replace(vanilla, level_stderr=_level_stderr(runs, vanilla, groups)), _cells(runs, vanilla, groups)


def vanilla_levels(evidence: FamilyEvidence) -> Vanilla:
    """Median and seed noise of the vanilla on every target, and how candidates agree with it at a seed."""
    return compare(evidence)[0]


def gain_cells(evidence: FamilyEvidence, vanilla: Vanilla) -> Cells:
    """One gain per (checkpoint, target) over all runs in force, where the vanilla is known."""
    runs = _runs(evidence, vanilla)
    return _cells(runs, vanilla, _differences(runs, vanilla))


def robust_scale(values: Float[np.ndarray, "n"]) -> float:
    """The larger of the interquartile range / 1.349 and the standard deviation within [q05, q95]."""
    q05, q25, q75, q95 = np.quantile(values, [0.05, 0.25, 0.75, 0.95])
    return max(float((q75 - q25) / 1.349), float(np.clip(values, q05, q95).std()))


def _runs(evidence: FamilyEvidence, vanilla: Vanilla) -> _Runs:
    """The candidates' runs where the vanilla is known, each once."""
    use = np.isfinite(vanilla.level)[evidence.target] & np.isfinite(evidence.value)
    if evidence.vanilla is not None:
        use &= evidence.checkpoint != evidence.vanilla
    at = np.flatnonzero(use)
    levels, width = vanilla.levels, vanilla.levels.level.shape[1]
    column = levels.columns(evidence.protocol[at])
    seeds, seed = np.unique(evidence.seed[at], return_inverse=True)
    pair = evidence.checkpoint[at] * len(vanilla.level) + evidence.target[at]
    key = (pair * max(len(seeds), 1) + seed) * width + column
    order = np.argsort(key, kind="stable")
    at, key, pair, column = at[order], key[order], pair[order], column[order]
    first, _ = _blocks(key)
    seeds_first, in_seed = _blocks(key // width)
    deviation, variance, told = _measured(evidence, vanilla, at, column)
    contradiction = _variance_within(deviation, seeds_first, in_seed)
    variance, told = _means(variance, first), _means(told, first)
    at, column, in_seed = at[first], column[first], in_seed[first]
    starts, cell = _blocks(pair[first])
    target = evidence.target[at]
    variance = np.maximum(variance, contradiction[in_seed] / vanilla.noise[target] ** 2)
    share = 1 / np.bincount(in_seed)[in_seed]
    groups, group = np.unique(cell * width + column, return_inverse=True)
    partner, usable = _partners(vanilla, levels.partners(target, column, evidence.seed[at]), group)
    return _Runs(
        checkpoint=evidence.checkpoint[at[starts]],
        target=target[starts],
        cell=cell,
        group=group,
        group_cell=groups // width,
        group_column=groups % width,
        seed=evidence.seed[at],
        deviation=_means(deviation, first),
        share=share,
        information=usable * share / variance,
        told=np.maximum(told, contradiction[in_seed]),
        partner=partner,
    )


def _measured(
    evidence: FamilyEvidence, vanilla: Vanilla, at: Int[np.ndarray, "s"], column: Int[np.ndarray, "s"]
) -> tuple[Float[np.ndarray, "s"], ...]:
    """Of each score: points from its level, variance in usual runs, and in points**2 if told (else NaN)."""
    target, stderr, rows = evidence.target[at], evidence.stderr[at], evidence.rows_tested[at]
    deviation = 100 * evidence.value[at] - vanilla.levels.level[target, column]
    known = np.isfinite(stderr) & (stderr >= 0)
    told = np.full(len(at), np.nan)
    told[known] = np.minimum(100 * stderr[known], 1e6) ** 2  # so that nothing overflows
    rows = np.where((rows > 0) & np.isfinite(rows), rows, evidence.target_rows[target])
    size = np.nan_to_num(vanilla.levels.rows[target] / np.where(rows > 0, rows, np.nan), nan=1.0)
    variance = np.where(known, told / vanilla.noise[target] ** 2, size)
    return deviation, np.clip(variance, *VARIANCES), told


def _partners(
    vanilla: Vanilla, partner: Int[np.ndarray, "r"], group: Int[np.ndarray, "r"]
) -> tuple[Int[np.ndarray, "r"], Bool[np.ndarray, "r"]]:
    """Partners without the failed ones, and which runs to use: not the ones at a failed partner's seed.

    A group without any other run keeps them.
    """
    if not len(partner):
        return partner, np.zeros(0, dtype=bool)
    failed = (partner >= 0) & ~vanilla.levels.sound[partner]
    others = np.bincount(group, weights=~failed)[group]
    return np.where(failed, -1, partner), ~failed | (others == 0)


def _correlation(runs: _Runs, vanilla: Vanilla) -> float:
    """Kappa of the family, from the cells with two seeds or more in common with the vanilla."""
    paired = (runs.partner >= 0) & (runs.information > 0)
    paired &= (np.bincount(runs.group, weights=paired) > 1)[runs.group]
    noise = vanilla.noise[runs.target[runs.cell[paired]]]
    groups, group = np.unique(runs.group[paired], return_inverse=True)
    width = vanilla.levels.level.shape[1]
    return seed_correlation(
        runs.deviation[paired] / noise,
        vanilla.levels.deviation[runs.partner[paired]] / noise,
        group,
        runs.target[runs.group_cell[groups]] * width + runs.group_column[groups],
    )


def _differences(runs: _Runs, vanilla: Vanilla) -> _Gains:
    """The gain of each group, and its variance in units of the seed noise's."""
    paired, used, size = runs.partner >= 0, runs.information > 0, len(runs.group_cell)
    target, column = runs.target[runs.group_cell], runs.group_column

    def total(values: Float[np.ndarray, "r"]) -> Float[np.ndarray, "G"]:
        return np.bincount(runs.group, weights=values, minlength=size)

    partners, singles = (total(used & here).astype(np.int64) for here in (paired, ~paired))
    with_partner, alone = total(runs.information * paired), total(runs.information * ~paired)
    level_runs = vanilla.levels.runs[target, column]
    all_paired = (partners > 0) & (partners >= vanilla.levels.sound_runs[target, column])
    apart = difference(
        vanilla.seed_correlation,
        paired=with_partner,
        alone=alone,
        singles=singles,
        partners=partners,
        others=np.where(all_paired, 0, level_runs - partners),
    )
    weighed = runs.information * runs.deviation
    mean = total(weighed * paired) / np.where(partners > 0, with_partner, 1)
    rest = total(weighed * ~paired) / np.where(singles > 0, alone, 1)
    theirs = total(runs.information * _theirs(runs, vanilla)) / np.where(partners > 0, with_partner, 1)
    in_common = _company(runs, vanilla) * apart.seeds
    return _Gains(
        gain=apart.paired * mean + (1 - apart.paired) * rest - apart.control * theirs,
        own=apart.own - in_common,
        common=apart.common + in_common,
        information=with_partner + alone,
    )


def _theirs(runs: _Runs, vanilla: Vanilla) -> Float[np.ndarray, "r"]:
    """Deviation of the vanilla's run at the same seed from its level, in points; 0 without a partner."""
    return np.where(runs.partner >= 0, np.append(vanilla.levels.deviation, 0.0)[runs.partner], 0.0)


def _company(runs: _Runs, vanilla: Vanilla) -> Float[np.ndarray, "G"]:
    """The share of the target's other cells that ran the seeds of a group, on average over its runs."""
    size = len(runs.group_cell)
    if not vanilla.seed_correlation:
        return np.zeros(size)  # nothing comes with a seed
    target = runs.target[runs.cell]
    _, seed = np.unique(runs.seed, return_inverse=True)
    key = (target * vanilla.levels.level.shape[1] + runs.group_column[runs.group]) * (seed.max(initial=0) + 1)
    _, same, ran = np.unique(key + seed, return_inverse=True, return_counts=True)
    others = np.bincount(runs.target, minlength=len(vanilla.level))[target] - 1
    company = runs.information * (ran[same] - 1) / np.maximum(others, 1)
    information = np.bincount(runs.group, weights=runs.information, minlength=size)
    return np.asarray(np.bincount(runs.group, weights=company, minlength=size) / information)


def _level_stderr(runs: _Runs, vanilla: Vanilla, groups: _Gains) -> Float[np.ndarray, "T"]:
    """Standard error common to the gains of a target, on average; of the median where there are none."""
    size, target = len(vanilla.level), runs.target[runs.group_cell]
    total = np.bincount(target, weights=groups.information, minlength=size)
    common = np.bincount(target, weights=groups.information * groups.common, minlength=size)
    found = vanilla.noise * np.sqrt(common / np.where(total > 0, total, 1))
    return np.where(total > 0, found, vanilla.level_stderr)


def _cells(runs: _Runs, vanilla: Vanilla, groups: _Gains) -> Cells:
    """The groups of a cell together, weighed by information."""
    size = len(runs.target)

    def total(index: Int[np.ndarray, "m"], values: Float[np.ndarray, "m"]) -> Float[np.ndarray, "n"]:
        return np.bincount(index, weights=values, minlength=size)

    information = total(runs.cell, runs.information)
    part = runs.information / information[runs.cell]
    told = total(runs.cell, np.where(part > 0, part**2 * runs.told / runs.share, 0.0))
    weight = groups.information / information[runs.group_cell]
    variance = total(runs.group_cell, weight**2 * groups.own)
    excess = _unsteadiness(runs, vanilla)
    variance = variance * np.maximum(excess / UNSTEADY, 1.0)
    one_run = vanilla.noise[runs.target] ** 2
    least = np.where(excess > UNSTEADY, variance * one_run, one_run / MOST_WORTH)
    return Cells(
        checkpoint=runs.checkpoint,
        target=runs.target,
        gain=total(runs.group_cell, weight * groups.gain),
        runs=np.rint(total(runs.cell, runs.share)).astype(np.int64),
        stderr=np.sqrt(np.maximum(told, least)),
        effective=1 / variance,
    )


def _unsteadiness(runs: _Runs, vanilla: Vanilla) -> Float[np.ndarray, "n"]:
    """Variance of each cell's seeds over the expected one, without what they share with the vanilla's.

    0 for a single seed, about 1 for a checkpoint as steady as the vanilla.
    """
    kappa = vanilla.seed_correlation

    def total(values: Float[np.ndarray, "r"]) -> Float[np.ndarray, "n"]:
        return np.bincount(runs.cell, weights=values, minlength=len(runs.target))

    left = runs.deviation - kappa * _theirs(runs, vanilla)
    expected = np.where(runs.partner >= 0, 1 - kappa**2, 1.0) * vanilla.noise[runs.target[runs.cell]] ** 2
    mean = total(runs.information * left) / total(runs.information)
    freedom = np.maximum(total(runs.share * (runs.information > 0)) - 1, 1)
    return np.asarray(total(runs.information * (left - mean[runs.cell]) ** 2 / expected) / freedom)


def _blocks(key: Int[np.ndarray, "n"]) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "n"]]:
    """Where the blocks of equal keys begin in an ascending column, and the block of each row."""
    begins = np.ones(len(key), dtype=bool)
    begins[1:] = key[1:] != key[:-1]
    return np.flatnonzero(begins), np.cumsum(begins) - 1


def _means(values: Float[np.ndarray, "n"], first: Int[np.ndarray, "b"]) -> Float[np.ndarray, "b"]:
    """Mean of each block."""
    return np.asarray(np.add.reduceat(values, first) / np.diff(first, append=len(values)))


def _variance_within(
    values: Float[np.ndarray, "n"], first: Int[np.ndarray, "b"], block: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "b"]:
    """Mean squared distance of a block's values from their mean: any of them may be the right one."""
    return _means((values - _means(values, first)[block]) ** 2, first)
