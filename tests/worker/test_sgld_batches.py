"""The noise of batches, and what the correction by the checkpoint takes away of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from worker.sgld import Dynamics, State, advance, start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headstart.workbench import Scheme

ROWS, WIDTH, BATCH = 512, 10, 8
STRENGTH = ROWS / math.log(ROWS)


class Regression:
    """Rows of a linear regression with unit noise, at the values that fit all of them best."""

    rows = ROWS

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        x, _ = np.linalg.qr(rng.normal(size=(ROWS, WIDTH)))
        self.x = torch.from_numpy(x * math.sqrt(ROWS))  # curvatures of 1
        self.y = self.x.sum(1) + torch.from_numpy(rng.normal(size=ROWS))
        self.best = self.x.T @ self.y / ROWS

    def __call__(self, moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((self.y[rows] - self.x[rows] @ moving["w"]) ** 2).mean()


def gradient(loss: Regression, at: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"w": -(loss.x.T @ (loss.y - loss.x @ at)) / ROWS}


def how(scheme: Scheme, *, noise: bool = True) -> Dynamics:
    return Dynamics(
        step=0.4 / STRENGTH,
        strength=STRENGTH,
        localisation=STRENGTH,
        batch_rows=BATCH,
        scheme=scheme,
        noise=noise,
    )


def variance(state: State, centre: dict[str, torch.Tensor], loss: Regression, dynamics: Dynamics) -> float:
    """Of a number of the chains, over 64 of them and 250 steps."""
    squares = []
    for step in range(300):
        state, _ = advance(state, centre, loss, dynamics)
        if step >= 50:
            squares.append(float(((state.moving["w"] - centre["w"]) ** 2).mean()))
    return float(np.mean(squares))


@pytest.mark.parametrize("scheme", ["euler", "crank-nicolson"])
def test_batches_widen_the_posterior_unless_they_are_corrected(scheme: Scheme) -> None:
    loss, dynamics = Regression(), how(scheme)
    centre = {"w": loss.best}
    steep = 2 * STRENGTH if scheme == "euler" else STRENGTH
    exact = 1 / (2 * STRENGTH * (1 - dynamics.step * steep / 4))
    plain = variance(start(centre, 64, 1), centre, loss, dynamics)
    steady = gradient(loss, loss.best)
    corrected = variance(start(centre, 64, 1, steady=steady), centre, loss, dynamics)
    widened = 1 + dynamics.step * STRENGTH**2 / (4 * BATCH)  # the rows' gradients have variance 1
    assert plain / exact == pytest.approx(widened, rel=0.1)
    assert corrected / exact == pytest.approx(1.0, rel=0.1)


def test_at_the_checkpoint_a_corrected_batch_pulls_as_all_rows_do() -> None:
    loss, dynamics = Regression(), how("crank-nicolson", noise=False)
    centre = {"w": loss.best + 0.3}
    steady = gradient(loss, centre["w"])
    state, _ = advance(start(centre, 3, 1, steady=steady), centre, loss, dynamics)
    moved = -dynamics.share * STRENGTH * steady["w"]
    torch.testing.assert_close(state.moving["w"] - centre["w"], moved.expand(3, WIDTH))


@pytest.mark.parametrize("together", [True, False])
def test_both_ways_are_corrected_alike_and_a_saved_state_goes_on(together: bool) -> None:
    loss, dynamics = Regression(), how("crank-nicolson")
    centre = {"w": loss.best}
    state = start(centre, 4, 1, steady=gradient(loss, loss.best + 0.1))
    whole = start(centre, 4, 1, steady=gradient(loss, loss.best + 0.1))
    for _ in range(3):
        whole, _ = advance(whole, centre, loss, dynamics)
        state, _ = advance(state, centre, loss, dynamics, together=together)
        state = State.from_dict(state.to_dict())
    torch.testing.assert_close(state.moving["w"], whole.moving["w"])


def test_preconditioned_chains_take_batches_as_they_are() -> None:
    loss = Regression()
    with pytest.raises(ValueError, match="leave steady out"):
        start({"w": loss.best}, 2, 0, precondition=True, steady=gradient(loss, loss.best))
