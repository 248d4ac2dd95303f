from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.targets.texts import LONGEST_TEXT, normalised


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("", ""),
        (" \t\r\n\u2003\u00a0", ""),
        ("  two\n\n words ", "two words"),
        ("nul\0and\x1b[0m", "nul and [0m"),
        ("cafe\u0301", "caf\u00e9"),
        ("caf\u00e9", "caf\u00e9"),
        ("\ud83d\ude00", "\U0001f600"),
        ("lone \ud800", "lone \ufffd"),
        ("zero\u200bwidth", "zero\u200bwidth"),
        ("日本語\u3000テキスト", "日本語 テキスト"),
    ],
)
def test_the_normal_form(text: str, normal: str) -> None:
    assert normalised(text) == (normal, False)


@given(st.text())
def test_the_normal_form_stays_and_can_be_stored(text: str) -> None:
    normal, cut = normalised(text)
    assert not cut
    assert normalised(normal) == (normal, False)
    assert normal == unicodedata.normalize("NFC", normal)
    assert normal == " ".join(normal.split())
    assert normal.encode().decode() == normal


def test_a_text_of_a_million_characters_is_cut() -> None:
    assert normalised("x" * 1_000_000) == ("x" * LONGEST_TEXT, True)
    assert normalised("x" * LONGEST_TEXT) == ("x" * LONGEST_TEXT, False)
    words, cut = normalised("ab " * 400_000)
    assert cut
    assert words == words.strip()
    assert normalised(words) == (words, False)
    assert normalised(" " * 1_000_000 + "x") == ("x", False), "what is folded away does not count"


def test_combining_marks_without_end_take_no_time_without_end() -> None:
    hostile = "a" + "\u0316\u0301" * 500_000  # as a whole it would take minutes
    text, cut = normalised(hostile)
    assert cut
    assert len(text) == LONGEST_TEXT
