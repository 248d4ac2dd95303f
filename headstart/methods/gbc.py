"""GBC: how little the classes overlap when each is taken for a Gaussian in the frozen features.

What: GBC(m, t) = minus the mean, over ordered pairs of different classes, of their Bhattacharyya coefficient
exp(-D), in the first 64 principal components of the features. Higher is better: 0 means that no two classes
overlap, -1 that all are alike.
Unit: none, a coefficient.
Range: -1..0.
Source: Pandy, Agostinelli, Uijlings, Ferrari, Mensink, "Transferability Estimation using Bhattacharyya Class
Separability", CVPR 2022, arXiv 2111.12780: GBC = -sum_{i != j} exp(-D(i, j)), D(i, j) = (mu_i - mu_j)' S^-1
(mu_i - mu_j) / 8 + 1/2 log(|S| / sqrt(|S_i| |S_j|)), S = (S_i + S_j) / 2, with spherical or diagonal S_i.

When it does not apply: regressions; fewer than two classes of two rows or more; features that do not vary.

Where we deviate: the mean over pairs instead of the sum, so that the range does not depend on the number of
classes; on one target the order is the same. Classes with one row have no variance and are left out, which
the details count. A variance is taken to be at least 1e-6 of the mean one over classes and components. The
standard error takes the principal components as given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from headstart.failures import NotApplicable
from headstart.linalg import spectrum
from headstart.method import Method, Source
from headstart.moments import Stream, indicators, moments
from headstart.probe import (
    Estimate,
    Permutations,
    ProbeParams,
    measure,
    needs_classes,
    permuted,
    seen_classes,
    standard_error,
)

if TYPE_CHECKING:
    from jaxtyping import Float

    from headstart.method import Measurement
    from headstart.workbench import Rows, Workbench

Shape = Literal["spherical", "diagonal"]
_LEAST = 1e-6  # least variance, as a share of the mean one


class GBCParams(ProbeParams):
    """Parameters of the GBC."""

    components: int = Field(64, ge=1, le=1024, description="Principal components that are looked at.")
    covariance: Shape = Field("spherical", description="Of each class, in the principal components.")
    permutations: Permutations = 20


def separability(
    means: Float[np.ndarray, "k c"], variances: Float[np.ndarray, "k c"]
) -> tuple[float, Float[np.ndarray, "k c"], Float[np.ndarray, "k c"]]:
    """Minus the mean Bhattacharyya coefficient over pairs of k >= 2 classes, and its slopes.

    The slopes are by the means and by the variances, which are above 0.
    """
    k = len(means)
    value, by_mean, by_variance = 0.0, np.zeros_like(means), np.zeros_like(means)
    logs = np.log(variances).sum(axis=1)
    for i in range(k):
        apart, both = means[i] - means, (variances[i] + variances) / 2
        distance = (apart**2 / both).sum(axis=1) / 8
        distance += 0.5 * np.log(both).sum(axis=1) - 0.25 * (logs[i] + logs)
        coefficient = np.exp(-distance)
        coefficient[i] = 0.0
        value -= coefficient.sum()
        by_mean[i] = 2 * coefficient @ (apart / both) / 4
        bend = 1 / both - (apart / both) ** 2 / 4 - 1 / variances[i]
        by_variance[i] = 2 * coefficient @ bend / 4
    pairs = k * (k - 1)
    value = float(np.clip(value / pairs, -1.0, 0.0))  # rounding may leave the range
    return value, by_mean / pairs, by_variance / pairs


def class_variances(
    means: Float[np.ndarray, "k c"], squares: Float[np.ndarray, "k c"], shape: Shape
) -> Float[np.ndarray, "k c"]:
    """From the mean of z and of z^2 in each class; spherical ones repeat their mean over components."""
    variances = np.maximum(squares - means**2, 0.0)
    if shape == "spherical":
        variances = np.repeat(variances.mean(axis=1, keepdims=True), variances.shape[1], axis=1)
    return np.asarray(np.maximum(variances, max(_LEAST * variances.mean(), np.finfo(np.float64).tiny)))


def estimate(
    stream: Stream, labels: np.ndarray, components: int, shape: Shape, permutations: int, seed: int
) -> Estimate:
    """The GBC with its standard error and null."""
    codes, counts = seen_classes(labels, "The GBC")
    k, kept = len(counts), counts >= 2
    if kept.sum() < 2:
        raise NotApplicable(f"The GBC needs two classes of two rows or more; {kept.sum()} of {k} has them.")
    stream = stream.centred()
    sums = moments(stream, lambda part: np.zeros((0, part.stop - part.start)), 0)
    total = float(np.trace(sums.covariance))
    if total <= 1e-12 * sums.power:
        raise NotApplicable(f"The features are the same on all {sums.rows} rows.")
    eigenvalues, basis = spectrum(sums.covariance, components)
    drawn = permuted(codes, permutations, seed, k * len(eigenvalues))
    weights = indicators(drawn, k)
    first, second = np.zeros((2, len(drawn), k, len(eigenvalues)))
    for part, block in stream:
        z, chosen = (block - sums.mean) @ basis, weights(part)
        first += (chosen @ z).reshape(first.shape)
        second += (chosen @ z**2).reshape(second.shape)
    means = first / counts[:, None]
    variances = np.stack(
        [class_variances(*one, shape) for one in zip(means, second / counts[:, None], strict=True)]
    )
    found = [separability(m[kept], v[kept]) for m, v in zip(means, variances, strict=True)]
    slopes = np.zeros((2, k, len(eigenvalues)))
    slopes[:, kept] = found[0][1:]
    if shape == "spherical":
        slopes[1] = slopes[1].mean(axis=1, keepdims=True)
    slopes *= (stream.rows / counts)[:, None]
    influence = []
    for part, block in stream:
        own = codes[part]
        z = (block - sums.mean) @ basis - means[0, own]
        influence.append((slopes[0, own] * z + slopes[1, own] * (z**2 - variances[0, own])).sum(axis=1))
    return Estimate(
        value=found[0][0],
        stderr=standard_error(np.concatenate(influence)),
        null=np.array([one[0] for one in found[1:]]),
        details={
            "components": len(eigenvalues),
            "variance_kept": float(eigenvalues.sum()) / total,
            "classes_left_out": int(k - kept.sum()),
        },
    )


def run(bench: Workbench, params: GBCParams) -> Measurement:
    """Measure it on the train rows."""
    features = bench.features(params.spec())
    needs_classes(features, "The GBC")

    def on_layer(rows: Rows, layer: str) -> Estimate:
        stream = Stream(rows, layer, features.dimension)
        return estimate(
            stream, rows.labels, params.components, params.covariance, params.permutations, bench.seed
        )

    return measure(bench, features, params.layers, on_layer)


METHOD = Method(
    name="gbc",
    version="1",
    subject="checkpoint x target",
    unit="Bhattacharyya coefficient, negated",
    range=(-1.0, 0.0),
    higher_is_better=True,
    needs=("features", "labelled rows"),
    source=Source(
        paper="Pandy et al., Transferability Estimation using Bhattacharyya Class Separability, CVPR 2022, "
        "arXiv 2111.12780",
        equation="GBC = -sum_{i != j} exp(-D(i, j))",
    ),
    summary="How little the classes overlap when each is taken for a Gaussian in the frozen features.",
    params=GBCParams,
    run=run,
)
