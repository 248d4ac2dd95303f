"""A backtest as pictures: reliability, the cold order by family, and what is found after k finetunes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.client import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from headstart.recommend.backtest.report import Comparison, Line, Report

SIZE = (8.0, 4.5)  # inches
DOTS = 150  # per inch
COLOURS = ("#0b6e99", "#d9730d", "#0f7b6c", "#6940a5", "#ad1a72", "#64473a", "#9b9a97", "#000000")


def draw(report: Report, folder: Path) -> list[Path]:
    """Write the pictures that the report has the numbers for; return their paths. Needs matplotlib."""
    try:
        import matplotlib  # noqa: PLC0415 - in the extra `plot`, and slow to import
    except ImportError:
        raise Refused(
            "Plots need matplotlib. Install it with: pip install 'headstart-advice[plot]'"
        ) from None
    matplotlib.use("agg")
    made = {
        "reliability.png": _reliability(report),
        "cold_target.png": _by_family(report, "p1"),
        "sequence.png": _sequence(report),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, figure in made.items():
            if figure is not None:
                figure.savefig(folder / name, dpi=DOTS)
                paths.append(folder / name)
    except OSError as error:
        raise Refused(
            f"Cannot write into {str(folder)!r}: {error.strerror}. Choose another --plot."
        ) from None
    return paths


def _figure(panels: int = 1) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    return figure, axes


def _reliability(report: Report) -> Any:
    """Forecast levels beside shares of outcomes; P(beats) beside how often it did."""
    if not report.reliability:
        return None
    figure, (levels, beats) = _figure(2)
    for axis in (levels, beats):
        axis.plot((0, 1), (0, 1), color="#9b9a97", linewidth=1)
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for one, colour in zip(report.reliability, COLOURS, strict=False):
        style = {"color": colour, "linewidth": 1.5, "marker": "o", "markersize": 3}
        name = one.family or "all"
        levels.plot([at.level for at in one.levels], [at.share for at in one.levels], label=name, **style)
        beats.plot([at.forecast for at in one.beats], [at.rate for at in one.beats], label=name, **style)
    levels.set(title="A run's gain", xlabel="forecast quantile", ylabel="share of runs at or below it")
    beats.set(title="P(a run beats the vanilla)", xlabel="forecast", ylabel="share that did")
    levels.legend(frameon=False, fontsize=8)
    return figure


def _by_family(report: Report, protocol: str) -> Any:
    """Each method's value by family, with its interval, in the protocol's first comparison."""
    asked = [one for one in report.comparisons if one.protocol == protocol]
    if not asked:
        return None
    one = asked[0]
    figure, (axis,) = _figure()
    families = [*one.lines[0].by_family, "mean"]
    for at, (line, colour) in enumerate(zip(one.lines, COLOURS, strict=False)):
        places, values, below, above = [], [], [], []
        for place, estimate in enumerate([*line.by_family.values(), line.overall]):
            if estimate is not None:
                places.append(place + 0.09 * (at - (len(one.lines) - 1) / 2))
                values.append(estimate.value)
                below.append(max(estimate.value - estimate.low, 0.0))
                above.append(max(estimate.high - estimate.value, 0.0))
        bars = (below, above)
        axis.errorbar(places, values, bars, color=colour, label=line.method, fmt="o", markersize=4, capsize=2)
    axis.set(title=one.name, ylabel=one.measure, xticks=range(len(families)), xticklabels=families)
    axis.axhline(0, color="#9b9a97", linewidth=1)
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=4)
    return figure


def _sequence(report: Report) -> Any:
    """What was found after k finetunes; and how far the reported number is from the truth."""
    names = list(dict.fromkeys(one.name for one in report.comparisons if one.protocol == "p6"))
    if not names:
        return None
    asked = [[one for one in report.comparisons if one.name == name] for name in (names[0], names[-1])]
    figure, axes = _figure(2)
    for axis, series in zip(axes, asked, strict=True):
        for method, colour in zip((line.method for line in series[0].lines), COLOURS, strict=False):
            points = [(one.step, line.overall.value) for one, line in _lines(series, method) if line.overall]
            axis.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=method)
        axis.set_title(series[0].name, fontsize=9)
        axis.set(xlabel="k", ylabel=series[0].measure)
        axis.legend(frameon=False, fontsize=7)
    axes[1].axhline(0, color="#9b9a97", linewidth=1)
    return figure


def _lines(series: Sequence[Comparison], method: str) -> list[tuple[Comparison, Line]]:
    return [(one, line) for one in series for line in one.lines if line.method == method]
