from __future__ import annotations

import pytest

from headstart.errors import BrokenFile
from headstart.targets.columns import Found, find_columns
from headstart.targets.spec import Columns


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["text", "label"], Found("text", None, "label")),
        (["idx", "label", "sentence"], Found("sentence", None, "label")),
        (["text_a", "text_b", "label"], Found("text_a", "text_b", "label")),
        (["premise", "hypothesis", "label", "idx"], Found("premise", "hypothesis", "label")),
        (["question", "sentence", "label"], Found("question", "sentence", "label")),
        (["Sentence1", "Sentence2", "Score"], Found("Sentence1", "Sentence2", "Score")),
        (["text", "category", "label"], Found("text", None, "label")),
        (["question", "label"], Found("question", None, "label")),
    ],
)
def test_usual_names(names: list[str], found: Found) -> None:
    assert find_columns("t.csv", 1, names, Columns()) == found


def test_named_ones_come_first() -> None:
    names = ["text", "title", "body", "label", "topic"]
    wanted = Columns(text="title", text_pair="body", label="topic")
    assert find_columns("t.csv", 1, names, wanted) == Found("title", "body", "topic")
    assert find_columns("t.csv", 1, names, Columns(text="body")) == Found("body", None, "label")


def test_labels_may_be_missing_where_none_are_needed() -> None:
    for names, wanted in ((["id", "text"], Columns()), (["text", "label"], Columns(label="topic"))):
        assert find_columns("t.csv", 1, names, wanted, labelled=False) == Found("text", None, None)
    assert find_columns("t.csv", 1, ["text", "label"], Columns(), labelled=False).label == "label"


@pytest.mark.parametrize(
    ("names", "wanted", "sentence"),
    [
        (["text", "label", "text"], Columns(), "twice"),
        (["foo", "label"], Columns(), "no column is known to hold the text: there are 'foo', 'label'"),
        (["text", "foo"], Columns(), "no column is known to hold the label"),
        (["sentence", "label"], Columns(text="sentense"), "Did you mean 'sentence'?"),
        (["text", "label"], Columns(label="zzzzzz"), "There are 'text', 'label'."),
        (["text", "label"], Columns(text="label"), "one column is to be two things"),
        (["a", "b", "label"], Columns(text="a", text_pair="a"), "one column is to be two things"),
        ([], Columns(), "there are none"),
    ],
)
def test_columns_that_are_not_there(names: list[str], wanted: Columns, sentence: str) -> None:
    with pytest.raises(BrokenFile) as caught:
        find_columns("t.csv", 1, names, wanted)
    assert caught.value.message.startswith("t.csv, line 1, column ")
    assert sentence in caught.value.message
