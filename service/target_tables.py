"""The profile of a target as tables for people."""

from __future__ import annotations

from typing import Any

from service import tables

ROLES = ("train", "validation", "test")
MOST_CLASSES = 20  # shown one by one


def show_target(target: dict[str, Any]) -> None:
    """Show a target: what was counted in its rows, and what to know about them."""
    profile = target["profile"]
    if profile is None:
        tables.show_targets({"items": [target]})
        tables.say(
            "The store holds no rows of it. Give it some with: headstart targets add NAME --path FOLDER"
        )
        return
    kind = f"{'pairs' if profile['pair'] else 'texts'}, {profile['task']}, {target['metric']}"
    title = f"Target {target['id']}: {target['name']} ({kind})"
    tables.show(title, ("", *ROLES), _counts(profile), right=ROLES)
    _show_classes(profile)
    for role in ROLES:
        tables.say(f"{role}: {profile['origins'][role]}")
    tables.say(f"fingerprint: {target['fingerprint']}")
    for warning in profile["warnings"]:
        tables.say(f"Note: {warning}")


def _counts(profile: dict[str, Any]) -> list[list[Any]]:
    rows: list[list[Any]] = [["rows", *(f"{profile['rows'][role]:,}" for role in ROLES)]]
    if profile["balance"] is not None:
        rows.append(["largest class", *(f"{profile['balance'][role]:.1%}" for role in ROLES)])
    else:
        values = profile["values"]
        rows.append(["labels", *(f"{values[r]['least']:g} … {values[r]['most']:g}" for r in ROLES)])
    for unit in ("characters", "words"):
        lengths = profile[unit]
        rows += [
            [f"{unit}, {name}", *(f"{lengths[role][at]:,}" for role in ROLES)]
            for name, at in (("median", "median"), ("99 %", "p99"), ("most", "most"))
        ]
    dropped = profile["dropped"]
    if dropped:
        rows.append(["left out", *(f"{sum(dropped.get(role, {}).values()):,}" for role in ROLES)])
    overlap = profile["overlap"]
    rows.append(["in train too", None, *(overlap[f"{role}_train"]["rows"] for role in ROLES[1:])])
    return rows


def _show_classes(profile: dict[str, Any]) -> None:
    classes = profile["classes"]
    if classes is None:
        return
    largest = sorted(classes, key=lambda name: -classes[name]["train"])[:MOST_CLASSES]
    rows = [[name, *(f"{classes[name][role]:,}" for role in ROLES)] for name in largest]
    title = f"{len(classes)} classes" + (
        f", the largest {MOST_CLASSES}" if len(classes) > MOST_CLASSES else ""
    )
    tables.show(title, ("class", *ROLES), rows, right=ROLES)
