"""What is counted in the rows of a target, and what of it a person should know. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa
    from jaxtyping import Float, Int, Shaped

    from headstart.targets.gather import Counts, RoleRows
    from headstart.workbench import Role

    Roles = Mapping[Role, RoleRows]

QUANTILES = {"least": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}
PAIRS_OF_ROLES: tuple[tuple[Role, Role], ...] = (
    ("test", "train"),
    ("validation", "train"),
    ("test", "validation"),
)
SMALL_TEST = 200  # rows
WORTH_SAYING = 0.01  # of a role's rows
LARGEST_SHARE = 0.8  # of a class in train
FEW_OF_A_CLASS = 5  # rows in train


def text_counts(roles: Roles) -> dict[str, Any]:
    """Lengths, duplicates and overlap of the texts of every role.

    `characters` and `words` are quantiles over the rows, of both texts together for pairs. `duplicates` are
    rows of train whose texts stood in train before, `conflicting` those texts with more than one label. An
    overlap counts the rows of the first role whose texts stand in the second; for pairs also by first text.
    """
    train = roles["train"]
    lengths = {role: _lengths(rows) for role, rows in roles.items()}
    return {
        "characters": {role: _quantiles(characters) for role, (characters, _) in lengths.items()},
        "words": {role: _quantiles(words) for role, (_, words) in lengths.items()},
        "duplicates": len(train) - len(np.unique(train.key)),
        "conflicting": _conflicting(train.key, train.code),
        "overlap": {f"{a}_{b}": _overlap(roles[a], roles[b]) for a, b in PAIRS_OF_ROLES},
    }


def class_counts(roles: Roles, classes: tuple[str, ...]) -> dict[str, Any]:
    """Rows by class and role, and the share of the largest class: what guessing it would score."""
    found = {role: np.bincount(rows.code, minlength=len(classes)) for role, rows in roles.items()}
    return {
        "classes": {
            name: {role: int(counts[k]) for role, counts in found.items()} for k, name in enumerate(classes)
        },
        "balance": {role: round(float(counts.max() / counts.sum()), 6) for role, counts in found.items()},
    }


def value_counts(roles: Roles, values: Float[np.ndarray, "c"]) -> dict[str, Any]:
    """Mean, standard deviation and range of a regression's labels, by role; `values` by code."""

    def of(rows: RoleRows) -> dict[str, float]:
        found = values[rows.code]
        counts = {"least": found.min(), "mean": found.mean(), "most": found.max(), "deviation": found.std()}
        return {name: float(f"{count:.9g}") for name, count in counts.items()}

    return {"values": {role: of(rows) for role, rows in roles.items()}}


def dropped_counts(counts: Mapping[Role, Counts]) -> dict[str, dict[str, int]]:
    """Role -> reason -> rows that were left out."""
    return {role: dict(sorted(one.dropped.items())) for role, one in counts.items() if one.dropped.total()}


def warnings_of(profile: Mapping[str, Any]) -> list[str]:
    """What to know before relying on the target, in sentences."""
    return [
        *_overlap_warnings(profile),
        *_train_warnings(profile),
        *_row_warnings(profile),
    ]


def _overlap_warnings(profile: Mapping[str, Any]) -> list[str]:
    said = []
    for a, b in PAIRS_OF_ROLES:
        overlap, rows = profile["overlap"][f"{a}_{b}"], profile["rows"][a]
        same, first = overlap["rows"], overlap.get("first_texts", 0)
        if b == "train" and same:
            verb = "stands" if same == 1 else "stand"
            said.append(
                f"{_part(same, rows, a)} {verb} in train too: scores on {a} flatter. Remove them there."
            )
        elif same > WORTH_SAYING * rows:
            said.append(
                f"{_part(same, rows, a)} {_stand(same)} in {b} too: choices made there leak into the score."
            )
        if b == "train" and first > WORTH_SAYING * rows:
            said.append(f"{_part(first, rows, a)} share the first text of their pair with train.")
    return said


def _train_warnings(profile: Mapping[str, Any]) -> list[str]:
    train, repeated, doubtful = profile["rows"]["train"], profile["duplicates"], profile["conflicting"]
    said = []
    if repeated > WORTH_SAYING * train:
        said.append(f"{_part(repeated, train, 'train')} repeat an earlier one.")
    if doubtful > WORTH_SAYING * train:
        texts = "1 text of train has" if doubtful == 1 else f"{doubtful:,} texts of train have"
        said.append(f"{texts} more than one label.")
    if profile["classes"] is None:
        return said
    largest = profile["balance"]["train"]
    if largest > LARGEST_SHARE:
        said.append(f"The largest class holds {largest:.1%} of train: compare scores with that share.")
    rare = [name for name, rows in profile["classes"].items() if rows["train"] < FEW_OF_A_CLASS]
    if rare:
        shown = ", ".join(map(repr, rare[:5])) + (", ..." if len(rare) > 5 else "")
        classes = "1 class" if len(rare) == 1 else f"{len(rare)} classes"
        said.append(f"Train has fewer than {FEW_OF_A_CLASS} rows of {classes}: {shown}.")
    return said


def _row_warnings(profile: Mapping[str, Any]) -> list[str]:
    said = []
    test = profile["rows"]["test"]
    if test < SMALL_TEST:
        error = 50 / test**0.5
        rows = _counted(test, "row")
        said.append(f"The test role has {rows}: an accuracy on it is known to ± {error:.1f} points at best.")
    words = {
        "empty_text": "without a text",
        "no_label": "without a label",
        "unseen_label": "with a label that train does not have",
    }
    for role, reasons in profile["dropped"].items():
        for reason, count in reasons.items():
            said.append(f"Left out: {_counted(count, 'row')} of {role} {words[reason]}.")
    for role, count in profile["cut"].items():
        longest = profile["longest_text"]
        said.append(f"Cut at {longest:,} characters: {_counted(count, 'text')} of {role}.")
    return said


def _lengths(rows: RoleRows) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Characters and words of each row."""
    from pyarrow import compute  # noqa: PLC0415 - see headstart.targets.gather

    def of(texts: pa.ChunkedArray) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        blanks = compute.count_substring(texts, " ").to_numpy()
        return compute.utf8_length(texts).to_numpy().astype(np.int64), blanks.astype(np.int64) + 1

    characters, words = of(rows.text)
    if rows.text_pair is None:
        return characters, words
    more_characters, more_words = of(rows.text_pair)
    return characters + more_characters, words + more_words


def _quantiles(lengths: Int[np.ndarray, "n"]) -> dict[str, int]:
    found = np.quantile(lengths, list(QUANTILES.values()), method="lower")
    return dict(zip(QUANTILES, map(int, found), strict=True))


def _conflicting(key: Shaped[np.ndarray, "n"], code: Int[np.ndarray, "n"]) -> int:
    """How many texts have more than one label."""
    found, member = np.unique(key, return_inverse=True)
    width = int(code.max()) + 1
    text_of_label = np.unique(member.astype(np.int64) * width + code) // width
    return int(np.sum(np.bincount(text_of_label, minlength=len(found)) > 1))


def _overlap(a: RoleRows, b: RoleRows) -> dict[str, int]:
    found = {"rows": int(np.isin(a.key, b.key).sum())}
    if a.text_pair is not None:
        found["first_texts"] = int(np.isin(a.group, b.group).sum())
    return found


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _stand(count: int) -> str:
    return "stands" if count == 1 else "stand"


def _part(count: int, of: int, role: str) -> str:
    share = f"{count / of:.1%}" if count / of >= 0.001 else "< 0.1%"
    return f"{count:,} of the {of:,} rows of {role} ({share})"
