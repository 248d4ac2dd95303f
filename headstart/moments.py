"""Sums over the rows of a target, taken in one pass over blocks: memory does not grow with the rows.

All sums are in fp64, of features that came in fp32. With fewer rows than features the rows are first turned
into as many dimensions as there are rows, which changes no distance, no angle and so no estimator, and
makes the work grow with the rows instead of with the square of the features.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.failures import NonFinite, NotApplicable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float, Int

    from headstart.workbench import Rows

_NON_FINITE = "The features hold values that are NaN or infinite."


class Stream:
    """The rows of a role in the features of one layer, in fp64 blocks, as often as they are wanted.

    `features` is the checkpoint's number of them; blocks are `width` wide, the lesser of rows and features,
    and less `centre`.
    """

    def __init__(self, rows: Rows, layer: str, features: int) -> None:
        self.rows = len(rows.labels)
        self.features = features
        self.width = min(self.rows, features)
        self.centre: Float[np.ndarray, "w"] = np.zeros(self.width)
        self._source, self._layer = rows, layer
        self._turned = _turned(rows.array(layer)) if self.rows < features else None

    def centred(self) -> Stream:
        """The same rows less the mean of the first block, for estimators that the origin does not matter to.

        Far from the origin a sum of squares has no digits left for the rows' differences.
        """
        found = copy(self)
        with np.errstate(invalid="ignore"):
            found.centre = next(block for _, block in self).mean(axis=0)
        if not np.isfinite(found.centre).all():
            raise NonFinite(_NON_FINITE)
        return found

    def __iter__(self) -> Iterator[tuple[slice, Float[np.ndarray, "b w"]]]:
        """Each block with the positions of its rows among the labels."""
        start = 0
        blocks = self._source.blocks(self._layer) if self._turned is None else [self._turned]
        for block in blocks:
            yield slice(start, start + len(block)), np.subtract(block, self.centre, dtype=np.float64)
            start += len(block)


def _turned(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Rows with the same inner products in n < d dimensions: X' = QR, X = R'Q'."""
    if not np.isfinite(x).all():
        raise NonFinite(_NON_FINITE)
    return np.ascontiguousarray(np.transpose(np.linalg.qr(x.T.astype(np.float64), mode="r")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Sums over n rows x of w features, less the stream's centre, and over each of m weightings of them."""

    rows: int
    total: Float[np.ndarray, "w"]  # sum of x
    gram: Float[np.ndarray, "w w"]  # sum of x x'
    cross: Float[np.ndarray, "m w"]  # sum of weight times x
    quartic: float  # sum of |x - mean|^4
    power: float  # mean |x|^2, the centre added back

    @property
    def mean(self) -> Float[np.ndarray, "w"]:
        """Of the rows."""
        return self.total / self.rows

    @property
    def covariance(self) -> Float[np.ndarray, "w w"]:
        """Of the rows, divided by n."""
        return self.gram / self.rows - np.outer(self.mean, self.mean)


def moments(stream: Stream, weights: Callable[[slice], Any], count: int) -> Moments:
    """Read the rows once. `weights` gives the (count, b) weights of a block, dense or sparse.

    `covariance` and `quartic` need a centred stream: elsewhere a mean far from 0 takes their digits.
    Raises NonFinite for features that are, and NotApplicable for features that are all 0.
    """
    total, gram = np.zeros(stream.width), np.zeros((stream.width, stream.width))
    cross = np.zeros((count, stream.width))
    norms, skew = np.zeros(2), np.zeros(stream.width)
    for part, block in stream:
        squares = np.einsum("ij,ij->i", block, block)
        total += block.sum(axis=0)
        gram += block.T @ block
        cross += weights(part) @ block
        norms += squares.sum(), squares @ squares
        skew += squares @ block
    if not (np.isfinite(norms).all() and np.isfinite(total).all()):
        raise NonFinite(_NON_FINITE)
    power = (norms[0] + 2 * stream.centre @ total) / stream.rows + stream.centre @ stream.centre
    if power <= 0:
        raise NotApplicable("All features of all rows are 0.")
    return Moments(
        rows=stream.rows,
        total=total,
        gram=gram,
        cross=cross,
        quartic=_quartic(stream.rows, total, gram, norms, skew),
        power=float(power),
    )


def _quartic(
    rows: int,
    total: Float[np.ndarray, "w"],
    gram: Float[np.ndarray, "w w"],
    norms: Float[np.ndarray, "2"],
    skew: Float[np.ndarray, "w"],
) -> float:
    """Sum of |x - c|^4, c the mean, expanded into sums over x: (|x|^2 - 2 c'x + |c|^2)^2."""
    mean = total / rows
    square = mean @ mean
    found = norms[1] + 4 * mean @ gram @ mean + rows * square**2
    found += 2 * square * norms[0] - 4 * mean @ skew - 4 * square * (mean @ total)
    return float(max(found, 0.0))


def indicators(codes: Int[np.ndarray, "q n"], classes: int) -> Callable[[slice], Any]:
    """Weights of q labellings of n rows at once: row q * classes + k is 1 where labelling q says k."""
    from scipy import sparse  # noqa: PLC0415 - off the start of the service

    labellings = len(codes)
    offsets = np.arange(labellings, dtype=np.int32) * classes

    def weights(part: slice) -> Any:
        labels = codes[:, part].T + offsets  # (b, q)
        where = np.arange(0, labels.size + 1, labellings, dtype=np.int32)
        ones = np.ones(labels.size)
        return sparse.csc_array((ones, labels.ravel(), where), shape=(labellings * classes, len(labels)))

    return weights
