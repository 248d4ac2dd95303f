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

With `precondition`, RMSprop's: G = 1/(sqrt(v) + 1e-8 scale), v the running mean of squared gradients, and
the step is w <- w - (eps/2) G (...) + N(0, eps G) (Li, Chen, Carlson, Carin 2016, arXiv 1512.07666, without
the term of dG/dw, as they do).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.func import grad, grad_and_value, vmap

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Moving = Mapping[str, torch.Tensor]

SMALLEST_SCALE = 1e-8  # of RMSprop, added to the root mean square


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
    noise: bool = True  # False: plain gradient descent on the same potential
    precondition: float | None = None  # decay of the mean of squared gradients, such as 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where the chains are. Advanced in place: the tensors are large."""

    moving: dict[str, torch.Tensor]  # (chains, ...)
    squares: dict[str, torch.Tensor]  # of gradients, where they are preconditioned
    seed: int
    steps: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As it is saved; `from_dict` goes on from there, bit for bit."""
        return {"moving": self.moving, "squares": self.squares, "seed": self.seed, "steps": self.steps}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> State:
        """What `to_dict` gave."""
        return cls(**told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What one step saw, of each chain, before it moved."""

    loss: torch.Tensor  # (chains,), of the batch
    rows: torch.Tensor  # (chains, b)
    distance: torch.Tensor  # (chains,), squared, from the checkpoint; of where the step began


def start(
    centre: Moving, chains: int, seed: int, *, jitter: float = 0.0, precondition: bool = False
) -> State:
    """All chains at the checkpoint, or `jitter` standard deviations around it in every direction."""
    moving = {name: value.detach().expand(chains, *value.shape).clone() for name, value in centre.items()}
    state = State(
        moving=moving,
        squares={name: torch.zeros_like(value) for name, value in moving.items()} if precondition else {},
        seed=seed,
    )
    if jitter:
        for name, value in moving.items():
            value.add_(_normal(state, name, range(chains), step=-1), alpha=jitter)
    return state


def advance(
    state: State, centre: Moving, loss: Loss, dynamics: Dynamics, *, together: bool = True
) -> tuple[State, Info]:
    """One step of every chain. The state's tensors are changed; a chain that left the finite stays NaN."""
    chains = range(len(next(iter(state.moving.values()))))
    rows = torch.stack([_rows_of(state, loss, dynamics, chain) for chain in chains])
    distance = _distance(state.moving, centre)
    if together:
        gradients, losses = vmap(grad_and_value(loss), in_dims=(0, 0), randomness="error")(state.moving, rows)
        for name, gradient in gradients.items():
            _move(state, centre, dynamics, name, chains, gradient)
    else:
        losses = torch.stack(
            [_alone(state, centre, loss, dynamics, chain, one) for chain, one in enumerate(rows)]
        )
    return replace(state, steps=state.steps + 1), Info(loss=losses.detach(), rows=rows, distance=distance)


def _alone(
    state: State, centre: Moving, loss: Loss, dynamics: Dynamics, chain: int, rows: torch.Tensor
) -> torch.Tensor:
    """One chain; each tensor moves as soon as its gradient is there, which is then let go."""
    leaves = {name: value[chain].detach().requires_grad_() for name, value in state.moving.items()}
    hooks = []
    for name, leaf in leaves.items():

        def move(one: torch.Tensor, name: str = name) -> None:
            gradient, one.grad = one.grad, None
            assert gradient is not None  # noqa: S101 - the hook is called when it is there
            with torch.no_grad():
                _move(state, centre, dynamics, name, range(chain, chain + 1), gradient[None])

        hooks.append(leaf.register_post_accumulate_grad_hook(move))  # type: ignore[no-untyped-call]
    value = loss(leaves, rows)
    value.backward()  # type: ignore[no-untyped-call]
    for hook in hooks:
        hook.remove()
    return value.detach()


def _move(
    state: State, centre: Moving, dynamics: Dynamics, name: str, chains: range, gradient: torch.Tensor
) -> None:
    """One tensor of some chains, in place."""
    value, half = state.moving[name][chains.start : chains.stop], dynamics.step / 2
    scale = _scale(state, dynamics, name, chains, gradient)
    if scale is None:
        value.lerp_(centre[name].expand_as(value), half * dynamics.localisation)
        value.add_(gradient, alpha=-half * dynamics.strength)
    else:
        pull = dynamics.strength * gradient + dynamics.localisation * (value - centre[name])
        value.addcmul_(scale, pull, value=-half)
    if dynamics.noise:
        noise = _normal(state, name, chains, state.steps)
        spread = math.sqrt(dynamics.step)
        value.add_(noise, alpha=spread) if scale is None else value.addcmul_(
            scale.sqrt(), noise, value=spread
        )


