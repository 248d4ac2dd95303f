"""Chains around a checkpoint on the train rows of a target: from files and rows to what the chains saw.

What moves are the numbers of the body that the loss reads. Embeddings of tokens that no row has are left out:
they have no gradient, so that they would change no loss, only count, take memory and be given noise. So is a
pooler that the loss does not read. Weights tied inside the body move once. Positions beyond the longest row
have no gradient either, and do move: they are 1 % of a small BERT. All is in evaluation mode.

The loss of every row at the checkpoint is computed once; an excess is the loss of a batch less the mean of
those. Both are of the same rows, though not padded to the same width: an excess is exact to rounding, about
1e-6 of a loss in fp32. The first draw of chains without a burn-in is the checkpoint itself.

In memory lie the checkpoint, its gradient (where batches are corrected by it), the chains, and the
activations of one batch; before there are chains, for the trace a probe and its product with the Hessian.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import version
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headstart.failures import NonFinite, NotApplicable, OutOfMemory
from headstart.workbench import Chains
from worker.chain_state import ChainState, Progress
from worker.chain_subject import subject
from worker.curvature import bend, largest
from worker.device import device_name, peak_memory, pick_device, start_counting_memory
from worker.reading import is_out_of_memory
from worker.sgld import Dynamics, acceptance, advance, coarseness, ladder, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Int

    from headstart.workbench import ChainSpec
    from worker.chain_subject import Subject
    from worker.row_losses import RowLoss
    from worker.sgld import State
    from worker.tuned import Inputs

    Rows = Int[np.ndarray, "b"]
    Report = Callable[[float, str, str, float | None], None]

FORMAT = 2  # of the saved chains; raised whenever what is in them changes
LOADED, LOOKED, SAMPLED = 0.03, 0.10, 0.98  # shares of the progress
LARGEST = 1e30  # of a step times what pulls: more are no numbers of fp32
SAVE_SHARE = 0.02  # of the time that saving may take
POWER_STEPS = 10  # of a power iteration, which but begins the ladder
ACCEPTANCES = 4  # steps of every chain that Metropolis is asked about: one alone is a throw of dice
CURVED = 2  # times the memory of a gradient that a product with the Hessian takes, about


class Said:
    """What was reported last, to be said again inside a step: a cancel does not wait for its end."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last: tuple[float, str, str, float | None] = (0.0, "loading the checkpoint", "", None)

    def say(self, fraction: float, stage: str, message: str = "", left: float | None = None) -> None:
        """Report."""
        self._last = (fraction, stage, message, left)
        self._report(*self._last)

    def again(self) -> None:
        """Report the same."""
        self._report(*self._last)


def loss_chains(inputs: Inputs, spec: ChainSpec, report: Report) -> Chains:
    """See Workbench.loss_chains."""
    start_counting_memory(pick_device())
    said = Said(report)
    said.again()
    began = time.monotonic()
    with _memory_told(spec), subject(inputs, spec, said.again) as found:
        key = _key(inputs, spec, found.loss)
        disk = ChainState(inputs.folder / f"chains-{key[:16]}.pt", key)
        run = Run(found, spec, said, disk, inputs.save_seconds)
        run.load_seconds = time.monotonic() - began
        return run.chains()


