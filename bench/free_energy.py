"""Langevin chains beside devinterp's, and what a draw costs beside a bare forward and backward pass.

    pip install -e '.[worker,bench]' && pip install devinterp==1.3.2
    python -m bench.free_energy [--threads 2] [--repeats 7] [--quick] [--json]

devinterp 1.3.2 is the newest that samples a plain classifier: 2.x takes language models only. Without it, our
side is measured alone. Both run the same MLP on the same rows with as many chains, draws and rows a batch, in
turns; each measurement is one whole call, start included, by its number of draws times chains. The peer is
measured as its documentation calls it, and with its loader handed whole batches (the fastest we found).
Medians of the repeats, and of the ratios within each. Wall seconds are worth something on an idle machine
only; else the CPU's with `--threads 1` are what to read.

The learning coefficients are known: of noise-free linear nets at their most degenerate points, and of a
regular model. Ours are with the ladder's step, halved until 3 % or less is its doing; the peer's with the
chains, draws and step of its own test of reduced-rank regression, and our n beta.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

from headstart.chains import diagnose
from worker.device import device_name
from worker.sgld import Dynamics, advance, coarseness, ladder, sharpest, start

try:
    from devinterp.optim.sgld import SGLD
    from devinterp.slt.llc import LLCEstimator
    from devinterp.slt.sampler import sample
except ImportError:  # measured alone then
    sample = None

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CHAINS, ROWS, STRENGTH = 8, 5_000, 587.0  # the latter: n / log n
SIZES = (  # widths, rows a batch, draws
    ((64, 32, 10), 32, 200),
    ((64, 64, 10), 64, 200),
    ((196, 64, 10), 128, 100),
    ((784, 128, 128, 10), 512, 10),
)
LONE = ((784, 1024, 1024, 10), (64, 256, 1024))  # one chain's MLP, and batches
MOST_COARSE = 0.03  # share of a coefficient that may be the step's doing
PEER_STEP, PEER_DRAWS, PEER_CHAINS = 6e-5, 2_000, 3  # of its test of reduced-rank regression


@dataclass(frozen=True)
class Cost:
    """Of a call."""

    wall: float  # milliseconds a draw of one chain
    busy: float  # of the CPU


class Whole(Dataset[Any]):
    """Rows that a loader takes a batch at a time."""

    def __init__(self, *columns: torch.Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
        return tuple(column[row] for column in self.columns)

    def __getitems__(self, rows: list[int]) -> tuple[torch.Tensor, ...]:
        return self[torch.tensor(rows)]


class Mlp:
    """One that says a made-up class of made-up rows."""

    def __init__(self, widths: tuple[int, ...], batch: int) -> None:
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for inward, outward in pairwise(widths):
            layers += [nn.Linear(inward, outward), nn.ReLU()]
        self.net, self.batch, self.rows = nn.Sequential(*layers[:-1]), batch, ROWS
        self.x, self.y = torch.randn(ROWS, widths[0]), torch.randint(widths[-1], (ROWS,))
        self.centre = {name: value.detach().clone() for name, value in self.net.named_parameters()}
        self.parameters = sum(value.numel() for value in self.centre.values())
        self.dynamics = Dynamics(step=1e-7, strength=STRENGTH, localisation=1.0, batch_rows=batch)
        self.state = start(self.centre, 1, seed=0)

    def __call__(self, moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return cross_entropy(functional_call(self.net, dict(moving), (self.x[rows],)), self.y[rows])

    def ours(self, chains: int, draws: int) -> None:
        """Draws with the excess over the centre's loss on the same rows, as served."""
        with torch.no_grad():
            told = cross_entropy(self.net(self.x), self.y, reduction="none")
        state = start(self.centre, chains, seed=0)
        for _ in range(draws):
            state, info = advance(state, self.centre, self, self.dynamics)
            _ = info.loss - told[info.rows].mean(1)

    def lone(self, draws: int) -> None:
        """Draws of one chain."""
        for _ in range(draws):
            self.state, _ = advance(self.state, self.centre, self, self.dynamics)

    def bare(self, passes: int) -> None:
        """Forward and backward of so many batches."""
        for _ in range(passes):
            rows = torch.randint(ROWS, (self.batch,))
            self.net.zero_grad(set_to_none=True)
            cross_entropy(self.net(self.x[rows]), self.y[rows]).backward()

    def theirs(self, chains: int, draws: int, *, whole: bool) -> None:
        """`whole`: its loader is handed batches, not rows."""
        rows = Whole(self.x, self.y) if whole else TensorDataset(self.x, self.y)
        collate = {"collate_fn": lambda batch: batch} if whole else {}
        loader = DataLoader(rows, batch_size=self.batch, shuffle=True, **collate)
        how = {"lr": self.dynamics.step, "localization": 1.0, "nbeta": STRENGTH}
        peer(self.net, loader, classified, chains, draws, how, initial=2.3)


