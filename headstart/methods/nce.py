"""NCE: how little doubt about the target's labels the checkpoint's own predicted class leaves.

What: NCE(m, t) = -H(Y | Z), the negated conditional entropy of the target's labels given the class that the
checkpoint's head finds most probable.
Unit: nats per row.
Range: at most 0; the negated entropy of the labels says that the head knows nothing of them.
Source: Tran, Nguyen, Hassner, "Transferability and Hardness of Supervised Classification Tasks", ICCV 2019,
arXiv 1908.08142, eq. 9: NCE(Y | Z) = -H(Y | Z) = sum_{y, z} P(y, z) log (P(y, z) / P(z)).

When it does not apply: regressions; one class only; a checkpoint without a classification head.

Where we deviate: the paper takes Z as the source task's true labels on the same rows; we have the head's
predictions, as usual where the source task is not at hand (Nguyen et al., ICML 2020, section 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.method import Method, Source
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


class NceParams(PassParams):
    """Parameters of the NCE."""

    permutations: Permutations = 20


def log_likelihoods(predicted: Int[np.ndarray, "n"], codes: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """log P(y_i | z_i), by the frequencies of the rows themselves."""
    width = int(codes.max()) + 1
    pairs = predicted.astype(np.int64) * width + codes
    joint = np.bincount(pairs)
    return np.asarray(np.log(joint[pairs] / np.bincount(predicted)[predicted]))


def estimate(theta: Float[np.ndarray, "n z"], labels: np.ndarray, permutations: int, seed: int) -> Estimate:
    """The NCE with its standard error and null."""
    codes, _ = seen_classes(labels, "The NCE")
    predicted = theta.argmax(axis=1)
    found = [log_likelihoods(predicted, drawn) for drawn in permuted(codes, permutations, seed)]
    return Estimate(
        value=float(found[0].mean()),
        stderr=standard_error(found[0]),  # the frequencies are at their best: no row pulls through them
        null=np.array([one.mean() for one in found[1:]]),
        details={"head_classes": theta.shape[1], "head_classes_predicted": len(np.unique(predicted))},
    )


def run(bench: Workbench, params: NceParams) -> Measurement:
    """Measure it on the train rows."""
    features = bench.features(params.spec())
    needs_classes(features, "The NCE")

    def on_head(rows: Rows, _: str) -> Estimate:
        return estimate(head_probabilities(rows, "The NCE"), rows.labels, params.permutations, bench.seed)

    return measure(bench, features, (LAST,), on_head)


METHOD = Method(
    name="nce",
    version="1",
    subject="checkpoint x target",
    unit="nats per row",
    range=(-np.inf, 0.0),
    higher_is_better=True,
    needs=("features", "source probabilities", "labelled rows"),
    source=Source(
        paper="Tran et al., Transferability and Hardness of Supervised Classification Tasks, ICCV 2019, "
        "arXiv 1908.08142",
        equation="NCE(Y | Z) = -H(Y | Z)",
    ),
    summary="How little doubt about the labels the class that the checkpoint's own head predicts leaves.",
    params=NceParams,
    run=run,
)
