"""The posterior of a family: how good each checkpoint is, and how each target reacts.

The model is the paper's form, column mean + rank 1 (Choshen et al. 2023, arXiv 2211.00107, section 5), with
what it leaves out: shrinkage, noise, and the linear probe as prior.

    z_mt = asinh(gain_mt / c_t) = mu_t + s_t f_m + e_mt,      e_mt ~ t_6(0, psi_t)
    f_m ~ N(b' x_m, 1),   x_m = (1, probe gain, probe missing)
    mu_t ~ N(mu, Lm),  s_t ~ N(s, Ls)

c_t is a robust scale of the target's gains in points, f_m the quality of checkpoint m, s_t the sensitivity of
target t. A share rho_t of psi_t is repeatable (it belongs to the pair, not to the run); the rest is
seed noise, as the vanilla's seeds show it. Fitted by EM; deterministic.

Probes on a target then add sum_k w_k r_mtk to z_mt, r their surprises (`surprises`) and w >= 0 learnt
(`weights`). psi_t stays that of a pair nobody probed; a probed one has the less what its probes explain.
Quality is not moved by them, so that without evidence of their worth the posterior is the same.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.recommend.gains import Cells, Vanilla, gain_cells, robust_scale, vanilla_levels
from headstart.recommend.probes import probe_covariate, reference
from headstart.recommend.surprises import surprises
from headstart.recommend.t_noise import FREEDOM, RESIDUAL
from headstart.recommend.weights import learn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from headstart.recommend.evidence import FamilyEvidence
    from headstart.recommend.probes import Reference
    from headstart.recommend.surprises import Surprises
    from headstart.recommend.weights import Weights

FORMAT = "rank1-3"
ITERATIONS = 60
FEW = 8.0  # a target's own scale and noise count like its runs against this many of the typical target
SLOPE = 0.5  # prior mean of quality per standard deviation of probe gain, worth 1 / 0.3 checkpoints
REPEATABLE = (0.5, 0.9)  # bounds of rho: one run a candidate leaves it nearly unidentified


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Posterior:
    """Everything an answer needs, in arrays over C checkpoints, T targets, n cells, p probed pairs."""

    evidence_version: int
    vanilla: int  # position of the vanilla in the checkpoints, -1 if unknown
    checkpoint_ids: Int[np.ndarray, "C"]
    quality: Float[np.ndarray, "C"]  # posterior mean of f
    quality_var: Float[np.ndarray, "C"]
    finetuned: Int[np.ndarray, "C"]  # number of targets
    probed: Bool[np.ndarray, "C"]
    newest: Float[np.ndarray, "C"]  # time of the newest score, seconds since the epoch; NaN: none

    target_ids: Int[np.ndarray, "T"]
    level: Float[np.ndarray, "T"]  # of the vanilla, points; NaN: never run, no gain can be told
    level_runs: Int[np.ndarray, "T"]
    noise: Float[np.ndarray, "T"]  # seed noise of one run, points
    scale: Float[np.ndarray, "T"]  # c_t, points
    mean: Float[np.ndarray, "T"]  # mu_t
    sensitivity: Float[np.ndarray, "T"]  # s_t
    uncertainty: Float[np.ndarray, "T 3"]  # var mu_t, cov(mu_t, s_t), var s_t
    residual: Float[np.ndarray, "T"]  # psi_t
    repeatable: Float[np.ndarray, "T"]  # rho_t
    measured: Int[np.ndarray, "T"]  # checkpoints finetuned on it

    cell_checkpoint: Int[np.ndarray, "n"]
    cell_target: Int[np.ndarray, "n"]
    cell_z: Float[np.ndarray, "n"]
    cell_noise: Float[np.ndarray, "n"]  # variance of the mean over the cell's runs, in z
    cell_runs: Int[np.ndarray, "n"]

    reference: int  # target of the linear probes that quality stands on, -1: there are none
    probe_methods: tuple[str, ...]  # K methods that probed the pairs below
    probe_weight: Float[np.ndarray, "K"]  # z per standard deviation of surprise
    probe_weight_stderr: Float[np.ndarray, "K"]
    probe_cells: Int[np.ndarray, "K"]  # pairs also finetuned, which the weight was learnt from
    probe_counts: Int[np.ndarray, "T K"]  # checkpoints that each method probed on each target
    probe_known: Int[np.ndarray, "T K"]  # and of these the ones it tells apart, with what its weight counts
    pair_checkpoint: Int[np.ndarray, "p"]  # pairs probed beside the reference, sorted by target, checkpoint
    pair_target: Int[np.ndarray, "p"]
    pair_methods: Int[np.ndarray, "p"]  # number of methods that probed it
    pair_shift: Float[np.ndarray, "p"]  # what its probes add to the mean of z
    pair_doubt: Float[np.ndarray, "p"]  # and, their weights being uncertain, to its variance
    explained: Float[np.ndarray, "T"]  # variance of z that probes explain among the target's probed pairs

    slopes: Float[np.ndarray, "3"]  # b
    typical: Float[np.ndarray, "6"]  # a new target: scale, mu, s, Lm, Ls, psi


def fit(evidence: FamilyEvidence) -> Posterior:
    """Fit the family's posterior. Any evidence is enough, none included: the answer is then the prior.

    The cost is that of the measured cells and of one product over all checkpoints.
    """
    vanilla = vanilla_levels(evidence)
    cells = gain_cells(evidence, vanilla)
    chosen = reference(evidence)
    covariates = _covariates(probe_covariate(evidence, chosen))
    state = _State(cells, vanilla, covariates)
    for _ in range(ITERATIONS if len(cells.gain) else 0):
        state.update_qualities()
        state.update_slopes()
        state.update_targets()
        state.update_noise()
    quality, quality_var = _qualities(covariates, state)
    found = surprises(evidence, chosen, quality)
    worth = learn(*_lessons(cells, state, found))
    return Posterior(
        **_quality_fields(evidence, cells, covariates, quality, quality_var),
        **_target_fields(evidence, vanilla, cells, state),
        **_probe_fields(evidence, chosen, found, worth, quality),
    )


def _covariates(probe: Float[np.ndarray, "C"]) -> Float[np.ndarray, "C 3"]:
    missing = np.isnan(probe)
    return np.column_stack([np.ones_like(probe), np.where(missing, 0.0, probe), missing])


class _State:
    """The unknowns of one fit, updated in turn. Rows are the checkpoints with a measured cell."""

    def __init__(self, cells: Cells, vanilla: Vanilla, covariates: Float[np.ndarray, "C 3"]) -> None:
        self.rows, self.row = np.unique(cells.checkpoint, return_inverse=True)
        self.target, targets = cells.target, len(vanilla.level)
        self.count = np.bincount(cells.target, minlength=targets)
        self.x = covariates[self.rows]
        self.scale = _scales(cells, self.count)
        self.z = np.arcsinh(cells.gain / self.scale[self.target])
        slope = 1 / (1 + (cells.gain / self.scale[self.target]) ** 2)  # (dz/dgain)^2 * scale^2
        self.noise = (vanilla.noise / self.scale) ** 2
        told = (cells.stderr / self.scale[self.target]) ** 2 * slope
        self.told, self.runs = told, cells.runs
        self.mean, self.sensitivity = np.zeros(targets), np.full(targets, 0.6)
        self.uncertainty = np.tile([0.25, 0.0, 0.05], (targets, 1))
        self.residual = np.full(targets, RESIDUAL)
        self.weight = np.ones(len(self.z))
        self.slopes = np.array([0.0, SLOPE, 0.0])
        self.slopes_cov = np.diag([1.0, 0.3, 0.3])
        self.quality, self.quality_var = self.x @ self.slopes, np.ones(len(self.rows))
        self.hyper_mean, self.hyper_mean_var = 0.0, 0.25
        self.hyper_sensitivity, self.hyper_sensitivity_var = 0.6, 0.05

    def repeatable(self) -> Float[np.ndarray, "T"]:
        """rho: the share of the residual that is not seed noise."""
        with np.errstate(invalid="ignore"):
            share = 1 - self.noise / self.residual
        return np.asarray(np.clip(np.nan_to_num(share, nan=0.5), *REPEATABLE))

    def cell_noise(self) -> Float[np.ndarray, "n"]:
        """Variance of each cell's mean over its runs: as told by its stderr, else seed noise / runs."""
        seed = ((1 - self.repeatable()) * self.residual)[self.target] / self.runs
        return np.asarray(np.where(np.isnan(self.told), seed, self.told))

    def cell_variance(self) -> Float[np.ndarray, "n"]:
        """Residual variance of each cell: the repeatable part + its noise."""
        return np.asarray((self.repeatable() * self.residual)[self.target] + self.cell_noise())

    def update_qualities(self) -> None:
        precision = self.weight / self.cell_variance()
        s = self.sensitivity[self.target]
        information = _total(self.row, precision * s * s, len(self.rows))
        pull = _total(self.row, precision * s * (self.z - self.mean[self.target]), len(self.rows))
        self.quality_var = 1 / (1 + information)
        self.quality = self.quality_var * (pull + self.x @ self.slopes)

    def update_slopes(self) -> None:
        """Ridge regression of quality on the covariates, then rescaling to unit unexplained variance."""
        prior = np.diag([1e-6, 1 / 0.3, 1 / 0.3])
        self.slopes_cov = np.linalg.inv(self.x.T @ self.x + prior)
        self.slopes = self.slopes_cov @ (self.x.T @ self.quality + prior @ [0.0, SLOPE, 0.0])
        unexplained = self.quality - self.x @ self.slopes
        leverage = np.einsum("ij,jk,ik->i", self.x, self.slopes_cov, self.x)
        variance = (np.sum(unexplained**2 + self.quality_var + leverage) + 1) / (len(self.rows) + 1)
        unit = np.sqrt(variance)
        self.quality, self.quality_var = self.quality / unit, self.quality_var / variance
        self.slopes, self.sensitivity = self.slopes / unit, self.sensitivity * unit

    def update_targets(self) -> None:
        """mu_t and s_t by weighted least squares, shrunk to the typical target."""
        size = len(self.count)
        precision = self.weight / self.cell_variance()
        f = self.quality[self.row]
        f2 = f * f + self.quality_var[self.row]
        h00 = _total(self.target, precision, size) + 1 / self.hyper_mean_var
        h01 = _total(self.target, precision * f, size)
        h11 = _total(self.target, precision * f2, size) + 1 / self.hyper_sensitivity_var
        g0 = _total(self.target, precision * self.z, size) + self.hyper_mean / self.hyper_mean_var
        g1 = _total(self.target, precision * self.z * f, size)
        g1 = g1 + self.hyper_sensitivity / self.hyper_sensitivity_var
        det = h00 * h11 - h01 * h01
        self.mean = (h11 * g0 - h01 * g1) / det
        self.sensitivity = (h00 * g1 - h01 * g0) / det
        self.uncertainty = np.column_stack([h11, -h01, h00]) / det[:, None]
        seen = self.count > 0
        m, s, u = self.mean[seen], self.sensitivity[seen], self.uncertainty[seen]
        self.hyper_mean, self.hyper_sensitivity = float(m.mean()), float(s.mean())
        # one pseudo-target with the starting variance keeps a single target from shrinking to itself
        self.hyper_mean_var = _spread(m - self.hyper_mean, u[:, 0], 0.25)
        self.hyper_sensitivity_var = _spread(s - self.hyper_sensitivity, u[:, 2], 0.05)

    def update_noise(self) -> None:
        s = self.sensitivity[self.target]
        error = self.z - self.mean[self.target] - s * self.quality[self.row]
        error2 = error**2 + s * s * self.quality_var[self.row]
        variance = self.cell_variance()
        self.weight = (FREEDOM + 1) / (FREEDOM + error2 / variance)
        # error2 in units of a one-run residual, so that cells of several runs tell the same psi
        unit = variance / self.residual[self.target]
        total = _total(self.target, self.weight * error2 / unit, len(self.count))
        pooled = (total.sum() + FEW * RESIDUAL) / (self.count.sum() + FEW)
        self.residual = np.maximum((total + FEW * pooled / 2) / (self.count + FEW / 2), 1e-3)

    def forecasts(self) -> tuple[Float[np.ndarray, "n"], ...]:
        """Each cell foretold without itself: error and its variance, and the quality it was foretold from.

        The cell's own part is taken out of f exactly, out of mu_t and s_t by its leverage.
        """
        precision = self.weight / self.cell_variance()
        s, left = self.sensitivity[self.target], self.z - self.mean[self.target]
        information = _total(self.row, precision * s * s, len(self.rows))[self.row] - precision * s * s
        pull = _total(self.row, precision * s * left, len(self.rows))[self.row] - precision * s * left
        variance = 1 / (1 + information)
        f = variance * (pull + (self.x @ self.slopes)[self.row])
        u = self.uncertainty[self.target]
        line_var = u[:, 0] + 2 * f * u[:, 1] + f * f * u[:, 2]
        error = (left - s * f) / (1 - np.clip(precision * line_var, 0.0, 0.5))
        return error, self.cell_variance() + s * s * variance + line_var, f


