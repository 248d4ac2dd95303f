"""Regions as pictures: the map of a family, and the curves of a study. Needs matplotlib."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from headstart.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SIZE = (8.0, 6.0)  # inches
DOTS = 150  # per inch
COLOURS = ("#0b6e99", "#d9730d", "#0f7b6c", "#6940a5", "#ad1a72", "#64473a", "#c4554d", "#448361", "#8a6d3b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
NOWHERE = "#9b9a97"
KINDS = {
    "vanilla": "vanilla",
    "outside": "outside",
    "inside": "members",
    "hull": "mixtures",
    "centroid": "centroid",
}
MOST_NAMED = 60  # members whose names are written beside them
LONGEST = 28  # letters of a name


def map_png(regions: Mapping[str, Any]) -> bytes:
    """The map of a family's checkpoints, coloured by region, as a PNG.

    Raises: Conflict where this machine has no matplotlib.
    """
    figure = new_figure()
    axis = figure.subplots()
    placed = [one for one in regions["members"] if one["x"] is not None and one["y"] is not None]
    groups = [(one["number"], one["name"]) for one in regions["regions"]]
    for at, (number, name) in enumerate(groups):
        mine = [one for one in placed if one["region"] == number]
        _scatter(axis, mine, f"{number}: {shortened(name)} ({len(mine)})", *_look(at))
    alone = [one for one in placed if one["region"] is None]
    if alone:
        _scatter(axis, alone, f"in no region ({len(alone)})", NOWHERE, ".")
    if len(placed) <= MOST_NAMED:
        for one in placed:
            place, beside = (one["x"], one["y"]), {"xytext": (3, 3), "textcoords": "offset points"}
            axis.annotate(shortened(one["name"]), place, fontsize=6, parse_math=False, **beside)
    axis.set(title=f"Regions of {shortened(regions['family'])}", xticks=[], yticks=[])
    axis.title.set_parse_math(False)
    axis.set_aspect("equal", adjustable="datalim")
    if placed:
        axis.scatter([0.0], [0.0], label="the vanilla", c="black", marker="+", s=60)
        axis.margins(0.15)  # names stand beside their places
        legend = figure.legend(loc="outside lower center", frameon=False, fontsize=7, ncols=4)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return as_png(figure)


def study_png(found: Mapping[str, Any]) -> bytes:
    """Losses by kind of point, and the mean curve along lines with its interval.

    Raises: Conflict where this machine has no matplotlib.
    """
    figure = new_figure()
    losses, lines = figure.subplots(1, 2)
    kinds = [kind for kind in KINDS if any(one["kind"] == kind for one in found["points"])]
    for at, kind in enumerate(kinds):
        mine = [one["loss"] for one in found["points"] if one["kind"] == kind and one["loss"] is not None]
        losses.scatter([at] * len(mine), mine, c=COLOURS[at], s=22, alpha=0.7)
    losses.set_xticks(range(len(kinds)), [KINDS[kind] for kind in kinds], rotation=30, ha="right", fontsize=8)
    losses.set(ylabel=f"loss ({found['loss']})", title=f"On {shortened(found['target']['name'])}")
    losses.title.set_parse_math(False)
    for one in found["lines"]:
        places = [(at, loss) for at, loss in zip(one["at"], one["loss"], strict=True) if loss is not None]
        if places:
            lines.plot(*zip(*places, strict=True), color=NOWHERE, linewidth=0.8)
    curve = found["curve"]
    if curve is not None and curve["excess"]:
        ends = [loss for one in found["lines"] for loss in _ends(one)]
        level = sum(ends) / len(ends) if ends else 0.0
        told = {name: [level + one[name] for one in curve["excess"]] for name in ("value", "low", "high")}
        lines.plot(
            curve["positions"], told["value"], color=COLOURS[0], marker="o", markersize=4, label="mean"
        )
        lines.fill_between(curve["positions"], told["low"], told["high"], color=COLOURS[0], alpha=0.2)
        lines.legend(frameon=False, fontsize=8)
    for end in (0, 1):
        lines.axvline(end, color=NOWHERE, linewidth=0.8, linestyle=":")
    lines.set(xlabel="place on the line between two members", title="Along lines")
    return as_png(figure)


def _ends(line: Mapping[str, Any]) -> list[float]:
    """The losses at both ends of a line; none of one that lacks any point, which the mean leaves out."""
    if any(loss is None for loss in line["loss"]):
        return []
    return [loss for at, loss in zip(line["at"], line["loss"], strict=True) if at in (0, 1)]


def _scatter(axis: Any, members: Sequence[Mapping[str, Any]], label: str, colour: str, marker: str) -> None:
    x, y = [one["x"] for one in members], [one["y"] for one in members]
    axis.scatter(x, y, label=label, c=colour, marker=marker, s=28, alpha=0.8)


def _look(at: int) -> tuple[str, str]:
    """Colour and marker, another pair for each of the first 72 regions."""
    return COLOURS[at % len(COLOURS)], MARKERS[(at // len(COLOURS)) % len(MARKERS)]


def new_figure() -> Any:
    """An empty figure. Raises Conflict where this machine has no matplotlib."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - in the extra `plot`, and slow to import
    except ImportError:
        raise Conflict(
            "The service has no matplotlib to draw with. Install headstart-advice[plot] where it runs, or "
            "draw the x and y of the members yourself."
        ) from None
    return Figure(figsize=SIZE, layout="constrained")


def as_png(figure: Any) -> bytes:
    """The bytes of a figure as a PNG."""
    import warnings  # noqa: PLC0415

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font has not: they are drawn as boxes
        figure.savefig(file, format="png", dpi=DOTS)
    return file.getvalue()


def shortened(name: str) -> str:
    """A name cut where it is longer than LONGEST."""
    name = str(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
