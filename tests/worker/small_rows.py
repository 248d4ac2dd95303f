"""Small targets with rows, for tests of the feature pass."""

from __future__ import annotations

import hashlib
import json
import random
from typing import TYPE_CHECKING

import pyarrow as pa

from headstart.rows import RowsFile, RowsHead, write_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WORDS = ("the", "film", "was", "good", "bad", "and", "not", "a", "long", "plot", "quiet", "zebra", "42")


def make_texts(count: int, *, longest: int = 30, seed: int = 0) -> list[str]:
    """Texts of 1 to `longest` words, in no order of length."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(count)]


def make_rows(
    path: Path, roles: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]] | None = None
) -> RowsFile:
    """A file of rows with these texts in this order, or pairs; every third row is of class "b"."""
    texts = [text for role in roles for text in roles[role]]
    table = {"role": [role for role in roles for _ in roles[role]], "text": texts}
    if others is not None:
        table["text_pair"] = [text for role in roles for text in others[role]]
    table["label"] = ["b" if row % 3 == 2 else "a" for row in range(len(texts))]
    head = RowsHead(
        fingerprint=hashlib.sha256(json.dumps(table).encode()).hexdigest(),
        task="classification",
        pair=others is not None,
        classes=("a", "b"),
        sizes={role: len(roles[role]) for role in roles},
    )
    write_rows(path, pa.table(table), head)
    return RowsFile(path)


def ignore(_fraction: float, _stage: str, _message: str) -> None:
    """A report that nobody reads."""
