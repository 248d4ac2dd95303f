"""P6: a new target, measured one checkpoint at a time: what was found after k finetunes, and is it true?

Against the published gains, "found" is the best measured, as people report it. In a world drawn from a fit
that knows the target, the true gains are known as well: there the pick is the one of highest posterior mean
among those tried, and the mean reported for it is held against its true gain. The best measured overstates
it: the winner's curse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.backtest.baselines import (
    HEADSTART,
    PROBE,
    PUBLISHED,
    RANDOM,
    RERUNS,
    STATIC,
    cold_orders,
)
from headstart.recommend.backtest.cold_target import best_of_random, first_of
from headstart.recommend.backtest.tables import Table

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from headstart.recommend.backtest.engine import Fitted
    from headstart.recommend.backtest.material import Material
    from headstart.recommend.backtest.tables import Found

STEPS = (1, 3, 5, 10)
WORLDS = 4  # drawn per target
KEPT = "headstart, the one it keeps"
POSTERIOR, BEST_MEASURED = "posterior mean of the pick", "best measured"

QUESTIONS = {
    "found": Table("p6", "A new target: best measured gain after k finetunes", "points"),
    "true": Table("p6", "Drawn world: true gain of what is kept after k finetunes", "points", POSTERIOR),
    "optimism": Table("p6", "Drawn world: reported minus true gain of it", "points", POSTERIOR),
}
TABLES = {f"{which} {k}": table._replace(step=k) for which, table in QUESTIONS.items() for k in STEPS}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Walk:
    """One run of the policy; k after each of STEPS."""

    tried: Int[np.ndarray, "k"]  # positions in the rows, in order
    kept: Int[np.ndarray, "steps"]  # position of highest posterior mean among those tried by then
    reported: Float[np.ndarray, "steps"]  # that mean, points


def walk(fitted: Fitted, target: int, rows: Int[np.ndarray, "n"], shown: Float[np.ndarray, "n"]) -> Walk:
    """Let the policy choose what to finetune; `shown` is what the run of each row would show, in points."""
    position = {int(row): at for at, row in enumerate(rows)}
    tried: list[int] = []
    kept, reported = [], []
    at = np.zeros(0, dtype=np.int64)
    view = fitted.warm(target, rows[at], shown[at])
    for k in range(1, max(STEPS) + 1):
        tried.append(position[fitted.pick(view, rows, rows[at])])
        at = np.array(tried, dtype=np.int64)
        view = fitted.warm(target, rows[at], shown[at])
        if k in STEPS:
            mean = fitted.gain(view, rows[at])
            kept.append(tried[int(mean.argmax())])
            reported.append(float(mean.max()))
    return Walk(tried=np.array(tried), kept=np.array(kept), reported=np.array(reported))


def sequence(
    material: Material,
    fitted: Fitted,
    seen: Float[np.ndarray, "C T"],
    rows: Int[np.ndarray, "n"],
    target: int,
    rng: np.random.Generator,
) -> Found:
    """What the policy and the fixed orders found on the target after each of STEPS finetunes."""
    if len(rows) <= max(STEPS):
        return {}
    truth = material.gains[rows, target]
    ours = walk(fitted, target, rows, truth)
    cold = cold_orders(material, seen)
    orders = {
        HEADSTART: ours.tried,
        STATIC: first_of(fitted.quality()[rows], rng),
        PUBLISHED: first_of(cold[PUBLISHED][rows], rng),
        PROBE: first_of(cold[PROBE][rows], rng),
    }
    found: Found = {}
    for step, k in enumerate(STEPS):
        found[f"found {k}"] = {
            **{name: float(truth[order[:k]].max()) for name, order in orders.items()},
            KEPT: float(truth[ours.kept[step]]),
            RANDOM: best_of_random(truth, k),
            RERUNS: float(material.noise[target]) * normal_maximum(k),
        }
    return found


def drawn_worlds(
    world: Fitted, fitted: Fitted, rows: Int[np.ndarray, "n"], target: int, rng: np.random.Generator
) -> Found:
    """The same where true gains are drawn from `world`, a fit that knows the target; means of WORLDS."""
    if len(rows) <= max(STEPS):
        return {}
    found: Found = {f"{kind} {k}": {} for kind in ("true", "optimism") for k in STEPS}
    for _ in range(WORLDS):
        true, shown = world.draw(target, rows, rng)
        ours = walk(fitted, target, rows, shown)
        for step, k in enumerate(STEPS):
            best = ours.tried[:k][int(shown[ours.tried[:k]].argmax())]
            for name, at, told in (
                (POSTERIOR, ours.kept[step], ours.reported[step]),
                (BEST_MEASURED, best, shown[best]),
            ):
                _add(found[f"true {k}"], name, float(true[at]))
                _add(found[f"optimism {k}"], name, float(told - true[at]))
    return found


def normal_maximum(count: int) -> float:
    """Expected maximum of `count` standard normal draws, by quadrature of the order statistic's density."""
    if count == 1:
        return 0.0
    from scipy.special import ndtr  # noqa: PLC0415 - the service starts without scipy

    x = np.linspace(-9, 9, 3601)
    density = count * ndtr(x) ** (count - 1) * np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    return float((x * density).sum() * (x[1] - x[0]))


def _add(values: dict[str, float], name: str, value: float) -> None:
    values[name] = values.get(name, 0.0) + value / WORLDS
