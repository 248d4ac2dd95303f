"""From what each target gave to comparisons: one table per question, one row per method."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend.backtest.baselines import HEADSTART
from headstart.recommend.backtest.bootstrap import compared, over_units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headstart.recommend.backtest.report import Comparison

Found = dict[str, dict[str, float]]
"""Of one family and target: question -> method -> value."""


class Table(NamedTuple):
    """One question asked of every target."""

    protocol: str
    name: str
    measure: str
    lead: str = HEADSTART
    step: int | None = None


def comparisons(
    tables: Mapping[str, Table],
    found: Mapping[tuple[str, str], Found],
    families: Sequence[str],
    seed: int,
) -> list[Comparison]:
    """`found` is by family and name of the target; a question that no target answered is left out."""
    targets = sorted({target for _, target in found})
    made = []
    for question, table in tables.items():
        methods = list(dict.fromkeys(m for one in found.values() for m in one.get(question, {})))
        if not methods:
            continue
        statistics = {}
        for method in methods:
            values = np.array(
                [
                    [found.get((f, u), {}).get(question, {}).get(method, np.nan) for u in targets]
                    for f in families
                ]
            )
            statistics[method] = over_units(values, seed=seed)
        made.append(
            compared(
                table.name,
                statistics,
                families,
                protocol=table.protocol,
                measure=table.measure,
                lead=table.lead,
                step=table.step,
            )
        )
    return made
