"""The factor model fitted by EM: loadings of targets, factors of checkpoints, noise, the prior's slopes.

    z_mt = mu_t + s_t' f_m + e_mt,   e_mt ~ t_6(0, psi_ft r_mt),   f_m ~ N(B'x_m, I),   f the family of m

Families may be stacked: the loadings, slopes and levels are common to all, the noise is of each. Those of
other families count with a small weight, so that a family with few measured checkpoints leans to what the
others show. Probabilistic factor analysis with missing cells (Rubin & Thayer 1982), Student weights (Lange et
al. 1989), ridge variances per group of covariates by their expected squares.

Cost: the measured cells times RANK^2. What is told of single cells is worked out for CELLS_AT_ONCE of them
at a time, within the processor's cache: with millions of cells it is memory that takes the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from headstart.recommend.covariates import PROBE_COLUMN
from headstart.recommend.posterior import RANK
from headstart.recommend.t_noise import FREEDOM, RESIDUAL

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CELLS_AT_ONCE = 8_192  # cells: 2 MB with all that is gathered for them
SPARSE = 20  # pairs to a cell from which gathering single cells is faster than a product of all
ITERATIONS = 30
PASSES = 6  # of the Student weights, once the rest is fitted
FEW = 4.0  # a target's own noise counts like its cells against this many of the family's
FEWEST = 3  # cells that a target takes to tell what is typical
SLOPE = 1.0  # prior mean of quality per standard deviation of the reference probe
RIDGE = (1e-5, 10.0)  # bounds of a group's ridge variance
# What it is before any slope is known, and how many slopes that counts like: that a better probe means a
# better start, and that names and metadata say little, is not given up on the evidence of thirty checkpoints.
RIDGE_BEFORE = (0.02, 40.0)
REPEATABLE = (0.2, 0.9)  # bounds of rho: one run a candidate leaves it nearly unidentified
MEAN_VARIANCE = 0.25  # of mu_t over targets, before any is known
LOADING = 0.6  # typical loading on the first factor, before any target is known
LOADING_VARIANCE = 0.05  # of s_tk over targets, before any is known
UPPER = np.triu_indices(RANK)
TWICE = np.where(UPPER[0] == UPPER[1], 1.0, 2.0)  # the weight of each in a quadratic form
ONE = np.arange(1, RANK + 1)  # positions of s_t in theta_t = (mu_t, s_t)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """N measured checkpoints of F families, T targets, n cells, P covariates."""

    covariates: Any  # csr N x P
    group: Int[np.ndarray, "P"]
    weight: Float[np.ndarray, "N"]  # of a checkpoint: 1 in the family that is asked for
    family: Int[np.ndarray, "N"]
    row: Int[np.ndarray, "n"]  # ascending
    target: Int[np.ndarray, "n"]
    z: Float[np.ndarray, "n"]
    effective: Float[np.ndarray, "n"]  # runs that the cell is worth
    told: Float[np.ndarray, "n"]  # variance of the cell's noise in z as told by its standard error; NaN
    seed_noise: Float[np.ndarray, "F T"]  # variance of one run of the vanilla, in z; NaN


def repeatable(
    seed_noise: Float[np.ndarray, "F T"], residual: Float[np.ndarray, "F T"]
) -> Float[np.ndarray, "F T"]:
    """rho: the share of the residual that is not seed noise."""
    return np.asarray(np.clip(np.nan_to_num(1 - seed_noise / residual, nan=0.5), *REPEATABLE))


def inverse(matrices: Float[np.ndarray, "N K K"]) -> Float[np.ndarray, "N K K"]:
    """Inverse of symmetric positive definite 3 x 3 matrices by cofactors: ten times as fast as LAPACK."""
    a, b, c = matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 0, 2]
    d, e, f = matrices[:, 1, 1], matrices[:, 1, 2], matrices[:, 2, 2]
    found = np.empty_like(matrices)
    found[:, 0, 0], found[:, 0, 1], found[:, 0, 2] = d * f - e * e, c * e - b * f, b * e - c * d
    found[:, 1, 1], found[:, 1, 2], found[:, 2, 2] = a * f - c * c, b * c - a * e, a * d - b * b
    found[:, 1, 0], found[:, 2, 0], found[:, 2, 1] = found[:, 0, 1], found[:, 0, 2], found[:, 1, 2]
    determinant = a * found[:, 0, 0] + b * found[:, 0, 1] + c * found[:, 0, 2]
    return np.asarray(found / determinant[:, None, None])


def _unpacked(packed: Float[np.ndarray, "N 6"]) -> Float[np.ndarray, "N K K"]:
    full = np.empty((len(packed), RANK, RANK))
    full[:, UPPER[0], UPPER[1]] = full[:, UPPER[1], UPPER[0]] = packed
    return full


def _products(vectors: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N 6"]:
    """vv' of every v, packed."""
    return np.asarray(vectors[:, UPPER[0]] * vectors[:, UPPER[1]])


