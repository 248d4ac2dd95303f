"""Which task vectors point the same way: groups of a cosine matrix, and who is in none. Pure functions.

Spectral clustering on the cosine itself, with the number of groups chosen:

1. Start fine. Eigenvectors of the cosine whose eigenvalue is above the edge of noise, 1 + 2 s sqrt(n) (the
   edge of the semicircle of n x n noise of spread s), weighted by sqrt(eigenvalue - 1), rows at length 1, cut
   into as many fragments by a pivoted QR (Damle, Minden and Ying, Simple, direct and efficient multi-way
   spectral clustering, Information and Inference 8 (2019)): no random start. Once with the s that sketches
   have, once with the s that these cosines show.
2. Join. mean cosine between two groups / sqrt(mean within one * mean within the other) is the cosine of
   their centres, freed of what each member has for itself. Over APART they are one. This, not an eigengap,
   settles the number: it asks the same whatever the sizes and the tightness.
3. Admit. A group stays where its mean within-cosine is above the background by FLOOR and by what the tightest
   of all C(n, m) groups of noise would show once in 1 / ALPHA times. A member stays where its mean cosine to
   the rest is above the background by more than noise, and by RELATED of what the group's is. The others are
   in no region. 2 and 3 are repeated until nothing moves; of the two starts the one that explains more stays.
4. Split. Each group is clustered by itself, as it is and less its own background: a drift that all finetunes
   share hides what they are made of. The parts stay where their centres are apart by the rule of 2.
5. Those in no region are clustered by themselves, until no more is found: among many others the eigenvalue of
   a small group is below the edge.

The background is the median cosine between groups, its spread s the lower half's: related tasks are all on
the upper side. Task vectors are not centred, else a family with one region would have none, and whether two
checkpoints are alike would depend on which others were uploaded.

Deviations from Gueta et al. 2023: the affinity is the cosine and not 0.5 (cosine + 1), which is flat where
cosines are 0.0 to 0.3; the number of groups is not given; not every model has a group.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.linalg import spectrum

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

NOWHERE = -1  # label of what is in no group
APART = 0.7  # cosine of two centres up to which they are two: 45 degrees
FLOOR = 0.02  # cosine above the background that counts at all
RELATED = 0.25  # share of a group's cosine above the background that a member must reach
ALPHA = 0.01  # probability of a group in noise
MOST = 256  # fragments
ENOUGH = 65_536  # cosines to tell a median from: of more, every so many-th
ROUNDS = 8  # of joining and of admitting: two or three settle it, or it goes round in circles


class Level(NamedTuple):
    """Of the cosines between unrelated task vectors."""

    background: float  # median
    spread: float  # standard deviation, of the lower half


class Start(NamedTuple):
    """One try: from so many fragments to so many groups."""

    fragments: int
    regions: int
    placed: int  # members in one
    explained: float  # sum of squares over pairs


class Partition(NamedTuple):
    """Groups 0..k-1, the largest first."""

    labels: Int[np.ndarray, "n"]
    level: Level
    edge: float  # eigenvalue that noise of this level reaches
    eigenvalues: Float[np.ndarray, "r"]  # the leading ones, largest first
    starts: tuple[Start, ...]

    @property
    def regions(self) -> int:
        """How many."""
        return int(self.labels.max(initial=NOWHERE)) + 1


def partition(
    cosine: Float[np.ndarray, "n n"], noise: float, clusters: int | None = None, most: int = MOST
) -> Partition:
    """The groups of a cosine matrix; `noise` is the standard error of a cosine.

    With `clusters` the number is told: the fragments most alike are joined until so many are left, and none
    are split. Fewer are found where no more hold two members.
    """
    count = len(cosine)
    if count < 2:
        return Partition(np.full(count, NOWHERE), Level(0.0, noise), 1.0, np.ones(count), ())
    off = _hollow(cosine)
    if clusters is None:
        labels, starts, values = _search(off, noise, most)
        labels = _among_the_rest(off, _split(off, labels, noise, most), noise, most)
    else:
        labels, starts, values = _search(off, noise, most, clusters)
    labels = by_size(labels, off)
    found = level_between(off, labels, noise)
    return Partition(labels, found, _edge(found.spread, count), values, starts)


def _hollow(cosine: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Without the diagonal: a member says nothing of itself."""
    off = np.array(cosine, dtype=np.float64)
    np.fill_diagonal(off, 0.0)
    return off