def _spread(errors: Float[np.ndarray, "T"], variances: Float[np.ndarray, "T"], start: float) -> float:
    return float((np.sum(errors**2 + variances) + start) / (len(errors) + 1))


def _total(
    index: Int[np.ndarray, "n"], values: Float[np.ndarray, "n"], size: int
) -> Float[np.ndarray, "size"]:
    return np.bincount(index, weights=values, minlength=size)


def _scales(cells: Cells, count: Int[np.ndarray, "T"]) -> Float[np.ndarray, "T"]:
    """c_t: the larger of the interquartile range / 1.349 and the clipped sd, shrunk to the typical one."""
    raw = np.full(len(count), np.nan)
    for t in np.flatnonzero(count >= 3):
        gains = cells.gain[cells.target == t]
        raw[t] = max(robust_scale(gains), 0.1)
    typical = np.exp(np.nanmean(np.log(raw))) if np.isfinite(raw).any() else 2.0
    log = np.log(np.where(np.isnan(raw), typical, raw) / typical)
    share = np.where(np.isnan(raw), 0.0, count / (count + FEW))
    return np.asarray(typical * np.exp(share * log))


def _qualities(
    covariates: Float[np.ndarray, "C 3"], state: _State
) -> tuple[Float[np.ndarray, "C"], Float[np.ndarray, "C"]]:
    """Mean and variance of f of every checkpoint, measured or not."""
    quality = covariates @ state.slopes
    variance = 1 + np.einsum("ij,jk,ik->i", covariates, state.slopes_cov, covariates)
    quality[state.rows], variance[state.rows] = state.quality, state.quality_var
    return quality, variance


