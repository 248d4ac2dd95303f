"""LogME: how probable the labels are under a Bayesian linear regression on the frozen features.

What: LogME(m, t), the logarithm of the evidence p(y | X) of y = X w + noise, w ~ N(0, I / alpha), noise of
precision beta, at the alpha and beta that make it largest; per row, averaged over classes, each against the
rest (y is 1 for rows of the class, 0 for others), or of the values themselves for a regression.
Unit: nats per row. It depends on the scale of a regression's values, so it compares checkpoints on one
target, not targets.
Range: unbounded; about -1.4 and above for classes.
Source: You, Liu, Wang, Long, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning",
ICML 2021, arXiv 2102.11005, eq. 2 and 3: L(alpha, beta) = n/2 log beta + d/2 log alpha - n/2 log 2 pi
- beta/2 |Xm - y|^2 - alpha/2 m'm - 1/2 log |alpha I + beta X'X|. We take it in the eigenbasis of X'X, so that
one decomposition serves all classes. There, with t = beta/alpha, the best noise is had in closed form:
sigma^2(t) = (rest + sum_j w_j / (1 + t lambda_j)) / n, w_j being y's square length along eigenvector j and
`rest` what lies along none; then L(t) = -1/2 (n log 2 pi e sigma^2(t) + sum_j log(1 + t lambda_j)).

When it does not apply: one class only, or values that are all the same; features that are all 0.

Where we deviate: the same number as the paper's, found another way: L(t) is searched on a grid over all t and
finished by Newton's method, where the paper iterates a fixed point that may stop early or at a lesser peak.
With fewer rows than features it stays the logarithm of a Gaussian density; the published code there drops
(d - n)/2 log alpha and grows with the width on pure noise. Features are not centred and there is no bias, as
in the paper. Labels that a linear map of the features fits without error have infinite evidence: their noise
is taken to be at least 1e-10 of their square length. Classes without rows do not enter the mean. The standard
error is the jackknife's at the alpha and beta found: what a row adds to the log evidence is its log density
given all other rows, which its leverage tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.failures import NotApplicable
from headstart.linalg import spectrum
from headstart.method import Method, Source
from headstart.moments import Stream, indicators, moments
from headstart.probe import (
    Estimate,
    Permutations,
    ProbeParams,
    measure,
    permuted,
    seen_classes,
    standard_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float

    from headstart.method import Measurement
    from headstart.workbench import Rows, Workbench

_EXACT = 1e-10  # least share of |y|^2 that is taken to be noise
_DECADES = 6.0  # how far t is searched beyond 1 / lambda_max and 1 / lambda_min
_STEP = 0.6  # of the grid, in log t: L varies over about one unit of it
_CHUNK = 1024  # problems at once


class LogMEParams(ProbeParams):
    """Parameters of LogME."""

    permutations: Permutations = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The largest evidence of m problems."""

    evidence: Float[np.ndarray, "m"]  # nats
    ratio: Float[np.ndarray, "m"]  # t = beta / alpha
    noise: Float[np.ndarray, "m"]  # sigma^2 = 1 / beta


def fit(
    eigenvalues: Float[np.ndarray, "r"],
    along: Float[np.ndarray, "m r"],
    energy: Float[np.ndarray, "m"],
    rows: int,
) -> Fit:
    """Maximise the evidence of m targets y over t.

    `eigenvalues` of X'X, descending and above 0; `along`: squares of y's components along the left singular
    vectors of X; `energy`: |y|^2, above 0.
    """
    found = [
        _fit(eigenvalues, along[i : i + _CHUNK], energy[i : i + _CHUNK], rows)
        for i in range(0, len(along), _CHUNK)
    ]
    return Fit(
        evidence=np.concatenate([one.evidence for one in found]),
        ratio=np.concatenate([one.ratio for one in found]),
        noise=np.concatenate([one.noise for one in found]),
    )


def _fit(
    eigenvalues: Float[np.ndarray, "r"],
    along: Float[np.ndarray, "m r"],
    energy: Float[np.ndarray, "m"],
    rows: int,
) -> Fit:
    whole = len(eigenvalues) == rows  # the features span all of y's space, and there is no rest
    rest = np.zeros(len(along)) if whole else np.maximum(energy - along.sum(axis=1), _EXACT * energy)
    margin = _DECADES * np.log(10)
    low, high = -np.log(eigenvalues[0]) - margin, -np.log(eigenvalues[-1]) + margin
    grid = np.linspace(low, high, 1 + int(np.ceil((high - low) / _STEP)))
    damped = 1 + np.exp(grid) * eigenvalues[:, None]  # (r, grid)
    noise = (along @ (1 / damped) + rest[:, None]) / rows
    best = grid[np.argmax(-rows * np.log(noise) - np.log(damped).sum(axis=0), axis=1)]
    step = grid[1] - grid[0]
    log_ratio = _peak(eigenvalues, along, rest, rows, np.clip(best, low + step, high - step), step)
    damped = 1 + np.exp(log_ratio)[:, None] * eigenvalues  # (m, r)
    noise = ((along / damped).sum(axis=1) + rest) / rows
    evidence = -0.5 * (rows * np.log(2 * np.pi * np.e * noise) + np.log(damped).sum(axis=1))
    return Fit(evidence=evidence, ratio=np.exp(log_ratio), noise=noise)


