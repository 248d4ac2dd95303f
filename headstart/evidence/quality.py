"""Quality gates: which scores to doubt, and why. Pure functions; nothing is dropped.

A suspect score keeps its value and gets a reason from REASONS and a note with what was seen. It is stored,
listed, and left out of the evidence until a person lifts it. The evidence for each gate is in the README,
"Data quality".
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from headstart.methods import METHODS
from headstart.statistics import robust_spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jaxtyping import Bool, Float

    from headstart.entities import ScoreDraft

REASONS: dict[str, str] = {
    "out_of_range": "the value lies outside the range of its method (a percentage among fractions?)",
    "not_measured": "a probe value of exactly 0.0 stands for 'not measured'",
    "off_grid": "an accuracy on N rows is k/N for a whole k; this one is not",
    "shifted": "the row was shifted to the left and this cell's column cannot be told",
    "other_split": "the row was measured on another split of its targets",
    "copied": "the same scores, digit for digit, stand under a checkpoint of another family",
    "duplicate": "the same scores stand under another checkpoint of the family, or it stands twice itself",
    "collapsed": "the run ended at the majority class, or far below the other seeds of its checkpoint",
    "not_converged": "its chains had not converged when they ended, so that it hangs on how long they were",
    "contradicts": "another value is in force for the same checkpoint, target, method, protocol and seed",
    "manual": "set by a person",
}
"""Every reason a score can be quarantined for, with its meaning."""

LARGEST_TEST = 100_000  # largest test split whose size is inferred
LARGEST_VALUE = 1e30  # of any method: beyond it, what is made of a value is no number
SAME_VECTOR = 10  # fewest equal scores that make two checkpoints copies
COLLAPSE_POINTS = 5.0  # least fall, in points, that counts as a collapse
COLLAPSE_MADS = 4.0  # and in robust standard deviations of the runs
FLOOR_RUNS = 3  # checkpoints with exactly this value that make it a majority-class level
FLOOR_ROWS = 200  # least test rows for that: on fewer, healthy runs repeat values by chance


def infer_rows_tested(values: Iterable[float], *, exact: bool, largest: int = LARGEST_TEST) -> int | None:
    """Smallest N such that every value is k/N for a whole k; None if it cannot be told.

    It cannot be told from fewer than 4 distinct values, or when no N up to `largest` fits.

    Args:
        exact: whether the source prints values in full (see `printed_in_full`). Rounded values all lie
            on the grid of their rounding, so nothing is inferred from them.
    """
    distinct = np.unique(np.fromiter(values, dtype=float))
    if len(distinct) < 4 or not exact:
        return None
    sizes = np.arange(1, largest + 1, dtype=float)
    for value in distinct:
        k = value * sizes
        sizes = sizes[np.abs(k - np.round(k)) < 1e-6 * np.maximum(1, sizes / 1000)]
        if not len(sizes):
            return None
    return int(sizes[0])


def printed_in_full(values: Iterable[float]) -> bool:
    """Whether a source prints its values unrounded: some value has more than 6 decimals."""
    return any(decimals(value) > 6 for value in values)


def decimals(value: float) -> int:
    """Digits after the point in the shortest text that reads back as `value`."""
    text = repr(float(value))
    if "e" in text:
        mantissa, exponent = text.split("e")
        return max(0, len(mantissa.partition(".")[2].rstrip("0")) - int(exponent))
    return len(text.partition(".")[2].rstrip("0"))


def on_grid(value: float, rows_tested: int) -> bool:
    """Whether `value` can be k/rows_tested, given the digits it was printed with.

    A value printed with so few digits that several k fit is always on the grid.
    """
    k = value * rows_tested
    slack = 1e-3 if decimals(value) > 12 else max(1e-3, 0.51 * rows_tested * 10.0 ** -decimals(value))
    return slack >= 0.5 or abs(k - round(k)) <= slack


def collapsed(values: Float[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Which of several runs of ONE checkpoint on ONE target collapsed.

    A run collapsed when it lies below the median by more than 5 points and 4 robust standard deviations
    (1.4826 * MAD). Fewer than 5 runs: none can be told. Values in 0..1.
    """
    if len(values) < 5:
        return np.zeros(len(values), dtype=bool)
    fall = max(COLLAPSE_POINTS / 100, COLLAPSE_MADS * robust_spread(values))
    return np.asarray(values < np.median(values) - fall)


