"""The front matter of a model card: licence, base model, tags.

Cards are YAML between two lines of `---`. What is wanted of them are words and lists of words at the top
level, so that is all this reads; nesting, anchors and tags of YAML are passed over. A card that cannot be
read says nothing: it is a hint, never a reason to refuse a checkpoint.
"""

from __future__ import annotations

import json
import re
from typing import Any

MOST_BYTES = 256 << 10  # of a card that are looked at
MOST_ITEMS = 50  # of one list
LONGEST = 200  # characters of one word
_KEY = re.compile(r"([A-Za-z_][\w-]*):(?:\s+(.*))?")
_NOTHING = ("", "~", "null", "Null", "NULL")


def read_card(text: str) -> dict[str, list[str]]:
    """Key -> words of the front matter, cleaned and bounded; a lone word is a list of one."""
    lines = text.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return {}
    found: dict[str, list[str]] = {}
    current: list[str] | None = None  # the list whose items may follow
    for line in lines[1:]:
        if line.rstrip() == "---":
            return {key: words for key, words in found.items() if words}
        if key := _KEY.fullmatch(line.rstrip()):
            current = found.setdefault(key[1], _words(key[2] or ""))
        elif current is not None and (item := re.fullmatch(r"\s*- +(.*)", line)):
            if not _KEY.fullmatch(item[1].rstrip()):  # else it is a list of objects
                current.extend(_words(item[1])[: MOST_ITEMS - len(current)])
        elif line.strip() and not line.lstrip().startswith("#"):
            current = None
    return {}  # it never ends, so it is none


def clean(value: Any) -> str:
    """A text of foreign origin as it can be stored and shown."""
    shown = "".join(c for c in str(value)[: 4 * LONGEST] if c.isprintable())
    return shown.strip()[:LONGEST]


def _words(text: str) -> list[str]:
    """The words of a value: one, or those of a list in brackets."""
    text = text.strip()
    if text.startswith("[") and (end := text.find("]")) > 0:
        parts = text[1:end].split(",")
    elif text[:1] in ("|", ">", "{", "&", "*", "!"):
        return []
    else:
        parts = [text]
    words = (clean(_unquoted(part.strip())) for part in parts[:MOST_ITEMS])
    return [word for word in words if word not in _NOTHING]


def _unquoted(text: str) -> str:
    if quoted := re.match(r'"(?:[^"\\]|\\.)*"', text):
        try:
            return str(json.loads(quoted[0]))
        except ValueError:
            return quoted[0][1:-1]
    if quoted := re.match(r"'((?:[^']|'')*)'", text):
        return quoted[1].replace("''", "'")
    return re.split(r"\s+#", text, maxsplit=1)[0]
