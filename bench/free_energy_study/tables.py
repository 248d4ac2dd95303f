"""The numbers of the page: from lines of checkpoints to correlations. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.free_energy_study.correlations import (
    between,
    interval,
    partial_ranks,
    pearson,
    resampled,
    spearman,
)
from bench.free_energy_study.measures import RADIUS
from headstart.chains import MOST_DRIFT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Checkpoint = dict[str, Any]

TRANSFERS = {"full": "full finetune", "few": "5-shot"}
WILD_RATE = 1.6
BY_SEED = ("wbic", "llc", "loss", "trace", "noise", "probe")
PAIRS = (
    ("wbic", "loss"),
    ("wbic", "trace"),
    ("llc", "trace"),
    ("llc", "loss"),
    ("published", "wbic"),
    ("published", "loss"),
    ("noise", "trace"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A column; all but `rate` and `noise` are better when smaller."""

    key: str
    name: str
    of: Callable[[Checkpoint], float | None]


def chain(radius: float, key: str) -> Callable[[Checkpoint], float | None]:
    """A number of the converged chains at this radius; None where the gate refused, or there are none."""

    def of(one: Checkpoint) -> float | None:
        found = one["chains"].get(f"{radius:g}")
        return found[key] if found and found["converged"] else None

    return of


MEASURES = (
    Measure(key="wbic", name="**free energy (WBIC)**", of=chain(RADIUS, "wbic")),
    Measure(key="llc", name="λ̂ (LLC)", of=chain(RADIUS, "llc")),
    Measure(
        key="published", name="free energy as published", of=lambda one: one.get("published", {}).get("wbic")
    ),
    Measure(key="loss", name="train loss (n·L)", of=lambda one: one["loss"]),
    Measure(key="trace", name="tr(H)", of=lambda one: one["trace"]),
    Measure(key="nc1", name="neural collapse, tr(Sw Sb⁺)/K", of=lambda one: one["nc1"]),
    Measure(key="cdnv", name="neural collapse, CDNV", of=lambda one: one["cdnv"]),
    Measure(key="jacobian", name="geometric complexity", of=lambda one: one["jacobian"]),
    Measure(key="held_loss", name="held-out pretraining loss", of=lambda one: one["held_loss"]),
    Measure(key="norm", name="norm of the weights", of=lambda one: one["norm"]),
    Measure(key="rate", name="learning rate itself", of=lambda one: one["setting"]["rate"]),
    Measure(key="noise", name="rate / (batch (1 − momentum))", of=lambda one: one["setting"]["noise"]),
    Measure(key="probe", name="linear probe (sees the new digits)", of=lambda one: one["probe"]),
)


def transfer(checkpoints: Sequence[Checkpoint], kind: str) -> np.ndarray:
    """Mean accuracy over the seeds or tasks of a finetune."""
    return np.array([np.mean(one[kind]) for one in checkpoints])


def column(checkpoints: Sequence[Checkpoint], of: Callable[[Checkpoint], float | None]) -> np.ndarray:
    """NaN where there is none."""
    return np.array(
        [math.nan if (value := of(one)) is None else value for one in checkpoints], dtype=np.float64
    )


def setting(one: Checkpoint) -> str:
    """Its name."""
    own = one["setting"]
    return f"{own['rate']:g}/{own['batch']}/{own['momentum']:g}"


def whole(checkpoints: Sequence[Checkpoint], values: np.ndarray) -> np.ndarray:
    """Which checkpoints belong to settings all of whose seeds have a value: a bootstrap needs them whole."""
    names = [setting(one) for one in checkpoints]
    broken = {name for name, value in zip(names, values, strict=True) if not math.isfinite(value)}
    return np.array([name not in broken for name in names], dtype=bool)


def correlations(
    checkpoints: Sequence[Checkpoint],
    of: Callable[[Checkpoint], float | None],
    kind: str,
    *,
    partials: bool = False,
) -> dict[str, Any] | None:
    """Everything about one measure and one transfer; None: fewer than three settings have it."""
    values = column(checkpoints, of)
    kept = whole(checkpoints, values)
    names = [setting(one) for one, keep in zip(checkpoints, kept, strict=True) if keep]
    if len(set(names)) < 3:
        return None
    draws = resampled(names)
    x, y = values[kept], transfer(checkpoints, kind)[kept]
    found = {
        "checkpoints": int(kept.sum()),
        "pearson": interval(pearson, (x, y), draws),
        "spearman": interval(spearman, (x, y), draws),
    }
    if partials:
        loss, trace = (column(checkpoints, lambda one, k=k: one[k])[kept] for k in ("loss", "trace"))
        noise = column(checkpoints, lambda one: one["setting"]["noise"])[kept]
        found |= {
            "given_loss": interval(partial_ranks, (x, y, loss), draws),
            "given_both": interval(partial_ranks, (x, y, loss, trace), draws),
            "given_noise": interval(partial_ranks, (x, y, noise), draws),
            "less_loss": interval(_difference, (x, loss, y), draws),
            "less_trace": interval(_difference, (x, trace, y), draws),
        }
    return found


