"""What a step of Langevin chains is made of: gradients tensor by tensor, the pull in place, noise by blocks.

`worker.sgld` puts it together and has the formulas.
"""

from __future__ import annotations

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.func import vmap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headstart.workbench import Scheme

    Moving = Mapping[str, torch.Tensor]

SMALLEST_SCALE = 1e-8  # of RMSprop, added to the root mean square
BLOCK = 1 << 15  # numbers with a seed of their own: 128 KiB, which stay in a core's cache
DEVICE_BLOCK = 1 << 24  # of an accelerator, which wants few and large ones


class Loss(Protocol):
    """The mean negative log likelihood of some rows, one chain's at a time."""

    rows: int  # n

    def __call__(self, moving: Moving, rows: torch.Tensor) -> torch.Tensor:
        """A scalar, of the rows by number; differentiable in what moves."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dynamics:
    """What is sampled, and how finely."""

    step: float  # eps
    strength: float  # n beta: beta is 1 / log n for WBIC
    localisation: float  # gamma
    batch_rows: int
    scheme: Scheme = "euler"
    noise: bool = True  # False: plain gradient descent on the same potential
    precondition: float | None = None  # decay of the mean of squared gradients, such as 0.99; euler only

    def __post_init__(self) -> None:
        """A scheme that has no preconditioned form is refused."""
        if self.precondition is not None and self.scheme != "euler":
            raise ValueError(f"Only the scheme euler can be preconditioned, not {self.scheme}.")

    @property
    def delta(self) -> float:
        """Crank-Nicolson's; 0: euler."""
        return self.step * self.localisation / 2 if self.scheme == "crank-nicolson" else 0.0

    @property
    def floor(self) -> float:
        """Of RMSprop's root mean square: the slope of the prior at its own draws, in the loss's unit."""
        return math.sqrt(self.localisation) / self.strength + SMALLEST_SCALE

    @property
    def share(self) -> float:
        """Of the pull that a step follows."""
        return self.step / (2 + self.delta)

    @property
    def spread(self) -> float:
        """Standard deviation of a step's noise."""
        return 2 * math.sqrt(self.step) / (2 + self.delta)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where the chains are. Advanced in place: the tensors are large."""

    moving: dict[str, torch.Tensor]  # (chains, ...), each chain's contiguous
    squares: dict[str, torch.Tensor]  # of gradients, where they are preconditioned
    seed: int
    steps: int = 0
    steady: dict[str, torch.Tensor] = field(default_factory=dict)  # gradient of all rows at the checkpoint

    @property
    def chains(self) -> int:
        """How many."""
        return len(next(iter(self.moving.values())))

    def to_dict(self) -> dict[str, Any]:
        """As it is saved; `from_dict` goes on from there, bit for bit."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> State:
        """What `to_dict` gave."""
        return cls(**told)


def blocks(chains: int, together: bool) -> list[range]:
    """Which chains are advanced at once."""
    return [range(chains)] if together else [range(chain, chain + 1) for chain in range(chains)]


def part(value: torch.Tensor, block: range) -> torch.Tensor:
    """Of these chains; shares the memory."""
    return value[block.start : block.stop]


def sweep(
    loss: Loss, at: Moving, rows: torch.Tensor, visit: Callable[[str, torch.Tensor], None]
) -> torch.Tensor:
    """The losses (chains,) of some chains; `visit` is given each tensor's gradient (chains, ...) once.

    It is given as soon as it is there, and let go then: `visit` may change the tensor that it is of. What the
    loss does not read has a gradient of 0.
    """
    lone = len(rows) == 1
    leaves = {name: (value[0] if lone else value).detach().requires_grad_() for name, value in at.items()}
    for name, leaf in leaves.items():

        def hand(gradient: torch.Tensor, name: str = name) -> torch.Tensor:
            with torch.no_grad():
                visit(name, gradient[None] if lone else gradient)
            return gradient.new_zeros(()).expand_as(gradient)  # in its place, so that its memory is free

        leaf.register_hook(hand)  # type: ignore[no-untyped-call]
    with torch.enable_grad():
        losses = loss(leaves, rows[0])[None] if lone else vmap(loss, randomness="error")(leaves, rows)
        handed = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
    for name, gradient in zip(leaves, handed, strict=True):
        if gradient is None:
            visit(name, torch.zeros_like(at[name]))
    return losses.detach()


def pull(
    value: torch.Tensor,
    centre: torch.Tensor,
    gradient: torch.Tensor,
    dynamics: Dynamics,
    scale: torch.Tensor | None,
) -> None:
    """A step without its noise, in place; `scale` is RMSprop's G."""
    if scale is None:
        value.lerp_(centre.expand_as(value), dynamics.share * dynamics.localisation)
        value.add_(gradient, alpha=-dynamics.share * dynamics.strength)
        return
    whole = dynamics.strength * gradient + dynamics.localisation * (value - centre)
    value.addcmul_(scale, whole, value=-dynamics.share)


