"""The transform of a target's gains to z: normal scores where there are many, asinh where there are few.

    z(y) = w * Phi^-1((rank(y) - 1/2) / n) + (1 - w) * asinh((y - q50) / c),      w = n / (n + HALF)

over the n gains measured on the target; beyond the outermost gains z grows as the asinh does. Least squares
on raw gains orders checkpoints worse than their plain mean, and the largest single step over it is to
standardise each target (Headstart, docs/decisions/0008). q50 and c (the larger of the interquartile range /
1.349 and the standard deviation within the 5 % and 95 % quantiles) lean to what a typical target has. So the
median of a few gains is not taken out: it tells a checkpoint that is bad everywhere. Kept as knots: both maps
are linear between them.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend.gains import robust_scale

if TYPE_CHECKING:
    from jaxtyping import Float

KNOTS = 64
HALF = 100.0  # gains with which normal scores and asinh count alike
FEW = 8.0  # a target's own centre and scale count like its gains against this many of the typical target
SMALLEST = 0.1  # points: no scale is finer
STEEPEST = 20.0  # z beyond the outermost knot to which asinh is followed
ENOUGH = 3  # gains from which a target has a scale of its own
TYPICAL_SCALE = 2.0  # points, before any target was measured
TYPICAL_BINOMIAL = 1.5  # points: 1,000 rows at 66 %
SCALE_SLOPE = 0.5  # of log c on log binomial
SCALE_SPREAD = 0.6  # standard deviation of log c about the line
CENTRE_VARIANCE = 0.25  # of asinh(q50 / c) over targets


class Transform(NamedTuple):
    """One monotone map between gains in points and z. G knots, both strictly increasing."""

    knots: Float[np.ndarray, "G"]
    knots_z: Float[np.ndarray, "G"]
    tail: float  # c

    def z(self, gain: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """From points to z."""
        y, c = self.knots, self.tail
        found = np.asarray(np.interp(gain, y, self.knots_z))
        if not _any_beyond(gain, y):
            return found
        ends = np.clip(gain, y[0], y[-1])
        return np.asarray(found + np.arcsinh(gain / c) - np.arcsinh(ends / c))

    def gain(self, z: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """From z to points."""
        y, c = self.knots, self.tail
        found = np.asarray(np.interp(z, self.knots_z, y))
        if not _any_beyond(z, self.knots_z):
            return found
        beyond = np.clip(z - np.clip(z, self.knots_z[0], self.knots_z[-1]), -STEEPEST, STEEPEST)
        return np.asarray(np.where(beyond == 0, found, c * np.sinh(np.arcsinh(found / c) + beyond)))

    def slope(self, z: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Points per unit of z around z."""
        return np.asarray(self.gain(z + 0.5) - self.gain(z - 0.5))


def _any_beyond(values: Float[np.ndarray, "..."], knots: Float[np.ndarray, "G"]) -> bool:
    """As a rule not one lies beyond the outermost knots, and the tails need not be worked out."""
    return bool(((values < knots[0]) | (values > knots[-1])).any())


