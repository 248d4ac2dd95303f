"""The generalised loss of a checkpoint on a target: the test loss of a new linear head on its frozen body.

What: multinomial logistic regression on the features of the train rows, its L2 penalty that of the least
loss on the validation rows, and its loss on the test rows, looked at once. For a regression, ridge in the
same way.
Unit: nats a row (log-loss); for a regression the mean squared error as a share of the variance of the test
values. Range: 0 to infinity; lower is better. Of a head that learnt nothing about ln K, or 1.
Source: Gueta et al., Findings of EMNLP 2023 (arXiv 2302.04863): drop the head, train a linear probe on the
target with the body frozen, report the test loss. The fit is that of `headstart.methods.linear_probe`.

Where we deviate: the paper does not say how the probe is regularised. Test rows of a class without a train
row are left out of the loss, which would be infinite for every checkpoint alike; they count as wrong in the
score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np

from headstart.failures import NonFinite, NotApplicable
from headstart.methods.linear_probe import Part, choose_head, ridge_path, split_on_axes
from headstart.ranks import CORRELATIONS, correlation_named
from headstart.workbench import LAST, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int

    from headstart.methods.linear_probe import Split
    from headstart.workbench import Features


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralisedLoss:
    """How well a linear head does on a frozen body."""

    loss: float  # nats a row, or a share of the variance; lower is better
    stderr: float  # of the loss, over test rows
    score: float  # accuracy 0..1, or the correlation of a regression
    l2: float  # strength of the penalty that the validation rows took
    rows: int  # test rows


def generalised_loss(features: Features, metric: str, strengths: Sequence[float]) -> GeneralisedLoss:
    """Of the checkpoint that the features are of; `strengths` fall, the validation rows choose among them.

    Raises: NotApplicable where rows of a role are missing, or all train rows (of a regression those of any
    role) have one label; NonFinite where features or the loss are no numbers.
    """
    roles = {role: features.rows(role) for role in get_args(Role)}
    for role, rows in roles.items():
        if (role == "train" or features.classes is None) and np.all(rows.labels == rows.labels[0]):
            raise NotApplicable(
                f"A probe compares labels, and all {len(rows.labels)} {role} rows read have the same."
            )
    if features.classes is None:
        found = of_values(split_on_axes(roles, LAST, np.float64), correlation_named(metric), strengths)
    else:
        found = of_classes(split_on_axes(roles, LAST, np.int64), len(features.classes), strengths)
    if not np.isfinite(found.loss):
        raise NonFinite("The generalised loss is not finite.")
    return found


def of_classes(split: Split, classes: int, strengths: Sequence[float]) -> GeneralisedLoss:
    """Log-loss on the test rows of the logistic head that the validation rows choose."""
    seen, codes = np.unique(split.train.y, return_inverse=True)
    number = np.full(classes, -1)
    number[seen] = np.arange(len(seen))
    validation = Part(z=split.validation.z, y=number[split.validation.y])
    train = Part(z=split.train.z, y=codes)
    choice = choose_head(train, validation, split.variance, strengths, by_loss=True)
    logits, own = choice.head.logits(split.test.z).astype(np.float64), number[split.test.y]
    losses = log_losses(logits[own >= 0], own[own >= 0])
    if not len(losses):
        raise NotApplicable("No test row is of a class that the train rows have.")
    return GeneralisedLoss(
        loss=float(losses.mean()),
        stderr=_error(losses),
        score=float(np.mean(logits.argmax(axis=1) == own)),
        l2=choice.l2,
        rows=len(own),
    )


def of_values(split: Split, metric: str, strengths: Sequence[float]) -> GeneralisedLoss:
    """Squared error on the test rows, over their variance, of the ridge head that has least on validation."""
    train, validation, test = split.train, split.validation, split.test
    weights, centre = ridge_path(train, split.variance, strengths), train.y.mean()
    with np.errstate(over="ignore", invalid="ignore"):  # a loss that is no number is told by name
        errors = np.mean((validation.z @ weights + centre - validation.y[:, None]) ** 2, axis=0)
        best = int(np.argmin(errors))
        said = test.z @ weights[:, best] + centre
        losses = (said - test.y) ** 2 / np.var(test.y)
    return GeneralisedLoss(
        loss=float(losses.mean()),
        stderr=_error(losses),
        score=float(CORRELATIONS[metric](said, test.y)),
        l2=strengths[best],
        rows=len(losses),
    )


def log_losses(logits: Float[np.ndarray, "n k"], own: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """-log softmax(logits)[own] of each row, nats."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses: Float[np.ndarray, "n"] = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(own)), own]
    return losses


def _error(losses: Float[np.ndarray, "n"]) -> float:
    """Standard error of a mean over rows; of a single row its spread is unknown, and 0 is told."""
    return float(np.std(losses, ddof=min(1, len(losses) - 1)) / np.sqrt(len(losses)))
