"""The page's plots: free energy against transfer, correlations with intervals, sensitivity of the sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator

from bench.free_energy_study.measures import RADIUS
from bench.free_energy_study.tables import MEASURES, TRANSFERS, WILD_RATE, chain, column, transfer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

COLOURS = {"base": "black", "learning rate": "#0072b2", "batch": "#d55e00", "momentum": "#009e73"}
KINDS = {"full": "#0072b2", "few": "#d55e00"}
DPI = 100


def scatter(arms: dict[str, list[dict[str, Any]]], to: Path) -> None:
    """A row an arm, a column a transfer."""
    figure, grid = plt.subplots(len(arms), 2, figsize=(9, 3.6 * len(arms)), squeeze=False)
    for row, (title, checkpoints) in zip(grid, arms.items(), strict=True):
        values = column(checkpoints, chain(RADIUS, "wbic"))
        for axes, (kind, name) in zip(row, TRANSFERS.items(), strict=True):
            y = transfer(checkpoints, kind)
            wild = np.array([one["setting"]["rate"] >= WILD_RATE for one in checkpoints])
            for sweep, colour in COLOURS.items():
                own = np.array([one["setting"]["sweep"] == sweep for one in checkpoints]) & ~wild
                axes.scatter(values[own], y[own], s=18, color=colour, label=sweep, alpha=0.8, linewidths=0)
            label, edge = f"learning rate {WILD_RATE} and above", COLOURS["learning rate"]
            axes.scatter(values[wild], y[wild], s=20, facecolors="none", edgecolors=edge, label=label)
            axes.set(xscale="log", xlabel="free energy (WBIC), nats", ylabel="test accuracy")
            wide = np.nanmax(values) > 30 * np.nanmin(values)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if wide else (1, 2, 3, 4, 5, 7)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
            axes.minorticks_off()
            axes.set_title(f"{title}: {name}", fontsize=10)
            _plain(axes)
    grid[1, 0].legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, to)


def bars(measured: dict[str, Any], title: str, to: Path) -> None:
    """Spearman's of every measure, with its interval over settings."""
    shown = [one for one in MEASURES if all(measured["measures"][one.key].values())]
    figure, axes = plt.subplots(figsize=(7.5, 0.36 * len(shown) + 1.2))
    for shift, (kind, colour) in zip((0.16, -0.16), KINDS.items(), strict=True):
        for place, one in enumerate(reversed(shown)):
            told = measured["measures"][one.key][kind]["spearman"]
            axes.plot([told["low"], told["high"]], [place + shift] * 2, color=colour, lw=1.5)
            label = TRANSFERS[kind] if not place else None
            axes.plot(told["value"], place + shift, "o", color=colour, ms=5, label=label)
    axes.axvline(0, color="grey", lw=0.8)
    axes.set_yticks(range(len(shown)), [one.name.replace("*", "") for one in reversed(shown)], fontsize=8)
    axes.set(xlim=(-1, 1), xlabel="Spearman's correlation with transfer, 95 % over settings")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    _save(figure, to)


def sensitivity(tables: dict[str, Any], to: Path) -> None:
    """By gamma, by the draws of the converged chains, by the steps of the published one."""
    figure, row = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True)
    radii = tables["radii"]
    _curve(row[0], [told["gamma"] for told in radii.values()], list(radii.values()))
    row[0].set(xlabel="localisation γ", ylabel="Spearman's correlation with transfer")
    for axes, key, label in (
        (row[1], "draws", "draws a chain, after the burn-in"),
        (row[2], "published", "steps of the published chain"),
    ):
        _curve(axes, [int(length) for length in tables[key]], list(tables[key].values()))
        axes.set(xlabel=label)
    row[0].legend(frameon=False, fontsize=8)
    _save(figure, to)


def _curve(axes: Axes, x: Sequence[float], told: Sequence[dict[str, Any]]) -> None:
    for kind, colour in KINDS.items():
        points = [(at, one[kind]["spearman"]) for at, one in zip(x, told, strict=True) if one[kind]]
        places = [at for at, _ in points]
        axes.plot(
            places, [one["value"] for _, one in points], "o-", color=colour, ms=4, label=TRANSFERS[kind]
        )
        axes.fill_between(
            places,
            [one["low"] for _, one in points],
            [one["high"] for _, one in points],
            color=colour,
            alpha=0.12,
            lw=0,
        )
    axes.axhline(0, color="grey", lw=0.8)
    axes.set(xscale="log", ylim=(-1, 1))
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: plt.Figure, to: Path) -> None:
    figure.tight_layout()
    figure.savefig(to, dpi=DPI)
    plt.close(figure)
