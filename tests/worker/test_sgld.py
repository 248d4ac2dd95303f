"""Langevin dynamics against what is known: closed forms, plain descent, singular models, its own repeats."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from headstart.chains import diagnose
from worker.sgld import Dynamics, State, advance, curve, sharpest, start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headstart.workbench import Scheme
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


class Rows:
    """A linear model of a few rows, at its best weights: of values with unit noise, or of two classes."""

    def __init__(self, rows: int, features: int, *, classes: bool = False) -> None:
        generator = torch.Generator().manual_seed(3)
        self.rows, self.classes = rows, classes
        self.x = torch.randn(rows, features, generator=generator, dtype=torch.float64)
        drawn = torch.rand(rows, generator=generator, dtype=torch.float64)
        self.y = (drawn < torch.sigmoid(self.x.sum(1) / 2)).double() if classes else self.x.sum(1) + drawn
        self.best = torch.zeros(features, dtype=torch.float64)
        for _ in range(20):  # Newton
            slope = torch.func.grad(self._whole)
            self.best = self.best - torch.linalg.solve(torch.func.jacrev(slope)(self.best), slope(self.best))

    def _whole(self, weights: torch.Tensor) -> torch.Tensor:
        return self({"w": weights}, torch.arange(self.rows))

    def __call__(self, moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        told = self.x[rows] @ moving["w"]
        if self.classes:
            return torch.nn.functional.binary_cross_entropy_with_logits(told, self.y[rows])
        return 0.5 * ((self.y[rows] - told) ** 2).mean()


COPIES = 512  # of a model in one chain, independent of each other: as good as so many chains, and faster


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


def dynamics(
    step: float,
    strength: float,
    localisation: float = 1.0,
    batch_rows: int = 1,
    scheme: Scheme = "euler",
) -> Dynamics:
    return Dynamics(
        step=step, strength=strength, localisation=localisation, batch_rows=batch_rows, scheme=scheme
    )


SCHEMES: tuple[Scheme, ...] = ("euler", "crank-nicolson")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_quadratic_gives_its_closed_form(scheme: Scheme) -> None:
    """½ Σ nβh/(nβh+γ), each term over 1 - εa/4 for the step's error: a is nβh + γ, or nβh."""
    curvatures, strength, localisation = [0.02, 0.1, 0.5, 1.0], 100.0, 20.0
    bent = strength * np.array(curvatures)
    step = 0.4 / (bent.max() + localisation)
    loss, centre = Quadratic(curvatures * COPIES), zeros(4 * COPIES)
    how = dynamics(step, strength, localisation, scheme=scheme)
    told = strength / COPIES * losses(loss, centre, how, 1, 200, 600)
    error = step * (bent + localisation * (scheme == "euler")) / 4
    exact = 0.5 * (bent / (bent + localisation) / (1 - error)).sum()
    assert told.mean() == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("curvature", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_stationary_variance_of_a_direction(scheme: Scheme, curvature: float) -> None:
    """Steps as coarse as these make the schemes differ: Crank-Nicolson's is exact where nothing is bent."""
    strength, localisation, step = 50.0, 20.0, 0.05
    centre, seen = zeros(4 * COPIES), []
    how = dynamics(step, strength, localisation, scheme=scheme)
    state = start(centre, 4, seed=1)
    for at in range(200):
        state, info = advance(state, centre, Quadratic([curvature] * 4 * COPIES), how)
        if at > 40:
            seen.append(info.distance / (4 * COPIES))
    bent = strength * curvature
    error = step * (bent + localisation * (scheme == "euler")) / 4
    exact = 1 / (bent + localisation) / (1 - error)
    assert float(torch.stack(seen).mean()) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("classes", [False, True])
def test_a_regular_model_has_half_its_parameters(classes: bool) -> None:
    rows, features, strength = 128, 6, 4_000.0
    model = Rows(rows, features, classes=classes)
    how = dynamics((0.4 if classes else 0.1) / strength, strength, 1.0, batch_rows=rows)
    told = losses(model, {"w": model.best}, how, 64, 80, 240)
    llc = strength * (told.mean() - float(model._whole(model.best)))
    assert llc == pytest.approx(features / 2, rel=0.06)


def expected(powers: tuple[int, int], strength: float, localisation: float) -> float:
    """nβ E[K] of a crossing by the trapezoid rule in both coordinates."""
    grid = np.sinh(np.linspace(-9, 9, 2_001)) * 8 / np.sinh(9)  # fine near 0
    width = np.gradient(grid)
    loss = 0.5 * np.multiply.outer(grid ** powers[0], grid ** powers[1]) ** 2
    inside = np.exp(-strength * loss - localisation / 2 * np.add.outer(grid**2, grid**2))
    inside *= np.multiply.outer(width, width)
    return float(strength * (inside * loss).sum() / inside.sum())


@pytest.mark.parametrize(("power", "step"), [(1, 2e-4), (2, 2e-3), (3, 2e-3)])
def test_normal_crossings_of_one_coordinate(power: int, step: float) -> None:
    """λ = 1 / 2k, which the exact mean is within 5 % of at this nβ."""
    strength, copies = 500.0, 4 * COPIES
    assert expected((0, power), strength, 1.0) == pytest.approx(1 / (2 * power), rel=0.05)
    found = losses(Crossing(0, power), zeros(2, copies), dynamics(step, strength), 1, 300, 500)
    assert strength / copies * found.mean() == pytest.approx(1 / (2 * power), rel=0.10)


@pytest.mark.parametrize("powers", [(1, 1), (1, 2)])
def test_normal_crossings_of_two(powers: tuple[int, int]) -> None:
    """The exact mean at this nβ, which tends to λ = 1 / (2 max k) as nβ grows."""
    truth, strength, localisation = 1 / (2 * max(powers)), 500.0, 8.0
    far, near = (expected(powers, one, localisation) for one in (strength, 1e9))
    assert abs(near - truth) < abs(far - truth)
    how = dynamics(5e-4, strength, localisation)
    told = strength / COPIES * losses(Crossing(*powers), zeros(2, COPIES), how, 1, 800, 800)
    assert told.mean() == pytest.approx(far, rel=0.06)


@pytest.mark.parametrize(
    ("widths", "rank", "truth", "strength", "fineness"),
    [
        ((2, 2, 2), 0, 3 / 2, 3_000.0, 0.4),
        ((5, 3, 5), 0, 13 / 2, 3_000.0, 0.4),
        ((5, 4, 5), 0, 8.0, 3_000.0, 0.4),
        ((5, 3, 5), 1, 8.0, 1_000.0, 0.1),
        ((5, 3, 5), 3, 21 / 2, 3_000.0, 0.06),
        ((5, 5, 5, 5), 2, 11.0, 1_000.0, 0.1),
    ],
)
def test_linear_nets_at_their_most_degenerate_points(
    widths: tuple[int, ...], rank: int, truth: float, strength: float, fineness: float
) -> None:
    """Reduced-rank regression (Aoyagi and Watanabe 2005) and deep linear nets (Aoyagi 2024)."""
    copies = 64
    centre = layers(widths, rank, copies)
    how = dynamics(fineness / strength, strength, 1.0, scheme="crank-nicolson")
    told = strength / copies * losses(Product(centre), centre, how, 1, 800, 800)
    assert told.mean() == pytest.approx(truth, rel=0.10)


def test_a_stuck_chain_is_refused() -> None:
    """One of four starts in a well of its own, which no step leaves."""

    class Wells(Potential):
        def __call__(self, moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
            return ((moving["w"] ** 2 - 1) ** 2 * (1 + moving["w"] / 10)).sum()

    centre, found = {"w": torch.ones(1, dtype=torch.float64)}, []
    state = start(centre, 4, seed=0)
    state.moving["w"][2] = -1.0
    for _ in range(400):
        state, info = advance(state, centre, Wells(), dynamics(2e-3, 100.0, 0.01))
        found.append(info.distance)
    judged = diagnose(torch.stack(found, 1).numpy())
    assert judged.rhat > 1.05
    assert not judged.converged


def test_without_noise_it_is_gradient_descent() -> None:
    model, step, strength = Rows(64, 3), 1e-3, 10.0
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
    model, how = Rows(50, 4), dynamics(1e-3, 20.0, batch_rows=10)
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
    model, centre = Rows(50, 4), zeros(4)
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


def test_the_sharpest_direction_and_products_with_the_hessian() -> None:
    loss, centre = Quadratic([0.5, 2.0, 7.0]), zeros(3)
    rows = torch.arange(1)
    product = curve(centre, loss, rows, {"w": torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)})
    assert product["w"].tolist() == [0.5, 2.0, 7.0]
    assert sharpest(centre, loss, iter([rows] * 30), seed=0, most=30) == pytest.approx(7.0, rel=1e-3)
