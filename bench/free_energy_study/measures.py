"""What is measured on the pretraining rows of one checkpoint; the linear probe alone sees the transfer rows.

The backbone moves, the head stays, normalisation is in evaluation mode with the statistics of all pretraining
rows. What is called radius is that of `headstart.methods.free_energy`: gamma = d / radius^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.func import jacrev, vmap
from torch.nn import functional as F  # noqa: N812 - its usual name

from bench.free_energy_study.nets import HEAD, backbone, features, logits
from headstart.chains import diagnose
from headstart.logistic import fit_logistic, principal_axes
from worker.sgld import Dynamics, acceptance, advance, curve, ladder, sharpest, start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.free_energy_study.data import Images, Split
    from bench.free_energy_study.training import Trained

RADIUS, RADII = 3.0, (0.3, 1.0, 3.0, 10.0)  # |w - w*| of the prior; gamma over three decades
CHAINS, BURN_IN, BATCH = 4, 50, 32
DRAWS, FEWER_DRAWS = 200, 100  # of a chain at RADIUS, and at the other radii
PREFIXES = (10, 30, 100, 200)  # draws after the burn-in
LEAST_ACCEPTANCE = 0.5  # below which all chains begin anew, with a quarter of the step
LOOK_EVERY, MOST_RESTARTS = 50, 6  # steps between looks at the acceptance
PUBLISHED_STEP, PUBLISHED_GAMMA, PUBLISHED_STEPS, PUBLISHED_BATCH = 6e-7, 1.0, 1000, 16
PUBLISHED_PREFIXES = (30, 100, 300, 1000)
PROBES, TRACE_ROWS, JACOBIAN_ROWS = 10, 500, 500
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # of the linear probe


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PretrainingLoss:
    """The loss of some pretraining rows, as `worker.sgld` wants it."""

    images: Images
    checkpoint: Trained

    @property
    def rows(self) -> int:
        """n."""
        return len(self.images.y)

    def __call__(self, moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """Mean nats of these rows."""
        head = {name: self.checkpoint.weights[name] for name in HEAD}
        found, _ = logits({**moving, **head}, self.images.x[rows], self.checkpoint.statistics)
        return F.cross_entropy(found, self.images.y[rows])


def measure(
    checkpoint: Trained, split: Split, radii: tuple[float, ...], published: bool, seed: int
) -> dict[str, Any]:
    """Every measure; `radii` has RADIUS among them."""
    loss, centre = PretrainingLoss(images=split.pretrain, checkpoint=checkpoint), backbone(checkpoint.weights)
    losses = checkpoint.losses(split.pretrain)
    found: dict[str, Any] = {
        "n": loss.rows,
        "d": sum(value.numel() for value in centre.values()),
        "loss": float(losses.double().mean()),
        "held_loss": float(checkpoint.losses(split.held).double().mean()),
        "held_accuracy": checkpoint.accuracy(split.held),
        "norm": math.sqrt(sum(float((value**2).sum()) for value in centre.values())),
        "trace": trace(loss, centre, seed),
        "probe": linear_probe(checkpoint, split),
        "jacobian": jacobian(checkpoint, split.pretrain),
        **collapse(checkpoint, split.pretrain),
    }
    found["chains"] = {f"{radius:g}": sample(loss, centre, losses, radius, seed) for radius in radii}
    if published:
        found["published"] = sample_as_published(loss, centre, losses, seed)
    return found


def sample(
    loss: PretrainingLoss, centre: dict[str, torch.Tensor], losses: torch.Tensor, radius: float, seed: int
) -> dict[str, Any]:
    """The served way: chains with burn-in, Crank-Nicolson, a step of the ladder, and what the gate says."""
    gamma = sum(value.numel() for value in centre.values()) / radius**2
    strength = loss.rows / math.log(loss.rows)
    generator = torch.Generator().manual_seed(seed)
    batches = (torch.randperm(loss.rows, generator=generator)[:200] for _ in repeat(None))
    curvature = sharpest(centre, loss, batches, seed, most=8)
    rough = Dynamics(
        step=0.0, strength=strength, localisation=gamma, batch_rows=BATCH, scheme="crank-nicolson"
    )
    step = ladder(centre, loss, rough, seed, curvature=curvature)
    draws = DRAWS if radius == RADIUS else FEWER_DRAWS
    for restarts in range(MOST_RESTARTS + 1):
        dynamics = replace(rough, step=step / 4**restarts)
        excess, distance, accepted = _run(loss, centre, losses, dynamics, draws, seed)
        if accepted >= LEAST_ACCEPTANCE:
            break
    told = diagnose(strength * excess[:, -draws:]) if excess.shape[1] > draws else None
    plain = float(losses.double().mean())
    found = {
        "radius": radius,
        "gamma": gamma,
        "step": dynamics.step,
        "restarts": restarts,
        "acceptance": accepted,
    }
    if told is None or not math.isfinite(told.mean):
        return found | {"converged": False, "wbic": None}
    return found | {
        "llc": told.mean,
        "llc_stderr": told.stderr,
        "rhat": told.rhat,
        "effective": told.effective,
        "drift": told.drift,
        "converged": told.converged and accepted >= LEAST_ACCEPTANCE,
        "travelled": float(distance[:, -draws:].mean()) / radius,
        "wbic": loss.rows * (plain + told.mean / strength),
        "prefixes": {
            str(k): loss.rows * (plain + float(excess[:, BURN_IN : BURN_IN + k].mean()))
            for k in PREFIXES
            if k <= draws
        },
    }


def _run(
    loss: PretrainingLoss,
    centre: dict[str, torch.Tensor],
    losses: torch.Tensor,
    dynamics: Dynamics,
    draws: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Excess loss and distance (chains, steps), and the mean acceptance; ended early where that is low.

    The ladder looks near the checkpoint only. Where that is an all but flat floor between walls, the chain
    meets the walls later, with a step that is too coarse for them.
    """
    generator = torch.Generator().manual_seed(seed)
    state, excess, distance = start(centre, CHAINS, seed), [], []
    accepted = 0.0
    for step in range(1, BURN_IN + draws + 1):
        state, info = advance(state, centre, loss, dynamics)
        excess.append((info.loss - losses[info.rows].mean(1)).numpy().astype(np.float64))
        distance.append(info.distance.sqrt().numpy())
        if step % LOOK_EVERY == 0:
            accepted = float(acceptance(state, centre, loss, dynamics, generator).mean())
            if accepted < LEAST_ACCEPTANCE:
                break
    return np.stack(excess, 1), np.stack(distance, 1), accepted


