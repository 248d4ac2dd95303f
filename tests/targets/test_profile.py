"""What is counted in rows, on rows where it can be counted by hand."""

from __future__ import annotations

from typing import Any

from making import csv_of, jsonl, profile_of, rows_of

TRAIN = [
    {"text": "a b", "label": "x"},
    {"text": "a b", "label": "x"},  # a duplicate
    {"text": "a b", "label": "y"},  # and one that contradicts
    {"text": "c", "label": "y"},
    {"text": "d e f", "label": "x"},
]
VALIDATION = [{"text": "c", "label": "y"}, {"text": "v", "label": "x"}]
TEST = [{"text": "d  e f", "label": "x"}, {"text": "v", "label": "x"}, {"text": "tttt", "label": "y"}]


def counted(
    train: list[dict[str, Any]], validation: list[dict[str, Any]], test: list[dict[str, Any]]
) -> dict[str, Any]:
    return profile_of(
        {"train.jsonl": jsonl(train), "validation.jsonl": jsonl(validation), "test.jsonl": jsonl(test)}
    )


def test_counts_of_single_texts() -> None:
    profile = counted(TRAIN, VALIDATION, TEST)
    assert profile["rows"] == {"train": 5, "validation": 2, "test": 3}
    assert profile["classes"] == {
        "x": {"train": 3, "validation": 1, "test": 2},
        "y": {"train": 2, "validation": 1, "test": 1},
    }
    assert profile["balance"] == {"train": 0.6, "validation": 0.5, "test": 0.666667}
    assert profile["characters"]["train"] == {"least": 1, "median": 3, "p90": 3, "p99": 3, "most": 5}
    assert profile["words"]["train"] == {"least": 1, "median": 2, "p90": 2, "p99": 2, "most": 3}
    assert profile["duplicates"] == 2
    assert profile["conflicting"] == 1
    assert profile["overlap"] == {
        "test_train": {"rows": 1},
        "validation_train": {"rows": 1},
        "test_validation": {"rows": 1},
    }
    assert profile["origins"] == {role: f"{role}.jsonl" for role in ("train", "validation", "test")}
    assert profile["warnings"] == [
        "1 of the 3 rows of test (33.3%) stands in train too: scores on test flatter. Remove them there.",
        "1 of the 2 rows of validation (50.0%) stands in train too: scores on validation flatter. "
        "Remove them there.",
        "1 of the 3 rows of test (33.3%) stands in validation too: choices made there leak into the score.",
        "2 of the 5 rows of train (40.0%) repeat an earlier one.",
        "1 text of train has more than one label.",
        "Train has fewer than 5 rows of 2 classes: 'x', 'y'.",
        "The test role has 3 rows: an accuracy on it is known to ± 28.9 points at best.",
    ]


def test_counts_of_pairs() -> None:
    def pair(first: str, second: str, label: str) -> dict[str, str]:
        return {"text_a": first, "text_b": second, "label": label}

    train = [pair("a", "b", "x"), pair("a", "c", "y"), pair("ab", "c", "x"), pair("b", "a", "y")]
    test = [pair("a", "b", "x"), pair("a", "d", "y"), pair("abc", "", "x"), pair("z", "z", "y")]
    profile = counted(train, [pair("q", "r", "x")], test)
    assert profile["pair"] is True
    assert profile["overlap"]["test_train"] == {"rows": 1, "first_texts": 2}
    assert profile["duplicates"] == 0
    assert profile["conflicting"] == 0
    assert profile["characters"]["train"]["most"] == 3
    assert profile["words"]["train"]["least"] == 2
    assert profile["dropped"] == {"test": {"empty_text": 1}}


def test_counts_of_values() -> None:
    rows = [{"text": f"t {k}", "label": value} for k, value in enumerate((0.5, 1.5, 4.0))]
    profile = counted(rows, rows, rows)
    assert profile["values"]["train"] == {"least": 0.5, "mean": 2.0, "most": 4.0, "deviation": 1.47196014}
    assert profile["classes"] is None
    assert profile["balance"] is None


def test_a_clean_set_has_no_warnings() -> None:
    profile = counted(rows_of(500), rows_of(100, start=500), rows_of(200, start=600))
    assert profile["warnings"] == []


def test_an_uneven_set_is_told() -> None:
    rows = [{"text": f"t {k}", "label": "rare" if k % 10 == 0 else "usual"} for k in range(3000)]
    [warning] = profile_of({"t.csv": csv_of(rows)})["warnings"]
    assert warning.startswith("The largest class holds ")
    assert warning.endswith("% of train: compare scores with that share.")