class Transforms(tuple[Transform, ...]):
    """K transforms side by side: gains under all of them by one search in one table."""

    def z(self, gain: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n K"]:
        """From points to z, by each."""
        if len(self) == 1:
            return np.asarray(self[0].z(gain))[:, None]
        table = self._table
        ends = np.clip(gain, table.first, table.last)
        found = np.interp(ends + table.above, table.knots, table.z)
        if not (ends == gain).all():
            found = found + np.arcsinh(gain / table.tail) - np.arcsinh(ends / table.tail)
        return np.asarray(found.T)

    def gain(self, z: Float[np.ndarray, "... K"]) -> Float[np.ndarray, "... K"]:
        """From z to points, each column by its own."""
        if len(self) == 1:
            return self[0].gain(z)
        table = self._table
        # transform by transform, so that the search goes on from where it was: twice as fast
        asked = np.ascontiguousarray(z.reshape(-1, len(self)).T)
        inside = np.clip(asked, table.first_z, table.last_z)
        found = np.interp(inside + table.above_z, table.knots_z, table.gain)
        beyond = np.clip(asked - inside, -STEEPEST, STEEPEST)
        if beyond.any():
            far = table.tail * np.sinh(np.arcsinh(found / table.tail) + beyond)
            found = np.where(beyond == 0, found, far)
        return np.asarray(found.T.reshape(z.shape))

    def z_of_one(self, gain: float) -> float:
        """From points to z, by the first: in plain floats, since it is on the path of every answer."""
        y, z = self._first
        right = bisect_left(y, gain)
        if not 0 < right < len(y):
            return float(self[0].z(np.array(gain)))
        share = (gain - y[right - 1]) / (y[right] - y[right - 1])
        return z[right - 1] + share * (z[right] - z[right - 1])

    @cached_property
    def _first(self) -> tuple[list[float], list[float]]:
        return self[0].knots.tolist(), self[0].knots_z.tolist()

    @cached_property
    def _table(self) -> _Table:
        return _Table.of(self)


class _Table(NamedTuple):
    """The knots of K transforms one after the other, each moved `above` those before it. G knots each."""

    first: Float[np.ndarray, "K 1"]
    last: Float[np.ndarray, "K 1"]
    above: Float[np.ndarray, "K 1"]
    knots: Float[np.ndarray, "K*G"]
    z: Float[np.ndarray, "K*G"]
    first_z: Float[np.ndarray, "K 1"]
    last_z: Float[np.ndarray, "K 1"]
    above_z: Float[np.ndarray, "K 1"]
    knots_z: Float[np.ndarray, "K*G"]
    gain: Float[np.ndarray, "K*G"]
    tail: Float[np.ndarray, "K 1"]

    @classmethod
    def of(cls, transforms: tuple[Transform, ...]) -> _Table:
        y, z, tail = (np.array(one) for one in zip(*transforms, strict=True))
        above, above_z = _apart(y), _apart(z)
        return cls(
            y[:, :1], y[:, -1:], above, (y + above).ravel(), z.ravel(),
            z[:, :1], z[:, -1:], above_z, (z + above_z).ravel(), y.ravel(), tail[:, None],
        )  # fmt: skip


def _apart(knots: Float[np.ndarray, "K G"]) -> Float[np.ndarray, "K 1"]:
    """By how much to move each row so that all of it lies above the row before."""
    return np.asarray(np.arange(len(knots))[:, None] * (knots.max() - knots.min() + 1) - knots.min())


class Shape(NamedTuple):
    """What the transform of a target is made of beside its gains."""

    centre: float  # q50, points
    scale: float  # c, points


def plain(centre: float, scale: float) -> Transform:
    """asinh((gain - centre) / scale): the transform of a target nobody was measured on."""
    z = np.linspace(-3.0, 3.0, KNOTS)
    return Transform(centre + scale * np.sinh(z), z, scale)


def fitted(gains: Float[np.ndarray, "n"], shape: Shape) -> Transform:
    """The transform of a target from its gains. With none it is `plain`."""
    if not len(gains):
        return plain(*shape)
    values, counts = np.unique(np.round(gains, 9), return_counts=True)
    share = (np.cumsum(counts) - 0.5 * counts) / len(gains)
    weight = len(gains) / (len(gains) + HALF)
    z = weight * _normal_quantile(share) + (1 - weight) * np.arcsinh((values - shape.centre) / shape.scale)
    if len(values) > KNOTS:
        kept = np.unique(np.round(np.linspace(0, len(values) - 1, KNOTS)).astype(np.int64))
        values, z = values[kept], z[kept]
    return _padded(values, z, shape.scale)


def _padded(values: Float[np.ndarray, "n"], z: Float[np.ndarray, "n"], scale: float) -> Transform:
    """Fewer gains than knots: more knots on the upper tail, which change nothing."""
    more = values[-1] + scale * np.arange(1, KNOTS - len(values) + 1)
    tail = z[-1] + np.arcsinh(more / scale) - np.arcsinh(values[-1] / scale)
    return Transform(np.concatenate([values, more]), np.concatenate([z, tail]), scale)


def _normal_quantile(share: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    from scipy.special import ndtri  # noqa: PLC0415 - off the start of the service

    return np.asarray(ndtri(share))


class Scales(NamedTuple):
    """Centre and scale of every target's gains, and what they are of a target not measured."""

    shapes: tuple[Shape, ...]
    line: Float[np.ndarray, "3"]  # log c ~ N(a + b log(binomial sd), sd^2): a, b, sd
    centre: Float[np.ndarray, "2"]  # mean and variance over targets of asinh(q50 / c)


def scales(gains: list[Float[np.ndarray, "n"]], binomial: Float[np.ndarray, "T"]) -> Scales:
    """Centre and scale of T targets, each leaning to what is typical of a target with its test split.

    `binomial`: 100 sqrt(p (1 - p) / rows tested) of the vanilla's level, points; NaN: unknown. The logarithm
    of c is regressed on its logarithm: most of the spread of small test splits is test noise.
    """
    count = np.array([len(one) for one in gains], dtype=float)
    raw = np.array([max(robust_scale(one), SMALLEST) if len(one) >= ENOUGH else np.nan for one in gains])
    line = _scale_line(np.log(raw), np.log(np.maximum(binomial, SMALLEST)), count)
    expected = typical_log_scale(line, binomial)
    share = np.where(np.isnan(raw), 0.0, count / (count + FEW))
    scale = np.exp(np.where(share > 0, share * np.log(raw), 0.0) + (1 - share) * expected)
    middle = np.array([np.median(one) if len(one) else 0.0 for one in gains])
    units = np.arcsinh(middle / scale)
    known = share > 0
    mean = float(np.sum(share * units) / (share.sum() + 1))
    variance = float((np.sum(share * (units - mean) ** 2) + CENTRE_VARIANCE) / (share.sum() + 1))
    centre = scale * np.sinh(np.where(known, share * units, 0.0) + (1 - share) * mean)
    shapes = tuple(Shape(float(m), float(c)) for m, c in zip(centre, scale, strict=True))
    return Scales(shapes, line, np.array([mean, variance]))


def typical_log_scale(
    line: Float[np.ndarray, "3"], binomial: Float[np.ndarray, "T"]
) -> Float[np.ndarray, "T"]:
    """Expected log c of a target, from the binomial noise of its test split where that is known."""
    known = np.where(np.isfinite(binomial), np.maximum(binomial, SMALLEST), TYPICAL_BINOMIAL)
    return np.asarray(line[0] + line[1] * np.log(known))


def _scale_line(
    log_scale: Float[np.ndarray, "T"], log_binomial: Float[np.ndarray, "T"], count: Float[np.ndarray, "T"]
) -> Float[np.ndarray, "3"]:
    """Ridge regression to LINE, which counts like two targets."""
    use = np.isfinite(log_scale) & np.isfinite(log_binomial)
    weight = count[use] / (count[use] + FEW)
    x = np.column_stack([np.ones(use.sum()), log_binomial[use] - np.log(TYPICAL_BINOMIAL)])
    # unknown splits still tell the level
    rest = np.isfinite(log_scale) & ~use
    level = np.concatenate([log_scale[use], log_scale[rest]])
    x = np.vstack([x, np.column_stack([np.ones(rest.sum()), np.zeros(rest.sum())])])
    weight = np.concatenate([weight, count[rest] / (count[rest] + FEW)])
    prior = np.array([np.log(TYPICAL_SCALE), SCALE_SLOPE])
    precision = (x.T * weight) @ x + 2 * np.eye(2)
    a, b = np.linalg.solve(precision, (x.T * weight) @ level + 2 * prior)
    left = level - x @ np.array([a, b])
    variance = (np.sum(weight * left**2) + 2 * SCALE_SPREAD**2) / (weight.sum() + 2)
    return np.array([a - b * np.log(TYPICAL_BINOMIAL), b, np.sqrt(variance)])
