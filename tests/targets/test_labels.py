from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from headstart.errors import BrokenFile
from headstart.targets.labels import MISSING, Labels, Place

if TYPE_CHECKING:
    from headstart.targets.spec import Task


def read(*cells: Any) -> Labels:
    labels = Labels()
    for line, cell in enumerate(cells, 2):
        labels.code(cell, Place("t.csv", line, "label"))
    return labels


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (("b", "a", " b\n"), ["b", "a"]),
        (("cafe\u0301", "caf\u00e9"), ["caf\u00e9"]),
        ((1, "1", 1.0), ["1"]),
        (("0", "1.0", "1", "-1"), ["0", "1", "1", "-1"]),
        (("007", "7"), ["007", "7"]),
        ((True, False, "True", "TRUE"), ["true", "false"]),
        (("1e3", "1000"), ["1000", "1000"]),
        (("nan", "inf"), ["nan", "inf"]),
    ],
)
def test_words_and_whole_numbers_are_classes(cells: tuple[Any, ...], classes: list[str]) -> None:
    labels = read(*cells)
    assert labels.task(None) == "classification"
    assert labels.classes() == classes


@pytest.mark.parametrize("cells", [(0.5, 1), ("0.5", "1"), (".5", 2, 3.25), ("1e-3", "-0")])
def test_fractions_are_values(cells: tuple[Any, ...]) -> None:
    labels = read(*cells)
    assert labels.task(None) == "regression"
    assert labels.values() == [float(cell) for cell in cells]
    assert all(math.copysign(1, value) == 1 for value in labels.values())


@pytest.mark.parametrize("cell", [None, "", "  \n", math.nan])
def test_an_empty_cell_is_no_label(cell: Any) -> None:
    labels = Labels()
    assert labels.code(cell, Place("t.csv", 2, "label")) == MISSING
    assert labels.names == []


def test_a_stated_task_is_kept_where_it_fits() -> None:
    assert read(1, 2, 3).task("regression") == "regression"
    assert read("1.5", "2", "x").task("classification") == "classification"
    assert read("1.0", "2.0", "x").classes() == ["1.0", "2.0", "x"], "of versions, 1.0 and 1 are two"


@pytest.mark.parametrize(
    ("cells", "task", "line", "sentence"),
    [
        (("1", "2", "many"), None, 4, "'many' is a word, and '1' in t.csv, line 2, is a whole number"),
        (("a", "b", 0.5), None, 4, "'0.5' is a fraction, and 'a' in t.csv, line 2, is a word"),
        ((0.5, 0.25), "classification", 2, "a fraction, and no class"),
        ((0.5, "high"), "regression", 3, "no number"),
        ((1, math.inf), None, 3, "not a finite number"),
        (("1", "1e999"), None, 3, "not a finite number"),
        (("a", "x" * 201), None, 3, "Is it the column of labels?"),
        ((1, 10**300), None, 3, "Is it the column of labels?"),
        (("a", ["b"]), None, 3, "of type list"),
        (("a", b"b"), None, 3, "of type bytes"),
    ],
)
def test_labels_that_cannot_be(cells: tuple[Any, ...], task: Task | None, line: int, sentence: str) -> None:
    with pytest.raises(BrokenFile) as caught:
        read(*cells).task(task)
    assert caught.value.message.startswith(f"t.csv, line {line}, column 'label'")
    assert sentence in caught.value.message
