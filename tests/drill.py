"""A method that measures nothing and does what its parameters say, and a procedure that keeps its scores."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from headstart.failures import Interrupted, NotApplicable
from headstart.method import Measurement, Method, Params, Procedure, Source

if TYPE_CHECKING:
    from headstart.workbench import Workbench


class DrillParams(Params):
    seconds: float = 0.0
    number: int = 0  # tells jobs apart; the value is number / 1000
    end: Literal[
        "value",
        "nan",
        "far_out",
        "numpy",
        "not_json",
        "orphan",
        "raise",
        "interrupt",
        "not_applicable",
        "kill",
        "segfault",
        "hoard",
    ] = "value"
    ends_well_at: int = 0  # from this attempt on, the end is a value
    step: float = 0.02  # between two reports; 0: never reports, and so never sees a cancel
    leave_trace: bool = False  # a file in the scratch folder, for the next attempt


def run(bench: Workbench, params: DrillParams) -> Measurement:
    until = time.monotonic() + params.seconds
    while (left := until - time.monotonic()) > 0:
        if params.step:
            bench.report(1 - left / params.seconds, "drilling", f"attempt {bench.attempt}")
        time.sleep(min(left, params.step or left))
    found = sorted(path.name for path in bench.folder.iterdir())
    if params.leave_trace:
        (bench.folder / f"attempt-{bench.attempt}").touch()
    end = params.end if not params.ends_well_at or bench.attempt < params.ends_well_at else "value"
    _end(end)
    value: Any = {"nan": float("nan"), "far_out": 101.0}.get(end, params.number / 1000)
    details: dict[str, Any] = {
        "pid": os.getpid(),
        "found": found,
        "folder": str(bench.folder),
        "r_hat": [1.0, float("nan")],
        "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    if end == "numpy":
        value = np.float32(0.5)
    if end == "not_json":
        details["array"] = np.zeros(3)
    if end == "orphan":  # a process of the method's own that outlives it
        subprocess.Popen(["sleep", "600"], close_fds=False)
        os.kill(os.getpid(), signal.SIGKILL)
    return Measurement(value=value, stderr=0.01, rows_tested=100, details=details)


def _end(end: str) -> None:
    if end == "raise":
        raise RuntimeError("no\x00 luck")
    if end == "interrupt":
        raise Interrupted("The source broke off.")
    if end == "not_applicable":
        raise NotApplicable("A drill of 'not applicable'.")
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "segfault":
        ctypes.string_at(0)
    if end == "hoard":
        raise MemoryError


METHOD = Method(
    name="drill",
    version="1",
    subject="checkpoint x target",
    unit="fraction",
    range=(0.0, 100.0),
    higher_is_better=True,
    needs=(),
    source=Source(paper="none", equation="none"),
    summary="Does what its parameters say.",
    params=DrillParams,
    run=run,
)


class CircuitParams(Params):
    family: str = "roberta-base"
    candidates: tuple[int, ...] = (1,)
    rounds: int = 1  # each keeps a score of METHOD: number and seed are the round's
    number: int = 0  # of the first
    budget_seconds: float | None = None
    drill: DrillParams = DrillParams()  # what is done, and how it ends, after the rounds


def circuit(bench: Workbench, params: CircuitParams) -> dict[str, Any]:
    """Keep a score a round, then drill; a score that is left out by an attempt before was kept by that."""
    for number in range(params.number, params.number + params.rounds):
        bench.report(0.1, "going round", f"round {number}")
        value = float("nan") if params.drill.end == "nan" else number / 1000
        found = Measurement(value=value, stderr=0.01, rows_tested=100)
        at = bench.on(bench.briefing.candidates[0], seed=bench.seed)
        bench.keep_score(at.checkpoint, METHOD, DrillParams(number=number), at.seed, found, seconds=0.5)
        at.report(0.9, "on its way", "half a lap")
    run(bench, params.drill)
    return {
        "attempt": bench.attempt,
        "budget_seconds": params.budget_seconds,
        "briefing": bench.briefing.to_json(),
        "found": sorted(path.name for path in bench.folder.iterdir()),
        "odd": float("inf"),
    }


PROCEDURE = Procedure(
    name="circuit",
    version="1",
    needs=(),
    summary="Goes round as its parameters say.",
    params=CircuitParams,
    run=circuit,
)