def _peak(
    eigenvalues: Float[np.ndarray, "r"],
    along: Float[np.ndarray, "m r"],
    rest: Float[np.ndarray, "m"],
    rows: int,
    around: Float[np.ndarray, "m"],
    step: float,
) -> Float[np.ndarray, "m"]:
    """The log t of the highest L within a grid step: Newton's method, and bisection where it would leave."""
    low, high, here = around - step, around + step, around.copy()
    for _ in range(40):
        share = 1 - 1 / (1 + np.exp(here)[:, None] * eigenvalues)  # t lambda / (1 + t lambda)
        bend = share * (1 - share)
        noise = (along * (1 - share)).sum(axis=1) + rest  # n sigma^2
        first = -(along * bend).sum(axis=1) / noise
        second = -(along * bend * (1 - 2 * share)).sum(axis=1) / noise
        slope = -0.5 * (rows * first + share.sum(axis=1))
        curve = -0.5 * (rows * (second - first**2) + bend.sum(axis=1))
        low, high = np.where(slope > 0, here, low), np.where(slope > 0, high, here)
        newton = here - slope / np.where(curve < 0, curve, -np.inf)
        inside = (curve < 0) & (newton > low) & (newton < high)
        there = np.where(inside, newton, (low + high) / 2)
        moved, here = np.max(np.abs(there - here)), there
        if moved < 1e-7:  # L is flat at its peak: its error is of the order of the square of this
            break
    return here


def estimate(
    stream: Stream,
    targets: Callable[[slice], Any],
    energy: Float[np.ndarray, "q k"],
    plain: Callable[[slice], Float[np.ndarray, "b k"]],
) -> Estimate:
    """LogME of q labellings with k targets each, of which the first is the truth and the others its null.

    `targets` gives the (q * k, b) values of a block of rows, `plain` the true ones alone as (b, k).
    """
    labellings, k = energy.shape
    sums = moments(stream, targets, energy.size)
    eigenvalues, vectors = spectrum(sums.gram)
    slopes = sums.cross @ vectors  # V'X'y
    found = fit(eigenvalues, slopes**2 / eigenvalues, energy.ravel(), stream.rows)
    values = found.evidence.reshape(labellings, k).mean(axis=1) / stream.rows
    ratio, noise = found.ratio[:k, None], found.noise[:k]
    damped = ratio / (1 + ratio * eigenvalues)  # (k, r): posterior covariance over sigma^2
    weights = (damped * slopes[:k]).T  # (r, k): posterior means
    influence = []
    for part, block in stream:
        z = block @ vectors
        # Of each row its log density given the others: by the leverage h, both its misfit and its variance
        # without it are those with it over 1 - h.
        free = np.maximum(1 - z**2 @ damped.T, _EXACT)  # (b, k)
        misfit = (plain(part) - z @ weights) ** 2
        influence.append((np.log(free) - misfit / (noise * free)).mean(axis=1) / 2)
    return Estimate(
        value=float(values[0]),
        stderr=standard_error(np.concatenate(influence)),
        null=values[1:],
        details={"rank": len(eigenvalues), "noise": float(noise.mean())},
    )


def estimate_classes(stream: Stream, labels: np.ndarray, permutations: int, seed: int) -> Estimate:
    """LogME of classes, each against the rest, averaged."""
    codes, counts = seen_classes(labels, "LogME")
    k = len(counts)
    drawn = permuted(codes, permutations, seed, k * stream.width)
    energy = np.tile(counts.astype(np.float64), (len(drawn), 1))

    def plain(part: slice) -> Float[np.ndarray, "b k"]:
        return np.asarray(np.eye(k)[codes[part]])

    return estimate(stream, indicators(drawn, k), energy, plain)


def estimate_values(stream: Stream, labels: np.ndarray, permutations: int, seed: int) -> Estimate:
    """LogME of a regression's values. Raises NotApplicable where they are all the same."""
    if np.all(labels == labels[0]):
        raise NotApplicable(f"LogME compares labels, and all {len(labels)} rows read have the same.")
    drawn = permuted(labels.astype(np.float64), permutations, seed, stream.width)
    energy = np.full((len(drawn), 1), labels @ labels)
    return estimate(stream, lambda part: drawn[:, part], energy, lambda part: drawn[:1, part].T)


def run(bench: Workbench, params: LogMEParams) -> Measurement:
    """Measure it on the train rows."""
    features = bench.features(params.spec())
    by = estimate_values if features.classes is None else estimate_classes

    def on_layer(rows: Rows, layer: str) -> Estimate:
        stream = Stream(rows, layer, features.dimension)
        return by(stream, rows.labels, params.permutations, bench.seed)

    return measure(bench, features, params.layers, on_layer)


METHOD = Method(
    name="logme",
    version="1",
    subject="checkpoint x target",
    unit="nats per row",
    range=(-np.inf, np.inf),
    higher_is_better=True,
    needs=("features", "labelled rows"),
    source=Source(
        paper="You et al., LogME, ICML 2021, arXiv 2102.11005",
        equation="L = n/2 log beta + d/2 log alpha - n/2 log 2 pi - beta/2 |Xm - y|^2 - alpha/2 m'm "
        "- 1/2 log |alpha I + beta X'X|",
    ),
    summary="Log evidence of the labels under a Bayesian linear regression on the frozen features.",
    params=LogMEParams,
    run=run,
)
