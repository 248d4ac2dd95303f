"""The child process: runs one job after another, so that a crash takes down the child and not the worker.

Parent and child speak JSON over one pipe. To the child: {"run": order}, {"cancel": job id}. From it:
{"ready": true} once, then per order any number of {"progress": ...} and {"score": ...}, and one
{"outcome": ...}. When the pipe closes, the parent is gone, and the child leaves at once, whatever it is
doing.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from headstart.entities import Checkpoint, Target
from headstart.failures import JobFailure, MethodUnknown, OutOfMemory, Unexpected
from headstart.method import Procedure
from headstart.methods import known_methods
from headstart.procedures import known_procedures
from headstart.workbench import Briefing, Cancelled
from worker.measured import checked, finite
from worker.workbench import HEAD_SHARE, ChildWorkbench

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from headstart.method import Method
    from worker.workbench import Premises

    Work = dict[str, Method | Procedure]

TOLD = 300  # characters of an unknown exception that its sentence quotes


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One attempt at one job, as the child is told of it."""

    job_id: int
    attempt: int
    method: str
    method_version: str
    checkpoint: Checkpoint | None
    target: Target | None
    params: dict[str, Any]
    seed: int
    folder: str
    rows: str | None  # file with the target's rows
    briefing: Briefing  # empty for a method

    def to_bytes(self) -> bytes:
        """As it travels."""
        return json.dumps({"run": asdict(self)}).encode()

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Order:
        """As it arrives."""
        checkpoint, target = told["checkpoint"], told["target"]
        return cls(
            **told
            | {
                "checkpoint": None if checkpoint is None else Checkpoint(**checkpoint),
                "target": None if target is None else Target(**target),
                "briefing": Briefing.from_json(told["briefing"]),
            }
        )


def main(connection: Connection, modules: tuple[str, ...], device: str | None, premises: Premises) -> None:
    """Run orders until the pipe closes. `device` is what the child may see of the machine's GPUs."""
    os.setpgid(0, 0)  # a group of its own, so that what it starts ends with it
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the worker, which decides
        signal.signal(number, signal.SIG_IGN)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    link = _Link(connection)
    work = known_work(modules)
    link.send({"ready": True})
    while True:
        order = link.next_order()
        started = time.monotonic()
        outcome = _run(order, work, link, premises)
        link.send({"outcome": outcome | {"seconds": time.monotonic() - started}})


class _Link:
    """The child's end of the pipe: a thread reads it, so that a cancel arrives while a method computes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._job_id: int | None = None
        self.cancelled = threading.Event()
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def next_order(self) -> Order:
        """Wait for an order."""
        return self._orders.get()

    def send(self, message: dict[str, Any]) -> None:
        """Tell the parent."""
        data = json.dumps(message).encode()
        try:
            with self._sending:
                self._connection.send_bytes(data)
        except OSError:
            _leave()  # nobody listens any more

    def _read(self) -> None:
        try:
            self._listen()
        except (EOFError, OSError):
            pass  # the parent is gone: another worker will run this job
        except Exception:  # a deaf child would hold its job for hours
            traceback.print_exc()
        _leave()

    def _listen(self) -> None:
        while True:
            told = json.loads(self._connection.recv_bytes())
            if "run" in told:
                order = Order.from_json(told["run"])
                self._job_id = order.job_id
                self.cancelled.clear()
                self._orders.put(order)
            elif told["cancel"] == self._job_id:
                self.cancelled.set()


def _leave() -> NoReturn:
    """End this process and all that it started, without a word."""
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def known_work(modules: Sequence[str]) -> Work:
    """All that a job may ask for, by name."""
    return {**known_methods(modules), **known_procedures(modules)}


def _run(order: Order, work: Work, link: _Link, premises: Premises) -> dict[str, Any]:
    """Run one order; whatever happens becomes an outcome. `healthy`: this process can take another one."""
    try:
        outcome = _done(order, work, link, premises) | {"healthy": True}
        json.dumps(outcome, allow_nan=False)  # what cannot travel is the method's fault, and fails here
    except Cancelled:
        return {"cancelled": True, "healthy": True}
    except OutOfMemory as error:
        return _failed(error, healthy=False)
    except JobFailure as error:
        return _failed(error, healthy=True)
    except Exception as error:
        kind = type(error).__name__
        if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
            return _failed(OutOfMemory("The method ran out of memory."), healthy=False)
        print(f"job {order.job_id}: {traceback.format_exc()}", file=sys.stderr, flush=True)
        told = " ".join(str(error).split())[:TOLD]
        return _failed(
            Unexpected(f"The method broke off with {kind}: {told or 'no message'}."), healthy=False
        )
    return outcome


def _done(order: Order, work: Work, link: _Link, premises: Premises) -> dict[str, Any]:
    """{"measurement": ...} of a method; of a procedure {"result": ..., "registers": a checkpoint or null,
    "lineages": [...]}."""
    asked = work.get(order.method)
    if asked is None or asked.run is None:
        raise MethodUnknown(f"This worker cannot measure by {order.method!r}.")
    if asked.version != order.method_version:
        raise MethodUnknown(
            f"This worker has version {asked.version} of {order.method!r}; the job asks for "
            f"{order.method_version}."
        )
    params = asked.params.model_validate(order.params)
    with closing(_bench(order, link, premises)) as bench:
        if "loss_chains" in asked.needs:
            bench.features_share = HEAD_SHARE
        if isinstance(asked, Procedure):
            bench.again = True
            bench.tell_kept()
            result = finite(asked.run(bench, params))
            return {
                "result": result,
                "registers": None if bench.made is None else asdict(bench.made),
                "lineages": [asdict(one) for one in bench.lineages],
            }
        return {"measurement": asdict(checked(asked.run(bench, params), asked))}


def _bench(order: Order, link: _Link, premises: Premises) -> ChildWorkbench:
    return ChildWorkbench(
        checkpoint=order.checkpoint,  # type: ignore[arg-type]  # a method's subject says what it is given
        target=order.target,  # type: ignore[arg-type]
        seed=order.seed,
        attempt=order.attempt,
        folder=Path(order.folder),
        rows=None if order.rows is None else Path(order.rows),
        premises=premises,
        cancelled=link.cancelled,
        send=link.send,
        briefing=order.briefing,
    )


def _failed(error: JobFailure, *, healthy: bool) -> dict[str, Any]:
    return {"failure": asdict(error.failure()), "healthy": healthy}