def _difference(x: np.ndarray, other: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's of x less that of the other: below 0, x predicts better (both are better when small)."""
    return spearman(x, y) - spearman(other, y)


def tame(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Without the largest rates, whose networks hardly transfer: chosen after that was seen."""
    return [one for one in checkpoints if one["setting"]["rate"] < WILD_RATE]


def tables(checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """All of one arm."""
    tamed = tame(checkpoints)
    radii = sorted({float(radius) for one in checkpoints for radius in one["chains"]})
    return {
        "all": measured(checkpoints),
        "tame": measured(tamed),
        "radii": {f"{radius:g}": _at_radius(tamed, radius) for radius in radii},
        "draws": _by_length(tamed, lambda one: one["chains"][f"{RADIUS:g}"].get("prefixes", {})),
        "published": _by_length(tamed, lambda one: one.get("published", {}).get("prefixes", {})),
        "drifting": sum(
            abs(one["published"]["drift"]) > MOST_DRIFT for one in checkpoints if "published" in one
        ),
        "loss": _range(column(checkpoints, lambda one: one["loss"])),
        "seconds": float(np.sum([one["seconds"] for one in checkpoints])),
    }


def measured(checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """How each measure goes with transfer, and with others."""
    names = [setting(one) for one in checkpoints]
    return {
        "checkpoints": len(names),
        "settings": len(set(names)),
        "measures": {
            one.key: {kind: correlations(checkpoints, one.of, kind, partials=True) for kind in TRANSFERS}
            for one in MEASURES
        },
        "transfer": {
            kind: _range(y) | {"between": between(y, names)}
            for kind in TRANSFERS
            for y in [transfer(checkpoints, kind)]
        },
        "among": {f"{a} and {b}": _among(checkpoints, a, b) for a, b in PAIRS},
        "by_seed": {
            one.key: {kind: _by_seed(checkpoints, one, kind) for kind in TRANSFERS}
            for one in MEASURES
            if one.key in BY_SEED
        },
    }


def _by_seed(checkpoints: Sequence[Checkpoint], measure: Measure, kind: str) -> list[dict[str, Any] | None]:
    """What a study of one seed would have said: all its settings begin with the same weights and order."""
    seeds = sorted({one["seed"] for one in checkpoints})
    own = [[one for one in checkpoints if one["seed"] == seed] for seed in seeds]
    return [correlations(of_seed, measure.of, kind) for of_seed in own]


def _among(checkpoints: Sequence[Checkpoint], first: str, second: str) -> float:
    """Spearman's of two measures."""
    of = {one.key: one.of for one in MEASURES}
    a, b = column(checkpoints, of[first]), column(checkpoints, of[second])
    return _rank_agreement(a, b)


def _range(values: np.ndarray) -> dict[str, float]:
    return {"least": float(values.min()), "median": float(np.median(values)), "most": float(values.max())}


def _at_radius(checkpoints: Sequence[Checkpoint], radius: float) -> dict[str, Any]:
    """What the chains at one radius say, those that the gate refused left out of the correlations."""
    chains = [one["chains"][f"{radius:g}"] for one in checkpoints]
    llc = [one["llc"] for one in chains if one["converged"]]
    share = [
        one["chains"][f"{radius:g}"]["llc"] * math.log(one["n"]) / one["chains"][f"{radius:g}"]["wbic"]
        for one in checkpoints
        if one["chains"][f"{radius:g}"]["converged"]
    ]
    return {
        "gamma": chains[0]["gamma"],
        "converged": len(llc),
        "of": len(chains),
        "restarted": sum(one["restarts"] > 0 for one in chains),
        "llc": float(np.median(llc)) if llc else None,
        "share": float(np.median(share)) if share else None,  # of WBIC that is not n L(w*)
        **{kind: correlations(checkpoints, chain(radius, "wbic"), kind) for kind in TRANSFERS},
        **{f"llc_{kind}": correlations(checkpoints, chain(radius, "llc"), kind) for kind in TRANSFERS},
    }


def _by_length(
    checkpoints: Sequence[Checkpoint], of: Callable[[Checkpoint], dict[str, float]]
) -> dict[str, Any]:
    """WBIC and transfer after so many draws, gated or not, and how λ̂'s ranks agree with the last's."""
    lengths = sorted({int(length) for one in checkpoints for length in of(one)})

    def excess(length: int) -> np.ndarray:
        told = column(checkpoints, lambda one: of(one).get(str(length)))
        return told - column(checkpoints, lambda one: one["n"] * one["loss"])

    return {
        str(length): {
            kind: correlations(checkpoints, lambda one, k=str(length): of(one).get(k), kind)
            for kind in TRANSFERS
        }
        | {"agreement": _rank_agreement(excess(length), excess(lengths[-1]))}
        for length in lengths
    }


def _rank_agreement(a: np.ndarray, b: np.ndarray) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    return float(spearman(a[both], b[both])) if both.sum() > 2 else math.nan
