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
    rows: Int[np.ndarray, "b"], lengths: Int[np.ndarray, "n"], budget: Budget, *, padded: bool, each: int
) -> Iterator[Int[np.ndarray, "m"]]:
    """The rows of a step, longest first, in parts that the budget takes; equally long ones if not padded.

    `each` is what a micro-batch costs whatever its size, in tokens: that and padding are made least.
    """
    order = rows[np.argsort(-lengths[rows], kind="stable")]
    widths, starts = np.unique(-lengths[order], return_index=True)
    cuts = _cuts(-widths, starts, len(order), budget.tokens, each) if padded else starts[1:]
    for part in np.split(order, cuts):
        most = max(1, budget.tokens // int(lengths[part[0]]))
        yield from np.array_split(part, -(-len(part) // most))


def _cuts(
    widths: Int[np.ndarray, "u"], starts: Int[np.ndarray, "u"], count: int, tokens: int, each: int
) -> list[int]:
    """Where to cut rows, sorted into runs of one width from `starts` on, widest first, into least cost.

    By the best costs of what remains, backwards. A part that is more than `tokens` counts as the several
    micro-batches that it will be.
    """
    ends = np.append(starts[1:], count)
    least, then = np.zeros(len(starts) + 1), np.zeros(len(starts), dtype=int)
    for run in range(len(starts) - 1, -1, -1):
        held = ends[run:] - starts[run]
        parts = -(-held // max(1, tokens // int(widths[run])))
        cost = held * int(widths[run]) + each * parts + least[run + 1 :]
        best = int(cost.argmin())
        least[run], then[run] = cost[best], run + 1 + best
    cuts, run = [], int(then[0])
    while run < len(starts):
        cuts.append(int(starts[run]))
        run = int(then[run])
    return cuts
