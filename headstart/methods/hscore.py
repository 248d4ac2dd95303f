"""H-score: how much of the features' variation lies between classes, redundancy removed.

What: H(m, t) = tr(S^-1 B), S the covariance of the frozen features over rows, B that of their class means.
Unit: none. It counts, softly, the directions in which classes differ.
Range: 0 to the lesser of features and classes less one.
Source: Bao et al., "An Information-Theoretic Approach to Transferability in Task Transfer Learning", ICIP
2019, arXiv 2212.10082: H(f) = tr(cov(f)^-1 cov(E[f|y])). Shrunk: Ibrahim, Ponomareva, Mazumder, "Newer is
not always better: Rethinking transferability metrics", ECML 2022, arXiv 2110.06893:
H_a(f) = tr(S_a^-1 (1 - a) B), S_a = (1 - a) S + a tr(S)/d I, with the a of Ledoit and Wolf (2004).

When it does not apply: regressions; one class only; features that do not vary. With shrinkage 0 also where
the covariance is singular, as it is with fewer rows than features.

Where we deviate: covariances are divided by n, not n - 1. S_a is never inverted: its Cholesky factor is
solved against the class means. The standard error takes a and tr(S) as given; with fewer rows than features
it is too small, 0.4 to 0.8 of the spread over fresh rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from headstart.failures import NotApplicable
from headstart.linalg import cholesky, ledoit_wolf
from headstart.method import Method, Source
from headstart.moments import Moments, Stream, indicators, moments
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

Shrinkage = Literal["ledoit-wolf"] | Annotated[float, Field(ge=0, lt=1)]


class HScoreParams(ProbeParams):
    """Parameters of the H-score."""

    shrinkage: Shrinkage = Field(
        "ledoit-wolf", description="Of the covariance towards a multiple of the identity; 0: none."
    )
    permutations: Permutations = 20


def shrunk(sums: Moments, features: int, shrinkage: Shrinkage) -> tuple[Float[np.ndarray, "w w"], float]:
    """The lower Cholesky factor of the shrunk covariance, and the shrinkage.

    Raises NotApplicable where the covariance is 0, or singular and not shrunk.
    """
    covariance = sums.covariance
    by_rule, variance = ledoit_wolf(covariance, sums.quartic, sums.rows, features)
    if variance <= 1e-12 * sums.power / features:
        raise NotApplicable(f"The features are the same on all {sums.rows} rows.")
    amount = by_rule if shrinkage == "ledoit-wolf" else shrinkage
    factor = cholesky((1 - amount) * covariance + amount * variance * np.eye(len(covariance)))
    if factor is None:
        raise NotApplicable(
            f"The covariance of {features} features over {sums.rows} rows is singular at shrinkage "
            f"{amount:g}; ask for shrinkage 'ledoit-wolf'."
        )
    return factor, amount


def estimate(
    stream: Stream, labels: np.ndarray, shrinkage: Shrinkage, permutations: int, seed: int
) -> Estimate:
    """The H-score with its standard error and null."""
    from scipy import linalg  # noqa: PLC0415 - off the start of the service

    codes, counts = seen_classes(labels, "The H-score")
    k, share, stream = len(counts), counts / stream.rows, stream.centred()
    drawn = permuted(codes, permutations, seed, k * stream.width)
    sums = moments(stream, indicators(drawn, k), len(drawn) * k)
    factor, amount = shrunk(sums, stream.features, shrinkage)
    means = sums.cross / np.tile(counts, len(drawn))[:, None] - sums.mean  # (q * k, w), centred
    white = linalg.solve_triangular(factor, means.T, lower=True)
    lengths = (white**2).sum(axis=0).reshape(len(drawn), k)
    values = (1 - amount) * lengths @ share
    # A row x of class c adds to n H what H gains by its weight: with z_k = (x - mean)' S_a^-1 d_k, d_k the
    # centred class means, that is (1 - a) (2 z_c - d_c' S_a^-1 d_c - (1 - a) sum_k share_k z_k^2).
    solved = linalg.solve_triangular(factor, white[:, :k], lower=True, trans="T")
    influence = []
    for part, block in stream:
        z, own = (block - sums.mean) @ solved, codes[part]
        influence.append(2 * z[np.arange(len(z)), own] - lengths[0, own] - (1 - amount) * z**2 @ share)
    return Estimate(
        value=float(values[0]),
        stderr=(1 - amount) * standard_error(np.concatenate(influence)),
        null=values[1:],
        details={"shrinkage": float(amount)},
    )


def run(bench: Workbench, params: HScoreParams) -> Measurement:
    """Measure it on the train rows."""
    features = bench.features(params.spec())
    needs_classes(features, "The H-score")

    def on_layer(rows: Rows, layer: str) -> Estimate:
        stream = Stream(rows, layer, features.dimension)
        return estimate(stream, rows.labels, params.shrinkage, params.permutations, bench.seed)

    return measure(bench, features, params.layers, on_layer)


METHOD = Method(
    name="hscore",
    version="1",
    subject="checkpoint x target",
    unit="none",
    range=(0.0, np.inf),
    higher_is_better=True,
    needs=("features", "labelled rows"),
    source=Source(
        paper="Bao et al., ICIP 2019, arXiv 2212.10082; shrunk: Ibrahim et al., ECML 2022, arXiv 2110.06893",
        equation="H_a(f) = tr(((1 - a) S + a tr(S)/d I)^-1 (1 - a) cov(E[f|y]))",
    ),
    summary="How much of the features' variation lies between classes, redundancy removed.",
    params=HScoreParams,
    run=run,
)
