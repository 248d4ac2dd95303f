"""The rows of each role, compact: texts in Arrow arrays, labels as codes, a digest of each text.

A million rows take their texts once, and about 70 bytes a row beside them.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import TooLarge
from headstart.targets.labels import MISSING, Labels, Place
from headstart.targets.texts import normalised

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Int, Shaped

    from headstart.targets.columns import Found
    from headstart.workbench import Role

DIGEST = np.dtype("S32")  # compared whole: a digest that ends in a zero byte is told from no other
FLUSH_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleRows:
    """The rows of a role, normalised; `key` is the digest of all texts of a row, `group` of the first."""

    text: pa.ChunkedArray
    text_pair: pa.ChunkedArray | None
    key: Shaped[np.ndarray, "n"]
    group: Shaped[np.ndarray, "n"]
    code: Int[np.ndarray, "n"]  # of the label, see Labels

    def __len__(self) -> int:
        """How many."""
        return len(self.code)

    def take(self, rows: Int[np.ndarray, "m"]) -> RoleRows:
        """These rows of it, in this order."""
        return RoleRows(
            text=self.text.take(rows),
            text_pair=None if self.text_pair is None else self.text_pair.take(rows),
            key=self.key[rows],
            group=self.group[rows],
            code=self.code[rows],
        )


@dataclass(slots=True)
class Counts:
    """What was counted while a role was read."""

    read: int = 0
    cut: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> rows


class Gathering:
    """Takes in the rows of a target, from wherever, role by role.

    Raises: TooLarge (more rows than `most_rows`, or more than `most_bytes` of text in a role), BrokenFile.
    """

    def __init__(self, most_rows: int, most_bytes: int) -> None:
        self._most_rows = most_rows
        self._most_bytes = most_bytes
        self.labels = Labels()
        self.counts: dict[Role, Counts] = {}
        self.rows_read = 0
        self._roles: dict[Role, _Builder] = {}
        self._pair: tuple[bool, str] | None = None  # and in which file

    def add(self, role: Role, file: str, line: int, columns: Found, cells: Any) -> None:
        """Take in a row: `cells` by column."""
        self.rows_read += 1
        if self.rows_read > self._most_rows:
            raise TooLarge(
                f"{file} goes over {self._most_rows} rows, the most one target may hold. Take a sample of "
                "it, or raise HEADSTART_MAX_IMPORT_ROWS."
            )
        counts = self.counts.setdefault(role, Counts())
        counts.read += 1
        code = MISSING
        if columns.label is not None:
            code = self.labels.code(cells[columns.label], Place(file, line, columns.label))
        text, cut = _text(cells[columns.text], file, line, columns.text)
        pair = None
        if columns.text_pair is not None:
            pair, pair_cut = _text(cells[columns.text_pair], file, line, columns.text_pair)
            cut |= pair_cut
        if not text or pair == "":
            counts.dropped["empty_text"] += 1
        elif code == MISSING:
            counts.dropped["no_label"] += 1
        else:
            counts.cut += cut
            self._builder(role, file, line, columns).add(text, pair, code)

    def roles(self) -> dict[Role, RoleRows]:
        """The labelled rows of each role that has any. Nothing can be added any more."""
        return {role: self._roles.pop(role).built() for role in tuple(self._roles)}

    def _builder(self, role: Role, file: str, line: int, columns: Found) -> _Builder:
        builder = self._roles.get(role)
        if builder is None:
            pair = columns.text_pair is not None
            if self._pair is not None and self._pair[0] != pair:
                what = f"here a row has {2 if pair else 1} texts, and {self._pair[1]} has {1 if pair else 2}."
                raise Place(file, line, columns.text).broken(f"{what} Give every file the same columns.")
            self._pair = (pair, file)
            builder = self._roles[role] = _Builder(role, pair, self._most_bytes)
        return builder


class _Builder:
    """The rows of a role while they come."""

    def __init__(self, role: Role, pair: bool, most_bytes: int) -> None:
        self._role = role
        self._texts: tuple[list[str], ...] = ([], []) if pair else ([],)
        self._chunks: tuple[list[pa.Array], ...] = ([], []) if pair else ([],)
        self._keys = bytearray()
        self._groups = bytearray()
        self._codes = array("i")
        self._most_bytes = most_bytes
        self._bytes = 0
        self._waiting = 0

    def add(self, text: str, pair: str | None, code: int) -> None:
        """Take in a row."""
        raw = text.encode()
        group = key = hashlib.sha256(raw).digest()
        self._texts[0].append(text)
        self._waiting += len(raw)
        if pair is not None:
            raw = pair.encode()
            key = hashlib.sha256(group + hashlib.sha256(raw).digest()).digest()
            self._texts[1].append(pair)
            self._waiting += len(raw)
            self._groups += group
        self._keys += key
        self._codes.append(code)
        if self._waiting > FLUSH_BYTES:
            self._flush()

    def built(self) -> RoleRows:
        """All of them."""
        import pyarrow as pa  # noqa: PLC0415 - see _flush

        self._flush()
        text, *pair = (pa.chunked_array(chunks, pa.large_string()) for chunks in self._chunks)
        key = np.frombuffer(bytes(self._keys), DIGEST)
        return RoleRows(
            text=text,
            text_pair=pair[0] if pair else None,
            key=key,
            group=np.frombuffer(bytes(self._groups), DIGEST) if pair else key,
            code=np.array(self._codes, dtype=np.int64),
        )

    def _flush(self) -> None:
        import pyarrow as pa  # noqa: PLC0415 - costs 0.2 s, off the start

        for texts, chunks in zip(self._texts, self._chunks, strict=True):
            chunks.append(pa.array(texts, pa.large_string()))
            texts.clear()
        self._bytes += self._waiting
        self._waiting = 0
        if self._bytes > self._most_bytes:
            raise TooLarge(
                f"The {self._role} role holds more than {self._most_bytes} bytes of text. Take a sample of "
                "it, or raise HEADSTART_MAX_UPLOAD_BYTES."
            )


def _text(cell: object, file: str, line: int, column: str) -> tuple[str, bool]:
    if cell is None:
        return "", False
    if isinstance(cell, str):
        return normalised(cell)
    what = f"a text is text, and this is of type {type(cell).__name__}."
    raise Place(file, line, column).broken(f"{what} Write it as text, or name another column.")
