from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.checkpoints.card import LONGEST, MOST_ITEMS, clean, read_card
from tests.checkpoint_folders import CARD


def card(*lines: str) -> dict[str, list[str]]:
    return read_card("\n".join(("---", *lines, "---", "text: here", "")))


def test_words_and_lists_of_words_are_read() -> None:
    assert read_card(CARD) == {
        "license": ["apache-2.0"],
        "language": ["en"],
        "base_model": ["roberta-base"],
        "datasets": ["glue", "multi_nli"],
        "tags": ["text-classification", "nli"],
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("k: v", ["v"]),
        ("k:   a b  ", ["a b"]),
        ("k: v # why", ["v"]),
        ("k: a#b", ["a#b"]),
        ("k: 'it''s' # why", ["it's"]),
        (r'k: "a \"b\" \u00e9"', ['a "b" é']),
        ("k: [a, 'b', \"c\"]", ["a", "b", "c"]),
        ("k: owner/name", ["owner/name"]),
    ],
)
def test_a_value(line: str, words: list[str]) -> None:
    assert card(line) == {"k": words}


@pytest.mark.parametrize(
    "line", ["k:", "k: null", "k: ~", "k: ''", "k: {a: b}", "k: &x y", "k: *x", "k: |", "[]"]
)
def test_what_is_no_word_says_nothing(line: str) -> None:
    assert card(line) == {}


def test_lists_are_indented_or_not_and_end_with_the_next_key() -> None:
    assert card("a:", "- x", "b:", "  - y", "# aside", "  - z", "c: w") == {
        "a": ["x"],
        "b": ["y", "z"],
        "c": ["w"],
    }


def test_items_of_what_is_nested_belong_to_nobody() -> None:
    assert card("a:", "  - name: x", "    list:", "    - y", "b: z") == {"b": ["z"]}


@pytest.mark.parametrize(
    "text", ["", "# No front matter", "---\nlicense: mit", "--- \n", "x\n---\nlicense: mit\n---"]
)
def test_what_is_no_card_says_nothing(text: str) -> None:
    assert read_card(text) == {}


def test_a_card_is_bounded_and_clean() -> None:
    found = card(f"a: {'x' * 9999}", "b:", *["- y"] * 9999, "c: a\u202eb\x07c", f"d: [{'z,' * 9999}]")
    assert len(found["a"][0]) == LONGEST
    assert len(found["b"]) == MOST_ITEMS
    assert found["c"] == ["abc"]
    assert len(found["d"]) <= MOST_ITEMS


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    found = read_card("---\n" + text + "\n---\n")
    assert all(word and clean(word) == word for words in found.values() for word in words)