def majority_levels(values: Float[np.ndarray, "n"], rows_tested: int | None, center: float) -> set[float]:
    """Values at which runs of several checkpoints end exactly, far below `center`: the majority class.

    Args:
        values: one score of each of n checkpoints on one target.
        center: the level of a healthy run, the median of the vanilla.
    """
    if rows_tested is None or rows_tested < FLOOR_ROWS:
        return set()
    found, counts = np.unique(values, return_counts=True)
    low = found < center - 2 * COLLAPSE_POINTS / 100
    return {float(v) for v in found[low & (counts >= FLOOR_RUNS)]}


def gate(
    scores: Sequence[ScoreDraft], rows_tested: Mapping[str, int] | None = None
) -> tuple[ScoreDraft, ...]:
    """Return the scores in order, the suspect ones quarantined with reason and note.

    Scores that arrive quarantined keep their reason and take no part in judging the others.

    Args:
        rows_tested: test size by target where the caller knows it; otherwise the score's own, or
            inferred from the scores of the target.
    """
    gated = list(scores)
    _gate_values(gated)
    sizes = _test_sizes(gated, rows_tested or {})
    _gate_grid(gated, sizes)
    _gate_copies(gated)
    _gate_collapsed(gated, sizes)
    return tuple(gated)


def _suspect(scores: list[ScoreDraft], at: int, reason: str, note: str) -> None:
    scores[at] = replace(scores[at], quarantine=reason, quarantine_note=note)


def _by_target(scores: Sequence[ScoreDraft]) -> dict[str, list[int]]:
    """Positions of the finetune scores in force, by target."""
    positions: dict[str, list[int]] = defaultdict(list)
    for i, score in enumerate(scores):
        if score.quarantine is None and score.method == "finetune":
            positions[score.target].append(i)
    return positions


def _gate_values(scores: list[ScoreDraft]) -> None:
    for i, score in enumerate(scores):
        if score.quarantine is not None:
            continue
        low, high = METHODS[score.method].range
        if not low <= score.value <= high or abs(score.value) > LARGEST_VALUE:
            low, high = max(low, -LARGEST_VALUE), min(high, LARGEST_VALUE)
            hint = " It looks like a percentage." if high < score.value <= 100 else ""
            _suspect(scores, i, "out_of_range", f"{score.value:g} is outside {low:g}..{high:g}.{hint}")
        elif score.method == "linear_probe" and score.value == 0.0:
            _suspect(scores, i, "not_measured", "A probe value of 0.0 means that the probe was not run.")


def _test_sizes(scores: Sequence[ScoreDraft], known: Mapping[str, int]) -> dict[str, int]:
    """Test size by target: known, or inferred. A size that most scores contradict is no size."""
    sizes: dict[str, int] = {}
    rounded = _rounded_sources(scores)
    for target, at in _by_target(scores).items():
        exact = not any(scores[i].source in rounded for i in at)
        size = known.get(target) or infer_rows_tested((scores[i].value for i in at), exact=exact)
        if size is None:
            continue
        fitting = sum(on_grid(scores[i].value, size) for i in at)
        if 2 * fitting > len(at):
            sizes[target] = size
    return sizes


def _rounded_sources(scores: Sequence[ScoreDraft]) -> set[str]:
    values: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        values[score.source].append(score.value)
    return {source for source, found in values.items() if not printed_in_full(found)}