def _edge(spread: float, count: int) -> float:
    return 1 + 2 * spread * math.sqrt(count)


def _search(
    off: Float[np.ndarray, "n n"], noise: float, most: int, clusters: int | None = None, least: int = 1
) -> tuple[Int[np.ndarray, "n"], tuple[Start, ...], Float[np.ndarray, "r"]]:
    """The better of the two starts, of those that come to `least` groups.

    With `clusters` they have so many fragments at least. Where each of these is too small to stand, since far
    too many were asked for, they are begun again as if it had not been told.
    """
    count = len(off)
    few = min(most, count)
    values, vectors = spectrum(off + np.eye(count), few)
    shown = _level(off[np.triu_indices(count, 1)], noise).spread
    best, best_explained, starts = np.full(count, NOWHERE), 0.0, []
    sizes = {int(np.sum(values > _edge(spread, count))) for spread in (shown, noise)}
    for asked in (1,) if clusters is None else (clusters, 1):
        for size in sorted({min(max(size, asked), max(count // 2, 1), few) for size in sizes}):
            weight = np.sqrt(np.maximum(values[:size] - 1, 1e-9))
            labels = _settle(off, _fragments(vectors[:, :size] * weight), noise, clusters)
            starts.append(_start(off, size, labels, noise))
            if starts[-1].explained > best_explained and starts[-1].regions >= least:
                best, best_explained = labels, starts[-1].explained
        if best_explained > 0:
            break
    return best, tuple(starts), values


def _start(
    off: Float[np.ndarray, "n n"], fragments: int, labels: Int[np.ndarray, "n"], noise: float
) -> Start:
    regions, placed = int(labels.max(initial=NOWHERE)) + 1, int(np.sum(labels != NOWHERE))
    return Start(fragments, regions, placed, _explained(off, labels, noise))


def _fragments(embedded: Float[np.ndarray, "n k"]) -> Int[np.ndarray, "n"]:
    """Rows by the nearest of k axes, chosen by pivoted QR and turned into an orthogonal frame.

    The choice is among the rows as they are: those of noise are short, and would stand for nothing. Nor does
    a row that reaches less than RELATED of what its axis was chosen for belong to it yet.
    """
    from scipy import linalg  # noqa: PLC0415 - off the start of the service

    pivots = linalg.qr(embedded.T, mode="r", pivoting=True)[1][: embedded.shape[1]]
    lengths = np.linalg.norm(embedded[pivots], axis=1)
    left, _, right = linalg.svd((embedded[pivots] / np.maximum(lengths, 1e-12)[:, None]).T)
    along = np.abs(embedded @ (left @ right))
    nearest = np.argmax(along, axis=1)
    far = along[np.arange(len(along)), nearest] >= RELATED * lengths[nearest]
    return _without_lone(np.where(far, nearest, NOWHERE))


def _settle(
    off: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"], noise: float, clusters: int | None
) -> Int[np.ndarray, "n"]:
    """Join and admit until nothing moves."""
    for _ in range(ROUNDS):
        before = labels
        labels = _admit(off, _join(off, labels, clusters), noise)
        if np.array_equal(labels, before):
            break
    return labels


def _split(
    off: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"], noise: float, most: int
) -> Int[np.ndarray, "n"]:
    """Every group that is several by the rule of joining, as those; groups of four and more are asked."""
    waiting = list(range(labels.max() + 1))
    labels = labels.copy()
    split = False
    while waiting:
        group = waiting.pop()
        rows = np.flatnonzero(labels == group)
        parts = _parts(off[np.ix_(rows, rows)], noise, most) if len(rows) >= 4 else None
        if parts is None:
            continue
        fresh = labels.max() + 1
        labels[rows] = np.where(parts == NOWHERE, NOWHERE, parts + fresh)
        waiting += range(fresh, fresh + parts.max() + 1)
        split = True
    return _settle(off, _without_lone(labels), noise, None) if split else labels


def _parts(off: Float[np.ndarray, "m m"], noise: float, most: int) -> Int[np.ndarray, "m"] | None:
    """The two and more groups of one, holding half of it at least; None where it is one."""
    shared = float(np.quantile(off[np.triu_indices(len(off), 1)], 0.25))
    for removed in (0.0, shared) if FLOOR < shared < 1 else (0.0,):
        labels = _search(_hollow((off - removed) / (1 - removed)), noise, most, least=2)[0]
        labels = _join(off, labels, None)
        if labels.max() >= 1 and 2 * np.sum(labels != NOWHERE) >= len(off):
            return labels
    return None


def _among_the_rest(
    off: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"], noise: float, most: int
) -> Int[np.ndarray, "n"]:
    """Groups too small for their eigenvalue to be above the edge of all, but not of those in no group."""
    while True:
        rows = np.flatnonzero(labels == NOWHERE)
        found = _search(off[np.ix_(rows, rows)], noise, most)[0] if len(rows) >= 2 else labels[rows]
        if found.max(initial=NOWHERE) < 0:
            return labels
        more = labels.copy()
        more[rows] = np.where(found == NOWHERE, NOWHERE, found + labels.max() + 1)
        more = _settle(off, more, noise, None)
        if more.max() <= labels.max():
            return labels
        labels = more


def _join(
    off: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"], clusters: int | None
) -> Int[np.ndarray, "n"]:
    """The two groups with the nearest centres made one, again and again; `clusters` are left, if told."""
    sums, sizes = _sums(off, labels)
    origin = np.arange(len(sizes))  # group of every fragment
    while len(sizes) > (clusters or 1):
        pairs = np.outer(sizes, sizes) - np.diag(sizes)
        means = sums / np.maximum(pairs, 1)
        within = np.sqrt(np.maximum(np.diag(means), 1e-6))
        centres = means / np.outer(within, within)
        np.fill_diagonal(centres, -np.inf)
        a, b = sorted(np.unravel_index(np.argmax(centres), centres.shape))
        if clusters is None and centres[a, b] < APART:
            break
        sums[a] += sums[b]
        sums[:, a] += sums[:, b]
        sizes[a] += sizes[b]
        sums, sizes = np.delete(np.delete(sums, b, 0), b, 1), np.delete(sizes, b)
        origin = np.where(origin == b, a, origin - (origin > b))
    return np.asarray(np.append(origin, NOWHERE)[labels])


def _sums(
    off: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "k k"], Float[np.ndarray, "k"]]:
    """Sum of the cosines between groups (both orders), and the sizes of groups; there is one at least."""
    to_groups = _to_groups(off, labels)
    sizes = np.bincount(labels[labels != NOWHERE]).astype(np.float64)
    return _to_groups(to_groups.T, labels), sizes


def _to_groups(values: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n"]) -> Float[np.ndarray, "k c"]:
    """Sums of the rows of each group 0..k-1, none of them empty."""
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] != NOWHERE]
    starts = np.searchsorted(labels[order], np.arange(labels.max() + 1))
    return np.asarray(np.add.reduceat(values[order], starts, axis=0))


def _admit(off: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"], noise: float) -> Int[np.ndarray, "n"]:
    """Every member to the group it is nearest to, or to none; groups no tighter than noise dissolved."""
    for _ in range(ROUNDS):
        before, labels = labels, _without_lone(labels)
        if labels.max() < 0:
            break
        labels = _nearest(off, labels, level_between(off, labels, noise))
        if np.array_equal(labels, before):
            break
    return _without_lone(labels)


def _nearest(
    off: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"], level: Level
) -> Int[np.ndarray, "n"]:
    count = len(labels)
    member = np.equal.outer(labels, np.arange(labels.max() + 1))
    sums, sizes = _to_groups(off, labels).T, member.sum(axis=0).astype(np.float64)
    others = sizes - member  # (n, k): members besides oneself
    within = np.sum(member * sums, axis=0) / (sizes * (sizes - 1)) - level.background
    stands = within > np.maximum(FLOOR, level.spread * _of_noise(count, sizes))
    nearest = np.argmax(sums / np.maximum(others, 1), axis=1)
    rows = np.arange(count)
    near = sums[rows, nearest] / np.maximum(others[rows, nearest], 1) - level.background
    told = (
        level.spread * _quantile(math.log(ALPHA / len(sizes))) / np.sqrt(np.clip(others[rows, nearest], 1, 8))
    )
    enough = near > np.maximum(np.maximum(told, FLOOR), RELATED * within[nearest])
    pair = member[rows, nearest] & (sizes[nearest] == 2)  # judged as a group already
    return np.asarray(np.where(stands[nearest] & (enough | pair), nearest, NOWHERE))


def _of_noise(count: int, sizes: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """Mean cosine, in spreads, that the tightest of all groups of a size reaches with probability ALPHA."""
    return np.array([_of_noise_of(count, size) for size in sizes.astype(int).tolist()])


@lru_cache(maxsize=4096)
def _of_noise_of(count: int, size: int) -> float:
    ways = math.lgamma(count + 1) - math.lgamma(size + 1) - math.lgamma(count - size + 1)
    return _quantile(math.log(ALPHA) - ways) / math.sqrt(size * (size - 1) / 2)


def _quantile(log_probability: float) -> float:
    """That a standard normal variable exceeds with this probability."""
    from scipy import special  # noqa: PLC0415 - off the start of the service

    return -float(special.ndtri_exp(log_probability))


def level_between(off: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"], noise: float) -> Level:
    """Of the pairs that no group holds; background 0 and the sketch's noise where there are none."""
    apart: Bool[np.ndarray, "n n"] = np.not_equal.outer(labels, labels) | (labels == NOWHERE)
    return _level(off[np.triu(apart, 1)], noise)


def _level(cosines: Float[np.ndarray, "p"], noise: float) -> Level:
    """Median, and the spread of the lower half: more of it where few pairs tell it."""
    if len(cosines) == 0:
        return Level(0.0, noise)
    lower, median = np.quantile(cosines[:: -(-len(cosines) // ENOUGH)], [0.25, 0.5])
    spread = 1.4826 * (median - lower) * (1 + 2.5 / math.sqrt(len(cosines)))
    return Level(float(median), max(noise, float(spread)))


def _explained(off: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"], noise: float) -> float:
    """Sum over the pairs within groups of (mean cosine of the group - background)^2."""
    if labels.max() < 0:
        return 0.0
    sums, sizes = _sums(off, labels)
    pairs = sizes * (sizes - 1)
    above = np.diag(sums) / pairs - level_between(off, labels, noise).background
    return float(np.sum(pairs / 2 * above**2))


def _without_lone(labels: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Groups of one dissolved, and the others numbered 0..k-1."""
    sizes = np.bincount(labels + 1, minlength=2)
    sizes[0] = 0
    numbers = np.where(sizes >= 2, np.cumsum(sizes >= 2) - 1, NOWHERE)
    return np.asarray(numbers[labels + 1])


def by_size(labels: Int[np.ndarray, "n"], off: Float[np.ndarray, "n n"]) -> Int[np.ndarray, "n"]:
    """Numbered by size, then by tightness: the rows' order has no say."""
    if labels.max(initial=NOWHERE) < 0:
        return labels
    sums, sizes = _sums(off, labels)
    order = np.lexsort((-np.diag(sums) / (sizes * (sizes - 1)), -sizes))
    return np.asarray(np.append(np.argsort(order), NOWHERE)[labels])