def _with_one(vectors: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N K+1"]:
    return np.column_stack([np.ones(len(vectors)), vectors])


class Squares(NamedTuple):
    """E (z - mu - s'f)^2 of every cell, as inner products of what belongs to its row and to its target."""

    problem: Problem
    rows: Float[np.ndarray, "N q"]  # the first RANK + 1 are (1, f)
    targets: Float[np.ndarray, "T K+1+q"]  # the first RANK + 1 are (mu, s)

    def of(self, cells: slice) -> Float[np.ndarray, "n"]:
        """Of some cells: what the fit leaves, squared, and the uncertainty of the fit."""
        p, size = self.problem, RANK + 1
        row, target = p.row[cells], p.target[cells]
        error = p.z[cells] - inner(self.rows[:, :size], self.targets[:, :size], row, target)
        return np.asarray(error**2 + inner(self.rows, self.targets[:, size:], row, target))


def inner(
    rows: Float[np.ndarray, "N q"],
    targets: Float[np.ndarray, "T q"],
    row: Int[np.ndarray, "n"],
    target: Int[np.ndarray, "n"],
) -> Float[np.ndarray, "n"]:
    """Inner product of both sides of n cells, which are at least one and ascending by row.

    From the product of the whole sides, unless the cells are but a few of it.
    """
    first, end, width = int(row[0]), int(row[-1]) + 1, len(targets)
    if (end - first) * width > SPARSE * len(row):
        return np.asarray(np.einsum("nq,nq->n", rows[row], targets[target]))
    return np.asarray((rows[first:end] @ targets.T).ravel()[(row - first) * width + target])


class Fit:
    """The unknowns, updated in turn by `run`."""

    def __init__(self, problem: Problem) -> None:
        self.p = p = problem
        count, targets = len(p.weight), p.seed_noise.shape[1]
        self._lay_out_cells(count, targets)
        self.seen = self.cells.sum(axis=0) >= FEWEST
        if not self.seen.any():
            self.seen = self.cells.sum(axis=0) > 0
        self.weighted = p.covariates.multiply(p.weight[:, None]).tocsr()
        self.gram = np.asarray((self.weighted.T @ p.covariates).todense())
        self.residual = np.full(p.seed_noise.shape, RESIDUAL)
        self.student = np.ones(len(p.z))
        self.ridge = np.full(int(p.group.max()) + 1, 0.3)
        self.mean = np.zeros(targets)
        self.loadings = self._first_loadings(targets)
        self.typical = np.concatenate([[0.0], self._typical_loadings()])
        self.typical_var = np.array([MEAN_VARIANCE, *np.full(RANK, 0.25)])
        self.uncertainty = np.tile(np.diag(self.typical_var), (targets, 1, 1))
        self.slopes = np.zeros((len(p.group), RANK))
        self.slopes_cov = np.diag(self.ridge[p.group])
        self.factors = np.zeros((count, RANK))
        self.covariance = np.tile(np.eye(RANK), (count, 1, 1))

    def _lay_out_cells(self, count: int, targets: int) -> None:
        """What stays the same of the cells: where each belongs, and what is told of its noise."""
        from scipy.sparse import csr_matrix  # noqa: PLC0415 - off the start of the service

        p = self.p
        starts = np.searchsorted(p.row, np.arange(count + 1))
        self.table = csr_matrix((p.z, p.target, starts), shape=(count, targets))
        self.blocks = [slice(start, start + CELLS_AT_ONCE) for start in range(0, len(p.z), CELLS_AT_ONCE)]
        self.group_of_cell = p.family[p.row] * targets + p.target  # family x target
        self.cells = np.bincount(self.group_of_cell, minlength=p.seed_noise.size).reshape(p.seed_noise.shape)
        self.one_run = np.where(np.isnan(p.told), 1 / p.effective, 0.0)  # how much of a run's noise it has
        self.told = np.nan_to_num(p.told, nan=0.0)

    def _first_loadings(self, targets: int) -> Float[np.ndarray, "T K"]:
        """Singular vectors of the centred cells, missing ones zero, from the Gram matrix of the targets."""
        p = self.p
        z = np.clip(p.z, -3, 3)
        size = np.bincount(p.target, minlength=targets)
        z = z - (np.bincount(p.target, weights=z, minlength=targets) / np.maximum(size, 1))[p.target]
        self.table.data = z * np.sqrt(p.weight[p.row])
        values, vectors = np.linalg.eigh((self.table.T @ self.table).toarray())
        loadings = np.zeros((targets, RANK))
        best = np.argsort(-values, kind="stable")[:RANK]
        loadings[:, : len(best)] = vectors[:, best] * np.sqrt(
            np.maximum(values[best], 0.0) / max(p.weight.sum(), 1.0)
        )
        return loadings * np.where(loadings.sum(axis=0) < 0, -1.0, 1.0)

    def _typical_loadings(self) -> Float[np.ndarray, "K"]:
        """Mean over the seen targets and one that has the usual."""
        usual = np.array([LOADING, *np.zeros(RANK - 1)])
        return np.asarray((self.loadings[self.seen].sum(axis=0) + usual) / (self.seen.sum() + 1))

    def run(self) -> Fit:
        """All iterations."""
        for _ in range(ITERATIONS if len(self.p.z) else 0):
            precision = self.precision()
            weighed = precision * self.p.z
            self.update_factors(precision, weighed)
            unit = self.update_slopes()
            self.update_targets(precision, weighed, unit)
            self.update_noise()
        if not len(self.p.z):
            self.slopes, self.typical_var[1:] = self.usual_slopes(), LOADING_VARIANCE
        return self

    def precision(self) -> Float[np.ndarray, "n"]:
        """Of every cell: its Student weight over its residual variance."""
        found, noise = np.empty(len(self.p.z)), self.noise()
        for cells in self.blocks:
            found[cells] = self.student[cells] / self.variance(noise, cells)
        return found

    def noise(self) -> Float[np.ndarray, "2 F*T"]:
        """The repeatable part of psi, and the noise of one run."""
        share = repeatable(self.p.seed_noise, self.residual)
        return np.stack([share * self.residual, (1 - share) * self.residual]).reshape(2, -1)

    def variance(self, noise: Float[np.ndarray, "2 F*T"], cells: slice) -> Float[np.ndarray, "n"]:
        """Residual variance of some cells: the repeatable part + the noise of their runs."""
        group = self.group_of_cell[cells]
        return np.asarray(noise[0][group] + noise[1][group] * self.one_run[cells] + self.told[cells])

    def update_factors(self, precision: Float[np.ndarray, "n"], weighed: Float[np.ndarray, "n"]) -> None:
        """E step: f_m ~ N(V (sum_t a_mt s_t (z_mt - mu_t) + B'x_m), V)."""
        self.factors, self.covariance = self.posterior(
            precision, weighed, self.p.covariates @ self.slopes, np.ones(len(self.p.weight))
        )

    def posterior(
        self,
        precision: Float[np.ndarray, "n"],
        weighed: Float[np.ndarray, "n"],
        prior: Float[np.ndarray, "N K"],
        doubt: Float[np.ndarray, "N"],
    ) -> tuple[Float[np.ndarray, "N K"], Float[np.ndarray, "N K K"]]:
        """Mean and covariance of f given the cells, under a prior of variance `doubt`. `weighed`: a z."""
        s = self.loadings
        sums = self.by_row(precision, np.column_stack([self.mean[:, None] * s, _products(s)]))
        information = _unpacked(sums[:, RANK:]) + np.eye(RANK) / doubt[:, None, None]
        pull = self.by_row(weighed, s) - sums[:, :RANK]
        covariance = inverse(information)
        return np.einsum("nij,nj->ni", covariance, pull + prior / doubt[:, None]), covariance

    def by_row(
        self, values: Float[np.ndarray, "n"], columns: Float[np.ndarray, "T q"]
    ) -> Float[np.ndarray, "N q"]:
        """Sum over every row's cells of value times its target's columns."""
        self.table.data = values
        return np.asarray(self.table @ columns)

    def by_target(
        self, values: Float[np.ndarray, "n"], columns: Float[np.ndarray, "N q"]
    ) -> Float[np.ndarray, "T q"]:
        """Sum over every target's cells of value times its row's columns."""
        self.table.data = values
        return np.asarray(self.table.T @ columns)

    def update_slopes(self) -> Float[np.ndarray, "K"]:
        """Ridge regression of f on the covariates; then the scale of f is set so that its residual has unit
        variance. Returns that scale, by which the loadings grow."""
        p = self.p
        around, ridge = self.usual_slopes(), 1 / self.ridge[p.group]
        self.slopes_cov = np.linalg.inv(self.gram + np.diag(ridge))
        self.slopes = self.slopes_cov @ (self.weighted.T @ self.factors + ridge[:, None] * around)
        squares = ((self.slopes - around) ** 2).sum(axis=1) + RANK * np.diag(self.slopes_cov)
        size = np.bincount(p.group, minlength=len(self.ridge))
        total = np.bincount(p.group, weights=squares, minlength=len(self.ridge))
        usual, count = RIDGE_BEFORE
        self.ridge = np.clip((total + count * usual) / (RANK * size + count), *RIDGE)
        left = self.factors - p.covariates @ self.slopes
        spread = left**2 + np.diagonal(self.covariance, axis1=1, axis2=2)
        leverage = float(np.sum(self.slopes_cov * self.gram))  # sum of x'Qx: without it tokens overfit
        variance = (p.weight @ spread + leverage + 1) / (p.weight.sum() + 1)
        unit = np.sqrt(variance)
        self.factors, self.slopes = self.factors / unit, self.slopes / unit
        self.covariance = self.covariance / np.outer(unit, unit)
        return np.asarray(unit)

    def usual_slopes(self) -> Float[np.ndarray, "P K"]:
        """Their prior mean: the reference probe raises quality."""
        around = np.zeros_like(self.slopes)
        around[PROBE_COLUMN] = SLOPE * self.typical[1:] / max(float(np.linalg.norm(self.typical[1:])), 1e-9)
        return around

    def update_targets(
        self,
        precision: Float[np.ndarray, "n"],
        weighed: Float[np.ndarray, "n"],
        unit: Float[np.ndarray, "K"],
    ) -> None:
        """M step: theta_t = (mu_t, s_t) by weighted least squares, shrunk to the typical target."""
        h = self.p.weight[:, None] * _with_one(self.factors)
        second = _products(self.factors) + self.covariance[:, UPPER[0], UPPER[1]]
        sums = self.by_target(precision, np.column_stack([h, self.p.weight[:, None] * second]))
        information = np.empty((len(self.mean), RANK + 1, RANK + 1))
        information[:, 0, 0] = sums[:, 0]
        information[:, 0, 1:] = information[:, 1:, 0] = sums[:, ONE]
        information[:, 1:, 1:] = _unpacked(sums[:, RANK + 1 :])
        typical, variance = self.typical.copy(), self.typical_var.copy()
        typical[1:], variance[1:] = typical[1:] * unit, variance[1:] * unit**2
        information += np.diag(1 / variance)
        self.uncertainty = np.linalg.inv(information)
        pull = self.by_target(weighed, h) + typical / variance
        theta = np.einsum("tij,tj->ti", self.uncertainty, pull)
        self.mean, self.loadings = theta[:, 0], theta[:, 1:]
        self._update_typical(theta)

    def _update_typical(self, theta: Float[np.ndarray, "T K+1"]) -> None:
        """Mean and variance of theta over the seen targets and one more that has the usual: no level of its
        own, a loading of LOADING, their variances. It keeps a few targets from explaining a checkpoint away.
        """
        seen = theta[self.seen]
        total = seen.sum(axis=0)
        total[1:] *= 1 + LOADING / max(float(np.linalg.norm(total[1:])), 1e-9)
        self.typical = total / (len(seen) + 1)
        spread = (seen - self.typical) ** 2 + np.diagonal(self.uncertainty[self.seen], axis1=1, axis2=2)
        usual = np.array([MEAN_VARIANCE, *np.full(RANK, LOADING_VARIANCE)])
        self.typical_var = np.maximum((spread.sum(axis=0) + usual) / (len(seen) + 1), 0.003)

    def update_noise(self) -> None:
        """Student weights, and psi of every family and target, shrunk to the family's."""
        squares, noise, residual = self.squares(line=True), self.noise(), self.residual.ravel()
        total = np.zeros_like(residual)
        for cells in self.blocks:
            ratio = squares.of(cells) / self.variance(noise, cells)
            self.student[cells] = student = (FREEDOM + 1) / (FREEDOM + ratio)
            # in units of a one-run residual, so that cells of several runs tell the same psi
            total += np.bincount(self.group_of_cell[cells], weights=student * ratio, minlength=len(total))
        total = (total * residual).reshape(self.residual.shape)
        pooled = (total.sum(axis=1) + FEW * RESIDUAL) / (self.cells.sum(axis=1) + FEW)
        self.residual = np.maximum((total + FEW * pooled[:, None]) / (self.cells + FEW), 1e-3)

    def squares(self, *, line: bool) -> Squares:
        """The squared errors that are expected of the cells: the uncertainty of f, s_t' V_m s_t, is in them,
        and with `line` that of theta, h' C_t h, h = (1, f_m)."""
        s, c = self.loadings, self.uncertainty
        rows = [_with_one(self.factors), self.covariance[:, UPPER[0], UPPER[1]]]
        targets = [self.mean[:, None], s, np.zeros((len(s), RANK + 1)), _products(s) * TWICE]
        if line:
            rows.append(_products(self.factors))
            targets[2] = np.column_stack([c[:, 0, 0], 2 * c[:, 0, 1:]])
            targets.append(c[:, 1:, 1:][:, UPPER[0], UPPER[1]] * TWICE)
        return Squares(self.p, np.column_stack(rows), np.column_stack(targets))

    def settle(
        self, prior: Float[np.ndarray, "N K"], doubt: Float[np.ndarray, "N"]
    ) -> Float[np.ndarray, "n"]:
        """Factors under the slopes' own uncertainty, with the Student weights brought in line: what is told
        of a checkpoint. Returns the precision of every cell."""
        self.student = np.ones(len(self.p.z))
        precision, noise = self.precision(), self.noise()
        for again in range(PASSES):
            if again:
                squares = self.squares(line=False)
                for cells in self.blocks:
                    variance = self.variance(noise, cells)
                    precision[cells] = (FREEDOM + 1) / (FREEDOM * variance + squares.of(cells))
            self.factors, self.covariance = self.posterior(precision, precision * self.p.z, prior, doubt)
        return precision
