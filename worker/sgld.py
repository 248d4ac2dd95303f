"""Stochastic gradient Langevin dynamics around a checkpoint, several chains at once.

The local posterior at temperature 1/beta is proportional to exp(-n beta L_n(w) - (gamma/2) |w - w*|^2), with
L_n the mean negative log likelihood of n rows. One step, on the b rows of a batch B (Welling and Teh 2011;
Lau, Furman, Wang, Murfet, Wei, arXiv 2308.12108, whose code has gamma/2 where Munn and Wei, arXiv 2410.05612,
write gamma):

    w <- w - (eps/2) (n beta grad L_B(w) + gamma (w - w*)) + N(0, eps)

What moves is a dictionary of tensors, each with a first axis for the chains; all else is the loss's affair.
Chains are advanced together (`torch.func.vmap`), or one after another where one alone fills the memory: the
same numbers come out, since the noise of a tensor hangs on seed, chain and step alone. Gradients are used and
freed tensor by tensor in the second way, so that c chains take c + 1 copies of what moves.

With the scheme "crank-nicolson" it is the pCNL proposal of Cotter, Roberts, Stuart, White ("MCMC methods for
functions: modifying old algorithms to make them faster", Statistical Science 28(3), 2013) for the reference
N(w*, 1/gamma) and the potential Phi = n beta L: with delta = eps gamma / 2,

    w - w* <- ((2 - delta) (w - w*) - eps n beta grad L_B(w)) / (2 + delta) + N(0, 4 eps / (2 + delta)^2)

which is the step above for delta = 0. It leaves the reference as it is at any step, so that its error and its
acceptance hang on the directions that the loss bends, not on how many there are: along a curvature h of L the
stationary variance is 1 / ((gamma + n beta h) (1 - eps n beta h / 4)), where the first scheme has
1 / ((gamma + n beta h) (1 - eps (gamma + n beta h) / 4)). Steps of either are stable while what is subtracted
from 1 stays under it; delta is at most 2.

With the gradient of all rows at the checkpoint at hand (`start(..., steady=)`), that of a batch is corrected
by what it is there: grad L_B(w) - grad L_B(w*) + grad L_n(w*) (Baker, Fearnhead, Fox, Nemeth, "Control
variates for stochastic gradient MCMC", Statistics and Computing 29, 2019). A second pass a step, and one copy
more of what moves, take away most of the noise of batches, which widens the sharp directions: with gradients
of rows of variance s^2 along one, by eps (n beta s)^2 / (4 b) of their variance.

With `precondition`, RMSprop's: G = 1/(sqrt(v) + sqrt(gamma) / (n beta)), v the running mean of squared
gradients, and the step is w <- w - (eps/2) G (...) + N(0, eps G) (of euler only; Li, Chen, Carlson, Carin
2016, arXiv 1512.07666, without the term of dG/dw, as they do). In place of their constant stands what the
prior's own slope comes to at its draws: else directions without a gradient are thrown out of all bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.func import grad

from worker.langevin_steps import (
    Dynamics,
    Loss,
    State,
    add_normal,
    block_length,
    blocks,
    inverse_root,
    number,
    part,
    pull,
    step_error,
    sweep,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Moving = Mapping[str, torch.Tensor]

__all__ = [
    "Dynamics",
    "Info",
    "Loss",
    "State",
    "acceptance",
    "advance",
    "coarseness",
    "curve",
    "ladder",
    "sharpest",
    "start",
]

LEAST_ACCEPTANCE, MOST_ERROR, MOST_RUNGS = 0.8, 0.1, 40  # of the ladder
PILOT_STEPS, PILOT_CHECKS = 3, 5  # of a rung: steps before each look at the acceptance
MANY_ROWS = 64  # times a batch: beyond, repeated rows add under 2 % to the variance, and are let be


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What one step saw, of each chain, before it moved."""

    loss: torch.Tensor  # (chains,), of the batch
    rows: torch.Tensor  # (chains, b)
    distance: torch.Tensor  # (chains,), squared, from the checkpoint; of where the step began


