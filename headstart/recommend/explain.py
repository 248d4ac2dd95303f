"""How an expected gain came about: points by source, and the scores that moved it most. Pure functions.

The expected gain is looked at after each source of evidence in turn, by the formula of `decide.predict` and
with the answer's final doubt at every step. So the parts add up to `Prediction.gain`, each has the sign of
what its source says, and a score that only agrees with the forecast moves nothing. (With the doubt of its own
step a finetune that confirms a forecast would seem to lower it: where gains are skewed, less doubt is less
upside.)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend import decide
from headstart.recommend.mixture import expected_of_each
from headstart.recommend.views import cells_here, pairs_here, positions, transform

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from headstart.recommend.decide import View
    from headstart.recommend.posterior import Posterior

MOST_MOVED = 5  # scores named per candidate
STEP = 1e-4  # z: a shorter step's slope is taken over this


class Moved(NamedTuple):
    """One score that moved an expected gain: the candidate's finetune on another target."""

    target: int  # position in the posterior
    runs: int
    gain: float  # measured there, points over that target's vanilla
    foretold: float  # what target and prior said of it: the median, points. Only the difference is news
    points: float  # by which it moved the expected gain on the viewed target


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where the expected gain of one checkpoint on the viewed target comes from, in points.

    gain = target + prior + finetunes + probes + here, to the last bits.
    """

    row: int  # position in the checkpoints
    gain: float  # `Prediction.gain`
    target: float  # expected of the family's average measured checkpoint, were it as well known as this one
    prior: float  # its reference probe, free energy, metadata and name
    finetunes: float  # its own finetunes on other targets
    probes: float  # its probes on this target, the reference apart
    here: float  # its own finetunes on this target
    moved_by: tuple[Moved, ...]  # at most MOST_MOVED, strongest first, of those that add up to `finetunes`


class TargetSensitivity(NamedTuple):
    """How the viewed target reacts to a good start, and how it would seem to by one run a checkpoint."""

    points: float  # per standard deviation of checkpoint quality; no noise is in it
    apparent: float  # points: standard deviation of gains measured by one run
    quality_share: float  # of their variance in z: what quality tells, 0..1
    noise_share: float  # and what is seed noise, 0..1; the rest belongs to the pair, or is not known


class Population(NamedTuple):
    """The family's measured checkpoints, in f."""

    middle: Float[np.ndarray, "F"]  # mean of B'x over them
    covariance: Float[np.ndarray, "F F"]  # of f, of what is known of each and about it


class _Steps(NamedTuple):
    """Mean of the true gain in z under each component, after each source."""

    target: Float[np.ndarray, "n K"]
    prior: Float[np.ndarray, "n K"]
    finetunes: Float[np.ndarray, "n K"]
    probes: Float[np.ndarray, "n K"]
    here: Float[np.ndarray, "n K"]


class _Moves(NamedTuple):
    """The finetunes of n rows on other targets: c cells, in the order of the rows."""

    cell: Int[np.ndarray, "c"]
    at: Int[np.ndarray, "c"]  # positions in the rows
    foretold: Float[np.ndarray, "c"]  # z of each by its target and the prior
    z: Float[np.ndarray, "c K"]  # by which each moves the mean under each component


def explain(posterior: Posterior, view: View, rows: Int[np.ndarray, "n"]) -> list[Explanation]:
    """What each source adds to the expected gain of the checkpoints at `rows`, and which scores did it.

    The first step is the same f for all: the mean over measured checkpoints of what the covariates say.
    """
    found = decide.moments(posterior, view, rows)
    variance = float(posterior.calibration[2]) ** 2 * found.variance
    prior = posterior.factors[rows].astype(float)  # all there is of a row that was never measured
    measured, at = positions(posterior.rows, rows)
    prior[at] = posterior.prior[measured]
    steps = _steps(posterior, view, rows, prior, found)
    each = _each(view, steps, variance)
    parts = np.diff(np.array([one @ view.weights for one in each]), axis=0, prepend=0.0)
    moves = _moves(posterior, view, rows, prior, found.factors.covariance)
    points = _slopes(view, steps, each, variance)[moves.at] * moves.z @ view.weights
    strongest = _strongest(posterior, moves, points, len(rows))
    return [
        Explanation(
            row=row,
            gain=float(each[-1][k] @ view.weights),
            target=float(parts[0, k]),
            prior=float(parts[1, k]),
            finetunes=float(parts[2, k]),
            probes=float(parts[3, k]),
            here=float(parts[4, k]),
            moved_by=moved,
        )
        for k, (row, moved) in enumerate(zip(rows.tolist(), strongest, strict=True))
    ]


