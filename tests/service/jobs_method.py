"""A method that can be run, for tests that play the worker themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from headstart.method import Measurement, Method, Params, Source

if TYPE_CHECKING:
    from headstart.workbench import Workbench


class GaugeParams(Params):
    rows: int = Field(100, ge=1)
    penalty: float = 0.5


def run(_: Workbench, params: GaugeParams) -> Measurement:
    return Measurement(value=1.0 / params.rows)


METHOD = Method(
    name="gauge",
    version="2",
    subject="checkpoint x target",
    unit="none",
    range=(0.0, 1.0),
    higher_is_better=True,
    needs=("features",),
    source=Source(paper="none", equation="1 / rows"),
    summary="Measures nothing.",
    params=GaugeParams,
    run=run,
)
