"""The normal form of a text."""

from __future__ import annotations

import re
import unicodedata

LONGEST_TEXT = 100_000  # characters; no tokenizer's window is a tenth of it
_LONGEST_WORD = 1000  # characters composed at once: a run of combining marks takes the square of its length
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def normalised(text: str) -> tuple[str, bool]:
    """The text in its normal form, and whether it was cut. Normalising it again changes nothing.

    White space and control characters: one blank, none at the ends. Lone surrogates: U+FFFD. Unicode: NFC, a
    word of more than 1,000 characters in pieces of that length. At most LONGEST_TEXT characters.
    """
    folded = _folded(text)
    cut = len(folded) > LONGEST_TEXT
    if not folded.isascii():
        folded = _composed(folded[: 2 * LONGEST_TEXT])
        cut |= len(folded) > LONGEST_TEXT
    return (folded[:LONGEST_TEXT].rstrip(), True) if cut else (folded, False)


def _folded(text: str) -> str:
    folded = " ".join(text.split())
    if folded.isprintable():
        return folded
    if _SURROGATE.search(folded):
        folded = folded.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(_CONTROL.sub(" ", folded).split())


def _composed(text: str) -> str:
    words = text.split(" ")
    if max(map(len, words)) <= _LONGEST_WORD:
        return unicodedata.normalize("NFC", text)
    return " ".join(map(_composed_word, words))


def _composed_word(word: str) -> str:
    pieces = range(0, len(word), _LONGEST_WORD)
    return "".join(unicodedata.normalize("NFC", word[at : at + _LONGEST_WORD]) for at in pieces)
