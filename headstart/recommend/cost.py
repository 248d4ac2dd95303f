"""What a finetune, a probe or chains cost, in seconds: floating-point operations over an effective rate.

A forward pass takes 2 N operations a token, N the parameters, and a backward pass twice as many (Kaplan et
al. 2020, arXiv 2001.08361, section 2.1): once through the activations, as every tuning does but that of the
head alone, and once for the gradients of the weights, which full tuning alone needs. Where we deviate:
embeddings count like any other parameter, though they multiply nothing, and attention over the sequence does
not count. A rate that was measured on the same account (`rates`) takes both in, and of chains their noise,
which costs the same for few rows as for many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

Basis = Literal["measured", "assumed"]

FORWARD = 2.0  # operations per parameter and token
TRAIN = 6.0  # forward and backward
CURVE = 18.0  # a product with the Hessian: backward through forward and backward
PILOT = 160.0  # steps of a chain that picking their size takes, about: curvature by 20 products, two rungs
TRAINING: dict[str, float] = {"full": TRAIN, "lora": 4.0, "bitfit": 4.0, "head": FORWARD}  # by tuning

PARAMETERS = 1.1e8  # of a checkpoint whose family tells nothing: BERT base
TRAIN_ROWS = 9_000  # of a target that does not say: the median of the 36 published targets is 9,214
TOKENS = 64  # a row: 47 is the mean of 35 public sets of sentences, pairs and short texts; and padding
EPOCHS = 7.0  # of the 10 that a finetune plans, until validation stops it
ASSUMED_RATE = 2e13  # operations a second: one data-centre GPU in mixed precision on short texts
ASSUMED_CPU_RATE = 3e11  # of a few cores with matrix units for bf16
START = 10.0  # seconds before the first row: a process, the weights, the rows


class Rate(NamedTuple):
    """Effective operations a second of the workers."""

    flops_per_second: float = ASSUMED_RATE
    basis: Basis = "assumed"
    start: float = START  # seconds before the first row


class Cost(NamedTuple):
    """What a job on each of n checkpoints takes."""

    seconds: Float[np.ndarray, "n"]  # above the rate's start, finite
    basis: Basis  # measured: the rate is that of finished jobs and the rows of the target are known


ASSUMED = Rate()


def finetune_flops(
    parameters: Float[np.ndarray, "n"],
    train_rows: float | None = None,
    *,
    tokens: float = TOKENS,
    epochs: float = EPOCHS,
) -> Float[np.ndarray, "n"]:
    """Operations of a full finetune: 6 N tokens epochs."""
    return TRAIN * known_parameters(parameters) * _known(train_rows) * tokens * epochs


def probe_flops(
    parameters: Float[np.ndarray, "n"], rows: float | None = None, *, tokens: float = TOKENS
) -> Float[np.ndarray, "n"]:
    """Operations of the one forward pass that all probes of a pair share: 2 N tokens."""
    return FORWARD * known_parameters(parameters) * _known(rows) * tokens


def finetune_work(
    *,
    train_rows: float,
    validation_rows: float,
    test_rows: float,
    tokens: float,
    epochs: float,
    passes: float,
    tuning: str,
) -> float:
    """Operations per parameter of a finetune: training, `passes` over validation rows, one over test rows.

    `tokens`: of a row; a tuning that is none of TRAINING counts as full.
    """
    trained = TRAINING.get(tuning, TRAIN) * train_rows * epochs
    return tokens * (trained + FORWARD * (passes * validation_rows + test_rows))


class Sampling(NamedTuple):
    """Operations per parameter of chains around a checkpoint."""

    chains: float
    before: float  # losses, gradient and trace at the checkpoint, and what picks the step


def sampling_work(
    *,
    rows: float,
    tokens: float,
    batch_rows: float,
    chains: float,
    steps: float,
    traced: bool,
    picked: bool,
    headed: bool,
    controlled: bool,
) -> Sampling:
    """Operations per parameter of Langevin chains on so many rows.

    Args:
        tokens: of a row.
        steps: of each chain, burn-in and all; each is one forward and backward pass over `batch_rows`.
        traced: each row has its share in a probe of the Hessian's trace.
        picked: the step is picked, not given.
        headed: a head is trained on the features of the rows first.
        controlled: each step takes a second pass over its batch, at the checkpoint.
    """
    step = TRAIN * min(batch_rows, rows)
    walked = step * (2 if controlled and batch_rows < rows else 1)
    looked = TRAIN + (CURVE if traced else 0.0) + (FORWARD if headed else 0.0)
    before = looked * rows + (PILOT * step if picked else 0.0)
    return Sampling(tokens * walked * chains * steps, tokens * before)


def finetune_cost(
    parameters: Float[np.ndarray, "n"],
    train_rows: float | None = None,
    *,
    tokens: float = TOKENS,
    epochs: float = EPOCHS,
    rate: Rate = ASSUMED,
) -> Cost:
    """Seconds of one finetune run of each checkpoint."""
    return _cost(finetune_flops(parameters, train_rows, tokens=tokens, epochs=epochs), train_rows, rate)


def probe_cost(
    parameters: Float[np.ndarray, "n"],
    rows: float | None = None,
    *,
    tokens: float = TOKENS,
    rate: Rate = ASSUMED,
) -> Cost:
    """Seconds of one probe of each checkpoint; `rows` are those of all splits that it reads."""
    return _cost(probe_flops(parameters, rows, tokens=tokens), rows, rate)


def known_parameters(parameters: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The parameters, the median of the known ones where they are not known, PARAMETERS where none is."""
    sizes = np.asarray(parameters, dtype=np.float64)
    known = np.isfinite(sizes) & (sizes > 0)
    typical = float(np.median(sizes[known])) if known.any() else PARAMETERS
    return np.where(known, sizes, typical)


def _known(rows: float | None) -> float:
    return float(rows) if _told(rows) and rows is not None else float(TRAIN_ROWS)


def _told(rows: float | None) -> bool:
    return rows is not None and bool(np.isfinite(rows)) and rows > 0


def _cost(flops: Float[np.ndarray, "n"], rows: float | None, rate: Rate) -> Cost:
    basis: Basis = rate.basis if _told(rows) else "assumed"
    return Cost(rate.start + flops / rate.flops_per_second, basis)