def inverse_root(squares: torch.Tensor, dynamics: Dynamics, steps: int) -> torch.Tensor:
    """RMSprop's G after so many steps."""
    grown = 1 - (dynamics.precondition or 0.0) ** steps  # as Adam's: the mean of few squares begins at 0
    return (squares / grown).sqrt_().add_(dynamics.floor).reciprocal_()


def step_error(
    here: Moving, centre: Moving, loss: Loss, dynamics: Dynamics, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """By how much (chains,) steps make the excess of some chains' losses too large, and that excess; in nats.

    With g the gradient of Phi = n beta L less that at the checkpoint, on the same rows: (eps / 8) <g, G>, G
    being g in Crank-Nicolson's scheme and g + gamma (w - w*) in Euler's, and Phi(w) - Phi(w*) -
    <grad Phi(w*), w - w*>. Of a quadratic loss the mean of the former over the chains is what the variances
    that `worker.sgld` gives make the mean of the latter too large by. RMSprop's G is left out.
    """
    there = {name: value.expand(len(rows), *value.shape) for name, value in centre.items()}
    slopes: dict[str, torch.Tensor] = {}
    error = torch.zeros(len(rows), dtype=torch.float64, device=next(iter(here.values())).device)
    linear = torch.zeros_like(error)

    def keep(name: str, gradient: torch.Tensor) -> None:
        slopes[name] = gradient.clone()

    def tally(name: str, gradient: torch.Tensor) -> None:
        before, away = slopes.pop(name), here[name] - centre[name]
        bent = dynamics.strength * (gradient - before)
        followed = bent if dynamics.delta else bent + dynamics.localisation * away
        error.add_((bent * followed).flatten(1).sum(1, dtype=torch.float64), alpha=dynamics.step / 8)
        linear.add_((before * away).flatten(1).sum(1, dtype=torch.float64))

    least = sweep(loss, there, rows, keep)
    grown = sweep(loss, here, rows, tally).double() - least.double()
    return error, dynamics.strength * (grown - linear)


def number(*parts: int) -> int:
    """A seed of its own for these numbers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def block_length(device: torch.device) -> int:
    """Numbers of a block of noise, and of what is looked at at once."""
    return BLOCK if device.type == "cpu" else DEVICE_BLOCK


def add_normal(
    moving: Moving,
    chains: range,
    seed: Callable[[int, int], int],
    spread: float,
    scale: Callable[[str, slice, slice], torch.Tensor] | None = None,
) -> None:
    """Add N(0, spread^2), or that times the root of `scale`, to what moves of these chains, in place.

    The numbers of a chain are counted through, tensor after tensor, and cut into blocks; the noise of a block
    is that of `seed(chain, block)`, whichever chains are advanced with it and on however many threads.
    `scale` is asked for some of these chains, counted from 0, and some numbers of a tensor.
    """
    flat = {name: value.view(len(chains), -1) for name, value in moving.items()}
    like = next(iter(flat.values()))
    plan = _plan(tuple((name, value.shape[1]) for name, value in flat.items()), block_length(like.device))
    at_once = blocks(len(chains), together=len(plan) == 1)
    tasks = [(block, rows) for block in range(len(plan)) for rows in at_once]

    def shake(block: int, rows: range, noise: torch.Tensor, generator: torch.Generator) -> None:
        for row, one in zip(rows, noise, strict=True):
            one.normal_(generator=generator.manual_seed(seed(chains[row], block)))
        lines = slice(rows.start, rows.stop)
        for name, place, numbers in plan[block][1]:
            value, drawn = flat[name][lines, numbers], noise[:, place : place + numbers.stop - numbers.start]
            if scale is None:
                value.add_(drawn, alpha=spread)
            else:
                value.addcmul_(scale(name, lines, numbers).sqrt_(), drawn, value=spread)

    def work(mine: Sequence[tuple[int, range]]) -> None:
        noise, generator = like.new_empty(len(at_once[0]), plan[0][0]), torch.Generator(like.device)
        for block, rows in mine:
            shake(block, rows, noise[:, : plan[block][0]], generator)

    threads = min(torch.get_num_threads(), len(tasks)) if like.device.type == "cpu" else 1
    if threads == 1:
        work(tasks)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [tasks[first::threads] for first in range(threads)]))


Piece = tuple[str, int, slice]  # a tensor, where in the block it begins, which of its numbers


@lru_cache(maxsize=64)
def _plan(sizes: tuple[tuple[str, int], ...], length: int) -> list[tuple[int, list[Piece]]]:
    """How long each block is, and what of the tensors lies in it."""
    plan: list[tuple[int, list[Piece]]] = []
    filled = length
    for name, size in sizes:
        done = 0
        while done < size:
            if filled == length:
                plan.append((0, []))
                filled = 0
            taken = min(size - done, length - filled)
            pieces = plan[-1][1]
            pieces.append((name, filled, slice(done, done + taken)))
            filled, done = filled + taken, done + taken
            plan[-1] = (filled, pieces)
    return plan
