"""New scores on a target without a refit, and the view of a target with few of its own.

A target whose transform stands on few checkpoints has no scale of its own worth the name, and its scale is
most of what a gain in points depends on. Its view is a mixture over scales:

    z = asinh(gain / c),   log c ~ N(line of log binomial noise, sd^2),   (mu, s) ~ N(typical)

on Gauss-Hermite nodes of log c: at each a robust Bayesian regression of the measured z on (1, f), f foretold
without these cells, and the node weighted by its evidence. From OWN[0] cells on the target's own transform is
one more component, of a weight that grows with them; from OWN[1] on it stands alone.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from headstart.recommend.factors import REPEATABLE
from headstart.recommend.leave_out import without
from headstart.recommend.posterior import RANK
from headstart.recommend.t_noise import FREEDOM
from headstart.recommend.transform import Transforms, plain, typical_log_scale
from headstart.recommend.views import View, fitted_noise, known_view, level_variance, middle_gain, transform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int

    from headstart.recommend.posterior import Posterior

OWN = (10, 30)  # cells from which its own transform has a say, and alone; at 20 both views are as good
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()
PASSES = 6  # of the Student weights of the cells
STEP = 2 * float(np.sinh(0.5))  # scales to a unit of z about no gain: the slope that seed noise is told by


def view_of(posterior: Posterior, target: int) -> View:
    """The view of a target the vanilla was run on, by what was measured on it.

    Where one view took over from the other at 20 cells, the twentieth moved expected gains by 0.45 points and
    widths of intervals by 1.13, the nineteenth by 0.14 and 0.22 (root mean squares over checkpoints, means
    over 21 targets of the published families). Now it is 0.14 and 0.21, and from 8 to 25 cells the forecasts
    are sharper.
    """
    share = (_cells_of_transform(posterior, target) - OWN[0]) / (OWN[1] - OWN[0])
    if share >= 1:
        return known_view(posterior, target)
    warm = warm_view(posterior, target)
    return warm if share <= 0 else _blended(known_view(posterior, target), warm, share)


def _cells_of_transform(posterior: Posterior, target: int) -> int:
    """How many cells the transform was made of: `conditioned` leaves it as it was made before."""
    gains = posterior.cell_gain[posterior.cell_target == target]
    if len(gains) <= OWN[0]:
        return 0
    return int(np.isin(np.round(gains, 9), posterior.knots[target]).sum())


def _blended(own: View, warm: View, share: float) -> View:
    """Both as one mixture, the own transform with this share."""
    parts = ("mean", "loadings", "uncertainty", "residual", "repeatable", "level_var", "explained")
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(own, name), getattr(warm, name)]) for name in parts
    }
    return dataclasses.replace(
        own,
        weights=np.append(share * own.weights, (1 - share) * warm.weights),
        transforms=Transforms(own.transforms + warm.transforms),
        warm=np.arange(1 + len(warm.weights)) > 0,
        **joined,
    )


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
    checkpoints: Int[np.ndarray, "k"] | Sequence[int],
    gains: Float[np.ndarray, "k"] | Sequence[float],
    runs: Int[np.ndarray, "k"] | Sequence[int] | None = None,
) -> Posterior:
    """The posterior with new cells on one target, everything that is not about them left as it is.

    `checkpoints`: positions, none measured on the target yet; `gains`: points over the vanilla; `runs`: seeds
    each is the mean of, one unless said. (mu, s) of the target is regressed on f as foretold without the
    cells; then f of every checkpoint measured on the target takes its cell again under the new (mu, s).
    Transforms, noise and slopes stay: a refit would differ by them, and by what the cells tell of other
    targets.

    Raises: ValueError for lists of unequal length, a gain that is no number, runs below one, a target the
    vanilla was never run on, and a checkpoint that is the vanilla, unknown, given twice or already measured
    on the target.
    """
    gains, runs = np.asarray(gains, dtype=float), np.asarray([1] * len(gains) if runs is None else runs)
    _check_scores(len(checkpoints), gains, runs)
    if not len(checkpoints):
        return posterior
    checkpoints = np.asarray(checkpoints)
    _check_places(posterior, target, checkpoints)
    z = transform(posterior, target).z(gains)
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


def _check_scores(count: int, gains: Float[np.ndarray, "k"], runs: Int[np.ndarray, "k"]) -> None:
    if not count == len(gains) == len(runs):
        raise ValueError(
            f"{count} checkpoints, {len(gains)} gains and {len(runs)} numbers of runs: give one of each for "
            "every score"
        )
    if not np.isfinite(gains).all():
        raise ValueError(f"a gain is no number in {gains.tolist()}: leave out what was not measured")
    if not (runs >= 1).all():
        raise ValueError(f"a score is the mean of no run in {runs.tolist()}: each has one or more")


def _check_places(posterior: Posterior, target: int, checkpoints: Int[np.ndarray, "k"]) -> None:
    if not np.isfinite(posterior.level[target]):
        raise ValueError(
            "the vanilla was never run on the target, and gains are measured from it: run it there"
        )
    unknown = checkpoints[(checkpoints < 0) | (checkpoints >= len(posterior.factors))]
    if len(unknown):
        raise ValueError(f"there are no checkpoints at {unknown.tolist()} among {len(posterior.factors)}")
    again = np.intersect1d(checkpoints, posterior.cell_checkpoint[posterior.cell_target == target])
    if len(again):
        raise ValueError(f"checkpoints {again.tolist()} are measured on the target already: refit instead")
    if len(np.unique(checkpoints)) < len(checkpoints):
        raise ValueError(f"a checkpoint is given twice in {checkpoints.tolist()}: give the mean of its runs")
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
    noise: Float[np.ndarray, "K|1 n"]  # variance of z about mu + s'f under each scale, that of f included


class Regressions(NamedTuple):
    """(mu, s) of a target under each of K scales, and how well each scale agrees with what was seen."""

    mean: Float[np.ndarray, "K F+1"]
    covariance: Float[np.ndarray, "K F+1 F+1"]
    log_evidence: Float[np.ndarray, "K"]


def warm_view(posterior: Posterior, target: int) -> View:
    """The view of a target the vanilla was run on and few checkpoints, or none, were.

    Its residual is that of a typical target. The fit's own is in units of a scale that few gains cannot tell:
    with 5 gains on a target of six times the usual scale it is twice as large as it should be.
    """
    middle = typical_log_scale(posterior.scale_line, posterior.binomial[[target]])[0]
    scales = np.exp(middle + posterior.scale_line[2] * NODES)
    prior, prior_var = posterior.typical_theta.copy(), posterior.typical_var.copy()
    prior[0] += posterior.centre[0]
    prior_var[0] += posterior.centre[1]
    residual, share = posterior.typical_residual, _repeatable(posterior, target, scales)
    found = regressions(_seen(posterior, target, share, prior, prior_var), scales, prior, prior_var)
    log_weights = np.log(NODE_WEIGHTS) + found.log_evidence
    weights = np.exp(log_weights - log_weights.max())
    known, many = known_view(posterior, target), np.ones(len(scales))
    transforms = Transforms([plain(0.0, float(c)) for c in scales])
    stderr = float(np.nan_to_num(posterior.level_stderr[target]))
    return dataclasses.replace(
        known,
        weights=weights / weights.sum(),
        transforms=transforms,
        mean=found.mean[:, 0],
        loadings=found.mean[:, 1:],
        uncertainty=found.covariance,
        residual=residual * many,
        repeatable=share,
        level_var=level_variance(transforms, stderr * many, middle_gain(posterior, target)),
        explained=np.minimum(known.explained[0], share * residual),
        warm=many > 0,
    )


def _repeatable(posterior: Posterior, target: int, scales: Float[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
    """rho under each scale: the rest of psi is the noise of one run, which is known from two sides.

    It is what a typical target has in z, and what the vanilla's runs show in points; their geometric mean.
    """
    typical, noise = posterior.typical_repeatable, float(posterior.noise[target])
    if not noise > 0:
        return np.full(len(scales), typical)
    shown = noise / (STEP * scales) / np.sqrt(posterior.typical_residual)
    return np.asarray(np.clip(1 - np.sqrt(1 - typical) * shown, *REPEATABLE))


def regressions(
    seen: Seen,
    scales: Float[np.ndarray, "K"],
    prior: Float[np.ndarray, "F+1"],
    prior_var: Float[np.ndarray, "F+1"],
) -> Regressions:
    """Regression of asinh(gain / c) on (1, f) for each scale c, Student's t noise and (mu, s) ~ N(prior, P).

    So a failed run counts little. Variational Bayes (Tipping & Lawrence, Neurocomputing 69 (2005)): theta =
    (mu, s) ~ N(m, C) and the Student weight of each cell in turn, starting from what the prior foretells,

        a_i = 7 / (6 noise_i + E_i^2),     E_i^2 = (z_i - h_i'm)^2 + h_i'C h_i,     C = (P^-1 + h'ah)^-1

    The evidence is the lower bound of the log density of the gains in points, up to what is the same for all:

        -sum (7/2 log(1 + E_i^2 / (6 noise_i)) + 1/2 log(noise_i (c^2 + gain_i^2))) - KL(theta | its prior)

    Of 1 to 19 drawn cells, a failed run among them or not, the shares of scales by it are within 0.03 (total
    variation) of those by the exact density. The cost is linear in the cells.
    """
    ratio = seen.gain / scales[:, None]
    h, left = seen.h, np.arcsinh(ratio) - seen.h @ prior  # what the prior leaves of z
    error2 = left**2 + h**2 @ prior_var
    for _ in range(PASSES):
        weighed = (FREEDOM + 1) / (FREEDOM * seen.noise + error2)
        x = weighed[:, :, None] * h
        covariance = np.linalg.inv(np.diag(1 / prior_var) + h.T @ x)
        move = (covariance @ ((weighed * left) @ h)[:, :, None])[:, :, 0]
        error2 = (left - move @ h.T) ** 2 + (h @ covariance * h).sum(axis=2)
    spread = np.diagonal(covariance, axis1=1, axis2=2)
    log_ratio = np.linalg.slogdet(covariance)[1] - np.log(prior_var).sum()
    far = 0.5 * (((move**2 + spread) / prior_var).sum(axis=1) - len(prior) - log_ratio)
    fit = -0.5 * (FREEDOM + 1) * np.log1p(error2 / (FREEDOM * seen.noise)).sum(axis=1)
    steep = len(seen.gain) * np.log(scales) + 0.5 * np.sum(np.log1p(ratio**2) + np.log(seen.noise), axis=1)
    return Regressions(prior + move, covariance, fit - far - steep)


def _seen(
    posterior: Posterior,
    target: int,
    share: Float[np.ndarray, "K"],
    prior: Float[np.ndarray, "K+1"],
    prior_var: Float[np.ndarray, "K+1"],
) -> Seen:
    """The cells of the target; `share`: rho under each scale."""
    cells = np.flatnonzero(posterior.cell_target == target)
    f, v = _foretold(posterior, target, cells)
    s = prior[1:]
    latent = np.einsum("i,nij,j->n", s, v, s) + np.einsum("nii,i->n", v, prior_var[1:])
    runs = posterior.cell_noise[cells] / fitted_noise(posterior, target)  # in units of one run
    noise = posterior.typical_residual * (share[:, None] + (1 - share[:, None]) * runs) + latent
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
