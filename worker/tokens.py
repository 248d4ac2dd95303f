"""The tokens of a role of a target, made once per tokenizer and target, and read row by row from disk.

Parts of an entry: `ids.i32` (the tokens of all rows one after another), `ends.i64` (where each row ends), and
for pairs, where the tokenizer tells the two texts apart, `types.u8`. No padding is stored. Memory does not
grow with the length of texts, and with the rows by 8 bytes each.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.failures import Refused
from worker.reading import told_as

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from jaxtyping import Int, UInt8
    from transformers import PreTrainedTokenizerBase

    from headstart.rows import RowsFile
    from headstart.workbench import Role
    from worker.cache import Cache, Entry

FORMAT = 2  # raised whenever the same rows could give other tokens
SAFE_CHARACTERS = 20  # per token asked for, of a text that is looked at first: no language needs as many
MARGIN_CHARACTERS = 1000
LONGER = 16  # times as many are looked at where those gave too few tokens: blanks, or words unknown by length
_CALLED = {"return_attention_mask": False, "verbose": False}
LOOKED_AT_BYTES = 1 << 24
CALL_ROWS = 1024  # tokenised at a time: enough for all threads
_REMEDY = "Save the tokenizer again, with a token for what it does not know."
_IDS, _ENDS, _TYPES = "ids.i32", "ends.i64", "types.u8"


@dataclass(frozen=True)
class Tokens:
    """The tokens of n rows, at least one each. Close it after use."""

    ends: Int[np.ndarray, "n"]  # where each row ends in the file
    largest: int  # the largest token
    truncated: int  # rows that were cut
    seconds: float  # that tokenising took, when it was done
    _entry: Entry
    _ids: int
    _types: int | None

    @property
    def typed(self) -> bool:
        """Whether the tokenizer tells the two texts of a pair apart."""
        return self._types is not None

    @property
    def lengths(self) -> Int[np.ndarray, "n"]:
        """The number of tokens of each row."""
        return np.diff(self.ends, prepend=0)

    def ids(self, row: int) -> Int[np.ndarray, "t"]:
        """The tokens of a row."""
        start, end = self._span(row)
        return np.frombuffer(os.pread(self._ids, 4 * (end - start), 4 * start), dtype=np.int32)

    def types(self, row: int) -> UInt8[np.ndarray, "t"]:
        """Which of the two texts each token of a row belongs to; only where they are `typed`."""
        if self._types is None:
            raise ValueError("This tokenizer does not tell the two texts apart.")
        start, end = self._span(row)
        return np.frombuffer(os.pread(self._types, end - start, start), dtype=np.uint8)

    def used(self) -> Int[np.ndarray, "u"]:
        """Every token that some row has, once, ascending."""
        seen = np.zeros(self.largest + 1, dtype=bool)
        end = 4 * int(self.ends[-1]) if len(self.ends) else 0
        for start in range(0, end, LOOKED_AT_BYTES):
            size = min(LOOKED_AT_BYTES, end - start)
            seen[np.frombuffer(os.pread(self._ids, size, start), dtype=np.int32)] = True
        return np.flatnonzero(seen)

    def close(self) -> None:
        """Let go of the files."""
        os.close(self._ids)
        if self._types is not None:
            os.close(self._types)
        self._entry.close()

    def _span(self, row: int) -> tuple[int, int]:
        return int(self.ends[row - 1]) if row else 0, int(self.ends[row])


def open_tokens(
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_digest: str,
    rows: RowsFile,
    role: Role,
    *,
    most_rows: int,
    max_tokens: int,
    cache: Cache,
    report: Callable[[float, str, str], None],
) -> Tokens:
    """The tokens of the first rows of a role: from the cache, or made and kept there."""
    entry = cache.open(
        "tokens",
        {
            "format": FORMAT,
            "tokenizer": tokenizer_digest,
            "rows": rows.head.fingerprint,
            "role": role,
            "most_rows": most_rows,
            "max_tokens": max_tokens,
        },
    )
    if _missing(entry):
        with entry.making(
            lambda: report(0.0, "tokens", "waiting: another job tokenises these rows")
        ) as making:
            if _missing(entry):
                count = min(most_rows, rows.head.sizes.get(role, 0))
                batches = _reported(rows.texts(role, most_rows), count, report)
                making.keep(write_tokens(making.folder, tokenizer, batches, max_tokens))
    return _read(entry)


def write_tokens(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    batches: Iterator[tuple[list[str], list[str] | None]],
    max_tokens: int,
) -> dict[str, Any]:
    """Tokenise the texts, or pairs, into the files of a folder, and return the facts to keep with them.

    Pairs are put together, and cut longest first, by the tokenizer itself. A text too long by characters for
    any of its end to be kept is cut before: where its beginning has tokens enough, or after LONGER times as
    many characters. What was cut counts as truncated. A text without tokens gets one.
    """
    started = time.monotonic()
    typed = "token_type_ids" in tokenizer.model_input_names
    end, largest, truncated, paired = 0, 0, 0, False
    with ExitStack() as opened:
        ids, ends, types = (
            opened.enter_context((folder / name).open("wb")) for name in (_IDS, _ENDS, _TYPES)
        )
        for texts, others in batches:
            paired = others is not None
            for at in range(0, len(texts), CALL_ROWS):
                pair = None if others is None else others[at : at + CALL_ROWS]
                with told_as(Refused, "The tokenizer fails on a text", _REMEDY):
                    found = _tokenise(tokenizer, texts[at : at + CALL_ROWS], pair, max_tokens)
                lengths = np.fromiter(map(len, found.ids), np.int64)
                flat = np.fromiter(chain.from_iterable(found.ids), np.int32)
                ids.write(flat.tobytes())
                ends.write((end + np.cumsum(lengths)).tobytes())
                if typed and paired:
                    types.write(np.fromiter(chain.from_iterable(found.types), np.uint8).tobytes())
                end += int(lengths.sum())
                largest = max(largest, int(flat.max(initial=0)))
                truncated += found.truncated
    if not (typed and paired):
        (folder / _TYPES).unlink()
    return {
        "largest": largest,
        "truncated": truncated,
        "seconds": time.monotonic() - started,
        "typed": typed and paired,
    }


@dataclass(frozen=True, slots=True)
class _Tokenised:
    ids: list[list[int]]
    types: list[list[int]]
    truncated: int


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], others: Sequence[str] | None, max_tokens: int
) -> _Tokenised:
    kept = _cut_all(tokenizer, texts, max_tokens)
    kept_others = None if others is None else _cut_all(tokenizer, others, max_tokens)
    found = tokenizer(
        kept,
        kept_others,
        truncation="longest_first",
        max_length=max_tokens,
        return_token_type_ids=others is not None,
        **_CALLED,
    )
    ids: list[list[int]] = found["input_ids"]
    types: list[list[int]] = found["token_type_ids"] if others is not None else []
    cut = {row for row, text in enumerate(texts) if len(text) > len(kept[row])}
    cut |= {row for row, text in enumerate(others or ()) if len(text) > len((kept_others or ())[row])}
    full = [row for row, row_ids in enumerate(ids) if len(row_ids) >= max_tokens and row not in cut]
    if full:  # as long as may be: by nature, or because they were cut?
        whole = tokenizer(
            [kept[row] for row in full],
            None if kept_others is None else [kept_others[row] for row in full],
            **_CALLED,
        )["input_ids"]
        cut |= {row for row, row_ids in zip(full, whole, strict=True) if len(row_ids) > max_tokens}
    for row in [row for row, row_ids in enumerate(ids) if not row_ids]:
        ids[row] = [_filler(tokenizer)]
        if types:
            types[row] = [0]
    return _Tokenised(ids, types, len(cut))


def _cut_all(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int) -> list[str]:
    """The texts; a long one without what cannot count, because more than `max_tokens` come before it."""
    most = SAFE_CHARACTERS * max_tokens + MARGIN_CHARACTERS
    left = tokenizer.truncation_side == "left"
    kept = list(texts)
    long = [row for row, text in enumerate(texts) if len(text) > most]
    for row in long:
        kept[row] = _cut(texts[row], most, left=left)
    if long:
        found = tokenizer([kept[row] for row in long], add_special_tokens=False, **_CALLED)["input_ids"]
        for row, ids in zip(long, found, strict=True):
            if len(ids) <= max_tokens:
                kept[row] = _cut(texts[row], LONGER * most, left=left)
    return kept


def _cut(text: str, most: int, *, left: bool) -> str:
    if len(text) <= most:
        return text
    return text[-most:] if left else text[:most]


def _filler(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands for a text without any."""
    named = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id)
    return next((token for token in named if token is not None), 0)


def _reported(
    batches: Iterator[tuple[list[str], list[str] | None]],
    count: int,
    report: Callable[[float, str, str], None],
) -> Iterator[tuple[list[str], list[str] | None]]:
    done = 0
    for texts, others in batches:
        report(done / max(1, count), "tokens", f"{done} of {count} rows")
        yield texts, others
        done += len(texts)


def _missing(entry: Entry) -> bool:
    facts = entry.facts(_IDS)
    return facts is None or entry.facts(_ENDS) is None or (facts["typed"] and entry.facts(_TYPES) is None)


def _read(entry: Entry) -> Tokens:
    facts = entry.facts(_IDS) or {}
    return Tokens(
        ends=np.fromfile(entry.path(_ENDS), dtype=np.int64),
        largest=facts["largest"],
        truncated=facts["truncated"],
        seconds=facts["seconds"],
        _entry=entry,
        _ids=os.open(entry.path(_IDS), os.O_RDONLY | os.O_CLOEXEC),
        _types=os.open(entry.path(_TYPES), os.O_RDONLY | os.O_CLOEXEC) if facts["typed"] else None,
    )
