"""How well regions agree with what the checkpoints were tuned on. Pure functions.

Checkpoints without a known source, and those in no region, are left out of both measures.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int


def purity(labels: Int[np.ndarray, "n"], sources: Sequence[str | None]) -> float | None:
    """Share of the members that are of their region's most frequent source, 0..1; None where there are none.

    One region for each checkpoint would be pure too: read it beside the adjusted Rand index.
    """
    table = _table(labels, sources)
    return float(table.max(axis=1).sum() / table.sum()) if table.size else None


def adjusted_rand(labels: Int[np.ndarray, "n"], sources: Sequence[str | None]) -> float | None:
    """Agreement of two partitions on pairs, 1 for the same and 0 on average for chance; None for no member.

    Hubert and Arabie, Comparing partitions, Journal of Classification 2 (1985), equation 5.
    """
    table = _table(labels, sources)
    if not table.size:
        return None
    both, rows, columns = _pairs(table), _pairs(table.sum(axis=1)), _pairs(table.sum(axis=0))
    expected = rows * columns / max(_pairs(table.sum()), 1.0)
    most = (rows + columns) / 2
    return 1.0 if most == expected else float((both - expected) / (most - expected))


def counts_by_region(labels: Int[np.ndarray, "n"], sources: Sequence[str | None]) -> list[dict[str, int]]:
    """Of each region 0..k-1, how many members each source has: the most frequent first, then by name."""
    found: list[Counter[str]] = [Counter() for _ in range(int(labels.max(initial=-1)) + 1)]
    for label, source in zip(labels.tolist(), sources, strict=True):
        if label >= 0 and source is not None:
            found[label][source] += 1
    return [dict(sorted(counter.items(), key=lambda item: (-item[1], item[0]))) for counter in found]


def _table(labels: Int[np.ndarray, "n"], sources: Sequence[str | None]) -> Float[np.ndarray, "k s"]:
    """Members by region and source."""
    rows = [(a, b) for a, b in zip(labels.tolist(), sources, strict=True) if a >= 0 and b is not None]
    regions = {label: k for k, label in enumerate(sorted({a for a, _ in rows}))}
    names = {source: k for k, source in enumerate(sorted({b for _, b in rows}))}
    table = np.zeros((len(regions), len(names)))
    for label, source in rows:
        table[regions[label], names[source]] += 1
    return table


def _pairs(counts: Float[np.ndarray, "..."]) -> float:
    return float(np.sum(counts * (counts - 1) / 2))
