"""Linear probe: the test score of a target when only a linear head is trained on the frozen body.

What: LP(m, t), the metric of a linear classifier on the frozen features of checkpoint m. As evidence it
is read on one reference target (MNLI) as the difference to the same probe of the family's vanilla, so the
vanilla must be probed too.
Unit: fraction of test rows right.
Range: 0..1. The share of the largest class is a floor (0.3522 on MNLI mismatched): a value at it says
that the probe learnt nothing, not that two checkpoints are equal.
Source: Choshen, Venezian, Don-Yehia, Slonim, Katz, "Where to start?", EMNLP 2023, arXiv 2211.00107:
rank checkpoints by LP(m) - LP(PT) on MNLI, PT being the vanilla.

When it does not apply: targets that are not classification; checkpoints whose features cannot be read
(an encoder-decoder without a pooled output). It finds the top and filters the rest out: of the published
off-the-shelf RoBERTa checkpoints 8 of 8 with a probe gain of 10 points or more gain on average, 1 of 40
with a probe gain of 0 or less; below 10 points its order says little (Spearman 0.30).

Where we deviate: the paper does not publish the probe's own hyper-parameters (epochs, rate, rows, seeds);
imported probes are one protocol of their own and are not compared with probes of another one. A value of
exactly 0.0 in the published tables stands for "not measured" and is quarantined as that.
"""

from __future__ import annotations

from headstart.method import Method, Source

METHOD = Method(
    name="linear_probe",
    version="1",
    subject="checkpoint x target",
    unit="fraction (accuracy)",
    range=(0.0, 1.0),
    higher_is_better=True,
    needs=("features", "labelled train and test rows"),
    source=Source(
        paper="Choshen et al., Where to start?, EMNLP 2023, arXiv 2211.00107",
        equation="LP gain(m) = LP(m, MNLI) - LP(PT, MNLI)",
    ),
    summary="Test score of a linear head trained on the frozen checkpoint.",
)
