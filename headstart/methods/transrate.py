"""TransRate: how many nats the labels save when the frozen features are coded to a given distortion.

What: TrR(m, t) = R(Z) - R(Z | Y), the coding rate of all rows less the mean coding rate of a class: a
stand-in for the mutual information of features and labels.
Unit: nats per row.
Range: 0 or more: classes are not centred, so the Z'Z / n of all is the mean of theirs, each counted by its
share of the rows, and log det is concave.
Source: Huang, Huang, Rong, Yang, Wei, "Frustratingly Easy Transferability Estimation", ICML 2022, arXiv
2106.09362: TrR = R(Z, e) - R(Z, e | Y), R(Z, e) = 1/2 log det(I + Z'Z / (n e)) on centred Z, e = 1e-4.

When it does not apply: regressions; one class only; features that do not vary. It needs all rows at once and
holds them twice in memory, in fp64 and by class.

Where we deviate: the features are scaled to a mean square distance of 1 from their mean, without which a
checkpoint with longer features has the larger rate at the same distortion. Classes count by their share of
the rows, as in the coding rate of Yu et al. (NeurIPS 2020, arXiv 2006.08558); the authors' code counts all
alike, which is the same for classes of one size. A class with fewer rows than features has at most as many
directions as rows, so its rate is too low and the value too high: read it against its null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from headstart.failures import NonFinite, NotApplicable
from headstart.method import Method, Source
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
    from jaxtyping import Float, Int

    from headstart.method import Measurement
    from headstart.workbench import Rows, Workbench


class TransRateParams(ProbeParams):
    """Parameters of TransRate."""

    distortion: float = Field(1e-4, gt=0, le=1, description="e, as a share of the features' total variance.")
    permutations: Permutations = 10


def coding_rate(z: Float[np.ndarray, "n d"], distortion: float) -> float:
    """R(Z, e) = 1/2 log det(I + Z'Z / (n e)) in nats, by the lesser of Z'Z and ZZ'."""
    return float(np.log(np.diag(_factor(z, distortion))).sum())


def _factor(z: Float[np.ndarray, "n d"], distortion: float) -> Float[np.ndarray, "s s"]:
    """Lower Cholesky factor of I + Z'Z / (n e), or of I + ZZ' / (n e) where that is smaller."""
    from scipy import linalg  # noqa: PLC0415 - off the start of the service

    gram = (z @ z.T if len(z) < z.shape[1] else z.T @ z) / (len(z) * distortion)
    gram[np.diag_indices(len(gram))] += 1
    factor: Float[np.ndarray, "s s"] = linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    return factor


def _leverage(z: Float[np.ndarray, "n d"], distortion: float) -> Float[np.ndarray, "n"]:
    """x' (e I + Z'Z / n)^-1 x of every row x of Z."""
    from scipy import linalg  # noqa: PLC0415 - off the start of the service

    factor = _factor(z, distortion)
    if len(z) < z.shape[1]:  # with M = I + ZZ' / (n e), the hat matrix is n (I - M^-1)
        inverse = linalg.solve_triangular(factor, np.eye(len(z)), lower=True)
        return np.asarray(len(z) * (1 - (inverse**2).sum(axis=0)))
    white = linalg.solve_triangular(factor, z.T, lower=True)
    return np.asarray((white**2).sum(axis=0) / distortion)


def _toward_mean(z: Float[np.ndarray, "n d"], distortion: float) -> Float[np.ndarray, "d"]:
    """(e I + Z'Z / n)^-1 d, d the mean of the rows of Z."""
    from scipy import linalg  # noqa: PLC0415 - off the start of the service

    factor, mean = _factor(z, distortion), z.mean(axis=0)
    if len(z) < z.shape[1]:  # Woodbury
        inner = linalg.cho_solve((factor, True), z @ mean)
        return np.asarray((mean - z.T @ inner / (len(z) * distortion)) / distortion)
    return np.asarray(linalg.cho_solve((factor, True), mean) / distortion)


def estimate(
    x: Float[np.ndarray, "n d"], labels: np.ndarray, distortion: float, permutations: int, seed: int
) -> Estimate:
    """TransRate with its standard error and null."""
    codes, counts = seen_classes(labels, "TransRate")
    z = x.astype(np.float64)
    power = np.mean(z**2) * z.shape[1]
    if not np.isfinite(power):
        raise NonFinite("The features hold values that are NaN or infinite.")
    z -= z.mean(axis=0)
    scale = float(np.mean(z**2) * z.shape[1])
    if scale <= 1e-12 * power:
        raise NotApplicable(f"The features are the same on all {len(z)} rows.")
    z /= np.sqrt(scale)
    whole = coding_rate(z, distortion)
    rates = np.array(
        [
            [coding_rate(z[rows], distortion) for rows in _by_class(drawn, counts)]
            for drawn in permuted(codes, permutations, seed)
        ]
    )
    values = np.maximum(whole - rates @ counts / len(z), 0.0)  # rounding may leave the range
    return Estimate(
        value=float(values[0]),
        stderr=standard_error(_influence(z, codes, counts, rates[0], distortion)),
        null=values[1:],
        details={"rate": whole, "classes_below_width": int(np.sum(counts < z.shape[1]))},
    )


def _by_class(codes: Int[np.ndarray, "n"], counts: Int[np.ndarray, "k"]) -> list[Int[np.ndarray, "..."]]:
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])


def _influence(
    z: Float[np.ndarray, "n d"],
    codes: Int[np.ndarray, "n"],
    counts: Int[np.ndarray, "k"],
    rates: Float[np.ndarray, "k"],
    distortion: float,
) -> Float[np.ndarray, "n"]:
    """What each row adds to n TransRate: by the covariance of all, by that of its class, and by the mean."""
    found = _leverage(z, distortion) / 2
    pull = np.zeros(z.shape[1])
    for k, rows in enumerate(_by_class(codes, counts)):
        own = _leverage(z[rows], distortion) / 2
        found[rows] -= rates[k] + own - own.mean()
        pull += counts[k] / len(z) * _toward_mean(z[rows], distortion)
    return found + z @ pull


def run(bench: Workbench, params: TransRateParams) -> Measurement:
    """Measure it on the train rows."""
    features = bench.features(params.spec())
    needs_classes(features, "TransRate")

    def on_layer(rows: Rows, layer: str) -> Estimate:
        x = rows.array(layer)
        return estimate(x, rows.labels, params.distortion, params.permutations, bench.seed)

    return measure(bench, features, params.layers, on_layer)


METHOD = Method(
    name="transrate",
    version="1",
    subject="checkpoint x target",
    unit="nats per row",
    range=(0.0, np.inf),
    higher_is_better=True,
    needs=("features", "labelled rows"),
    source=Source(
        paper="Huang et al., Frustratingly Easy Transferability Estimation, ICML 2022, arXiv 2106.09362",
        equation="TrR = R(Z, e) - R(Z, e | Y), R(Z, e) = 1/2 log det(I + Z'Z / (n e))",
    ),
    summary="How many nats the labels save when the frozen features are coded to a given distortion.",
    params=TransRateParams,
    run=run,
)
