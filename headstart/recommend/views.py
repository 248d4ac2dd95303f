"""The asked target as a mixture of targets: one for a known target, many for one that was never run.

Under component k a gain g of checkpoint m is, in z, T_k(g) = mu_k + s_k' f_m + what is left; see `posterior`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.transform import Transform, Transforms, plain

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from headstart.recommend.posterior import Posterior

FEWEST = 3  # checkpoints finetuned on a target before it stands for unseen ones
TRAIN_BANDWIDTH = 1.5  # natural log units: a factor of 4.5 in training rows
CLASSES_BANDWIDTH = 0.7  # a factor of 2 in classes
MOST_EXPLAINED = 0.8  # share of a repeatable variance that probes may take away
# Variance of a normal that counts like the squared scale of a Student's t_6. The 80 % interval of a sum of
# both then holds 0.798 to 0.812, whatever their shares. A normal alone would take 1.26, a little of one 1.17.
NORMAL = 1.2
SMALLEST = 1e-10  # variance in z
UNLIKE = 0.05  # least weight of a known target, however different
USUAL_BINOMIAL = 2.0  # points: of a test split nothing is known of, 600 rows at 66 %
MOST_POINTS = 100.0  # that any gain can be, where the vanilla's level is not known


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """The asked target as a mixture of K targets. Factors have F entries."""

    target: int | None  # position in the posterior, when the vanilla was run on it
    probed: int | None  # position of the target whose probes are about it; None: never seen
    weights: Float[np.ndarray, "K"]  # sum to one
    level: float  # expected score of the vanilla, points; NaN: cannot be told
    level_stderr: float  # points, how far levels of the components differ included; NaN: cannot be told
    noise: float  # seed noise of one run, points; NaN: cannot be told
    transforms: Transforms  # K of them, between gains in points and z
    mean: Float[np.ndarray, "K"]  # mu
    loadings: Float[np.ndarray, "K F"]  # s
    uncertainty: Float[np.ndarray, "K F+1 F+1"]  # covariance of (mu, s)
    residual: Float[np.ndarray, "K"]  # psi, variance of one run about mu + s'f, in z
    repeatable: Float[np.ndarray, "K"]  # rho, the share of psi that belongs to the pair
    level_var: Float[np.ndarray, "K"]  # of what gains are measured from, in z, as of Student's t: see NORMAL
    explained: Float[np.ndarray, "K"]  # of rho psi, by the probes of a pair that has some
    warm: Bool[np.ndarray, "K"] | bool = False  # whose (mu, s) are by `condition.regressions`, not the fit's

    @property
    def repeatable_var(self) -> Float[np.ndarray, "K"]:
        """Variance in z of what belongs to a pair beyond mu + s'f."""
        return np.asarray(self.repeatable * self.residual)

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and largest gain in points that leaves the score within 0..100.

        Of the expected level: the cut at each component's own would move expected gains on an unseen target
        by 0.003 to 0.02 points (root mean squares, published families).
        """
        if math.isnan(self.level):
            return -MOST_POINTS, MOST_POINTS
        return min(-self.level, 0.0), max(100.0 - self.level, 0.0)

    def z(self, gain: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n K"]:
        """From points to z, by each component's transform."""
        return self.transforms.z(gain)

    def slopes(self) -> Float[np.ndarray, "K"]:
        """Points per unit of z, over one unit either side of the middle of each component's gains."""
        low, high = self.transforms.gain(np.repeat([[-1.0], [1.0]], len(self.transforms), axis=1))
        return np.asarray((high - low) / 2)

    def direction(self) -> Float[np.ndarray, "F"]:
        """Points per unit of each factor."""
        return np.asarray((self.weights * self.slopes()) @ self.loadings)


