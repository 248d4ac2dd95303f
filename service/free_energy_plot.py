"""Free energy along a run as a picture: WBIC, loss and trace over the steps. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.free_energy_run import APART, CONVERGED
from service.region_plot import COLOURS, NOWHERE, as_png, new_figure, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.free_energy_run import Choice, Estimate, Point

KEYS = (None, "loss", "trace")  # of what stands beside the value; None: the value
LABELS = ("WBIC, nats", "loss, nats a row", "tr(H)")
MOST_TICKS = 12  # checkpoints without steps whose names are written


def run_png(target: str, points: Sequence[Point], choice: Choice) -> bytes:
    """Three curves over the steps, or over the order where steps are not known; bars are 95 % intervals.

    A WBIC that has not converged is hollow, a cross stands where there is none, and the one to finetune from
    has a ring.

    Raises: Conflict where this machine has no matplotlib.
    """
    figure = new_figure()
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1))
    places = places_of(points)
    for panel, colour, label, key in zip(panels, COLOURS, LABELS, KEYS, strict=False):
        found = [one.wbic if key is None else one.beside[key] for one in points]
        sure = [key is not None or one.verdict == CONVERGED for one in points]
        _curve(panel, colour, places, found, sure)
        panel.set(ylabel=label)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
    if choice.best is not None and choice.best.wbic is not None:
        at = places[points.index(choice.best)]
        panels[0].scatter(
            [at], [choice.best.wbic.value], s=160, facecolors="none", edgecolors="black", zorder=4
        )
    missing = [at for at, one in zip(places, points, strict=True) if one.wbic is None]
    floor = panels[0].get_xaxis_transform()  # y from 0 at the bottom
    panels[0].scatter(missing, [0.04] * len(missing), marker="x", color=NOWHERE, transform=floor)
    if places != [one.step for one in points]:
        named = range(0, len(points), 1 + (len(points) - 1) // MOST_TICKS)
        names = [shortened(points[at].name) for at in named]
        texts = panels[-1].set_xticks(list(named), names, rotation=30, ha="right", fontsize=8)
        for text in texts:
            text.label1.set_parse_math(False)
    else:
        panels[-1].set(xlabel="training step")
    doubted = any(one.wbic and one.verdict != CONVERGED for one in points)
    legend = [*(["hollow: not converged"] if doubted else []), *(["×: no value"] if missing else [])]
    told = f" ({', '.join(legend)})" if legend else ""
    panels[0].set_title(f"Free energy on {shortened(target)}{told}", parse_math=False)
    return as_png(figure)


def places_of(points: Sequence[Point]) -> list[int]:
    """Where the points lie: at their steps, or one after the other unless each has one of its own."""
    steps = [one.step for one in points if one.step is not None]
    return steps if len(set(steps)) == len(points) else list(range(len(points)))


def _curve(
    panel: Any, colour: str, places: Sequence[int], found: Sequence[Estimate | None], sure: Sequence[bool]
) -> None:
    """Points with their intervals, joined by a line; hollow where they are not sure."""
    there = [
        (at, one, filled) for at, one, filled in zip(places, found, sure, strict=True) if one is not None
    ]
    panel.plot([at for at, _, _ in there], [one.value for _, one, _ in there], color=NOWHERE, linewidth=0.8)
    for at, one, filled in there:
        reach = None if one.stderr is None else APART * one.stderr
        look = {"color": colour, "markerfacecolor": colour if filled else "white", "markersize": 5}
        panel.errorbar([at], [one.value], yerr=reach, fmt="o", capsize=3, zorder=3, **look)