def start(
    centre: Moving,
    chains: int,
    seed: int,
    *,
    jitter: float = 0.0,
    precondition: bool = False,
    steady: Moving | None = None,
) -> State:
    """All chains at the checkpoint, or `jitter` standard deviations around it in every direction.

    `steady`: the gradient of all rows there, by which batches are corrected; not with `precondition`.
    """
    if precondition and steady is not None:
        raise ValueError("Preconditioned steps take batches as they are: leave steady out.")
    moving = {
        name: value.detach().expand(chains, *value.shape).clone(memory_format=torch.contiguous_format)
        for name, value in centre.items()
    }
    state = State(
        moving=moving,
        squares={name: torch.zeros_like(value) for name, value in moving.items()} if precondition else {},
        seed=seed,
        steady=dict(steady or {}),
    )
    if jitter:
        add_normal(moving, range(chains), _seeds(seed, -1), jitter)
    return state


def advance(
    state: State, centre: Moving, loss: Loss, dynamics: Dynamics, *, together: bool = True
) -> tuple[State, Info]:
    """One step of every chain. The state's tensors are changed; a chain that left the finite stays NaN."""
    rows = _rows(loss.rows, dynamics.batch_rows, state.chains, _seeded(state.seed, state.steps, 0))
    distance = _distance(state.moving, centre)
    losses = []
    for block in blocks(state.chains, together):

        def move(name: str, gradient: torch.Tensor, block: range = block) -> None:
            value = part(state.moving[name], block)
            pull(value, centre[name], gradient, dynamics, _scale(state, dynamics, name, block, gradient))

        here = {name: part(value, block) for name, value in state.moving.items()}
        losses.append(sweep(loss, here, part(rows, block), move))
        if state.steady and dynamics.batch_rows < loss.rows:
            _correct(state, centre, loss, dynamics, part(rows, block), block)
        if dynamics.noise:
            _shake(state, here, block, dynamics)
    return replace(state, steps=state.steps + 1), Info(loss=torch.cat(losses), rows=rows, distance=distance)


def _correct(
    state: State, centre: Moving, loss: Loss, dynamics: Dynamics, rows: torch.Tensor, block: range
) -> None:
    """Put the gradient of all rows at the checkpoint in the place of these rows' there."""

    def correct(name: str, gradient: torch.Tensor) -> None:
        value = part(state.moving[name], block)
        value.add_(gradient - state.steady[name], alpha=dynamics.share * dynamics.strength)

    there = {name: value.expand(len(block), *value.shape) for name, value in centre.items()}
    sweep(loss, there, rows, correct)


def _shake(state: State, moving: Moving, block: range, dynamics: Dynamics, *, later: int = 1) -> None:
    """Add a step's noise to these chains, which are all that `moving` has; G is of so many steps `later`."""
    scale = None
    if dynamics.precondition is not None:

        def scale(name: str, chains: slice, numbers: slice) -> torch.Tensor:
            squares = part(state.squares[name], block).flatten(1)[chains, numbers]
            return inverse_root(squares, dynamics, max(state.steps + later, 1))

    add_normal(moving, block, _seeds(state.seed, state.steps), dynamics.spread, scale)


def _seeds(seed: int, step: int) -> Callable[[int, int], int]:
    """Of the noise of a chain's block."""
    return lambda chain, block: number(seed, step, chain, 1 + block)


def _scale(
    state: State, dynamics: Dynamics, name: str, chains: range, gradient: torch.Tensor
) -> torch.Tensor | None:
    """G of the step, its mean of squares brought up to date; None: no preconditioning."""
    if dynamics.precondition is None:
        return None
    squares, kept = part(state.squares[name], chains), dynamics.precondition
    squares.mul_(kept).addcmul_(gradient, gradient, value=1 - kept)
    return inverse_root(squares, dynamics, state.steps + 1)


def acceptance(
    state: State,
    centre: Moving,
    loss: Loss,
    dynamics: Dynamics,
    generator: torch.Generator,
    *,
    together: bool = True,
) -> torch.Tensor:
    """Chance (chains,) that Metropolis would accept a step from here, were the batch all rows there are.

    That of MALA or of pCNL: near 1 where the step is fine enough for the potential, and falling with it; 0
    where it leads out of the finite. Chains that have long followed too coarse a step are where that step has
    spread them: of a quadratic potential half is accepted there, however coarse. RMSprop's G, if any, is held
    still. The chains and their noise stay as they are. It takes another copy of those looked at together.
    """
    rows = _rows(loss.rows, dynamics.batch_rows, state.chains, generator)
    drawn = replace(state, seed=int(torch.randint(2**62, (), generator=generator)))
    log_ratios = [
        _log_ratio(drawn, centre, loss, dynamics, part(rows, block), block)
        for block in blocks(state.chains, together)
    ]
    return torch.cat(log_ratios).clamp(max=0).exp().nan_to_num(0.0)