def known_view(posterior: Posterior, target: int) -> View:
    """The view of a target the vanilla was run on."""
    t = slice(target, target + 1)
    transforms = Transforms([transform(posterior, target)])
    stderr = np.nan_to_num(posterior.level_stderr[t])
    repeatable_var = posterior.repeatable[t] * posterior.residual[t]
    return View(
        target=target,
        probed=target,
        weights=np.ones(1),
        level=float(posterior.level[target]),
        level_stderr=float(posterior.level_stderr[target]),
        noise=float(posterior.noise[target]),
        transforms=transforms,
        mean=posterior.mean[t],
        loadings=posterior.loadings[t],
        uncertainty=posterior.uncertainty[t],
        residual=posterior.residual[t],
        repeatable=posterior.repeatable[t],
        level_var=level_variance(transforms, stderr, middle_gain(posterior, target)),
        explained=_explained(posterior, target, repeatable_var),
    )


def unseen_view(
    posterior: Posterior,
    weights: Float[np.ndarray, "T"],
    probed: int | None = None,
    *,
    own_loadings: bool = False,
) -> View:
    """The view of a target the vanilla was never run on: one drawn from the known ones by weight.

    The known targets stand for its scale, shape and noise. Its (mu, s) are a new draw from those of the
    family, unless `own_loadings` asks for the ones of each known target. What the known levels may be wrong
    by is in the spread between the components, and not counted again.
    With no known target fit to stand for it, the family's typical target stands in, without a level.
    `probed` is its position, where the posterior knows it: the probes made there count.
    """
    usable = np.flatnonzero(np.isfinite(posterior.level) & (posterior.measured >= FEWEST) & (weights > 0))
    if not len(usable):
        return _typical_view(posterior, probed)
    share = weights[usable] / weights[usable].sum()
    mean, loadings, uncertainty = _drawn(posterior, len(usable))
    if own_loadings:
        mean, loadings = posterior.mean[usable], posterior.loadings[usable]
        uncertainty = posterior.uncertainty[usable]
    residual, repeatable = posterior.residual[usable], posterior.repeatable[usable]
    level, stderr = float(share @ posterior.level[usable]), np.nan_to_num(posterior.level_stderr[usable])
    return View(
        target=None,
        probed=probed,
        weights=share,
        level=level,
        level_stderr=float(np.sqrt(share @ ((posterior.level[usable] - level) ** 2 + stderr**2))),
        noise=float(share @ posterior.noise[usable]),
        transforms=Transforms([transform(posterior, t) for t in usable.tolist()]),
        mean=mean,
        loadings=loadings,
        uncertainty=uncertainty,
        residual=residual,
        repeatable=repeatable,
        level_var=np.zeros(len(usable)),
        explained=_explained(posterior, probed, repeatable * residual),
    )


def _typical_view(posterior: Posterior, probed: int | None) -> View:
    """One component, of the typical scale and centre; how far centres differ widens mu."""
    scale = float(np.exp(posterior.scale_line[0] + posterior.scale_line[1] * np.log(USUAL_BINOMIAL)))
    mean, loadings, uncertainty = _drawn(posterior, 1)
    uncertainty[:, 0, 0] += posterior.centre[1]
    residual, repeatable = np.array([posterior.typical_residual]), np.array([posterior.typical_repeatable])
    return View(
        target=None,
        probed=probed,
        weights=np.ones(1),
        level=float("nan"),
        level_stderr=float("nan"),
        noise=float("nan"),
        transforms=Transforms([plain(scale * float(np.sinh(posterior.centre[0])), scale)]),
        mean=mean,
        loadings=loadings,
        uncertainty=uncertainty,
        residual=residual,
        repeatable=repeatable,
        level_var=np.zeros(1),
        explained=_explained(posterior, probed, repeatable * residual),
    )


def _drawn(
    posterior: Posterior, count: int
) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "K F"], Float[np.ndarray, "K F+1 F+1"]]:
    """(mu, s) of a target drawn from the family, `count` times, and its covariance."""
    theta = np.tile(posterior.typical_theta, (count, 1))
    return theta[:, 0], theta[:, 1:], np.tile(np.diag(posterior.typical_var), (count, 1, 1))


