"""What steps of Langevin chains are made of: acceptance, the ladder, noise by blocks, Crank-Nicolson."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from worker import langevin_steps
from worker.langevin_steps import add_normal
from worker.sgld import Dynamics, acceptance, advance, coarseness, ladder, start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headstart.workbench import Scheme

SCHEMES: tuple[Scheme, ...] = ("euler", "crank-nicolson")


class Bent:
    """A quadratic of given curvatures, and a quartic: a loss of the parameters alone."""

    rows = 1

    def __init__(self, curvatures: torch.Tensor, quartic: float = 0.0) -> None:
        self.curvatures, self.quartic = curvatures, quartic

    def __call__(self, moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        square = moving["w"] ** 2
        return 0.5 * (self.curvatures * square).sum() + self.quartic * (square**2).sum()


def flat_but(curved: int, size: int) -> tuple[Bent, dict[str, torch.Tensor]]:
    curvatures = torch.zeros(size, dtype=torch.float64)
    curvatures[:curved] = 1.0
    return Bent(curvatures), {"w": torch.zeros(size, dtype=torch.float64)}


def dynamics(step: float, strength: float, localisation: float, scheme: Scheme) -> Dynamics:
    return Dynamics(step=step, strength=strength, localisation=localisation, batch_rows=1, scheme=scheme)


def chances(u: np.ndarray, how: Dynamics, curvature: float, quartic: float, scale: float) -> float:
    """Mean acceptance of steps from u in one dimension, by the densities of the proposals themselves."""
    rng = np.random.default_rng(0)

    def phi(at: np.ndarray) -> np.ndarray:
        return how.strength * (0.5 * curvature * at**2 + quartic * at**4)

    def mean(at: np.ndarray) -> np.ndarray:
        slope = how.strength * (curvature * at + 4 * quartic * at**3)
        if how.scheme == "euler":
            return at - how.step / 2 * scale * (slope + how.localisation * at)
        delta = how.step * how.localisation / 2
        return ((2 - delta) * at - 2 * delta / how.localisation * slope) / (2 + delta)

    spread = np.sqrt(how.step * scale)
    if how.scheme == "crank-nicolson":
        delta = how.step * how.localisation / 2
        spread = np.sqrt(8 * delta) / (2 + delta) / np.sqrt(how.localisation)
    v = mean(u) + spread * rng.normal(size=u.shape)
    whole = [phi(at) + how.localisation / 2 * at**2 for at in (u, v)]
    ratio = whole[0] - whole[1] + ((v - mean(u)) ** 2 - (u - mean(v)) ** 2) / (2 * spread**2)
    return float(np.exp(np.minimum(ratio, 0)).mean())


@pytest.mark.parametrize("precondition", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_acceptance_is_that_of_metropolis(scheme: Scheme, precondition: bool) -> None:
    if precondition and scheme != "euler":
        with pytest.raises(ValueError, match="Only the scheme euler can be preconditioned"):
            replace(dynamics(0.1, 10.0, 4.0, scheme), precondition=0.9)
        return
    how = dynamics(0.15, 10.0, 4.0, scheme)
    loss = Bent(torch.tensor([0.5], dtype=torch.float64), quartic=0.3)
    centre, squares, scale = {"w": torch.zeros(1, dtype=torch.float64)}, {}, 1.0
    places = np.random.default_rng(1).normal(0, 0.5, size=20_000)
    if precondition:
        how = replace(how, precondition=0.9)
        squares = {"w": torch.full((len(places), 1), 0.25, dtype=torch.float64)}
        scale = 1 / (0.5 + 2.0 / 10.0)
    state = start(centre, len(places), seed=0)
    state = replace(state, squares=squares, steps=10_000)
    state.moving["w"][:, 0] = torch.from_numpy(places)
    found = acceptance(state, centre, loss, how, torch.Generator().manual_seed(0))
    assert float(found.mean()) == pytest.approx(chances(places, how, 0.5, 0.3, scale), abs=0.01)
    assert np.array_equal(state.moving["w"][:, 0].numpy(), places)
    assert 0.2 < float(found.mean()) < 0.98


def test_acceptance_of_crank_nicolson_does_not_fall_with_flat_directions() -> None:
    """From places that are drawn from the potential itself."""
    found = {}
    for scheme in SCHEMES:
        for size in (10, 10_000):
            loss, centre = flat_but(5, size)
            how = dynamics(0.02, 50.0, 20.0, scheme)
            state = start(centre, 128, seed=0, jitter=20.0**-0.5)
            state.moving["w"][:, :5] *= (20.0 / 70.0) ** 0.5
            found[scheme, size] = float(acceptance(state, centre, loss, how, generator(0)).mean())
    assert found["crank-nicolson", 10] == pytest.approx(found["crank-nicolson", 10_000], abs=0.06)
    assert found["crank-nicolson", 10_000] > 0.7
    assert found["euler", 10] > 0.6
    assert found["euler", 10_000] < 0.1


def test_acceptance_falls_with_the_step() -> None:
    loss, centre = flat_but(20, 20)
    state = start(centre, 64, seed=2, jitter=0.1)
    for scheme in SCHEMES:
        rates = [
            float(acceptance(state, centre, loss, dynamics(step, 99.0, 1.0, scheme), generator(0)).mean())
            for step in (1e-5, 5e-3, 1.2e-2, 3e-2)
        ]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] > 0.99
        assert rates[-1] < 0.5


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_chain_after_another_accepts_the_same(scheme: Scheme) -> None:
    loss, centre = flat_but(3, 6)
    how, state = dynamics(0.02, 50.0, 5.0, scheme), start(centre, 4, seed=0, jitter=0.1)
    both = [acceptance(state, centre, loss, how, generator(3), together=one) for one in (True, False)]
    torch.testing.assert_close(*both, rtol=1e-9, atol=1e-12)
    assert len(set(both[0].tolist())) == 4


def test_a_chain_that_leaves_the_finite_is_never_accepted() -> None:
    class Steep(Bent):
        def __call__(self, moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
            return torch.exp(1e3 * moving["w"] ** 2).sum()

    centre = {"w": torch.zeros(3, dtype=torch.float64)}
    how = dynamics(0.5, 100.0, 2.0, "crank-nicolson")
    state = start(centre, 2, seed=0, jitter=1.0)
    assert acceptance(state, centre, Steep(torch.zeros(3)), how, generator(0)).tolist() == [0.0, 0.0]
    step = ladder(centre, Steep(torch.zeros(3)), how, 0, curvature=0.0)
    assert 0 < step < 0.01


@pytest.mark.parametrize("size", [20, 20_000])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_ladder_takes_steps_that_are_accepted(scheme: Scheme, size: int) -> None:
    loss, centre = flat_but(5, size)
    told = []
    how = dynamics(1.0, 100.0, float(size), scheme)
    step = ladder(centre, loss, how, 0, curvature=1.0, tell=lambda: told.append(1))
    how, state = replace(how, step=step), start(centre, 16, seed=1)
    for _ in range(20):
        state, _ = advance(state, centre, loss, how)
    assert float(acceptance(state, centre, loss, how, generator(0)).mean()) > 0.7
    if scheme == "crank-nicolson":
        assert step > 0.1 / (100 + size)
    elif size == 20_000:
        assert step < 0.1 / size
    assert told


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_ladder_sees_what_is_bent_around_a_degenerate_checkpoint(scheme: Scheme) -> None:
    """Without curvature there: the llc of w^4 is 1/4 a number."""
    loss, centre = flat_but(0, 40)
    loss.quartic = 1.0
    how = dynamics(1.0, 1_000.0, 0.5, scheme)
    step = ladder(centre, loss, how, 0, curvature=0.0)
    how, state, seen = replace(how, step=step), start(centre, 32, seed=1), []
    for at in range(300):
        state, info = advance(state, centre, loss, how)
        if at >= 100:
            seen.append(float(info.loss.mean()))
    assert 1_000.0 * np.mean(seen) == pytest.approx(10.0, rel=0.12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_coarseness_is_the_share_that_the_steps_add(scheme: Scheme) -> None:
    """Of a quadratic: the mean excess is 1 / (1 - share) of the exact one."""
    loss, centre = flat_but(2_000, 2_000)
    how, moved = dynamics(0.008, 50.0, 20.0, scheme), []
    state = start(centre, 4, seed=0)
    for _ in range(60):
        state, info = advance(state, centre, loss, how)
        moved.append(float(info.loss.mean()) * 50.0)
    exact = 0.5 * 2_000 * 50.0 / 70.0
    share = np.mean(moved[20:]) / exact - 1
    for together in (True, False):
        told = coarseness(state, centre, loss, how, generator(0), together=together)
        assert told == pytest.approx(share / (1 + share), rel=0.1)
    assert coarseness(state, centre, loss, replace(how, step=1e300), generator(0)) > 1e3


def test_the_ladder_of_preconditioned_steps() -> None:
    loss, centre = flat_but(5, 20)
    how = replace(dynamics(1.0, 100.0, 20.0, "euler"), precondition=0.9)
    step = ladder(centre, loss, how, 0, curvature=1.0)
    assert 0 < step <= 0.01


@pytest.mark.parametrize("gamma", [1.0, 1e4])
def test_preconditioned_chains_follow_the_prior_where_the_loss_is_flat(gamma: float) -> None:
    """RMSprop's G is largest there; the loss that is read is nearly the posterior's."""
    curvatures = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, *[0.0] * 200], dtype=torch.float64) * gamma
    centre = {"w": torch.zeros(len(curvatures), dtype=torch.float64)}
    how = replace(dynamics(1.0, 50.0, gamma, "euler"), precondition=0.99)
    how = replace(how, step=0.1 * how.floor / gamma)
    state, flat, read = start(centre, 16, seed=0, precondition=True), [], []
    for step in range(400):
        state, _ = advance(state, centre, Bent(curvatures), how)
        if step >= 100:
            flat.append(float((state.moving["w"][:, 5:] ** 2).mean() * gamma))
            read.append(float((state.moving["w"][:, :5] ** 2 * (gamma + 50 * curvatures[:5])).mean()))
    assert np.mean(flat) == pytest.approx(1.0, abs=0.1)
    assert np.mean(read) == pytest.approx(1.0, abs=0.5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_the_loss_does_not_read_follows_the_prior(scheme: Scheme) -> None:
    loss, centre = flat_but(2, 4)
    centre["unread"] = torch.ones(3_000, dtype=torch.float64)
    for together in (True, False):
        state = start(centre, 2, seed=0)
        for _ in range(60):
            state, _ = advance(state, centre, loss, dynamics(0.02, 10.0, 10.0, scheme), together=together)
        spread = float((state.moving["unread"] - 1).var())
        error = 0.02 * 10.0 / 4 * (scheme == "euler")
        assert spread == pytest.approx(0.1 / (1 - error), rel=0.06)


def test_steps_without_noise_are_descent_on_what_is_implicit() -> None:
    """(1 + δ/2) v = (1 - δ/2) u - (ε/2) nβ ∇L: the pull is taken half at the old place, half at the new."""
    loss, centre = flat_but(3, 5)
    how = replace(dynamics(0.04, 10.0, 20.0, "crank-nicolson"), noise=False)
    state = start(centre, 2, seed=0, jitter=1.0)
    u = state.moving["w"].clone()
    state, _ = advance(state, centre, loss, how)
    v, slope = state.moving["w"], 10.0 * loss.curvatures * u
    torch.testing.assert_close(v - u, -0.04 / 2 * (slope + 20.0 * (u + v) / 2))


SIZES = {"a": (7,), "b": (3, 50), "c": (1,), "d": (40, 3)}


def shaken(chains: range, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    moving = {name: torch.zeros(len(chains), *size, dtype=dtype) for name, size in SIZES.items()}
    add_normal(moving, chains, lambda chain, block: 1_000 * chain + block, 2.0)
    return moving


def test_noise_is_the_same_on_any_threads_and_with_any_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(langevin_steps, "BLOCK", 32)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(shaken(range(3)))
    finally:
        torch.set_num_threads(threads)
    alone = shaken(range(1, 2))
    for name in SIZES:
        assert torch.equal(found[0][name], found[1][name])
        assert torch.equal(found[0][name][1:2], alone[name])
        assert not torch.equal(found[0][name][0], found[0][name][1])
    every = torch.cat([value.flatten() for value in found[0].values()])
    assert len(set(every.tolist())) == len(every)
    assert float(every.std()) == pytest.approx(2.0, rel=0.1)


def test_noise_is_normal() -> None:
    moving = {"w": torch.zeros(2, 300_001)}
    add_normal(moving, range(2), lambda chain, block: 10 * chain + block, 1.0)
    drawn = moving["w"].double().numpy()
    assert drawn.mean(1) == pytest.approx([0, 0], abs=0.01)
    assert drawn.var(1) == pytest.approx([1, 1], rel=0.01)
    assert (drawn**4).mean(1) == pytest.approx([3, 3], rel=0.03)
    assert abs(np.corrcoef(drawn)[0, 1]) < 0.01


def test_steps_in_blocks_are_those_of_whole_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances by pieces, and the noise's root of G by pieces: chains together and alone."""
    loss, centre = flat_but(5, 300)
    how = replace(dynamics(1e-3, 50.0, 5.0, "euler"), precondition=0.9)
    monkeypatch.setattr(langevin_steps, "BLOCK", 64)
    ends = []
    for together in (True, False):
        state = start(centre, 3, seed=0, precondition=True)
        for _ in range(4):
            state, info = advance(state, centre, loss, how, together=together)
        ends.append((state.moving["w"], info.distance))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-10, atol=1e-12)
    before = start(centre, 3, seed=0, precondition=True)
    for _ in range(3):
        before, _ = advance(before, centre, loss, how)
    torch.testing.assert_close(ends[0][1], (before.moving["w"] ** 2).sum(1))
