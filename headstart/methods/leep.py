"""LEEP: how well the checkpoint's own classification head foretells the target's labels.

What: LEEP(m, t), the mean log likelihood of the labels under the expected empirical predictor: the head's
probabilities of its own classes z, carried over to the target's classes y by their joint frequency.
Unit: nats per row.
Range: at most 0; the negated entropy of the labels says that the head knows nothing of them.
Source: Nguyen, Hassner, Seeger, Archambeau, "LEEP: A New Measure to Evaluate Transferability of Learned
Representations", ICML 2020, arXiv 2002.12462, eq. 2: T = 1/n sum_i log sum_z P(y_i | z) theta(x_i)_z, with
P(y, z) = 1/n sum_{i: y_i = y} theta(x_i)_z.

When it does not apply: regressions; one class only; a checkpoint without a classification head.

Where we deviate: nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.method import Method, Source
from headstart.moments import indicators
from headstart.probe import (
    Estimate,
    PassParams,
    Permutations,
    head_probabilities,
    measure,
    needs_classes,
    permuted,
    seen_classes,
    standard_error,
)
from headstart.workbench import LAST

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from headstart.method import Measurement
    from headstart.workbench import Rows, Workbench

_BLOCK = 4096


class LeepParams(PassParams):
    """Parameters of LEEP."""

    permutations: Permutations = 20


def predictors(
    theta: Float[np.ndarray, "n z"], codes: Int[np.ndarray, "q n"], classes: int
) -> Float[np.ndarray, "q k z"]:
    """P(y | z) of q labellings, from the joint frequency; 0 for a z that no row has any of."""
    weights = indicators(codes, classes)
    joint = np.zeros((len(codes) * classes, theta.shape[1]))
    for start in range(0, len(theta), _BLOCK):
        part = slice(start, min(start + _BLOCK, len(theta)))
        joint += weights(part) @ theta[part]
    table = joint.reshape(len(codes), classes, -1)
    total = table.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(table, total, out=np.zeros_like(table), where=total > 0))


def likelihoods(
    theta: Float[np.ndarray, "n z"], codes: Int[np.ndarray, "n"], given: Float[np.ndarray, "k z"]
) -> Float[np.ndarray, "n"]:
    """sum_z P(y_i | z) theta_iz: what the predictor says of each row's label; above 0, at most 1."""
    found = (theta @ given.T)[np.arange(len(codes)), codes]
    return np.asarray(np.minimum(found, 1.0))  # rounding may leave the range


def estimate(theta: Float[np.ndarray, "n z"], labels: np.ndarray, permutations: int, seed: int) -> Estimate:
    """LEEP with its standard error and null."""
    codes, counts = seen_classes(labels, "LEEP")
    drawn = permuted(codes, permutations, seed, len(counts) * theta.shape[1])
    given = predictors(theta, drawn, len(counts))
    found = [likelihoods(theta, one, by) for one, by in zip(drawn, given, strict=True)]
    values = np.array([np.log(one).mean() for one in found])
    # A row moves its own likelihood, and those of others through P(y | z).
    pull = np.zeros(given[0].shape)
    np.add.at(pull, codes, theta / found[0][:, None])  # (k, z): n times the slope by P(y | z)
    mass = theta.sum(axis=0)
    share = np.divide(theta, mass, out=np.zeros_like(theta), where=mass > 0)
    moved = (share * (pull[codes] - (pull * given[0]).sum(axis=0))).sum(axis=1)
    return Estimate(
        value=float(values[0]),
        stderr=standard_error(np.log(found[0]) + moved),
        null=values[1:],
        details={"head_classes": theta.shape[1]},
    )


def run(bench: Workbench, params: LeepParams) -> Measurement:
    """Measure it on the train rows."""
    features = bench.features(params.spec())
    needs_classes(features, "LEEP")

    def on_head(rows: Rows, _: str) -> Estimate:
        return estimate(head_probabilities(rows, "LEEP"), rows.labels, params.permutations, bench.seed)

    return measure(bench, features, (LAST,), on_head)


METHOD = Method(
    name="leep",
    version="1",
    subject="checkpoint x target",
    unit="nats per row",
    range=(-np.inf, 0.0),
    higher_is_better=True,
    needs=("features", "source probabilities", "labelled rows"),
    source=Source(
        paper="Nguyen et al., LEEP, ICML 2020, arXiv 2002.12462",
        equation="T = 1/n sum_i log sum_z P(y_i | z) theta(x_i)_z",
    ),
    summary="How well the checkpoint's own classification head foretells the target's labels.",
    params=LeepParams,
    run=run,
)
