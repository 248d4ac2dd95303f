"""Regions, and studies of them, as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.tables import say, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RIGHT = ("region", "members", "tightness", "separation", "stability", "norm")
MOST_NAMED = 5  # sources of a region


def show_regions(found: Mapping[str, Any]) -> None:
    """The regions, their members, and what to know of both."""
    regions = (
        [
            one["number"],
            one["name"],
            len(one["members"]),
            f"{one['tightness']:.3f}",
            f"{one['separation']:.3f}",
            f"{one['stability']:.2f}",
            _sources(one["sources"]),
        ]
        for one in found["regions"]
    )
    columns = ("region", "name", "members", "tightness", "separation", "stability", "finetuned on")
    if found["regions"]:
        show(f"Regions of {found['family']}", columns, regions, RIGHT)
    in_order = sorted(
        found["members"], key=lambda one: (one["region"] is None, one["region"] or 0, one["name"])
    )
    members = (
        [one["name"], one["id"], one["region"], one["source"], f"{one['norm']:.3g}", one["lineage"]]
        for one in in_order
    )
    show(
        "Checkpoints",
        ("checkpoint", "id", "region", "finetuned on", "norm", "lineage"),
        members,
        ("id", *RIGHT),
    )
    for sentence in _sentences(found):
        say(sentence)


def _sentences(found: Mapping[str, Any]) -> Iterable[str]:
    """What is to be known beside the numbers."""
    yield found["chosen_by"]
    if found["purity"] is not None:
        yield (
            f"Of the checkpoints in regions {found['purity']:.0%} have the commonest source of theirs "
            f"(adjusted Rand index {_number(found['rand'])})."
        )
    within, between = found["cosine"]["within"], found["cosine"]["between"]
    yield (
        f"Mean cosine within regions {_number(within)}, between them {_number(between)}; a sketch is "
        f"{found['noise']:.4f} off."
    )
    names = {one["id"]: one["name"] for one in found["members"]}
    for group in found["copies"]:
        yield f"The same body under several names: {', '.join(names.get(one, str(one)) for one in group)}."
    for one in found["members"]:
        if one["lineage"] == "contradicted":
            yield f"{one['name']} is not of the family: {one['reason']}"
    for one in found["left_out"]:
        yield f"{one['name']} could not be read: {one['failure']}. {one['sentence']}"
    if found.get("stale"):
        count = found["registered_since"]
        whose = "checkpoint is" if count == 1 else "checkpoints are"
        yield f"{count} registered {whose} not in it: ask again with headstart regions {found['family']}"


def _sources(sources: Mapping[str, int]) -> str | None:
    """The commonest first."""
    first = sorted(sources.items(), key=lambda one: (-one[1], one[0]))
    shown = ", ".join(f"{name} {count}" for name, count in first[:MOST_NAMED])
    more = len(first) - MOST_NAMED
    return (f"{shown} and {more} more" if more > 0 else shown) or None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def show_centroid(result: Mapping[str, Any]) -> None:
    """The checkpoint that was made, and of what."""
    rows = ([one["name"], one["id"], f"{one['weight']:.4f}"] for one in result["members"])
    show("Members", ("checkpoint", "id", "weight"), rows, ("id", "weight"))
    for one in result.get("left_out", ()):
        say(f"Left out: {one}.")
    made = result["checkpoint"]
    say(f"Checkpoint {made['id']} is {made['name']}, in {made['path']}.")


KINDS = {
    "vanilla": "the vanilla",
    "inside": "a member",
    "outside": "a checkpoint outside",
    "hull": "a mixture of members",
    "centroid": "the centroid",
}


def show_study(found: Mapping[str, Any]) -> None:
    """How often what lies inside a region beats what lies outside, and the loss along lines."""
    level = f"{found['level']:.0%} interval"
    rows = (
        [
            KINDS.get(one["a"], one["a"]),
            KINDS.get(one["b"], one["b"]),
            f"{one['value']:.2f}",
            f"{one['low']:.2f} … {one['high']:.2f}",
            " and ".join(map(str, one["points"])),
        ]
        for one in found["better"]
    )
    title = f"How often the first has the lower loss on {found['target']['name']}"
    show(title, ("first", "second", "P", level, "points"), rows, ("P", level, "points"))
    _show_losses(found)
    curve = found["curve"]
    if curve is not None and curve["excess"]:
        rows = (
            [f"{at:g}", f"{one['value']:+.4f}", f"{one['low']:+.4f} … {one['high']:+.4f}"]
            for at, one in zip(curve["positions"], curve["excess"], strict=True)
        )
        title = f"Loss along {curve['lines']} lines between two members, less the mean of their ends"
        show(title, ("place", "excess", level), rows, ("place", "excess", level))
        say("Members lie at 0 and 1; below 0 and above 1 the line goes on beyond them.")
        if curve["below_both"] is not None:
            say(f"The middle is at or below both ends on {curve['below_both']['value']:.0%} of the lines.")
    say(f"Losses are of a linear probe on the frozen body, in {found['loss']}; less is better.")
    for one in found["left_out"]:
        say(f"{one['name']} was left out: {one['failure']}. {one['sentence']}")


def _show_losses(found: Mapping[str, Any]) -> None:
    """The middle, the least and the greatest loss of each kind of point."""
    rows = []
    for kind, words in KINDS.items():
        losses = sorted(
            one["loss"] for one in found["points"] if one["kind"] == kind and one["loss"] is not None
        )
        if losses:
            half = len(losses) // 2
            median = losses[half] if len(losses) % 2 else (losses[half - 1] + losses[half]) / 2
            rows.append([words, len(losses), *(f"{one:.4f}" for one in (median, losses[0], losses[-1]))])
    show(
        "Loss",
        ("of", "points", "median", "least", "greatest"),
        rows,
        ("points", "median", "least", "greatest"),
    )
