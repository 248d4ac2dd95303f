"""A method that takes labelled rows and weights, for tests that play the worker themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import jobs_method

from headstart.method import Measurement

if TYPE_CHECKING:
    from headstart.workbench import Workbench


def run(_: Workbench, params: jobs_method.GaugeParams) -> Measurement:
    return Measurement(value=1.0 / params.rows)


METHOD = replace(jobs_method.METHOD, name="reader", needs=("features", "labelled rows"), run=run)