def _scale(
    state: State, dynamics: Dynamics, name: str, chains: range, gradient: torch.Tensor
) -> torch.Tensor | None:
    """G of the step, its mean of squares brought up to date; None: no preconditioning."""
    if dynamics.precondition is None:
        return None
    squares, kept = state.squares[name][chains.start : chains.stop], dynamics.precondition
    squares.mul_(kept).addcmul_(gradient, gradient, value=1 - kept)
    grown = 1 - kept ** (state.steps + 1)  # as Adam's: the mean of few squares begins at 0
    return (squares / grown).sqrt_().add_(SMALLEST_SCALE).reciprocal_()


def acceptance(
    state: State, centre: Moving, loss: Loss, dynamics: Dynamics, generator: torch.Generator
) -> torch.Tensor:
    """Chance (chains,) that Metropolis would accept a step from here, were the batch all rows there are.

    MALA's: near 1 where the step is fine enough for the potential, and falling with it. The chains and their
    generators stay as they are. Not for preconditioned dynamics, whose G moves.
    """
    half, chances = dynamics.step / 2, []
    for chain in range(len(next(iter(state.moving.values())))):
        rows = _rows(loss.rows, dynamics.batch_rows, generator)
        here = {name: value[chain] for name, value in state.moving.items()}
        potential, pull = _potential(here, centre, loss, dynamics, rows)
        there = {
            name: value
            - half * pull[name]
            + math.sqrt(dynamics.step) * torch.randn(value.shape, generator=generator).to(value)
            for name, value in here.items()
        }
        potential_there, pull_there = _potential(there, centre, loss, dynamics, rows)
        forth = sum(((there[k] - here[k] + half * pull[k]) ** 2).sum() for k in here)
        back = sum(((here[k] - there[k] + half * pull_there[k]) ** 2).sum() for k in here)
        log_ratio = potential - potential_there + (forth - back) / (2 * dynamics.step)
        chances.append(log_ratio.clamp(max=0).exp().nan_to_num(0.0))
    return torch.stack(chances)


def _potential(
    at: Moving, centre: Moving, loss: Loss, dynamics: Dynamics, rows: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    gradients, value = grad_and_value(loss)(dict(at), rows)
    away = {name: at[name] - centre[name] for name in at}
    square = sum((one**2).sum() for one in away.values())
    pull = {name: dynamics.strength * gradients[name] + dynamics.localisation * away[name] for name in at}
    return dynamics.strength * value + dynamics.localisation / 2 * square, pull


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


def _rows(rows: int, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Which rows: all of them in order where the batch takes all, else drawn without repetition."""
    if batch >= rows:
        return torch.arange(rows)
    return torch.randperm(rows, generator=generator)[:batch]


def _distance(moving: Moving, centre: Moving) -> torch.Tensor:
    parts = [((value - centre[name]) ** 2).flatten(1).sum(1) for name, value in moving.items()]
    return torch.stack(parts).sum(0)


def _rows_of(state: State, loss: Loss, dynamics: Dynamics, chain: int) -> torch.Tensor:
    """Of the step to come."""
    if dynamics.batch_rows >= loss.rows:
        return torch.arange(loss.rows)
    generator = torch.Generator().manual_seed(_number(state.seed, state.steps, chain, 0))
    return _rows(loss.rows, dynamics.batch_rows, generator)


def _normal(state: State, name: str, chains: range, step: int) -> torch.Tensor:
    """Noise of one tensor: each chain's, step's and tensor's is its own, whatever else was drawn."""
    like = state.moving[name][chains.start : chains.stop]
    noise, generator = torch.empty_like(like), torch.Generator(like.device)
    place = 1 + list(state.moving).index(name)
    for one, chain in zip(noise, chains, strict=True):
        one.normal_(generator=generator.manual_seed(_number(state.seed, step, chain, place)))
    return noise


def _number(*parts: int) -> int:
    """A seed of its own for these numbers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
