"""The order of rows in training: random steps of a stated number of rows, each cut by length to fit.

The rows of a step are a random sample whatever their length, as without grouping; only inside a step are they
sorted, so that a micro-batch has little padding. The gradient of a step is the mean over its rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Int

    from worker.forward import Budget


def steps_of(count: int, batch_rows: int, seed: int, epoch: int) -> list[Int[np.ndarray, "b"]]:
    """The rows of each step of an epoch: all rows once, in an order of the seed and the epoch.

    None has more than `batch_rows`, and they differ by at most one row: no few rows make a step of their own.
    """
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return np.array_split(order, max(1, -(-count // batch_rows)))


def micro_batches(
    rows: Int[np.ndarray, "b"], lengths: Int[np.ndarray, "n"], budget: Budget, *, padded: bool
) -> Iterator[Int[np.ndarray, "m"]]:
    """The rows of a step, longest first, in parts that the budget takes; equally long ones if not padded."""
    order = rows[np.argsort(-lengths[rows], kind="stable")]
    sorted_lengths, start = lengths[order], 0
    while start < len(order):
        end = start + budget.fitting(sorted_lengths, start, padded=padded)
        yield order[start:end]
        start = end