def transform(posterior: Posterior, target: int) -> Transform:
    """The transform of a target."""
    return Transform(posterior.knots[target], posterior.knots_z[target], float(posterior.tail[target]))


def fitted_noise(posterior: Posterior, target: int) -> float:
    """Variance of one run in the fit's own z."""
    return max(float((1 - posterior.repeatable[target]) * posterior.residual[target]), SMALLEST)


def middle_gain(posterior: Posterior, target: int) -> float:
    """Median of the gains measured on the target, points; 0 where there are none."""
    gains = posterior.cell_gain[posterior.cell_target == target]
    return float(np.median(gains)) if len(gains) else 0.0


def level_variance(
    transforms: Transforms, stderr: Float[np.ndarray, "K"], middle: float
) -> Float[np.ndarray, "K"]:
    """`View.level_var` of a level with these standard errors, around the gain `middle`, all in points."""
    ends = [
        one.z(np.array([middle - e, middle + e])) for one, e in zip(transforms, stderr.tolist(), strict=True)
    ]
    return np.array([((high - low) / 2) ** 2 / NORMAL for low, high in ends])


def _explained(
    posterior: Posterior, probed: int | None, repeatable_var: Float[np.ndarray, "K"]
) -> Float[np.ndarray, "K"]:
    found = 0.0 if probed is None else posterior.explained[probed]
    return np.asarray(np.minimum(found, MOST_EXPLAINED * repeatable_var))


def likeness(
    train_sizes: Float[np.ndarray, "T"],
    classes: Float[np.ndarray, "T"],
    train_size: float | None,
    class_count: float | None,
) -> Float[np.ndarray, "T"]:
    """Weight of each known target as a guide to one described by its training rows and classes.

    Gaussian kernels on the logarithms; a fact that is not known (NaN or None), or of which there is none,
    weighs alike for all.
    """
    weights = np.ones(len(train_sizes))
    for known, asked, bandwidth in (
        (train_sizes, train_size, TRAIN_BANDWIDTH),
        (classes, class_count, CLASSES_BANDWIDTH),
    ):
        if asked is not None and asked > 0:
            distance = np.log(np.where(known > 0, known, np.nan) / asked) / bandwidth
            weights *= np.where(np.isnan(distance), 1.0, UNLIKE + np.exp(-0.5 * distance**2))
    return weights


# ---------------------------------------------------------------- what the posterior holds of a view's pairs


def pairs_here(
    posterior: Posterior, view: View, rows: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "h"], Int[np.ndarray, "h"]]:
    """Positions of the probed pairs on the viewed target, and of their checkpoints in `rows`."""
    start, end = pair_range(posterior, view)
    found, here = positions(posterior.pair_checkpoint[start:end], rows)
    return start + found, here


def pair_range(posterior: Posterior, view: View) -> tuple[int, int]:
    """Where the probed pairs of the viewed target begin and end: pairs are sorted by target."""
    if view.probed is None:
        return 0, 0
    start, end = np.searchsorted(posterior.pair_target, (view.probed, view.probed + 1))
    return int(start), int(end)


def cells_here(
    posterior: Posterior, view: View, rows: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "h"], Int[np.ndarray, "h"]]:
    """Positions of the cells on the viewed target, and of their checkpoints in `rows`."""
    if view.target is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    at = np.flatnonzero(posterior.cell_target == view.target)
    found, here = positions(posterior.cell_checkpoint[at], rows)  # ascending: cells are sorted by checkpoint
    return at[found], here


def positions(
    checkpoints: Int[np.ndarray, "c"], rows: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "h"], Int[np.ndarray, "h"]]:
    """Positions in ascending `checkpoints` of those rows that are there, and their positions in `rows`."""
    if not len(checkpoints):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    found = np.minimum(np.searchsorted(checkpoints, rows), len(checkpoints) - 1)
    here = np.flatnonzero(checkpoints[found] == rows)
    return found[here], here
