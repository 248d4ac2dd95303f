"""The posterior of a family: how good each checkpoint is, and how each target reacts. Fitted by `fit`.

    z_mt = T_t(gain_mt) = mu_t + s_t' f_m + e_mt,      e_mt ~ t_6(0, psi_t)
    f_m ~ N(B' x_m, I),   (mu_t, s_t) ~ N(typical)

T_t is the target's transform (`transform`), f_m in R^RANK the factors of checkpoint m, s_t the loadings of
target t. Rank one with this form is the paper's finding that quality and sensitivity separate (Choshen et
al. 2023, arXiv 2211.00107, section 5); rank three leaves room for what does not. A share rho_t of psi_t is
repeatable (it belongs to the pair, not to the run); the rest is seed noise, as the vanilla's seeds show it.

Probes on a target add sum_k w_k r_mtk to z_mt, r their surprises (`surprises`) and w >= 0 learnt (`weights`).
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

FORMAT = "factors-1"
RANK = 3  # K
STATIC = ("linear_probe", "free_energy")  # scores in the prior that have a weight of their own


def _unknown() -> Float[np.ndarray, "2"]:
    return np.full(len(STATIC), np.nan)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Posterior:
    """Everything an answer needs, in arrays: C checkpoints, M of them measured, T targets, G knots, n cells,
    p probed pairs, K = RANK."""

    evidence_version: int
    vanilla: int  # position of the vanilla in the checkpoints, -1 if unknown
    checkpoint_ids: Int[np.ndarray, "C"]
    factors: Float[np.ndarray, "C K"]  # posterior mean of f, all cells counted; float32
    doubt: Float[np.ndarray, "C"]  # prior variance of f: 1 + x'Qx, Q the covariance of B; float32
    quality: Float[np.ndarray, "C"]  # direction' f: expected z on a typical target, less its mean; float32
    finetuned: Int[np.ndarray, "C"]  # number of targets
    probed: Bool[np.ndarray, "C"]
    newest: Float[np.ndarray, "C"]  # time of the newest score, seconds since the epoch; NaN: none

    rows: Int[np.ndarray, "M"]  # checkpoints with a cell, ascending; of all others f ~ N(factors, doubt I)
    covariance: Float[np.ndarray, "M K K"]  # of their f
    prior: Float[np.ndarray, "M K"]  # B'x: what their covariates alone say of f

    target_ids: Int[np.ndarray, "T"]
    level: Float[np.ndarray, "T"]  # of the vanilla, points; NaN: never run, no gain can be told
    level_runs: Int[np.ndarray, "T"]
    level_stderr: Float[np.ndarray, "T"]  # points
    noise: Float[np.ndarray, "T"]  # seed noise of one run, points
    binomial: Float[np.ndarray, "T"]  # test noise of one run, points; NaN: unknown
    knots: Float[np.ndarray, "T G"]  # of the transform: gains in points, strictly increasing
    knots_z: Float[np.ndarray, "T G"]  # and their z, strictly increasing
    tail: Float[np.ndarray, "T"]  # c_t: beyond the knots z grows like asinh(gain / c_t)
    mean: Float[np.ndarray, "T"]  # mu_t
    loadings: Float[np.ndarray, "T K"]  # s_t
    uncertainty: Float[np.ndarray, "T K+1 K+1"]  # covariance of (mu_t, s_t)
    residual: Float[np.ndarray, "T"]  # psi_t, variance of one run about mu + s'f, in z
    repeatable: Float[np.ndarray, "T"]  # rho_t
    measured: Int[np.ndarray, "T"]  # checkpoints finetuned on it

    # cells, sorted by checkpoint, then target
    cell_checkpoint: Int[np.ndarray, "n"]
    cell_target: Int[np.ndarray, "n"]
    cell_gain: Float[np.ndarray, "n"]  # points
    cell_z: Float[np.ndarray, "n"]
    cell_noise: Float[np.ndarray, "n"]  # variance of the cell about its true gain (seed noise), in z
    cell_precision: Float[np.ndarray, "n"]  # with which the cell counts in f: Student weight / variance
    cell_runs: Int[np.ndarray, "n"]

    reference: int  # target of the linear probes that quality stands on, -1: there are none
    probe_methods: tuple[str, ...]  # methods that probed the pairs below
    probe_weight: Float[np.ndarray, "W"]  # z per standard deviation of surprise
    probe_weight_stderr: Float[np.ndarray, "W"]
    probe_cells: Int[np.ndarray, "W"]  # pairs also finetuned, which the weight was learnt from
    probe_counts: Int[np.ndarray, "T W"]  # checkpoints that each method probed on each target
    probe_known: Int[np.ndarray, "T W"]  # and of these the ones it tells apart, with what its weight counts
    pair_checkpoint: Int[np.ndarray, "p"]  # pairs probed beside the reference, sorted by target, checkpoint
    pair_target: Int[np.ndarray, "p"]
    pair_methods: Int[np.ndarray, "p"]  # number of methods that probed it
    pair_shift: Float[np.ndarray, "p"]  # what its probes add to the mean of z
    pair_doubt: Float[np.ndarray, "p"]  # and, their weights being uncertain, to its variance
    explained: Float[np.ndarray, "T"]  # variance of z that probes explain among the target's probed pairs

    typical_theta: Float[np.ndarray, "K+1"]  # mean of (mu_t, s_t) over targets
    typical_var: Float[np.ndarray, "K+1"]  # and their variances
    typical_residual: float
    typical_repeatable: float
    scale_line: Float[np.ndarray, "3"]  # log c_t ~ N(a + b log(binomial sd, points), sd^2): a, b, sd
    centre: Float[np.ndarray, "2"]  # mean and variance over targets of asinh(median gain / c)
    calibration: Float[np.ndarray, "3"]  # share of cells in their leave-out 80 % interval, cells, widening

    # of the scores in STATIC: z on a typical target per standard deviation of the score; NaN: it is not in
    # the prior, or the row was stored before this was told
    static_weight: Float[np.ndarray, "2"] = field(default_factory=_unknown)
    static_weight_stderr: Float[np.ndarray, "2"] = field(default_factory=_unknown)

    @property
    def direction(self) -> Float[np.ndarray, "K"]:
        """Loadings of a typical target: quality = factors @ direction."""
        return np.asarray(self.typical_theta[1:])


_NUMBERS: dict[str, type[int] | type[float]] = {
    "evidence_version": int,
    "vanilla": int,
    "reference": int,
    "typical_residual": float,
    "typical_repeatable": float,
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
        read = {field.name: arrays[field.name] for field in fields(Posterior) if field.name in arrays}
    for name, kind in _NUMBERS.items():
        read[name] = kind(read[name])
    read["probe_methods"] = tuple(str(name) for name in read["probe_methods"])
    return Posterior(**read)
