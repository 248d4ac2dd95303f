"""Langevin dynamics against what is known: closed forms, plain descent, singular models, its own repeats."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from headstart.chains import diagnose
from worker.sgld import Dynamics, State, acceptance, advance, curve, sharpest, start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.sgld import Loss


class Potential:
    """A loss of the parameters alone: that of endless rows."""

    rows = 1

    def __call__(self, moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Quadratic(Potential):
    def __init__(self, curvatures: list[float]) -> None:
        self.curvatures = torch.tensor(curvatures, dtype=torch.float64)

    def __call__(self, moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return 0.5 * (self.curvatures * moving["w"] ** 2).sum()


class Product(Potential):
    """Layers of linear nets against the products that they are to have; the first axis counts the nets."""

    def __init__(self, centre: Mapping[str, torch.Tensor]) -> None:
        self.truth = self.of(centre)

    def of(self, moving: Mapping[str, torch.Tensor]) -> torch.Tensor:
        layers = [moving[name] for name in sorted(moving)]
        product = layers[0]
        for layer in layers[1:]:
            product = layer @ product
        return product

    def __call__(self, moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((self.of(moving) - self.truth) ** 2).sum()


class Crossing(Potential):
    """y = w1^k1 w2^k2 + noise: the loss of the truth 0 is (w1^k1 w2^k2)^2 / 2. Several, independent ones."""

    def __init__(self, first: int, second: int) -> None:
        self.powers = first, second

    def __call__(self, moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        first, second = self.powers
        return (0.5 * (moving["w"][0] ** first * moving["w"][1] ** second) ** 2).sum()


class Regression:
    """Rows of a linear regression with unit noise."""

    def __init__(self, rows: int, features: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.rows = rows
        self.x = torch.randn(rows, features, generator=generator, dtype=torch.float64)
        noise = torch.randn(rows, generator=generator, dtype=torch.float64)
        self.y = self.x.sum(1) + noise
        self.best = torch.linalg.lstsq(self.x, self.y[:, None]).solution[:, 0]

    def __call__(self, moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((self.y[rows] - self.x[rows] @ moving["w"]) ** 2).mean()


COPIES = 128  # of a model in one chain, independent of each other: as good as so many chains, and faster


def zeros(*shape: int) -> dict[str, torch.Tensor]:
    return {"w": torch.zeros(*shape, dtype=torch.float64)}


def layers(widths: tuple[int, ...], rank: int, copies: int = 1) -> dict[str, torch.Tensor]:
    """The most degenerate layers of this rank: ones on the first places of each diagonal."""
    made = {}
    for place, (inward, outward) in enumerate(pairwise(widths)):
        one = torch.zeros(copies, outward, inward, dtype=torch.float64)
        one[:, range(rank), range(rank)] = 1.0
        made[f"layer{place}"] = one
    return made


def losses(
    loss: Loss, centre: dict[str, torch.Tensor], dynamics: Dynamics, chains: int, burn_in: int, draws: int
) -> np.ndarray:
    state, found = start(centre, chains, seed=0), []
    for step in range(burn_in + draws):
        state, info = advance(state, centre, loss, dynamics)
        if step >= burn_in:
            found.append(info.loss)
    return torch.stack(found, 1).numpy()


def dynamics(step: float, strength: float, localisation: float = 1.0, batch_rows: int = 1) -> Dynamics:
    return Dynamics(step=step, strength=strength, localisation=localisation, batch_rows=batch_rows)


def test_a_quadratic_gives_its_closed_form() -> None:
    """½ Σ nβh/(nβh+γ), each term times 1/(1 - εa/4) for steps that are not small; a = nβh + γ."""
    curvatures, strength = [0.02, 0.1, 0.5, 1.0], 100.0
    pulls = strength * np.array(curvatures) + 1.0
    step = 0.4 / pulls.max()
    loss, centre = Quadratic(curvatures * COPIES), zeros(4 * COPIES)
    told = strength / COPIES * losses(loss, centre, dynamics(step, strength), 4, 1_200, 1_200)
    exact = 0.5 * (strength * np.array(curvatures) / pulls / (1 - step * pulls / 4)).sum()
    assert told.mean() == pytest.approx(exact, rel=0.02)


def test_the_stationary_variance_of_a_direction_is_that_of_the_potential() -> None:
    how, centre = dynamics(0.02, 50.0, 5.0), zeros(COPIES)
    state, seen = start(centre, 4, seed=1), []
    for step in range(600):
        state, info = advance(state, centre, Quadratic([0.1] * COPIES), how)
        if step > 200:
            seen.append(info.distance / COPIES)
    pull = 50.0 * 0.1 + 5.0
    assert float(torch.stack(seen).mean()) == pytest.approx(1 / pull / (1 - 0.02 * pull / 4), rel=0.03)


def test_a_regular_model_has_half_its_parameters() -> None:
    rows, features = 2_000, 6
    model = Regression(rows, features)
    strength = rows / math.log(rows)
    how = dynamics(0.1 / strength, strength, 1.0, batch_rows=rows)
    told = losses(model, {"w": model.best}, how, 8, 200, 1_500)
    centred = strength * (told - float(model({"w": model.best}, torch.arange(rows))))
    judged = diagnose(centred)
    assert judged.converged, judged.faults
    assert judged.mean == pytest.approx(features / 2, rel=0.06)


def expected(powers: tuple[int, int], strength: float, localisation: float) -> float:
    """nβ E[K] of a crossing by the trapezoid rule in both coordinates."""
    grid = np.sinh(np.linspace(-9, 9, 2_001)) * 5 / np.sinh(9)  # fine near 0
    width = np.gradient(grid)
    loss = 0.5 * np.multiply.outer(grid ** powers[0], grid ** powers[1]) ** 2
    inside = np.exp(-strength * loss - localisation / 2 * np.add.outer(grid**2, grid**2))
    inside *= np.multiply.outer(width, width)
    return float(strength * (inside * loss).sum() / inside.sum())


@pytest.mark.parametrize("powers", [(1, 1), (1, 2), (2, 3)])
def test_normal_crossings(powers: tuple[int, int]) -> None:
    """The exact mean at this nβ, which tends to λ = 1 / (2 max k) as nβ grows."""
    truth, strength, localisation = 1 / (2 * max(powers)), 500.0, 8.0
    far, near = (expected(powers, one, localisation) for one in (strength, 1e9))
    assert abs(near - truth) < abs(far - truth)
    how = dynamics(5e-4, strength, localisation)
    told = strength / COPIES * losses(Crossing(*powers), zeros(2, COPIES), how, 4, 1_000, 1_000)
    assert told.mean() == pytest.approx(far, rel=0.06)


def test_reduced_rank_regression_at_its_most_degenerate_point() -> None:
    strength = 1_000.0
    centre = layers((2, 2, 2), 0, COPIES)
    told = strength / COPIES * losses(Product(centre), centre, dynamics(4e-4, strength, 4.0), 4, 1_000, 1_000)
    assert told.mean() == pytest.approx(1.5, rel=0.10)


def test_without_noise_it_is_gradient_descent() -> None:
    model, step, strength = Regression(64, 3), 1e-3, 10.0
    centre = zeros(3)
    how = replace(dynamics(step, strength, 0.0, batch_rows=16), noise=False)
    state = start(centre, 2, seed=0)
    plain = torch.nn.Parameter(centre["w"].clone())
    descent = torch.optim.SGD([plain], lr=step / 2 * strength)
    for _ in range(20):
        state, info = advance(state, centre, model, how)
        descent.zero_grad()
        model({"w": plain}, info.rows[1]).backward()
        descent.step()
    torch.testing.assert_close(state.moving["w"][1], plain.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("precondition", [None, 0.9])
def test_together_and_one_after_another_are_the_same(precondition: float | None) -> None:
    centre = layers((3, 4, 2), 1)
    how = replace(dynamics(1e-3, 50.0), precondition=precondition)
    found = []
    for together in (True, False):
        state = start(centre, 3, seed=5, precondition=precondition is not None)
        for _ in range(10):
            state, info = advance(state, centre, Product(centre), how, together=together)
        found.append((state, info))
    for name in centre:
        torch.testing.assert_close(found[0][0].moving[name], found[1][0].moving[name], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[0][1].loss, found[1][1].loss, rtol=1e-9, atol=1e-12)


def test_the_same_seed_gives_the_same_bits_and_chains_differ() -> None:
    model, how = Regression(50, 4), dynamics(1e-3, 20.0, batch_rows=10)
    ends = []
    for seed in (7, 7, 8):
        state = start(zeros(4), 3, seed)
        for _ in range(5):
            state, _ = advance(state, zeros(4), model, how)
        ends.append(state.moving["w"])
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert len({tuple(chain.tolist()) for chain in ends[0]}) == 3


def test_a_saved_state_goes_on_bit_for_bit() -> None:
    model, centre = Regression(50, 4), zeros(4)
    how = replace(dynamics(1e-3, 20.0, batch_rows=10), precondition=0.99)
    state = start(centre, 2, seed=1, precondition=True)
    for step in range(6):
        if step == 3:
            told = state.to_dict()
            kept = {
                key: {name: one.clone() for name, one in value.items()} if isinstance(value, dict) else value
                for key, value in told.items()
            }
        state, _ = advance(state, centre, model, how)
    resumed = State.from_dict(kept)
    for _ in range(3):
        resumed, _ = advance(resumed, centre, model, how)
    assert torch.equal(resumed.moving["w"], state.moving["w"])
    assert resumed.steps == state.steps


def test_acceptance_falls_with_the_step_and_leaves_the_chains_alone() -> None:
    loss, centre = Quadratic([1.0] * 20), zeros(20)
    state = start(centre, 64, seed=2, jitter=0.1)
    before = state.moving["w"].clone()
    rates = [
        float(acceptance(state, centre, loss, dynamics(step, 99.0), torch.Generator().manual_seed(0)).mean())
        for step in (1e-5, 5e-3, 1.2e-2, 3e-2)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.99
    assert rates[-1] < 0.5
    assert torch.equal(state.moving["w"], before)


def test_the_sharpest_direction_and_products_with_the_hessian() -> None:
    loss, centre = Quadratic([0.5, 2.0, 7.0]), zeros(3)
    rows = torch.arange(1)
    product = curve(centre, loss, rows, {"w": torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)})
    assert product["w"].tolist() == [0.5, 2.0, 7.0]
    assert sharpest(centre, loss, iter([rows] * 30), seed=0, most=30) == pytest.approx(7.0, rel=1e-3)