def _steps(
    posterior: Posterior,
    view: View,
    rows: Int[np.ndarray, "n"],
    prior: Float[np.ndarray, "n F"],
    found: decide.Moments,
) -> _Steps:
    typical = np.broadcast_to(population(posterior).middle, prior.shape)
    shift = np.zeros((len(rows), 1))
    pairs, probed = pairs_here(posterior, view, rows)
    shift[probed, 0] = posterior.pair_shift[pairs]
    target, by_prior, finetunes = (
        view.mean + f @ view.loadings.T for f in (typical, prior, found.factors.mean)
    )
    here = np.isin(np.arange(len(rows)), cells_here(posterior, view, rows)[1])[:, None]
    # without a source the step is the next one itself, and its part is nothing, to the last bit
    probes = np.where(here, finetunes + shift, found.mean)
    finetunes = np.where(shift == 0, probes, finetunes)
    unmeasured = ~np.isin(rows, posterior.rows)[:, None]
    return _Steps(target, np.where(unmeasured, finetunes, by_prior), finetunes, probes, found.mean)


def _each(view: View, steps: _Steps, variance: Float[np.ndarray, "n K"]) -> list[Float[np.ndarray, "n K"]]:
    """Expected gain after each step under each component, points."""
    each = [expected_of_each(view, steps.here, variance)]
    for before, after in zip(steps[-2::-1], steps[:0:-1], strict=True):
        each.append(each[-1] if np.array_equal(before, after) else expected_of_each(view, before, variance))
    return each[::-1]


def _moves(
    posterior: Posterior,
    view: View,
    rows: Int[np.ndarray, "n"],
    prior: Float[np.ndarray, "n F"],
    covariance: Float[np.ndarray, "n F F"],
) -> _Moves:
    """s' V p_j s_j (z_j - mu_j - s_j' B'x) of each cell j elsewhere.

    V is the covariance of f without the cell on the viewed target. They add up to the whole move, f being
    B'x + sum_j V p_j s_j (z_j - mu_j - s_j' B'x).
    """
    start, end = np.searchsorted(posterior.cell_checkpoint, np.array([rows, rows + 1]))
    count = end - start
    at = np.repeat(np.arange(len(rows)), count)
    cell = np.arange(len(at)) + np.repeat(start - np.cumsum(count) + count, count)
    if view.target is not None:
        elsewhere = posterior.cell_target[cell] != view.target
        cell, at = cell[elsewhere], at[elsewhere]
    j = posterior.cell_target[cell]
    s = posterior.loadings[j]
    foretold = posterior.mean[j] + np.einsum("cf,cf->c", s, prior[at])
    pulls = (posterior.cell_precision[cell] * (posterior.cell_z[cell] - foretold))[:, None] * s
    along = np.einsum("nef,kf->nke", covariance, view.loadings)
    return _Moves(cell, at, foretold, np.einsum("cke,ce->ck", along[at], pulls))


def _slopes(
    view: View, steps: _Steps, each: list[Float[np.ndarray, "n K"]], variance: Float[np.ndarray, "n K"]
) -> Float[np.ndarray, "n K"]:
    """Points per unit of z between the prior and the finetunes: the chord, by which the moves add up."""
    start, way = each[1], steps.finetunes - steps.prior
    way = np.where(np.abs(way) < STEP, STEP, way)
    ahead, short = each[2].copy(), np.flatnonzero((way == STEP).any(axis=1))
    ahead[short] = expected_of_each(view, (steps.prior + way)[short], variance[short])
    return np.asarray((ahead - start) / way)


