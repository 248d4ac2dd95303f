"""What all probes share: their parameters, the null a value is read against, and the form of the result.

A probe scores a checkpoint by the features of its frozen body on a target's rows. Its value alone says
little: it stands beside its standard error, and beside what the same estimator gives when the labels are
permuted, which is its null.

The standard error is that of a bootstrap over rows, without a replicate: for a smooth function of sums over
rows the bootstrap's variance is, to first order, that of the rows' influences (the infinitesimal jackknife;
Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, chapter 6), had in closed form from one
more look at the features. With fewer rows than features a drawn bootstrap fails, since a row drawn twice
foretells itself: on Gaussian classes it put LogME's error 4 to 13 times too high, where ours was 1.0 to 1.5
times the spread over fresh rows (GBC 0.9 to 1.6, TransRate 0.6 to 0.8, H-score only 0.4 to 0.8). With more
rows than features it was 0.9 to 1.2 times that spread for all four. k-NN and the linear probe say their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, StringConstraints

from headstart.failures import NotApplicable
from headstart.method import Measurement, Params
from headstart.workbench import LAST, FeatureSpec, Pooling, Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jaxtyping import Float, Int

    from headstart.workbench import Features, Rows, Workbench

Layer = Annotated[str, StringConstraints(pattern=r"^(last|mean|\d{1,3})$")]
Permutations = Annotated[
    int,
    Field(
        ge=1,
        le=1000,
        description="Random orders of the labels, which make up the null. Fewer are drawn where they would "
        "take too much memory; the details tell how many were.",
    ),
]
HELD = 1 << 25  # numbers of all labellings in one array, 256 MiB; LogME and H-score hold four at once


class PassParams(Params):
    """What a forward pass reads."""

    max_tokens: int = Field(
        256, ge=8, le=8192, description="Longer texts are cut; the share of them is told."
    )
    max_rows: int = Field(20_000, ge=10, le=10_000_000, description="Rows of each role, drawn at random.")
    precision: Precision = Field("auto", description="auto: bf16 where the device is fast in it.")

    def spec(self) -> FeatureSpec:
        """The features to ask the workbench for."""
        return FeatureSpec(max_tokens=self.max_tokens, max_rows=self.max_rows, precision=self.precision)


class ProbeParams(PassParams):
    """Which features a probe looks at."""

    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=32)] = Field(
        (LAST,),
        description="'last', 'mean' (the average of all hidden layers) or the number of a layer, 0 being the "
        "embeddings. The value is that of the first; the others stand in the details.",
    )
    pooling: Pooling | None = Field(
        None, description="Over a text's tokens; null: mean for encoders, last for decoders."
    )

    def spec(self) -> FeatureSpec:
        """The features to ask the workbench for."""
        return FeatureSpec(
            layers=tuple(self.layers),
            pooling=self.pooling,
            max_tokens=self.max_tokens,
            max_rows=self.max_rows,
            precision=self.precision,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What an estimator found on one layer."""

    value: float
    stderr: float
    null: Float[np.ndarray, "p"]  # the value under p permutations of the labels
    details: Mapping[str, Any] = field(default_factory=dict)  # what a person needs to judge the value

    def told(self) -> dict[str, Any]:
        """As it stands in a score's details."""
        draws = len(self.null)
        reached = int(np.sum(self.null >= self.value))
        return {
            "value": self.value,
            "stderr": self.stderr,
            "null": {
                "mean": float(np.mean(self.null)),
                "high": float(np.quantile(self.null, 0.95)),
                "p": (1 + reached) / (1 + draws),
                "draws": draws,
            },
            **self.details,
        }


def needs_classes(features: Features, method: str) -> int:
    """K, the number of classes; NotApplicable on a regression."""
    if features.classes is None:
        raise NotApplicable(f"{method} is defined for classes, and the target is a regression.")
    return len(features.classes)


def seen_classes(
    labels: Int[np.ndarray, "n"], method: str
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "k"]]:
    """The labels as positions among the k classes that have rows, and the rows of each.

    Raises NotApplicable for fewer than two.
    """
    seen, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(seen) < 2:
        raise NotApplicable(f"{method} compares classes, and all {len(labels)} rows read are of one class.")
    return codes.astype(np.min_scalar_type(len(seen))), counts


def head_probabilities(rows: Rows, method: str) -> Float[np.ndarray, "n z"]:
    """What the checkpoint's own head says of its z classes, in fp64, rows summing to 1.

    Raises NotApplicable where it has no head, or one with a single output.
    """
    found = rows.source_probabilities()
    if found is None or found.shape[1] < 2:
        raise NotApplicable(
            f"{method} reads the checkpoint's own classification head, and this checkpoint has none."
        )
    theta = np.asarray(found, dtype=np.float64)
    return np.asarray(theta / theta.sum(axis=1, keepdims=True))


def permuted(labels: np.ndarray, permutations: int, seed: int, each: int = 0) -> np.ndarray:
    """(1 + p, n): the labels as they are, and under p permutations, the same for the same seed.

    p is `permutations`, or as many as HELD has room for, but at least one; `each` is how many numbers an
    estimator keeps of every labelling beside its n labels.
    """
    generator = np.random.default_rng((seed, 0))
    permutations = min(permutations, max(1, HELD // max(each, len(labels)) - 1))
    return np.stack([labels, *(generator.permutation(labels) for _ in range(permutations))])


def standard_error(influence: Float[np.ndarray, "n"]) -> float:
    """Of a value, from what each row adds to n times it; a constant added to all changes nothing."""
    return float(np.std(influence) / np.sqrt(len(influence)))


def accuracy_error(right: Float[np.ndarray, "n"]) -> float:
    """Standard error of the share of rows right, as if two more were right and two more wrong: never 0.

    Agresti and Coull, The American Statistician 52(2), 1998: with p = (r + 2) / (n + 4), it is
    sqrt(p (1 - p) / (n + 4)). `right` is 1 or 0 of each row, or between where a row is half right.
    """
    return standard_error(np.concatenate([right, [0.0, 0.0, 1.0, 1.0]]))


def measure(
    bench: Workbench,
    features: Features,
    layers: Sequence[str],
    estimate: Callable[[Rows, str], Estimate],
) -> Measurement:
    """Let an estimator read the train rows, layer by layer."""
    bench.report(0.0, "features")
    rows = features.rows("train")
    found = by_layer(bench, layers, lambda layer: estimate(rows, layer))
    return measurement(features, found, len(rows.labels))


def by_layer(
    bench: Workbench, layers: Sequence[str], estimate: Callable[[str], Estimate]
) -> dict[str, Estimate]:
    """What an estimator finds on each layer, once the features are there."""
    found = {}
    for number, layer in enumerate(layers):
        bench.report(0.8 + 0.2 * number / len(layers), "estimate", f"layer {layer}")
        found[layer] = estimate(layer)
    return found


def measurement(features: Features, found: Mapping[str, Estimate], rows: int, **details: Any) -> Measurement:
    """The result of a probe from its estimates by layer, the first of which gives the value."""
    first = next(iter(found.values()))
    layers = {layer: one.told() for layer, one in found.items()}
    return Measurement(
        value=first.value,
        stderr=first.stderr,
        rows_tested=rows,
        details={
            **features.facts,
            **{name: told for name, told in first.told().items() if name not in ("value", "stderr")},
            **({"layers": layers} if len(layers) > 1 else {}),
            **details,
        },
    )
