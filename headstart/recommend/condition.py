"""New scores on a target without a refit, and the view of a target with few of its own.

A target whose transform stands on fewer than WARM checkpoints has no scale of its own worth the name, and its
scale is most of what a gain in points depends on. Its view is a mixture over scales:

    z = asinh(gain / c),   log c ~ N(line of log binomial noise, sd^2),   (mu, s) ~ N(typical)

on Gauss-Hermite nodes of log c: at each a Bayesian linear regression of the measured z on (1, f), f foretold
without these cells, and the node weighted by its Student-t evidence.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from headstart.recommend.leave_out import without
from headstart.recommend.posterior import RANK
from headstart.recommend.t_noise import FREEDOM
from headstart.recommend.transform import plain, typical_log_scale
from headstart.recommend.views import View, known_view, level_variance, transform

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from headstart.recommend.posterior import Posterior

WARM = 20  # measured checkpoints from which its own transform foretells better (published families)
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()


def view_of(posterior: Posterior, target: int) -> View:
    """The view of a target the vanilla was run on, by what was measured on it."""
    if posterior.measured[target] >= WARM and _own_transform(posterior, target):
        return known_view(posterior, target)
    return warm_view(posterior, target)


def _own_transform(posterior: Posterior, target: int) -> bool:
    """Whether its transform was made of WARM cells: `conditioned` leaves it as it was made before."""
    gains = posterior.cell_gain[posterior.cell_target == target]
    return int(np.isin(np.round(gains, 9), posterior.knots[target]).sum()) >= WARM


# ---------------------------------------------------------------- new scores without a refit


class _Cells(NamedTuple):
    """Cells on one target, of n checkpoints."""

    checkpoint: Int[np.ndarray, "n"]
    z: Float[np.ndarray, "n"]
    noise: Float[np.ndarray, "n"]  # variance about the true gain, in z
    factors: Float[np.ndarray, "n K"]  # f as foretold without the cell
    covariance: Float[np.ndarray, "n K K"]


def conditioned(
    posterior: Posterior,
    target: int,
    checkpoints: Int[np.ndarray, "k"],
    gains: Float[np.ndarray, "k"],
    runs: Int[np.ndarray, "k"] | None = None,
) -> Posterior:
    """The posterior with new cells on one target, everything that is not about them left as it is.

    `checkpoints`: positions, none measured on the target yet; `gains`: points over the vanilla; `runs`: seeds
    each is the mean of, one unless said. (mu, s) of the target is regressed on f as foretold without the
    cells; then f of every checkpoint measured on the target takes its cell again under the new (mu, s).
    Transforms, noise and slopes stay: a refit would differ by them, and by what the cells tell of other
    targets.

    Raises: ValueError for a checkpoint that is the vanilla, given twice or already measured on the target.
    """
    _check(posterior, target, checkpoints)
    if not len(checkpoints):
        return posterior
    runs = np.ones(len(checkpoints), dtype=np.int64) if runs is None else np.asarray(runs)
    z = transform(posterior, target).z(np.asarray(gains, dtype=float))
    noise = (1 - posterior.repeatable[target]) * posterior.residual[target] / runs
    wider = _with_rows(posterior, checkpoints)
    at = np.searchsorted(wider.rows, checkpoints)
    new = _Cells(checkpoints, z, noise, wider.factors[checkpoints].astype(float), wider.covariance[at])
    theta, uncertainty, precision = _regressed(posterior, target, new)
    told = dataclasses.replace(
        _with_factors(wider, target, new, theta, precision),
        mean=_set(posterior.mean, target, theta[0]),
        loadings=_set(posterior.loadings, target, theta[1:]),
        uncertainty=_set(posterior.uncertainty, target, uncertainty),
        measured=_set(posterior.measured, target, posterior.measured[target] + len(checkpoints)),
        finetuned=posterior.finetuned + np.bincount(checkpoints, minlength=len(posterior.finetuned)),
    )
    here = np.full(len(checkpoints), target)
    return _with_cells(told, checkpoints, here, gains, z, noise, precision, runs)


def _check(posterior: Posterior, target: int, checkpoints: Int[np.ndarray, "k"]) -> None:
    known = posterior.cell_checkpoint[posterior.cell_target == target]
    again = np.intersect1d(checkpoints, known)
    if len(again):
        raise ValueError(f"checkpoints {again.tolist()} are measured on the target already: refit instead")
    if len(np.unique(checkpoints)) < len(checkpoints):
        raise ValueError(f"a checkpoint is given twice in {list(checkpoints)}: give the mean of its runs")
    if posterior.vanilla in checkpoints:
        raise ValueError("the vanilla is what gains are measured from and has none itself")


def _regressed(
    posterior: Posterior, target: int, new: _Cells
) -> tuple[Float[np.ndarray, "K+1"], Float[np.ndarray, "K+1 K+1"], Float[np.ndarray, "k"]]:
    """(mu, s) of the target and its covariance with the new cells seen, and the precision of each in f.

    Student weights by how far each cell lies from where it was foretold.
    """
    theta = np.append(posterior.mean[target], posterior.loadings[target])
    before = posterior.uncertainty[target]
    h = np.column_stack([np.ones(len(new.z)), new.factors])
    latent = np.einsum("i,nij,j->n", theta[1:], new.covariance, theta[1:])
    residual = posterior.repeatable[target] * posterior.residual[target] + new.noise
    foretold = residual + latent + np.einsum("ni,ij,nj->n", h, before, h)
    weight = (FREEDOM + 1) / (FREEDOM + (new.z - h @ theta) ** 2 / foretold)
    trust = weight / (residual + latent)
    after = np.linalg.inv(np.linalg.inv(before) + (h.T * trust) @ h)
    return theta + after @ (h.T @ (trust * (new.z - h @ theta))), after, weight / residual


def _with_rows(posterior: Posterior, checkpoints: Int[np.ndarray, "k"]) -> Posterior:
    """The posterior with these among the measured checkpoints, the new ones under their prior."""
    new = np.setdiff1d(checkpoints, posterior.rows)
    at = np.searchsorted(posterior.rows, new)
    prior, doubt = posterior.factors[new].astype(float), posterior.doubt[new, None, None] * np.eye(RANK)
    return dataclasses.replace(
        posterior,
        rows=np.insert(posterior.rows, at, new),
        covariance=np.insert(posterior.covariance, at, doubt, axis=0),
        prior=np.insert(posterior.prior, at, prior, axis=0),
    )


def _with_factors(
    posterior: Posterior,
    target: int,
    new: _Cells,
    theta: Float[np.ndarray, "K+1"],
    precision: Float[np.ndarray, "k"],
) -> Posterior:
    """f of every checkpoint measured on the target, the new ones too, with its cell under this (mu, s)."""
    old = np.flatnonzero(posterior.cell_target == target)
    f, v = _foretold(posterior, target, old)
    checkpoint = np.concatenate([posterior.cell_checkpoint[old], new.checkpoint])
    f, v = np.concatenate([f, new.factors]), np.concatenate([v, new.covariance])
    left = np.concatenate([posterior.cell_z[old], new.z]) - theta[0] - f @ theta[1:]
    along = v @ theta[1:]
    gain = (
        along / (1 / np.concatenate([posterior.cell_precision[old], precision]) + along @ theta[1:])[:, None]
    )
    factors, covariance = posterior.factors.copy(), posterior.covariance.copy()
    quality = posterior.quality.copy()
    factors[checkpoint] = f + gain * left[:, None]
    covariance[np.searchsorted(posterior.rows, checkpoint)] = v - gain[:, :, None] * along[:, None, :]
    quality[checkpoint] = factors[checkpoint] @ posterior.direction
    return dataclasses.replace(posterior, factors=factors, covariance=covariance, quality=quality)


def _with_cells(posterior: Posterior, checkpoints: Int[np.ndarray, "k"], *new: np.ndarray) -> Posterior:
    """All cells with the new ones, sorted by checkpoint, then target."""
    names = ("checkpoint", "target", "gain", "z", "noise", "precision", "runs")
    order, width = np.argsort(checkpoints), len(posterior.target_ids)
    known = posterior.cell_checkpoint * width + posterior.cell_target
    at = np.searchsorted(known, (checkpoints * width + new[0])[order])
    cells: dict[str, Any] = {
        f"cell_{name}": np.insert(getattr(posterior, f"cell_{name}"), at, one[order])
        for name, one in zip(names, (checkpoints, *new), strict=True)
    }
    return dataclasses.replace(posterior, **cells)


def _set(values: np.ndarray, at: int, value: object) -> np.ndarray:
    changed = values.copy()
    changed[at] = value
    return changed


# ---------------------------------------------------------------- a target with few scores of its own


class Seen(NamedTuple):
    """What few checkpoints gained on a target."""

    gain: Float[np.ndarray, "n"]  # points
    h: Float[np.ndarray, "n K+1"]  # (1, f), f as foretold without these cells
    noise: Float[np.ndarray, "n"]  # variance of z about mu + s'f, that of f included


class Regressions(NamedTuple):
    """(mu, s) of a target under each of K scales, and how well each scale agrees with what was seen."""

    mean: Float[np.ndarray, "K F+1"]
    covariance: Float[np.ndarray, "F+1 F+1"]  # the same for all
    log_evidence: Float[np.ndarray, "K"]


def warm_view(posterior: Posterior, target: int) -> View:
    """The view of a target the vanilla was run on and few checkpoints, or none, were."""
    middle = typical_log_scale(posterior.scale_line, posterior.binomial[[target]])[0]
    scales = np.exp(middle + posterior.scale_line[2] * NODES)
    prior, prior_var = posterior.typical_theta.copy(), posterior.typical_var.copy()
    prior[0] += posterior.centre[0]
    prior_var[0] += posterior.centre[1]
    residual, share = float(posterior.residual[target]), float(posterior.repeatable[target])
    found = regressions(_seen(posterior, target, prior, prior_var), scales, prior, prior_var)
    log_weights = np.log(NODE_WEIGHTS) + found.log_evidence
    weights = np.exp(log_weights - log_weights.max())
    known, many = known_view(posterior, target), np.ones(len(scales))
    transforms = tuple(plain(0.0, float(c)) for c in scales)
    stderr = float(np.nan_to_num(posterior.level_stderr[target]))
    return dataclasses.replace(
        known,
        weights=weights / weights.sum(),
        transforms=transforms,
        mean=found.mean[:, 0],
        loadings=found.mean[:, 1:],
        uncertainty=np.tile(found.covariance, (len(scales), 1, 1)),
        residual=residual * many,
        repeatable=share * many,
        level_var=level_variance(transforms, stderr * many),
        explained=np.minimum(known.explained[0], share * residual) * many,
        warm=True,
    )


def regressions(
    seen: Seen,
    scales: Float[np.ndarray, "K"],
    prior: Float[np.ndarray, "F+1"],
    prior_var: Float[np.ndarray, "F+1"],
) -> Regressions:
    """Bayesian linear regression of asinh(gain / c) on (1, f) for every scale c, (mu, s) ~ N(prior).

    The evidence is the density of the gains in points: Student's t with 6 degrees of freedom of the errors
    r in z, whose covariance is S = h diag(prior_var) h' + diag(noise), times dz/dgain of every cell:

        -(6 + n)/2 log(1 + r'S^-1 r / 6) - log|S|/2 - n log c - sum log(1 + (gain / c)^2)/2

    up to what is the same for every scale. S^-1 and |S| by Woodbury's identities: the cost is linear in n.
    """
    x, n = seen.h / seen.noise[:, None], len(seen.gain)
    information = np.diag(1 / prior_var) + x.T @ seen.h
    covariance = np.linalg.inv(information)
    ratio = seen.gain / scales[:, None]
    left = np.arcsinh(ratio) - seen.h @ prior
    pull = left @ x
    distance = np.maximum(left**2 @ (1 / seen.noise) - np.einsum("ki,ij,kj->k", pull, covariance, pull), 0.0)
    log_det = np.log(seen.noise).sum() + np.log(prior_var).sum() + np.linalg.slogdet(information)[1]
    steepness = n * np.log(scales) + 0.5 * np.log1p(ratio**2).sum(axis=1)
    log_evidence = -0.5 * (FREEDOM + n) * np.log1p(distance / FREEDOM) - 0.5 * log_det - steepness
    return Regressions(prior + pull @ covariance, covariance, log_evidence)


def _seen(
    posterior: Posterior, target: int, prior: Float[np.ndarray, "K+1"], prior_var: Float[np.ndarray, "K+1"]
) -> Seen:
    """The cells of the target."""
    cells = np.flatnonzero(posterior.cell_target == target)
    f, v = _foretold(posterior, target, cells)
    s = prior[1:]
    latent = np.einsum("i,nij,j->n", s, v, s) + np.einsum("nii,i->n", v, prior_var[1:])
    repeatable = posterior.repeatable[target] * posterior.residual[target]
    noise = repeatable + posterior.cell_noise[cells] + latent
    return Seen(posterior.cell_gain[cells], np.column_stack([np.ones(len(cells)), f]), noise)


def _foretold(
    posterior: Posterior, target: int, cells: Int[np.ndarray, "k"]
) -> tuple[Float[np.ndarray, "k K"], Float[np.ndarray, "k K K"]]:
    """f of the measured checkpoints before their cells on the target were seen."""
    rows = posterior.cell_checkpoint[cells]
    f, v = posterior.factors[rows].astype(float), posterior.covariance[np.searchsorted(posterior.rows, rows)]
    s = np.broadcast_to(posterior.loadings[target], f.shape)
    error = posterior.cell_z[cells] - posterior.mean[target] - np.einsum("nk,nk->n", f, s)
    return without(f, v, s, posterior.cell_precision[cells], error)