def classified(model: nn.Module, data: Any) -> torch.Tensor:
    """The peer's loss of a batch."""
    return cross_entropy(model(data[0]), data[1])


def squared(model: nn.Module, data: Any) -> torch.Tensor:
    """The same of a regression with unit noise, in nats."""
    return ((data[1] - model(data[0])) ** 2).sum(1).mean() / 2


def peer(
    net: nn.Module,
    loader: DataLoader[Any],
    loss: Callable[..., torch.Tensor],
    chains: int,
    draws: int,
    how: dict[str, float],
    *,
    initial: float,
) -> float:
    """devinterp's estimate of the learning coefficient."""
    told = LLCEstimator(
        num_chains=chains, num_draws=draws, nbeta=how["nbeta"], init_loss=torch.tensor(initial)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sample(
            net,
            loader,
            [told],
            evaluate=loss,
            sampling_method=SGLD,
            optimizer_kwargs=how,
            num_draws=draws,
            num_chains=chains,
            init_loss=initial,
            seed=0,
            verbose=False,
        )
    return float(told.get_results()["llc/mean"])


def clocked(work: Callable[[], Any], draws: int) -> Cost:
    """Of one call."""
    wall, busy = time.perf_counter(), time.process_time()
    work()
    each = 1e3 / draws
    return Cost((time.perf_counter() - wall) * each, (time.process_time() - busy) * each)


def turns(sides: dict[str, Callable[[], Any]], draws: int, repeats: int) -> dict[str, list[Cost]]:
    """Each side once a turn; the first turn is not counted."""
    found: dict[str, list[Cost]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, work in sides.items():
            cost = clocked(work, draws)
            if turn:
                found[name].append(cost)
    return found


def told(costs: dict[str, list[Cost]], base: str) -> dict[str, Any]:
    """Medians, and of the ratios to the base within each turn."""
    found: dict[str, Any] = {}
    for name, all_of in costs.items():
        found[name] = {
            clock: {
                "ms": statistics.median(getattr(cost, clock) for cost in all_of),
                "ratio": statistics.median(
                    getattr(cost, clock) / getattr(own, clock)
                    for cost, own in zip(all_of, costs[base], strict=True)
                ),
            }
            for clock in ("wall", "busy")
        }
    return found


def against_the_peer(repeats: int, shorter: int) -> list[dict[str, Any]]:
    """Milliseconds a draw of one of eight chains; ratios are to ours."""
    found = []
    for widths, batch, most in SIZES:
        mlp, draws = Mlp(widths, batch), max(most // shorter, 4)
        sides = {"ours": partial(mlp.ours, CHAINS, draws), "bare pass": partial(mlp.bare, CHAINS * draws)}
        if sample is not None:
            sides["devinterp"] = partial(mlp.theirs, CHAINS, draws, whole=False)
            sides["devinterp, whole batches"] = partial(mlp.theirs, CHAINS, draws, whole=True)
        costs = told(turns(sides, CHAINS * draws, repeats), "ours")
        found.append(
            {"widths": widths, "batch": batch, "parameters": mlp.parameters, "draws": draws, **costs}
        )
    return found


def against_a_bare_pass(repeats: int, shorter: int) -> list[dict[str, Any]]:
    """One chain's draw by the pass that it holds, by batch."""
    found = []
    widths, batches = LONE
    for batch in batches:
        mlp, draws = Mlp(widths, batch), max(12 // shorter, 3)
        sides = {"bare pass": partial(mlp.bare, draws), "ours": partial(mlp.lone, draws)}
        costs = told(turns(sides, draws, repeats), "bare pass")
        found.append(
            {"widths": widths, "batch": batch, "parameters": mlp.parameters, "draws": draws, **costs}
        )
    return found


def limits() -> dict[str, float]:
    """Nanoseconds a number: of copying 16 bytes as a step must (w, w*, gradient in; w out), and of noise."""
    size = 1 << 24
    one, other, noise = torch.zeros(size), torch.ones(size), torch.empty(1 << 15)
    generator, blocks = torch.Generator(), size >> 15

    def drawn() -> None:
        for _ in range(blocks):
            noise.normal_(generator=generator)

    moved = min(clocked(lambda: one.copy_(other), size).wall for _ in range(9)) * 1e6 * 2
    noise_alone = min(clocked(drawn, size).busy for _ in range(5)) * 1e6
    return {"moved": moved, "noise": noise_alone}


class Linear:
    """Noise-free rows of a linear net at its most degenerate weights of this rank, or of a regular model."""

    rows = 1_000

    def __init__(self, widths: tuple[int, ...], rank: int) -> None:
        torch.manual_seed(0)
        layers = [nn.Linear(inward, outward, bias=False) for inward, outward in pairwise(widths)]
        for layer in layers:
            with torch.no_grad():
                layer.weight.zero_()
                layer.weight[range(rank), range(rank)] = 1.0
        self.net = nn.Sequential(*layers)
        self.x = torch.randn(self.rows, widths[0])
        self.y = self.net(self.x).detach()
        self.centre = {name: value.detach().clone() for name, value in self.net.named_parameters()}

    def __call__(self, moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        product = next(iter(moving.values()))
        for weights in list(moving.values())[1:]:
            product = weights @ product
        return ((self.y[rows] - self.x[rows] @ product.mT) ** 2).sum(1).mean() / 2


def coefficients(shorter: int) -> list[dict[str, Any]]:
    """Learning coefficients that are known: ours with its Monte Carlo error and its gate, and the peer's."""
    found, strength = [], 3_000.0
    for name, widths, rank, truth in (
        ("regular, 20 parameters", (20, 1), 1, 10.0),
        ("reduced rank (5, 3, 5), rank 0", (5, 3, 5), 0, 6.5),
        ("reduced rank (5, 4, 5), rank 0", (5, 4, 5), 0, 8.0),
        ("reduced rank (5, 3, 5), rank 3", (5, 3, 5), 3, 10.5),
    ):
        model, rows = Linear(widths, rank), torch.arange(Linear.rows)
        began = time.perf_counter()
        how = Dynamics(
            step=1.0, strength=strength, localisation=1.0, batch_rows=model.rows, scheme="crank-nicolson"
        )
        curvature = sharpest(model.centre, model, iter([rows] * 20), seed=0)
        how = replace(how, step=ladder(model.centre, model, how, 0, curvature=curvature))
        state, losses, left = start(model.centre, CHAINS, seed=0), [], 2_000 // shorter
        while left:
            for _ in range(left):
                state, _ = advance(state, model.centre, model, how)
            coarse = coarseness(state, model.centre, model, how, torch.Generator())
            how, left = replace(how, step=how.step / 2), (left if coarse > MOST_COARSE else 0)
        how = replace(how, step=how.step * 2)
        for _ in range(6_000 // shorter):
            state, info = advance(state, model.centre, model, how)
            losses.append(info.loss)
        judged = diagnose(strength * torch.stack(losses, 1).double().numpy())
        one = {
            "model": name,
            "truth": truth,
            "ours": judged.mean,
            "stderr": judged.stderr,
            "faults": judged.faults,
            "step": how.step,
            "seconds": time.perf_counter() - began,
        }
        if sample is not None:
            loader = DataLoader(TensorDataset(model.x, model.y), batch_size=model.rows, shuffle=True)
            began = time.perf_counter()
            one["devinterp"] = peer(
                model.net,
                loader,
                squared,
                PEER_CHAINS,
                PEER_DRAWS // shorter,
                {"lr": PEER_STEP, "localization": 1.0, "nbeta": strength},
                initial=1e-12,  # 0 would make it look for one itself
            )
            one["devinterp seconds"] = time.perf_counter() - began
        found.append(one)
    return found


def show(found: dict[str, Any]) -> None:
    """As tables."""
    console = Console()
    for title, rows in (
        (f"A draw of one of {CHAINS} chains; ratios to ours", found["peer"]),
        ("A draw of one chain; ratios to a bare pass", found["bare"]),
    ):
        table = Table(
            "MLP", "parameters", "rows a batch", "side", "ms", "ratio", "ms of CPU", "ratio", title=title
        )
        for row in rows:
            shape = "-".join(map(str, row["widths"]))
            for side, cost in row.items():
                if isinstance(cost, dict):
                    cells = [f"{cost[clock][of]:.3f}" for clock in ("wall", "busy") for of in ("ms", "ratio")]
                    table.add_row(shape, f"{row['parameters']:,}", str(row["batch"]), side, *cells)
        console.print(table)
    limit = found["limits"]
    console.print(
        f"At least: {limit['moved']:.2f} ns to move 16 bytes, {limit['noise']:.2f} ns to draw its noise."
    )
    table = Table("model", "known", "ours", "error", "devinterp", "gate", title="Learning coefficients")
    for one in found["coefficients"]:
        theirs = f"{one['devinterp']:.3f}" if "devinterp" in one else "—"
        ours = f"{one['ours']:.3f} ({100 * (one['ours'] / one['truth'] - 1):+.1f} %)"
        gate = " ".join(one["faults"]) or "converged"
        table.add_row(one["model"], f"{one['truth']:g}", ours, f"{one['stderr']:.3f}", theirs, gate)
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--processes", action="store_true", help="the peer on two processes too: slow to start"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the draws, three repeats")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    repeats, shorter = (3, 10) if options.quick else (options.repeats, 1)
    found = {
        "machine": {
            "device": device_name(torch.device("cpu")),
            "torch": torch.__version__,
            "threads": options.threads,
        },
        "peer": against_the_peer(repeats, shorter),
        "bare": against_a_bare_pass(repeats, shorter),
        "limits": limits(),
        "coefficients": coefficients(shorter),
    }
    if options.json:
        print(json.dumps(found, indent=1))
        return
    show(found)


if __name__ == "__main__":
    main()
