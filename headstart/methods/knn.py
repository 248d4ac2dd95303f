"""k-nearest neighbours: how well a row's label follows from the rows whose frozen features lie nearest.

What: leave-one-out accuracy on the train rows. Each row is given the class that most of its k nearest
others have. For a regression: the correlation between each value and the mean of its k nearest others,
Pearson's where that is the target's metric, else Spearman's; the details name it.
Unit: fraction of rows right; correlation for a regression.
Range: 0..1 for classes, -1..1 for a regression. The share of the largest class is a floor, and stands in
the details beside the null: the same neighbours with the labels permuted.
Source: Cover, Hart, Nearest neighbor pattern classification, IEEE Trans. Inf. Theory 1967; as a score of
checkpoints: Renggli et al., SHiFT, VLDB 2022. k = 3 and Euclidean distance are what TransformerRanker 0.2
takes, whose value on the same features it meets.

When it does not apply: k rows or fewer; a single class; a regression whose values are all the same. It
looks at all axes alike: a checkpoint whose features hold the class on a few weak axes does better under a
linear probe. The cost grows with the square of the rows.

Where we deviate: ties never depend on the order of rows or on the names of classes. Rows with the very
same features count as one place: where it is among the k nearest, all its rows vote, even beyond k. A tie
of votes goes to the class whose voters are nearer, and one that is left is shared: a row may be half
right. TransformerRanker gives ties to the class of the lowest number. Rows with a near copy among the
others (nearer than a hundredth of the root mean square distance) are easy: the details tell their share,
and the value without them.
The standard error of the accuracy is sd / sqrt(n) over rows, with two rows right and two wrong added (Agresti
and Coull), so that it is never 0; that of a correlation is the bootstrap's over rows. Both take rows for
independent, which they are not, being each other's neighbours: on Gaussian classes it was 0.7 to 0.9 of the
spread over fresh rows (100 to 2,000 of them, 32 to 768 features), and 1.5 of it at an accuracy of 0.99.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from headstart.arrays import blocks, finite_features
from headstart.failures import NotApplicable
from headstart.method import Measurement, Method, Source
from headstart.probe import Estimate, Permutations, ProbeParams, accuracy_error, measure, permuted
from headstart.ranks import CORRELATIONS, bootstrap_stderr, correlation_named

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Int
    from scipy.sparse import csr_array

    from headstart.workbench import Rows, Workbench

NEAR_COPY = 0.01  # of the root mean square distance between rows
SPARE = 8  # candidates beyond k, for fp32 products to err among
GROUPED = 16  # distances whose least is looked at first
NEARER = 2.0**-16  # what the nearest place adds to a vote; the next half of it, and so on: decides ties only


class KnnParams(ProbeParams):
    """Parameters of k-nearest neighbours."""

    k: int = Field(3, ge=1, le=25, description="How many neighbours vote.")
    distance: Literal["euclidean", "cosine"] = Field("euclidean", description="Between features.")
    permutations: Permutations = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Which places a row's neighbours are at. Rows with the very same features are at one place."""

    place: Int[np.ndarray, "n"]  # 0..u-1, of each row
    near: (
        csr_array  # [u, u] a place, and as many nearest others as hold k rows; entries: what a vote is worth
    )
    copied: Bool[np.ndarray, "n"]  # has a near copy among the other rows


def find_neighbours(x: Float32[np.ndarray, "n d"], k: int) -> Neighbours:
    """The k nearest others of each row by Euclidean distance; n > k. Does not depend on the order of rows."""
    from scipy.sparse import csr_array  # noqa: PLC0415 - off the start of the service

    places, place, size = distinct(x)
    nearest, least = nearest_others(places, min(k, len(places) - 1))
    there = np.column_stack([np.arange(len(places)), nearest])
    others = np.cumsum(size[there], axis=1) - 1  # rows met so far, the asking one left out
    needed = np.column_stack([np.full(len(places), True), others[:, :-1] < k])
    worth = 1 + NEARER * 0.5 ** np.arange(there.shape[1])
    near = csr_array(
        (
            np.broadcast_to(worth, there.shape)[needed],
            there[needed],
            np.concatenate([[0], np.cumsum(needed.sum(axis=1))]),
        ),
        shape=(len(places), len(places)),
    )
    spread = np.sqrt(2 * np.sum(np.var(x, axis=0, dtype=np.float64)))  # root mean square of the distances
    return Neighbours(place=place, near=near, copied=((size > 1) | (least <= NEAR_COPY * spread))[place])