def _lessons(cells: Cells, state: _State, found: Surprises) -> tuple[Any, ...]:
    """What the weights of probes are learnt from: the pairs that were probed and finetuned."""
    error, variance, quality = state.forecasts()
    width = 1 + max(found.checkpoint.max(initial=0), cells.checkpoint.max(initial=0))
    _, pair, cell = np.intersect1d(
        found.target * width + found.checkpoint,
        cells.target * width + cells.checkpoint,
        assume_unique=True,
        return_indices=True,
    )
    return error[cell], variance[cell], found.given(pair, quality[cell]), found.known[pair]


def _quality_fields(
    evidence: FamilyEvidence,
    cells: Cells,
    covariates: Float[np.ndarray, "C 3"],
    quality: Float[np.ndarray, "C"],
    quality_var: Float[np.ndarray, "C"],
) -> dict[str, Any]:
    size = len(evidence.checkpoint_ids)
    newest = np.full(size, -np.inf)
    np.maximum.at(newest, evidence.checkpoint, evidence.created)
    np.maximum.at(newest, evidence.probed_checkpoint, evidence.probe_created)
    return {
        "evidence_version": evidence.evidence_version,
        "vanilla": -1 if evidence.vanilla is None else evidence.vanilla,
        "checkpoint_ids": evidence.checkpoint_ids,
        "quality": quality,
        "quality_var": quality_var,
        "finetuned": np.bincount(cells.checkpoint, minlength=size),
        "probed": covariates[:, 2] == 0,
        "newest": np.where(np.isfinite(newest), newest, np.nan),
    }