def _strongest(
    posterior: Posterior, moves: _Moves, points: Float[np.ndarray, "c"], count: int
) -> list[tuple[Moved, ...]]:
    """Of each of `count` rows the MOST_MOVED cells that moved it most."""
    order = np.lexsort((moves.cell, -np.abs(points), moves.at))
    start = np.searchsorted(moves.at, np.arange(count + 1))
    best = order[np.arange(len(order)) - start[moves.at] < MOST_MOVED]
    cells = moves.cell[best]
    targets = posterior.cell_target[cells]
    foretold = moves.foretold[best]
    for target in np.unique(targets).tolist():
        there = targets == target
        foretold[there] = transform(posterior, target).gain(foretold[there])
    columns = (targets, posterior.cell_runs[cells], posterior.cell_gain[cells], foretold, points[best])
    found = list(map(Moved, *(column.tolist() for column in columns)))
    ends = np.searchsorted(moves.at[best], np.arange(count + 1)).tolist()
    return [tuple(found[first:end]) for first, end in pairwise(ends)]


def sensitivity_of(view: View, family: Population) -> TargetSensitivity:
    """How the viewed target reacts, by the family's measured checkpoints.

    The variance of gains measured once is s'Ss + tr(S C) + psi in z, S the covariance of f over the
    population and C that of s: by quality, by the doubt about s, and by the residual, of which (1 - rho) psi
    is seed noise. `noise_share` is so one minus the reliability of a gain measured once. All are means over
    the view's components.
    """
    by_quality = _quality_var(view, family)
    by_doubt = np.einsum("kef,ef->k", view.uncertainty[:, 1:, 1:], family.covariance)
    once = by_quality + by_doubt + view.residual
    return TargetSensitivity(
        points=points_of_quality(view, family),
        apparent=_half_way(view, family, np.sqrt(once)),
        quality_share=float(by_quality / once @ view.weights),
        noise_share=float((1 - view.repeatable) * view.residual / once @ view.weights),
    )


def points_of_quality(view: View, family: Population) -> float:
    """Points per standard deviation of checkpoint quality on the viewed target: its sensitivity.

    Half the way between checkpoints one standard deviation of s'f above and below the average, the mean over
    the view's components. Seed noise has no part in it.
    """
    return _half_way(view, family, np.sqrt(_quality_var(view, family)))


def _half_way(view: View, family: Population, spread: Float[np.ndarray, "K"]) -> float:
    """Half the points between this far above and below the average checkpoint, in z."""
    middle = view.mean + view.loadings @ family.middle
    low, high = expected_of_each(
        view, np.array([middle - spread, middle + spread]), np.zeros((2, len(middle)))
    )
    return float((high - low) / 2 @ view.weights)


def _quality_var(view: View, family: Population) -> Float[np.ndarray, "K"]:
    """Variance of s'f over the family's measured checkpoints."""
    return np.asarray(np.einsum("ke,ef,kf->k", view.loadings, family.covariance, view.loadings))


def population(posterior: Posterior) -> Population:
    """Of a posterior.

    With fewer than two measured, that of the model: f ~ N(B'x, I) around the checkpoints there are.
    """
    measured = posterior.rows
    size = posterior.factors.shape[1]
    if len(measured) > 1:
        known = posterior.factors[measured].astype(float)
        covariance = np.atleast_2d(np.cov(known.T)) + posterior.covariance.mean(axis=0)
        return Population(posterior.prior.mean(axis=0), covariance)
    if len(measured):
        return Population(posterior.prior[0], np.eye(size))
    if len(posterior.factors):
        return Population(posterior.factors.mean(axis=0, dtype=float), np.eye(size))
    return Population(np.zeros(size), np.eye(size))