def distinct(
    x: Float32[np.ndarray, "n d"],
) -> tuple[Float32[np.ndarray, "u d"], Int[np.ndarray, "n"], Int[np.ndarray, "u"]]:
    """The different rows in the order of their bytes, the position of each row among them, and how often."""
    bits = np.ascontiguousarray(x + np.float32(0.0))  # -0.0 becomes 0.0
    _, first, place, size = np.unique(
        bits.view(np.dtype((np.void, bits.dtype.itemsize * bits.shape[1]))).ravel(),
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    return bits[first], place, size


def nearest_others(
    x: Float32[np.ndarray, "u d"], k: int
) -> tuple[Int[np.ndarray, "u k"], Float[np.ndarray, "u"]]:
    """The k nearest others of each row, nearest first, and the distance of the nearest; inf if k is 0.

    Candidates come from fp32 products, and from fp64 ones for rows whose neighbours those cannot tell from
    others. Their order comes from differences in fp64; ties go to the lower position.
    """
    nearest = np.zeros((len(x), k), np.int64)
    least = np.full(len(x), np.inf)
    if k == 0:
        return nearest, least
    x = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)  # a large mean would drown the differences
    right = _bordered(x, np.float32)
    for part in blocks(len(x), len(right) // 4):
        rows = np.arange(len(x))[part]
        nearest[rows], least[rows], sure = _nearest_of(rows, x, right, k)
        if len(rows := rows[~sure]):
            nearest[rows], least[rows], _ = _nearest_of(rows, x, _bordered(x, np.float64), k)
    return nearest, least


def _bordered(x: Float32[np.ndarray, "u d"], kind: type[np.floating[Any]]) -> Float[np.ndarray, "w d+1"]:
    """The rows with their square lengths; then rows at infinity, up to a multiple of GROUPED."""
    found = np.zeros((-(-len(x) // GROUPED) * GROUPED, x.shape[1] + 1), kind)
    inside = found[: len(x), :-1]
    inside[:] = x
    found[:, -1] = np.inf
    found[: len(x), -1] = np.einsum("ij,ij->i", inside, inside)
    return found


def _nearest_of(
    rows: Int[np.ndarray, "b"], x: Float32[np.ndarray, "u d"], right: Float[np.ndarray, "w d+1"], k: int
) -> tuple[Int[np.ndarray, "b k"], Float[np.ndarray, "b"], Bool[np.ndarray, "b"]]:
    """What nearest_others gives, of some rows by products in the precision of `right`, and where it is sure.

    It is where the k-th distance is less than the farthest candidate's by more than products err: then no row
    that is no candidate is a neighbour. Errors grow as the root of the number of terms (Higham and Mary, SIAM
    J. Sci. Comput. 41(5), 2019).
    """
    left = np.column_stack([-2 * right[rows, :-1], np.ones(len(rows), right.dtype)])
    square = left @ right.T  # |x_j|^2 - 2 x_i x_j
    square[np.arange(len(rows)), rows] = np.inf
    found = np.sort(smallest(square, min(k + SPARE, len(x) - 1)), axis=1)
    apart = x[rows, None, :].astype(np.float64) - x[found]
    exact = np.einsum("ijd,ijd->ij", apart, apart)
    order = np.argsort(exact, axis=1, kind="stable")[:, :k]
    lengths = right[: len(x), -1].astype(np.float64)
    error = np.finfo(right.dtype).eps * np.sqrt(x.shape[1]) * (lengths[rows] + lengths.max())
    farthest = np.take_along_axis(square, found, axis=1).max(axis=1) + lengths[rows]
    sure = np.take_along_axis(exact, order[:, -1:], axis=1)[:, 0] < farthest - error
    return np.take_along_axis(found, order, axis=1), np.sqrt(exact.min(axis=1)), sure


def smallest(values: Float32[np.ndarray, "b w"], k: int) -> Int[np.ndarray, "b k"]:
    """Where the k smallest of each row are; w is a multiple of GROUPED.

    They lie in the k groups with the smallest minima: partitioning those takes a tenth of the time.
    """
    groups = values.shape[1] // GROUPED
    if groups <= k:
        return np.argpartition(values, k - 1, axis=1)[:, :k]
    minima = values.reshape(len(values), GROUPED, groups).min(axis=1)
    kept = np.argpartition(minima, k - 1, axis=1)[:, :k]
    where = (kept[:, :, None] + np.arange(GROUPED) * groups).reshape(len(values), -1)
    best = np.argpartition(np.take_along_axis(values, where, axis=1), k - 1, axis=1)[:, :k]
    return np.take_along_axis(where, best, axis=1)


def rightness(at: Neighbours, y: Int[np.ndarray, "n"], classes: int) -> Float[np.ndarray, "n"]:
    """Of each row: 1 where its neighbours vote for its class, 1/m in a tie of m classes with it, else 0."""
    from scipy.sparse import csr_array  # noqa: PLC0415 - off the start of the service

    rows, n = np.arange(len(y)), len(y)
    ones = np.ones(n)
    counts = csr_array((ones, (at.place, y)), shape=(at.near.shape[0], classes))
    itself = csr_array((ones * (1 + NEARER), (rows, y)), shape=(n, classes))
    votes = (at.near @ counts)[at.place] - itself
    votes.eliminate_zeros()
    row = np.repeat(rows, np.diff(votes.indptr))
    most = np.maximum.reduceat(votes.data, votes.indptr[:-1])
    tied = np.add.reduceat((votes.data == most[row]).astype(np.float64), votes.indptr[:-1])
    right = np.zeros(n)
    own = (votes.indices == y[row]) & (votes.data == most[row])
    right[row[own]] = 1 / tied[row[own]]
    return right


def neighbour_means(at: Neighbours, y: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Of each row, the mean value of its neighbours."""
    count = at.near.shape[0]
    near = at.near.sign()
    sums = near @ np.bincount(at.place, weights=y, minlength=count)
    rows = near @ np.bincount(at.place, minlength=count).astype(np.float64)
    means: Float[np.ndarray, "n"] = (sums[at.place] - y) / (rows[at.place] - 1)
    return means


def estimate_classes(at: Neighbours, y: Int[np.ndarray, "n"], permutations: int, seed: int) -> Estimate:
    """Leave-one-out accuracy, with its standard error and null."""
    classes = int(y.max()) + 1
    right = rightness(at, y, classes)
    alone = right[~at.copied]
    return Estimate(
        value=float(np.mean(right)),
        stderr=accuracy_error(right),
        null=np.array(
            [np.mean(rightness(at, order, classes)) for order in permuted(y, permutations, seed)[1:]]
        ),
        details={
            "metric": "accuracy",
            "largest_class": float(np.bincount(y).max() / len(y)),
            "near_copies": float(np.mean(at.copied)),
            "value_without_copies": float(np.mean(alone)) if len(alone) else None,
        },
    )


def estimate_values(
    at: Neighbours, y: Float[np.ndarray, "n"], metric: str, permutations: int, seed: int
) -> Estimate:
    """Correlation of values and neighbours' means, with its standard error and null."""
    correlation = CORRELATIONS[metric]
    means, alone = neighbour_means(at, y), ~at.copied
    return Estimate(
        value=correlation(means, y),
        stderr=bootstrap_stderr(correlation, means, y, np.random.default_rng((seed, 1))),
        null=np.array(
            [correlation(neighbour_means(at, order), order) for order in permuted(y, permutations, seed)[1:]]
        ),
        details={
            "metric": metric,
            "near_copies": float(np.mean(at.copied)),
            "value_without_copies": correlation(means[alone], y[alone]) if alone.any() else None,
        },
    )


def run(bench: Workbench, params: KnnParams) -> Measurement:
    """Measure it on the train rows. Raises NotApplicable where they are too few, or of one label."""
    features = bench.features(params.spec())

    def on_layer(rows: Rows, layer: str) -> Estimate:
        y = rows.labels
        if len(y) <= params.k:
            raise NotApplicable(f"{len(y)} train rows are too few for {params.k} neighbours.")
        if np.all(y == y[0]):
            raise NotApplicable(f"k-NN compares labels, and all {len(y)} rows read have the same.")
        x = finite_features(rows, layer)
        at = find_neighbours(x if params.distance == "euclidean" else unit_length(x), params.k)
        if features.classes is not None:
            return estimate_classes(at, y.astype(np.int64), params.permutations, bench.seed)
        metric = correlation_named(bench.target.metric)
        return estimate_values(at, y.astype(np.float64), metric, params.permutations, bench.seed)

    return measure(bench, features, params.layers, on_layer)


def unit_length(x: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Rows of length 1, whose Euclidean distances have the order of the cosine's; rows of zeros stay."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


METHOD = Method(
    name="knn",
    version="1",
    subject="checkpoint x target",
    unit="fraction (accuracy); correlation for a regression",
    range=(-1.0, 1.0),
    higher_is_better=True,
    needs=("features", "labelled rows"),
    source=Source(
        paper="Cover, Hart, Nearest neighbor pattern classification, IEEE Trans. Inf. Theory 13(1), 1967",
        equation="mean over i of [ y_i = mode of the y_j of the k nearest j != i ]",
    ),
    summary="Leave-one-out accuracy of the nearest neighbours in the frozen features.",
    params=KnnParams,
    run=run,
)