def _gate_grid(scores: list[ScoreDraft], sizes: Mapping[str, int]) -> None:
    for target, at in _by_target(scores).items():
        rows = [scores[i].rows_tested or sizes.get(target) for i in at]
        off = [i for i, n in zip(at, rows, strict=True) if n is not None and not on_grid(scores[i].value, n)]
        if 2 * len(off) > len(at):
            continue  # most scores off the grid: the metric is no accuracy, or the size is wrong
        for i in off:
            n = scores[i].rows_tested or sizes[target]
            _suspect(
                scores,
                i,
                "off_grid",
                f"{scores[i].value:.6g} x {n} rows = {scores[i].value * n:.2f}, not a count.",
            )


def _gate_copies(scores: list[ScoreDraft]) -> None:
    """Checkpoints with the same scores, digit for digit, on at least SAME_VECTOR targets."""
    rows: dict[tuple[str, str, str, int], list[int]] = defaultdict(list)
    for at in _by_target(scores).values():
        for i in at:
            s = scores[i]
            rows[s.family, s.checkpoint, s.source, s.seed].append(i)
    groups: dict[tuple[tuple[str, float], ...], list[list[int]]] = defaultdict(list)
    for at in rows.values():
        if len(at) >= SAME_VECTOR:
            groups[tuple(sorted((scores[i].target, scores[i].value) for i in at))].append(at)
    for group in groups.values():
        named = {(scores[at[0]].family, scores[at[0]].checkpoint): at for at in group}
        if len(named) < 2:
            continue
        families = {family for family, _ in named}
        reason = "copied" if len(families) > 1 else "duplicate"
        doubted = list(named.values()) if reason == "copied" else list(named.values())[1:]
        first = scores[next(iter(named.values()))[0]].checkpoint
        last = scores[list(named.values())[-1][0]].checkpoint
        for at in doubted:
            twin = first if scores[at[0]].checkpoint != first else last
            for i in at:
                _suspect(scores, i, reason, f"All {len(at)} scores equal those of {twin}.")


def _gate_collapsed(scores: list[ScoreDraft], sizes: Mapping[str, int]) -> None:
    """Runs that fell: one seed far below the others, or a run that ended at the majority class.

    A checkpoint that ends at the majority class on most of its targets is a bad start and not an unlucky
    run: its scores stay in force, since they are what a user must be warned of.
    """
    fallen: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    measured: dict[tuple[str, str], int] = defaultdict(int)
    for target, at in _by_target(scores).items():
        runs: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i in at:
            runs[scores[i].family, scores[i].checkpoint].append(i)
        for subject, where in runs.items():
            measured[subject] += 1
            values = np.array([scores[i].value for i in where])
            center = f"a median of {np.median(values):.4g} over {len(where)} runs"
            for i in np.asarray(where)[collapsed(values)]:
                note = f"{scores[i].value:.4g} against {center}."
                _suspect(scores, int(i), "collapsed", note)
        for i in _at_majority(scores, runs, sizes.get(target)):
            note = (
                f"{scores[i].value:.4g}: several checkpoints end at exactly this value, the majority class."
            )
            fallen[scores[i].family, scores[i].checkpoint].append((i, note))
    for subject, falls in fallen.items():
        if 2 * len(falls) <= measured[subject]:
            for i, note in falls:
                if scores[i].quarantine is None:
                    _suspect(scores, i, "collapsed", note)


def _at_majority(
    scores: Sequence[ScoreDraft], runs: Mapping[tuple[str, str], list[int]], rows_tested: int | None
) -> list[int]:
    """Positions of the scores of one target that lie at its majority level, far below their vanilla."""
    centers = {
        family: float(np.median([scores[i].value for i in where]))
        for (family, name), where in runs.items()
        if name == family
    }
    firsts = np.array([scores[where[0]].value for where in runs.values()])
    levels = majority_levels(firsts, rows_tested, min(centers.values(), default=-np.inf))
    return [
        i
        for (family, _), where in runs.items()
        for i in where
        if scores[i].value in levels
        and scores[i].value < centers.get(family, -np.inf) - COLLAPSE_POINTS / 100
    ]