def sample_as_published(
    loss: PretrainingLoss, centre: dict[str, torch.Tensor], losses: torch.Tensor, seed: int
) -> dict[str, Any]:
    """The paper's chain: one, at gamma = 1, from the checkpoint, nothing left out.

    Its time (eps x steps) is the paper's, in 1,000 steps of 6e-7 for 3,000 of 2e-7: both are far below what
    any curvature here would notice. The batch is smaller (16 rows for 2,048), and its noise is nothing beside
    the chain's; the checkpoint's own loss on the same rows is taken off, which only lowers the error.
    """
    strength = loss.rows / math.log(loss.rows)
    dynamics = Dynamics(
        step=PUBLISHED_STEP, strength=strength, localisation=PUBLISHED_GAMMA, batch_rows=PUBLISHED_BATCH
    )
    state, excess = start(centre, 1, seed), []
    for _ in range(PUBLISHED_STEPS):
        state, info = advance(state, centre, loss, dynamics)
        excess.append(float(info.loss[0] - losses[info.rows[0]].mean()))
    plain, draws = float(losses.double().mean()), np.array(excess)
    told = diagnose(strength * draws[None])
    return {
        "wbic": loss.rows * (plain + float(draws.mean())),
        "llc": told.mean,
        "effective": told.effective,
        "drift": told.drift,
        "travelled": math.sqrt(float(info.distance[0])),
        "prefixes": {str(k): loss.rows * (plain + float(draws[:k].mean())) for k in PUBLISHED_PREFIXES},
    }


