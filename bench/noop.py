"""A method that does nothing: what a job costs apart from its work. And the same as a bare Celery task."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from celery import Celery

from headstart.method import Measurement, Method, Params, Source

if TYPE_CHECKING:
    from headstart.workbench import Workbench


class NoopParams(Params):
    """One number, which tells jobs apart."""

    number: int = 0


def run(_: Workbench, params: NoopParams) -> Measurement:
    """Return at once."""
    return Measurement(value=params.number / 1e9)


METHOD = Method(
    name="noop",
    version="1",
    subject="checkpoint x target",
    unit="none",
    range=(0.0, 1.0),
    higher_is_better=True,
    needs=(),
    source=Source(paper="none", equation="none"),
    summary="Does nothing.",
    params=NoopParams,
    run=run,
)

BROKER = os.environ.get("BENCH_BROKER", "")
bare = Celery("bare", broker=BROKER, backend=BROKER)


@bare.task(name="noop")  # type: ignore[untyped-decorator]
def noop(number: int) -> float:
    """The same, without a store: the peer."""
    return number / 1e9
