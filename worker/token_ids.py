"""Which rows of an embedding table belong to which tokens, as far as the files of a tokenizer tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headstart.failures import Refused
from worker.checkpoints import MOST_JSON_BYTES, digest_files, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")  # the first that tells


def token_ids(folder: Path) -> Mapping[str, int] | None:
    """Ids by token; None where no file of the tokenizer tells (a SentencePiece model alone).

    Raises: Refused (a file that is no JSON, or larger than any real one).
    """
    for name in _FILES:
        path = folder / name
        if path.is_file() and (found := _read(path)):
            return found
    return None


def agreement(one: Path, other: Path, most_ids: int | None = None) -> float | None:
    """The share of the ids below `most_ids` that the tokenizers of both folders give to one token.

    0..1, of the ids that both give to some token; None where there are none, or where a folder's files do not
    tell. Raises: Refused, as `token_ids`.
    """
    for name in _FILES:
        files = one / name, other / name
        if all(path.is_file() for path in files) and digest_files(files[:1]) == digest_files(files[1:]):
            return 1.0
    ours, theirs = ({number: token for token, number in (token_ids(f) or {}).items()} for f in (one, other))
    both = [number for number in ours.keys() & theirs.keys() if most_ids is None or number < most_ids]
    return sum(ours[number] == theirs[number] for number in both) / len(both) if both else None


def _read(path: Path) -> dict[str, int]:
    if path.stat().st_size > MOST_JSON_BYTES:
        raise Refused(f"{path.name} has more than {MOST_JSON_BYTES >> 20} MiB.", "Save the tokenizer again.")
    if path.suffix == ".txt":
        lines = path.read_text("utf-8", errors="replace").removesuffix("\n").split("\n")
        return {token: number for number, token in enumerate(lines) if token}
    told = read_json(path)
    if path.name == "vocab.json":
        return _numbered(told)
    model, added = told.get("model"), told.get("added_tokens")
    vocabulary: Any = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # unigram: [token, score] in the order of their ids
        found = {str(entry[0]): n for n, entry in enumerate(vocabulary) if isinstance(entry, list) and entry}
    else:
        found = _numbered(vocabulary)
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("id"), int):
            found[str(entry.get("content"))] = entry["id"]
    return found


def _numbered(vocabulary: Any) -> dict[str, int]:
    if not isinstance(vocabulary, dict):
        return {}
    return {token: number for token, number in vocabulary.items() if isinstance(number, int)}