def _log_ratio(
    state: State, centre: Moving, loss: Loss, dynamics: Dynamics, rows: torch.Tensor, block: range
) -> torch.Tensor:
    """Log of Metropolis' ratio (chains,) for steps from u, where the chains are, to v.

    Phi(u) - Phi(v) + <v - u, g(u) + g(v)> / 2 + (delta / 4) <u + v - 2 w*, g(u) - g(v)>
    + (eps / 8) (|G(u)|^2 - |G(v)|^2), g the gradient of Phi and G that of all that the step follows: of Phi
    by itself in Crank-Nicolson's, of Phi + (gamma / 2) |w - w*|^2 in Euler's, whose differences in the latter
    term cancel exactly elsewhere. Nothing that grows with the number of flat directions is subtracted.
    """
    here = {name: part(value, block) for name, value in state.moving.items()}
    there = {
        name: torch.zeros_like(value, memory_format=torch.contiguous_format) for name, value in here.items()
    }
    total = torch.zeros(len(block), dtype=torch.float64, device=next(iter(here.values())).device)

    def held(name: str) -> torch.Tensor | None:
        if dynamics.precondition is None:
            return None
        return inverse_root(part(state.squares[name], block), dynamics, max(state.steps, 1))

    def tally(name: str, gradient: torch.Tensor, scale: torch.Tensor | None, sign: int) -> None:
        u, v, slope = here[name], there[name], dynamics.strength * gradient
        whole = slope
        if not dynamics.delta:
            whole = slope + dynamics.localisation * ((u if sign > 0 else v) - centre[name])
        square = whole * whole if scale is None else whole * whole * scale
        parts = [(0.5, (v - u) * slope), (sign * dynamics.step / 8, square)]
        if dynamics.delta:
            parts.append((sign * dynamics.delta / 4, (u + v - 2 * centre[name]) * slope))
        for weight, one in parts:
            total.add_(one.flatten(1).sum(1, dtype=torch.float64), alpha=weight)

    def leave(name: str, gradient: torch.Tensor) -> None:
        pulled, scale = here[name].clone(), held(name)
        pull(pulled, centre[name], gradient, dynamics, scale)
        there[name].add_(pulled)
        tally(name, gradient, scale, 1)

    def arrive(name: str, gradient: torch.Tensor) -> None:
        tally(name, gradient, held(name), -1)

    _shake(state, there, block, dynamics, later=0)
    before = sweep(loss, here, rows, leave)
    after = sweep(loss, there, rows, arrive)
    return total.add_(before.double() - after.double(), alpha=dynamics.strength)


def ladder(
    centre: Moving,
    loss: Loss,
    dynamics: Dynamics,
    seed: int,
    *,
    curvature: float,
    together: bool = True,
    tell: Callable[[], None] = lambda: None,
) -> float:
    """The largest step of a ladder by halves that Metropolis would accept, and that tells the loss well.

    A rung will do where 0.8 of its steps are accepted in the mean, and the chains' `coarseness` is under 0.1.
    `curvature` is `sharpest`'s at the checkpoint: the first rung keeps the error along its direction to a
    tenth, and Crank-Nicolson's delta to 1. Around a degenerate checkpoint the loss is bent more than there:
    two chains go from it, each rung on from where the one above has led them, if those steps were accepted.
    They do not go far: ask for the coarseness again when the chains have. `tell` is called after every step.
    `dynamics.step` is not read. Where no rung of 40 will do, the lowest is given.
    """
    step, state = _first_rung(dynamics, curvature), None
    for rung in range(MOST_RUNGS):
        tried, generator = replace(dynamics, step=step / 2**rung), _seeded(seed, rung)
        if state is None:
            state = start(centre, 2, number(seed, rung), precondition=dynamics.precondition is not None)
        refused = 0.0
        for _ in range(PILOT_CHECKS):
            for _ in range(PILOT_STEPS):
                state, _ = advance(state, centre, loss, tried, together=together)
                tell()
            refused += 1 - float(acceptance(state, centre, loss, tried, generator, together=together).mean())
            tell()
            if refused > (1 - LEAST_ACCEPTANCE) * PILOT_CHECKS:
                break
        if refused > (1 - LEAST_ACCEPTANCE) * PILOT_CHECKS:
            state = None
        elif coarseness(state, centre, loss, tried, generator, together=together) <= MOST_ERROR:
            break
    return tried.step


