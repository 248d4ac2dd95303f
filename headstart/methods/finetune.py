"""Finetune: the test score of a target after finetuning the whole checkpoint on it.

What: s(m, t), the metric of target t on its test split after finetuning from checkpoint m. The gain of m
on t is s(m, t) minus the same of the vanilla of m's family, seed by seed where the seeds are shared.
Unit: that of the target's metric, as a fraction: accuracy of rows right (k/N for N test rows), or
Spearman's correlation.
Range: 0..1 for accuracies; a correlation can be negative, hence -1..1.
Source: Choshen, Venezian, Don-Yehia, Slonim, Katz, "Where to start?", EMNLP 2023, arXiv 2211.00107:
gain(m, t) = s_m^t - s_PT^t, PT being the vanilla.

When it does not apply: targets without labelled rows to train and to test on. Scores of two recipes
(learning rate, epochs, early stop) or of two splits are not comparable; the recipe is in the params of
a score and so in its key. One run is one draw: on RoBERTa the seed alone moves a mean over 36 targets by
0.36 points (standard deviation), and a target of 56 test rows by 1.8 points a row.

Where we deviate: the paper averages raw gains over the vanilla's mean. Collapsed vanilla runs are in that
mean, so advice is fitted on gains over a robust centre of the vanilla runs instead; and the standard error
of seed and test size is carried along. Published scores are stored as published.
"""

from __future__ import annotations

from headstart.method import Method, Source

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
    summary="Test score of a target after finetuning the whole checkpoint on it.",
)
