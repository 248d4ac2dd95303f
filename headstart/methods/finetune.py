"""Finetune: the test score of a target after finetuning the checkpoint on it.

What: s(m, t), the metric of target t on its test rows after finetuning from checkpoint m on its train rows.
The gain of m on t is s(m, t) minus the same of the vanilla of m's family, seed by seed where the seeds are
shared.
Ours: AdamW with a new head, the rate growing and then falling to 0 linearly, in random steps of
`batch_rows`. The validation rows choose the step whose weights are scored, and when to stop; the test rows
are looked at once, at the end. `tuning` is what is trained: "full" everything, "bitfit" the biases (Ben
Zaken et al. 2022, arXiv 2106.10199), "lora" low-rank updates of the linear layers (Hu et al. 2021, arXiv
2106.09685), "head" the head alone; each with the head.
Unit: that of the target's metric: accuracy of rows right (k/N for N test rows), macro-F1, Matthews',
Spearman's or Pearson's correlation. The details carry all that apply.
Range: 0..1 for accuracies; a correlation can be negative, hence -1..1.
Source: Choshen, Venezian, Don-Yehia, Slonim, Katz, "Where to start?", EMNLP 2023, arXiv 2211.00107: gain(m,
t) = s_m^t - s_PT^t, PT being the vanilla. The defaults are its recipe: 10 epochs, 256 rows a step, 0.6 %
warm-up, weight decay 0.01, early stop at 0.001 accuracy, and a learning rate by architecture (RoBERTa 5e-5,
BERT 2e-5, T5 1e-4).

When it does not apply: targets without labelled rows to train and to test on, train rows of one class.
Scores of two recipes (learning rate, epochs, early stop) or of two splits are not comparable; the recipe is
in the params of a score and so in its key. One run is one draw: on RoBERTa the seed alone moves a mean over
36 targets by 0.36 points (standard deviation), and a target of 56 test rows by 1.8 points a row.

A run that ends at the largest class of the validation rows, or below, has collapsed. It is tried once more
with another seed and half the rate; the details keep both. A second collapse is told as `collapsed`, and
such a score is stored under quarantine: it is never averaged in.

Where we deviate: the paper averages raw gains over the vanilla's mean. Collapsed vanilla runs are in that
mean, so advice is fitted on gains over a robust centre of the vanilla runs instead; and the standard error
of seed and test size is carried along. Published scores are stored as published. The paper gives no
patience (ours: 3 evaluations), no clipping (ours: norm 1) and no schedule after warm-up but that it is
linear. Rates of other tunings than full are ours: 10 times (lora), 20 times (bitfit) and 50 times (head)
that of full.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from headstart.failures import NotApplicable
from headstart.method import Measurement, Method, Params, Source
from headstart.metrics import METRICS, metric_error, metrics_for, predictions
from headstart.workbench import Finetuned, FinetuneSpec, Precision, Tuning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headstart.workbench import Outputs, Workbench

OTHER_SEED = 1_000_003  # added to the seed of a run that collapsed


class FinetuneParams(Params):
    """The recipe of a finetune."""

    tuning: Tuning = Field("full", description="What is trained, beside the new head.")
    learning_rate: float | None = Field(
        None, gt=0, le=1.0, description="Highest rate; null: as suits the architecture and the tuning."
    )
    epochs: float = Field(10.0, gt=0, le=1000, description="Times the train rows are seen, at most.")
    max_steps: int | None = Field(None, ge=1, le=10_000_000, description="Steps, at most.")
    batch_rows: int = Field(
        256, ge=1, le=100_000, description="Rows of one step, whatever memory takes at a time."
    )
    warmup: float = Field(0.006, ge=0, lt=1, description="Share of the steps in which the rate grows.")
    weight_decay: float = Field(0.01, ge=0, le=1)
    max_gradient: float = Field(1.0, gt=0, le=1e9, description="Norm at which a step's gradient is cut.")
    epsilon: float = Field(0.001, ge=0, le=1, description="Gain on the validation rows that counts as one.")
    patience: int = Field(
        3, ge=1, le=1000, description="Evaluations without such a gain, then training ends."
    )
    evaluations: int = Field(1, ge=1, le=100, description="On the validation rows, per epoch.")
    max_tokens: int = Field(
        256, ge=8, le=8192, description="Longer texts are cut; the share of them is told."
    )
    max_train_rows: int | None = Field(
        None, ge=2, le=10_000_000, description="Train rows, at random; null: all."
    )
    max_rows: int = Field(
        20_000, ge=10, le=10_000_000, description="Of validation and test rows each, at random."
    )
    precision: Precision = Field("auto", description="auto: bf16 products where the device is fast in it.")
    lora_rank: int = Field(8, ge=1, le=1024, description="Of the updates of tuning lora.")

    def spec(self, seed: int) -> FinetuneSpec:
        """What to ask the workbench for."""
        return FinetuneSpec(
            tuning=self.tuning,
            learning_rate=self.learning_rate,
            epochs=self.epochs,
            most_steps=self.max_steps,
            batch_rows=self.batch_rows,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            most_gradient=self.max_gradient,
            epsilon=self.epsilon,
            patience=self.patience,
            evaluations=self.evaluations,
            max_tokens=self.max_tokens,
            max_train_rows=self.max_train_rows,
            max_rows=self.max_rows,
            precision=self.precision,
            lora_rank=self.lora_rank,
            seed=seed,
        )


def judged(outputs: Outputs, metric: str, *, classes: bool) -> float:
    """The metric of what was said."""
    return METRICS[metric](predictions(outputs.values, classes=classes), outputs.labels)


def has_collapsed(validation: Outputs, metric: str, *, classes: bool) -> bool:
    """Whether the run does no better on the validation rows than the largest class, or a constant, would.

    By the target's own metric: where classes are skewed, a run may be worth more than the largest class and
    yet be right less often. Validation rows of one class tell nothing, and are no collapse.
    """
    said, truth = predictions(validation.values, classes=classes), validation.labels
    if not classes:
        return bool(np.ptp(said) == 0) or METRICS[metric](said, truth) <= 0
    constant = np.full_like(truth, np.bincount(truth).argmax())
    return len(np.unique(truth)) > 1 and METRICS[metric](said, truth) <= METRICS[metric](constant, truth)


def told(found: Finetuned, metric: str, *, classes: bool, seed: int) -> dict[str, Any]:
    """One run, as it stands in the details."""
    said = predictions(found.test.values, classes=classes)
    return {
        "seed": seed,
        "value": METRICS[metric](said, found.test.labels),
        "collapsed": has_collapsed(found.validation, metric, classes=classes),
        "metrics": {name: of(said, found.test.labels) for name, of in metrics_for(classes=classes).items()},
        "validation": judged(found.validation, metric, classes=classes),
        "curve": list(found.curve),
        **found.facts,
    }


def run(bench: Workbench, params: FinetuneParams) -> Measurement:
    """Finetune, once more where it collapsed, and score the test rows.

    Raises NotApplicable where the target's metric is not one of its task.
    """
    spec = params.spec(bench.seed)
    classes, metric = bench.target.task != "regression", bench.target.metric
    if metric not in metrics_for(classes=classes):
        raise NotApplicable(
            f"The metric {metric!r} is none of a {'classification' if classes else 'regression'}.",
            f"Give the target one of {', '.join(metrics_for(classes=classes))}.",
        )

    def once(spec: FinetuneSpec) -> tuple[Finetuned, dict[str, Any]]:
        found = bench.finetune(spec, lambda outputs: judged(outputs, metric, classes=classes))
        return found, told(found, metric, classes=classes, seed=spec.seed)

    found, first = once(spec)
    runs = [first]
    if first["collapsed"]:
        gentler = replace(spec, seed=spec.seed + OTHER_SEED, learning_rate=first["learning_rate"] / 2)
        again, second = once(gentler)
        runs.append(second)
        if not second["collapsed"]:
            found = again
    taken = runs[-1] if not runs[-1]["collapsed"] else first
    said = predictions(found.test.values, classes=classes)
    return Measurement(
        value=taken["value"],
        stderr=metric_error(metric, said, found.test.labels, bench.seed),
        rows_tested=len(found.test.labels),
        details={
            "metric": metric,
            "classes": None if found.classes is None else len(found.classes),
            **taken,
            **({"runs": runs} if len(runs) > 1 else {}),
        },
        quarantine="collapsed" if taken["collapsed"] else None,
        quarantine_note=_collapse(runs) if taken["collapsed"] else None,
    )


def runs_of(details: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The runs that a finetune's details tell of: one, or two where the first collapsed."""
    runs: list[Mapping[str, Any]] = details.get("runs", [details])
    return runs


def _collapse(runs: list[dict[str, Any]]) -> str:
    rates = " and ".join(f"{one['learning_rate']:.2g}" for one in runs)
    return f"It ended at the largest class or below in each of {len(runs)} runs, at rates of {rates}."


METHOD = Method(
    name="finetune",
    version="1",
    subject="checkpoint x target",
    unit="fraction (accuracy) or correlation, of the target's metric",
    range=(-1.0, 1.0),
    higher_is_better=True,
    needs=("finetune", "labelled rows"),
    source=Source(
        paper="Choshen et al., Where to start?, EMNLP 2023, arXiv 2211.00107",
        equation="gain(m, t) = s_m^t - s_PT^t",
    ),
    summary="Test score of a target after finetuning the checkpoint on it.",
    params=FinetuneParams,
    run=run,
)