def trace(loss: PretrainingLoss, centre: dict[str, torch.Tensor], seed: int) -> float:
    """Hutchinson's tr(H) of the mean loss in the backbone: mean of v'Hv over signs v, each on 500 rows."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(PROBES):
        rows = torch.randperm(loss.rows, generator=generator)[:TRACE_ROWS]
        signs = {
            name: torch.randint(0, 2, value.shape, generator=generator).float() * 2 - 1
            for name, value in centre.items()
        }
        product = curve(centre, loss, rows, signs)
        found.append(sum(float((signs[name] * product[name]).sum(dtype=torch.float64)) for name in centre))
    return float(np.mean(found))


def collapse(checkpoint: Trained, rows: Images) -> dict[str, float]:
    """Neural collapse of the pretraining features, smaller is more collapsed.

    `nc1` is tr(Sw Sb^+) / K (Papyan, Han, Donoho, arXiv 2008.08186); `cdnv` the class-distance normalised
    variance, mean over pairs of (v_i + v_j) / (2 |m_i - m_j|^2) (Galanti, György, Hutter, arXiv 2112.15121).
    """
    with torch.no_grad():
        z = features(checkpoint.weights, rows.x, checkpoint.statistics)[0].double().numpy()
    y = rows.y.numpy()
    own = [z[y == label] for label in np.unique(y)]
    means = np.stack([one.mean(0) for one in own])
    residual = np.concatenate([one - one.mean(0) for one in own])
    within, spread = residual.T @ residual / len(residual), means - means.mean(0)
    between = spread.T @ spread / len(means)
    variances = np.array([((one - one.mean(0)) ** 2).sum(1).mean() for one in own])
    first, second = np.triu_indices(len(means), 1)
    apart = ((means[first] - means[second]) ** 2).sum(1)
    return {
        "nc1": float(np.trace(within @ np.linalg.pinv(between, rcond=1e-6)) / len(means)),
        "cdnv": float(((variances[first] + variances[second]) / (2 * apart)).mean()),
    }


def jacobian(checkpoint: Trained, rows: Images) -> float:
    """Geometric complexity: mean squared Frobenius norm of d logits / d pixels (arXiv 2209.13083)."""

    def one(x: torch.Tensor) -> torch.Tensor:
        return checkpoint.logits(x[None])[0]

    found = vmap(jacrev(one), chunk_size=100)(rows.x[:JACOBIAN_ROWS])
    return float((found**2).flatten(1).sum(1).double().mean())


def linear_probe(checkpoint: Trained, split: Split) -> float:
    """Mean test loss of a logistic head on the frozen features of all transfer rows, nats.

    The best of four ridges by a fifth of those rows. What a user with the downstream data would measure.
    """
    with torch.no_grad():
        z, other = (
            features(checkpoint.weights, one.x, checkpoint.statistics)[0].numpy()
            for one in (split.transfer, split.test)
        )
    y, tested = split.transfer.y.numpy(), split.test.y.numpy()
    fit = np.arange(len(y)) % 5 > 0
    ridge = min(RIDGES, key=lambda l2: _probe_loss(z[fit], y[fit], z[~fit], y[~fit], l2))
    return _probe_loss(z, y, other, tested, ridge)


def _probe_loss(z: np.ndarray, y: np.ndarray, other: np.ndarray, tested: np.ndarray, l2: float) -> float:
    axes = principal_axes(z)
    head = fit_logistic(axes.of(z), y, l2, axes.variance)
    found = head.logits(axes.of(other)).astype(np.float64)
    found -= np.logaddexp.reduce(found, axis=1, keepdims=True)
    return float(-found[np.arange(len(tested)), tested].mean())