class Run:
    """Chains of one subject."""

    def __init__(
        self, subject: Subject, spec: ChainSpec, said: Said, disk: ChainState, save_seconds: float
    ) -> None:
        self.loss, self.centre, self.facts = subject.loss, subject.centre, subject.facts
        self.spec, self.said, self._disk, self._save_seconds = spec, said, disk, save_seconds
        self.dimension = sum(one.numel() for one in self.centre.values())
        self.load_seconds = 0.0
        self._steady: dict[str, torch.Tensor] | None = None  # until the chains have it
        rows, gamma = self.loss.rows, spec.localisation
        if spec.beta is None and rows < 2:
            raise NotApplicable(
                f"With {rows} train row beta, which is 1 / log n, has no value.",
                "Give the target more train rows by POST /targets.",
            )
        self.dynamics = Dynamics(
            step=spec.step or 0.0,
            strength=rows * (1 / math.log(rows) if spec.beta is None else spec.beta),
            localisation=self.dimension / spec.radius**2 if gamma is None else gamma,
            batch_rows=spec.batch_rows,
            scheme=spec.scheme,
            precondition=spec.precondition,
        )
        self.steps = spec.burn_in + spec.draws

    def chains(self) -> Chains:
        """Go on from what is on disk, or begin; to the end."""
        saved = self._disk.load(self.loss.device)
        resumed = None if saved is None else (self.steps if saved[1] is None else saved[1].steps)
        if saved is None:
            at, state = self._look(), None
        else:
            at, state = saved
            self.loss.held, self.loss.budget.tokens = at.held, at.budget
        self.dynamics = replace(self.dynamics, step=at.epsilon)
        if at.epsilon * max(self.dynamics.strength, self.dynamics.localisation) > LARGEST:
            raise self._left(0, 0, at.epsilon)
        if at.acceptance is None:
            self._sample(at, state)
        return Chains(
            excess=at.excess.numpy(),
            distance=at.distance.numpy(),
            centre=at.centre.numpy(),
            trace=at.trace.numpy(),
            slope=at.slope,
            dimension=self.dimension,
            strength=self.dynamics.strength,
            localisation=self.dynamics.localisation,
            step=at.epsilon,
            acceptance=float("nan") if at.acceptance is None else at.acceptance,
            step_error=at.step_error,
            curvature=None if self.spec.precondition is not None else at.curvature,
            facts=self.facts | self._told(at, resumed),
        )

    # -- at the checkpoint

    def _look(self) -> Progress:
        """All that is found before there are chains."""
        clock = Clock()
        centre, slope, self._steady = self._losses_and_slope()
        clock.lap("centre")
        trace = self._trace()
        clock.lap("trace")
        self.said.say(LOOKED, "choosing the step")
        curvature, epsilon = None, self.spec.step
        if epsilon is None or self.spec.trace_probes:  # of a step that is given it tells what it does wrong
            curvature = self._less(self.spec.batch_rows, self._curvature)
        if epsilon is None:
            epsilon = ladder(
                self.centre,
                self.loss,
                self.dynamics,
                self.spec.seed,
                curvature=curvature or 0.0,
                together=False,
                tell=self.said.again,
            )
        clock.lap("step")
        shape = self.spec.chains, self.spec.draws
        return Progress(
            centre=centre,
            slope=slope,
            trace=trace,
            curvature=curvature,
            epsilon=epsilon,
            excess=torch.zeros(shape, dtype=torch.float64),
            distance=torch.zeros(shape, dtype=torch.float64),
            budget=self.loss.budget.tokens,
            held=self.loss.held,
            seconds=clock.seconds,
        )

    def _losses_and_slope(self) -> tuple[torch.Tensor, float, dict[str, torch.Tensor] | None]:
        """Of each row its loss; the squared gradient of their mean; and that gradient, where it is used."""
        rows = self.loss.rows
        leaves = {name: value.clone().requires_grad_() for name, value in self.centre.items()}
        found, done = np.zeros(rows), 0
        for part in self.loss.parts(np.arange(rows)):
            self.said.say(LOADED + (LOOKED - LOADED) * done / rows / 4, "at the checkpoint")
            terms, of = self.loss.terms(leaves, part)
            (terms.sum() / rows).backward()  # type: ignore[no-untyped-call]
            found[part] = np.bincount(of, terms.detach().double().cpu().numpy(), len(part))
            done += len(part)
        bad = int((~np.isfinite(found)).sum())
        if bad:
            raise NonFinite(
                f"The loss at the checkpoint is NaN or infinite on {bad} of {rows} rows.",
                "Check the checkpoint's weights for NaN, or ask for precision fp32.",
            )
        slope = {
            name: torch.zeros_like(one) if one.grad is None else one.grad for name, one in leaves.items()
        }
        square = float(torch.stack([one.double().square().sum() for one in slope.values()]).sum())
        used = self.spec.controlled and self.spec.precondition is None
        return torch.from_numpy(found), square, slope if used else None

    def _trace(self) -> torch.Tensor:
        """Hutchinson's v'Hv for probes v of +1 and -1, each on its own share of the rows."""
        rows, probes = self.loss.rows, self.spec.trace_probes
        shares = np.array_split(np.random.default_rng((self.spec.seed, 0)).permutation(rows), max(1, probes))
        found = torch.zeros(probes, dtype=torch.float64)
        for probe in range(probes):
            share = shares[probe] if probes <= rows else np.arange(rows)
            said = LOADED + (LOOKED - LOADED) * (0.25 + 0.75 * probe / probes)
            self.said.say(said, "trace", f"probe {probe} of {probes}")
            found[probe] = self._less(len(share), partial(self._bend, share, probe))
        return found

    def _bend(self, share: Rows, probe: int, most: int) -> float:
        """v'Hv of one probe, `most` rows at a time."""
        order = share[np.argsort(-self.loss.lengths[share], kind="stable")]
        seed = int(np.random.SeedSequence((self.spec.seed, 1, probe)).generate_state(1)[0])
        return bend(self.centre, self._curved(), np.array_split(order, -(-len(order) // most)), seed)

    def _curvature(self, most: int) -> float:
        """The largest, about, on batches of `most` rows."""
        order = np.random.default_rng((self.spec.seed, 2)).permutation(self.loss.rows)
        batches = islice(cycle(np.array_split(order, -(-len(order) // most))), POWER_STEPS)
        return largest(self.centre, self._curved(), batches, self.spec.seed)

    def _curved(self) -> RowLoss:
        """The loss for second derivatives: in fp32, and nothing computed again."""
        return replace(self.loss, dtype=torch.float32, held=1 << 62)

    def _less(self, rows: int, step: Callable[[int], float]) -> float:
        """What the step finds, with half as many rows at a time wherever memory runs out."""
        most = max(
            1, min(rows, self.spec.batch_rows, self.loss.held // CURVED // int(self.loss.lengths.max()))
        )
        while True:
            found = _unless_out_of_memory(step, most)
            if found is not None:
                return found
            if most == 1:
                raise OutOfMemory(
                    f"The curvature of one text does not fit into the memory of {self.loss.device.type}.",
                    "Ask for no trace and a given step, or run the job on a worker with more memory.",
                )
            most //= 2

    # -- the chains

    def _sample(self, at: Progress, state: State | None) -> None:
        """Advance the chains to the end."""
        spec, began, before = self.spec, time.monotonic(), at.seconds.get("chains", 0.0)
        first = state is None
        if state is None:
            preconditioned = spec.precondition is not None
            state = start(
                self.centre, spec.chains, spec.seed, precondition=preconditioned, steady=self._steady
            )
            self._steady = None
        if first:
            self.loss.fit(
                {name: one[0] for name, one in state.moving.items()}, self.loss.longest(spec.batch_rows)
            )
            at.held, at.budget = self.loss.held, self.loss.budget.tokens
        cost, here = 0.0, state.steps
        saved = time.monotonic() - (sum(at.seconds.values()) if first else 0.0)  # what it took is not on disk
        while state.steps < self.steps:
            done = state.steps
            self._say_step(done, (time.monotonic() - began) / (done - here) if done > here else None)
            state = self._step(state, at)
            at.seconds["chains"] = before + time.monotonic() - began
            if time.monotonic() - saved > max(self._save_seconds, cost / SAVE_SHARE):
                saved = time.monotonic()
                at.unsaved += not self._disk.save(at, state)
                cost, saved = time.monotonic() - saved, time.monotonic()
        self.said.say(SAMPLED, "acceptance")
        generator = torch.Generator().manual_seed(spec.seed)
        chances = [
            acceptance(state, self.centre, self.loss, self.dynamics, generator, together=False)
            for _ in range(ACCEPTANCES)
        ]
        at.acceptance = float(torch.stack(chances).mean())
        if spec.precondition is None:
            at.step_error = coarseness(
                state, self.centre, self.loss, self.dynamics, generator, together=False
            )
        at.seconds["chains"] = before + time.monotonic() - began
        if sum(at.seconds.values()) > self._save_seconds:
            at.unsaved += not self._disk.save(at, None)

    def _step(self, state: State, at: Progress) -> State:
        """Advance once, and note what was seen before."""
        place = state.steps - self.spec.burn_in
        state, info = advance(state, self.centre, self.loss, self.dynamics, together=False)
        losses, distance = info.loss.double().cpu(), info.distance.double().cpu()
        for chain in range(len(losses)):
            if not (torch.isfinite(losses[chain]) and torch.isfinite(distance[chain])):
                raise self._left(chain, state.steps - 1, at.epsilon)
        if place >= 0:
            at.excess[:, place] = losses - at.centre[info.rows].mean(1)
            at.distance[:, place] = distance.sqrt()
        return state

    def _left(self, chain: int, step: int, epsilon: float) -> NonFinite:
        at = f"step {step} of {self.steps}, with epsilon = {epsilon:.2g}"
        return NonFinite(
            f"Chain {chain + 1} left the finite at {at}.",
            "Ask for a smaller step, or leave it out: then one is chosen.",
        )

    def _say_step(self, done: int, each: float | None) -> None:
        left = None if each is None else each * (self.steps - done)
        fraction = LOOKED + (SAMPLED - LOOKED) * done / self.steps
        stage = "burn-in" if done < self.spec.burn_in else "sampling"
        self.said.say(fraction, stage, f"step {done} of {self.steps}, {self.spec.chains} chains", left)

    def _told(self, at: Progress, resumed: int | None) -> dict[str, Any]:
        seconds = {name: round(one, 3) for name, one in at.seconds.items()}
        return {
            "device": device_name(self.loss.device),
            "dtype": str(self.loss.dtype).removeprefix("torch."),
            "steps": self.steps,
            "load_seconds": round(self.load_seconds, 3),
            "stage_seconds": seconds,
            "seconds_a_draw": at.seconds["chains"] / (self.steps * self.spec.chains),
            "curvature": at.curvature,
            "batch_tokens": at.budget,
            "held_tokens": at.held if at.held < 1 << 62 else None,
            "resumed_at_step": resumed or 0,
            "states_not_saved": at.unsaved,
            "peak_memory_bytes": peak_memory(self.loss.device),
        }


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        """A stage has ended."""
        now = time.monotonic()
        self.seconds[stage], self._last = now - self._last, now


@contextmanager
def _memory_told(spec: ChainSpec) -> Iterator[None]:
    """Say so where memory runs out anywhere else."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error) or isinstance(error, OutOfMemory):
            raise
        raise OutOfMemory(
            f"The body, {spec.chains} chains of it and {spec.batch_rows} rows do not fit into memory.",
            "Ask for fewer chains, or run the job on a worker with more memory.",
        ) from error


def _unless_out_of_memory(step: Callable[[int], float], most: int) -> float | None:
    try:
        return step(most)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def _key(inputs: Inputs, spec: ChainSpec, loss: RowLoss) -> str:
    """Of chains: equal keys, equal results."""
    head = [] if spec.head is None else [spec.head.weights, spec.head.bias]
    asked = {one.name: getattr(spec, one.name) for one in fields(spec) if one.name != "head"}
    parts = {
        "format": FORMAT,
        "checkpoint": inputs.files.digest,
        "target": inputs.rows.head.fingerprint,
        "head": [hashlib.sha256(np.ascontiguousarray(one).tobytes()).hexdigest() for one in head],
        "made_by": [version(name) for name in ("torch", "transformers")],
        "computed": [str(loss.dtype), device_name(loss.device)],
    }
    return hashlib.sha256(json.dumps(parts | asked, sort_keys=True).encode()).hexdigest()