def coarseness(
    state: State,
    centre: Moving,
    loss: Loss,
    dynamics: Dynamics,
    generator: torch.Generator,
    *,
    together: bool = True,
) -> float:
    """Which share of the loss's excess, or of a nat if that is more, is the steps' doing where chains are.

    eps n beta h / 4 where all that is bent has the curvature h: what is subtracted from 1 in the formulas of
    the module. Once the chains have arrived it is known, whatever the curvature at the checkpoint is, and to
    first order the excess is so much too large. Not what batches add; 0 of preconditioned steps; infinity
    where it is not finite. It takes two copies more of the chains that are looked at together.
    """
    if dynamics.precondition is not None:
        return 0.0
    rows = _rows(loss.rows, dynamics.batch_rows, state.chains, generator)
    errors, grown = [], []
    for block in blocks(state.chains, together):
        here = {name: part(value, block) for name, value in state.moving.items()}
        error, growth = step_error(here, centre, loss, dynamics, part(rows, block))
        errors.append(float(error.mean()))
        grown.append(float(growth.mean()))
    found = sum(errors) / max(sum(grown), len(grown))
    return found if math.isfinite(found) else math.inf


def _seeded(*parts: int) -> torch.Generator:
    return torch.Generator().manual_seed(number(*parts))


def _first_rung(dynamics: Dynamics, curvature: float) -> float:
    steepest = dynamics.strength * curvature
    if dynamics.precondition is not None:  # G is not known yet: no number moves further than half of 1
        return 1 / dynamics.strength
    if dynamics.scheme == "euler":
        return 0.4 / (steepest + dynamics.localisation)
    return 1 / (steepest / 0.4 + dynamics.localisation / 2)


def sharpest(centre: Moving, loss: Loss, batches: Iterator[torch.Tensor], seed: int, most: int = 20) -> float:
    """The largest curvature of the loss at the checkpoint, by power iteration over batches; 0 or more."""
    generator = torch.Generator().manual_seed(seed)
    vector = {k: torch.randn(v.shape, generator=generator).to(v) for k, v in centre.items()}
    curvature = 0.0
    for _, rows in zip(range(most), batches, strict=False):
        norm = math.sqrt(float(sum((one**2).sum() for one in vector.values())))
        if not norm or not math.isfinite(norm):
            break
        vector = {k: v / norm for k, v in vector.items()}
        product = curve(centre, loss, rows, vector)
        curvature = float(sum((vector[k] * product[k]).sum() for k in vector))
        vector = product
    return max(curvature, 0.0)


def curve(
    at: Moving, loss: Loss, rows: torch.Tensor, vector: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The loss's Hessian on these rows times a vector."""

    def along(moving: Moving) -> torch.Tensor:
        slope = grad(loss)(moving, rows)
        return torch.stack([(slope[name] * vector[name]).sum() for name in vector]).sum()

    product: dict[str, torch.Tensor] = grad(along)(dict(at))
    return product


def _rows(rows: int, batch: int, chains: int, generator: torch.Generator) -> torch.Tensor:
    """Which rows each chain takes: all in order where the batch takes all, else drawn without repetition."""
    if batch >= rows:
        return torch.arange(rows).repeat(chains, 1)
    if rows >= MANY_ROWS * batch:
        return torch.randint(rows, (chains, batch), generator=generator)
    return torch.stack([torch.randperm(rows, generator=generator)[:batch] for _ in range(chains)])


def _distance(moving: Moving, centre: Moving) -> torch.Tensor:
    """Squared, of each chain; by pieces, so that no copy of a large tensor is made."""
    first = next(iter(moving.values()))
    total = torch.zeros(len(first), dtype=torch.float64, device=first.device)
    length = block_length(first.device)
    for name, value in moving.items():
        if value.numel() <= length:
            total += ((value - centre[name]) ** 2).flatten(1).sum(1, dtype=torch.float64)
            continue
        pieces = zip(
            torch.split(value.flatten(1), length, 1), torch.split(centre[name].flatten(), length), strict=True
        )
        for here, there in pieces:
            total += torch.stack([torch.dot(away, away) for away in here - there])
    return total