def _target_fields(evidence: FamilyEvidence, vanilla: Vanilla, cells: Cells, state: _State) -> dict[str, Any]:
    seen = state.count > 0
    residual = float(np.mean(state.residual[seen])) if seen.any() else RESIDUAL
    scale = float(np.exp(np.mean(np.log(state.scale[seen])))) if seen.any() else 2.0
    hyper = (state.hyper_mean, state.hyper_sensitivity, state.hyper_mean_var, state.hyper_sensitivity_var)
    return {
        "target_ids": evidence.target_ids,
        "level": vanilla.level,
        "level_runs": vanilla.runs,
        "noise": vanilla.noise,
        "scale": state.scale,
        "mean": state.mean,
        "sensitivity": state.sensitivity,
        "uncertainty": state.uncertainty,
        "residual": state.residual,
        "repeatable": state.repeatable(),
        "measured": state.count,
        "cell_checkpoint": cells.checkpoint,
        "cell_target": cells.target,
        "cell_z": state.z,
        "cell_noise": state.cell_noise(),
        "cell_runs": cells.runs,
        "slopes": state.slopes,
        "typical": np.array([scale, *hyper, residual]),
    }


def _probe_fields(
    evidence: FamilyEvidence,
    chosen: Reference | None,
    found: Surprises,
    worth: Weights,
    quality: Float[np.ndarray, "C"],
) -> dict[str, Any]:
    surprise = found.given(np.arange(len(found.target)), quality[found.checkpoint])
    shift, size = worth.shift(surprise), len(evidence.target_ids)
    probed = np.bincount(found.target[found.known.any(axis=1)], minlength=size)
    ran = np.flatnonzero(found.ran.any(axis=0))
    counts, known = np.zeros((2, size, len(ran)), dtype=np.int64)
    np.add.at(counts, found.target, found.ran[:, ran])
    np.add.at(known, found.target, found.known[:, ran])
    return {
        "reference": -1 if chosen is None else chosen.target,
        "probe_methods": tuple(evidence.probe_methods[k] for k in ran),
        "probe_weight": worth.weight[ran],
        "probe_weight_stderr": np.sqrt(np.diag(worth.covariance))[ran],
        "probe_cells": worth.cells[ran],
        "probe_counts": counts,
        "probe_known": known,
        "pair_checkpoint": found.checkpoint,
        "pair_target": found.target,
        "pair_methods": found.ran.sum(axis=1),
        "pair_shift": shift,
        "pair_doubt": worth.doubt(surprise),
        "explained": _total(found.target, shift**2, size) / np.maximum(probed, 1),
    }


def to_bytes(posterior: Posterior) -> bytes:
    """Serialise as an uncompressed .npz without pickles. The same posterior gives the same bytes."""
    buffer = io.BytesIO()
    arrays = {field.name: np.asarray(getattr(posterior, field.name)) for field in fields(posterior)}
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def from_bytes(payload: bytes) -> Posterior:
    """Read what `to_bytes` wrote. The caller has checked that the format is FORMAT."""
    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        read = {field.name: arrays[field.name] for field in fields(Posterior)}
    for name in ("evidence_version", "vanilla", "reference"):
        read[name] = int(read[name])
    read["probe_methods"] = tuple(str(name) for name in read["probe_methods"])
    return Posterior(**read)
