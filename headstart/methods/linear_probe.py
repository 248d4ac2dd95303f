"""Linear probe: the test score of a target when only a linear head is trained on the frozen body.

What: LP(m, t), the metric of a linear classifier on the frozen features of checkpoint m. As evidence it
is read on one reference target (MNLI) as the difference to the same probe of the family's vanilla, so the
vanilla must be probed too.
Ours: multinomial logistic regression on the features, standardised by the train rows. The strength of its
L2 penalty is chosen on the validation rows; the test rows are looked at once, at the end. For a
regression, ridge in the same way; the value is then a correlation, Pearson's where that is the target's
metric, else Spearman's; the details name it.
Unit: fraction of test rows right; correlation for a regression.
Range: 0..1 for classes, -1..1 for a regression. The share of the largest class is a floor (0.3522 on MNLI
mismatched): a value at it says that the probe learnt nothing, not that two checkpoints are equal.
Source: Choshen, Venezian, Don-Yehia, Slonim, Katz, "Where to start?", EMNLP 2023, arXiv 2211.00107:
rank checkpoints by LP(m) - LP(PT) on MNLI, PT being the vanilla.

When it does not apply: train rows that all have one label, and values to predict that are all the same.
It finds the top and filters the rest out: of the published off-the-shelf RoBERTa checkpoints 8 of 8 with
a probe gain of 10 points or more gain on average, 1 of 40 with a probe gain of 0 or less; below 10 points
its order says little (Spearman 0.30).

Where we deviate: the paper does not publish the probe's own hyper-parameters (epochs, rate, rows, seeds);
imported probes are one protocol of their own and are not compared with probes of another one. A value of
exactly 0.0 in the published tables stands for "not measured" and is quarantined as that.
The path of strengths goes from strong to weak, each fit starting from the last, and ends after two in a
row with neither more validation rows right nor a lower log-loss. The one with the most validation rows
right is taken, the lower log-loss among equals, and fitted further: fits on the path end where a step would
gain less than 1e-5 nats, the taken one at 1e-7. Classes without a train row are never predicted. The
standard error of an accuracy is the binomial one with two test rows right and two wrong added (Agresti and
Coull), so that it is never 0; that of a correlation is the bootstrap's over test rows. Neither knows of other
train rows. The null permutes the test labels against the predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args

import numpy as np
from pydantic import Field

from headstart.arrays import finite_features
from headstart.failures import NotApplicable
from headstart.logistic import Head, fit_logistic, principal_axes
from headstart.method import Measurement, Method, Source
from headstart.metrics import macro_f1, matthews
from headstart.probe import (
    Estimate,
    Permutations,
    ProbeParams,
    accuracy_error,
    by_layer,
    measurement,
    permuted,
)
from headstart.ranks import CORRELATIONS, bootstrap_stderr, correlation_named
from headstart.workbench import Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float, Float32

    from headstart.workbench import Rows, Workbench

PATIENCE = 2  # strengths in a row that bring nothing before the path ends
CLOSE = 1e-7  # nats: where the descent of the taken fit ends

Strength = Annotated[float, Field(gt=0, le=1e6)]


class LinearProbeParams(ProbeParams):
    """Parameters of the linear probe."""

    l2: Annotated[tuple[Strength, ...], Field(min_length=1, max_length=30)] = Field(
        (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001),
        description="Strengths of the penalty l2/2 |W|^2 on the mean loss, on standardised features. The "
        "validation rows choose among them.",
    )
    permutations: Permutations = 200

    @property
    def strengths(self) -> list[float]:
        """Strong to weak, each once."""
        return sorted(set(self.l2), reverse=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rows of one role on the axes of the train rows."""

    z: Float32[np.ndarray, "n r"]
    y: Any  # Int "n" classes, or Float "n" values


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """All roles on the principal axes of the train rows."""

    variance: Float[np.ndarray, "r"]  # of the train rows
    train: Part
    validation: Part
    test: Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A head on the path of strengths, and what the validation rows say of it."""

    l2: float
    head: Head
    right: float  # share of the validation rows
    log_loss: float  # on the validation rows, nats

    @property
    def merit(self) -> tuple[float, float]:
        """Validation rows right, and among equals the lower log-loss."""
        return self.right, -self.log_loss


def choose_head(
    train: Part,
    validation: Part,
    variance: Float[np.ndarray, "r"],
    strengths: Sequence[float],
    *,
    by_loss: bool = False,
) -> Choice:
    """The head of the strength that the validation rows take, fitted further.

    They take the one by which most of them are right, or `by_loss` the one of the least log-loss. Classes
    are 0..K-1, each with a train row; a validation row of another one is -1. Strengths fall.
    """
    tried: list[Choice] = []
    for l2 in strengths:
        head = fit_logistic(train.z, train.y, l2, variance, start=tried[-1].head if tried else None)
        tried.append(_judged(head, l2, validation))
        if _idle(tried[:-PATIENCE], tried[-PATIENCE:]):
            break
    best = max(tried, key=lambda choice: -choice.log_loss if by_loss else choice.merit)
    closer = fit_logistic(train.z, train.y, best.l2, variance, start=best.head, gain=CLOSE)
    return _judged(closer, best.l2, validation)


def _idle(before: Sequence[Choice], last: Sequence[Choice]) -> bool:
    """The last ones brought neither more validation rows right nor a lower log-loss."""
    return (
        len(before) > 0
        and max(choice.right for choice in last) <= max(choice.right for choice in before)
        and min(choice.log_loss for choice in last) >= min(choice.log_loss for choice in before)
    )


def _judged(head: Head, l2: float, validation: Part) -> Choice:
    logits = head.logits(validation.z).astype(np.float64)
    known = np.flatnonzero(validation.y >= 0)
    logits -= logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1))[known] - logits[known, validation.y[known]]
    return Choice(
        l2=l2,
        head=head,
        right=float(np.mean(logits.argmax(axis=1) == validation.y)),
        log_loss=float(np.sum(losses) / max(1, len(known))),
    )


def ridge_path(
    train: Part, variance: Float[np.ndarray, "r"], strengths: Sequence[float]
) -> Float[np.ndarray, "r s"]:
    """Ridge weights for every strength at once, the mean of the train values taken out.

    On principal axes each weight is its own: w_j = mean(z_j (y - mean y)) / (v_j + l2).
    """
    covariance = (train.y - train.y.mean()) @ train.z / len(train.y)
    weights: Float[np.ndarray, "r s"] = covariance[:, None] / (variance[:, None] + np.asarray(strengths))
    return weights


def estimate_classes(split: Split, classes: int, params: LinearProbeParams, seed: int) -> Estimate:
    """Test accuracy of the logistic head that the validation rows choose."""
    seen, codes = np.unique(split.train.y, return_inverse=True)
    number = np.full(classes, -1)
    number[seen] = np.arange(len(seen))
    train, test = Part(z=split.train.z, y=codes), split.test
    validation = Part(z=split.validation.z, y=number[split.validation.y])
    choice = choose_head(train, validation, split.variance, params.strengths)
    said = seen[choice.head.logits(test.z).argmax(axis=1)]
    value = float(np.mean(said == test.y))
    return Estimate(
        value=value,
        stderr=accuracy_error(said == test.y),
        null=np.mean(permuted(test.y, params.permutations, seed)[1:] == said, axis=1),
        details={
            "metric": "accuracy",
            **_taken(choice.l2, params.strengths),
            "steps": choice.head.steps,
            "converged": choice.head.converged,
            "largest_class": float(np.bincount(test.y).max() / len(said)),
            "train_accuracy": float(np.mean(choice.head.logits(train.z).argmax(axis=1) == codes)),
            "validation_accuracy": choice.right,
            "rows_of_unseen_classes": int(np.sum(number[test.y] < 0)),
            "macro_f1": macro_f1(said, test.y),
            "matthews": matthews(said, test.y),
        },
    )


def estimate_values(split: Split, metric: str, params: LinearProbeParams, seed: int) -> Estimate:
    """Correlation, on the test rows, of the ridge head that the validation rows choose."""
    correlation, strengths = CORRELATIONS[metric], params.strengths
    train, validation, test = split.train, split.validation, split.test
    weights = ridge_path(train, split.variance, strengths)
    judged = [
        (correlation(said, validation.y), -float(np.mean((said - validation.y) ** 2)))
        for said in (validation.z @ weights + train.y.mean()).T
    ]
    best = max(range(len(strengths)), key=lambda s: judged[s])
    said = test.z @ weights[:, best]
    return Estimate(
        value=correlation(said, test.y),
        stderr=bootstrap_stderr(correlation, said, test.y, np.random.default_rng((seed, 1))),
        null=np.array(
            [correlation(said, order) for order in permuted(test.y, params.permutations, seed)[1:]]
        ),
        details={
            "metric": metric,
            **_taken(strengths[best], strengths),
            "train_correlation": correlation(train.z @ weights[:, best], train.y),
            "validation_correlation": judged[best][0],
        },
    )


def _taken(l2: float, strengths: Sequence[float]) -> dict[str, Any]:
    """The strength taken, and whether a stronger or weaker one than any offered might do better."""
    return {"l2": l2, "l2_at_end": l2 in (strengths[0], strengths[-1])}


def run(bench: Workbench, params: LinearProbeParams) -> Measurement:
    """Fit on the train rows, choose on the validation rows, score once on the test rows.

    Raises NotApplicable where the train rows, or the test rows of a regression, are of one label.
    """
    features = bench.features(params.spec())
    bench.report(0.0, "features")
    roles = {role: features.rows(role) for role in get_args(Role)}
    for role, rows in roles.items():
        if (role == "train" or features.classes is None) and np.all(rows.labels == rows.labels[0]):
            raise NotApplicable(
                f"A probe compares labels, and all {len(rows.labels)} {role} rows read have the same."
            )

    def on_layer(layer: str) -> Estimate:
        if features.classes is not None:
            split = split_on_axes(roles, layer, np.int64)
            return estimate_classes(split, len(features.classes), params, bench.seed)
        metric = correlation_named(bench.target.metric)
        return estimate_values(split_on_axes(roles, layer, np.float64), metric, params, bench.seed)

    found = by_layer(bench, params.layers, on_layer)
    return measurement(features, found, len(roles["test"].labels))


def split_on_axes(roles: Mapping[Role, Rows], layer: str, kind: type[np.generic]) -> Split:
    """The features of one role are held at a time, beside what is made of them; labels become `kind`."""
    axes = principal_axes(finite_features(roles["train"], layer))

    def part(role: Role) -> Part:
        return Part(z=axes.of(finite_features(roles[role], layer)), y=roles[role].labels.astype(kind))

    return Split(
        variance=axes.variance, train=part("train"), validation=part("validation"), test=part("test")
    )


METHOD = Method(
    name="linear_probe",
    version="1",
    subject="checkpoint x target",
    unit="fraction (accuracy); correlation for a regression",
    range=(-1.0, 1.0),
    higher_is_better=True,
    needs=("features", "labelled rows"),
    source=Source(
        paper="Choshen et al., Where to start?, EMNLP 2023, arXiv 2211.00107",
        equation="LP gain(m) = LP(m, MNLI) - LP(PT, MNLI)",
    ),
    summary="Test score of a linear head trained on the frozen checkpoint.",
    params=LinearProbeParams,
    run=run,
)
