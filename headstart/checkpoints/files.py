"""The files of a checkpoint in a folder: found, kept under the roots, digested.

What makes a checkpoint are its config, its tokenizer and its weights, at the top of the folder. The digest is
over their names and contents, so that equal checkpoints have one digest wherever they lie.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.checkpoints.safetensors import COPY_AGAIN, Header, check_tensors, read_header
from headstart.errors import Forbidden, InvalidInput, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

CONFIG = "config.json"
CARD = "README.md"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    *("tokenizer.json", TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "spiece.model", "sentencepiece.bpe.model"),
    *("tokenizer.model", "spm.model"),
)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MOST_CONFIG_BYTES = 4 << 20
MOST_INDEX_BYTES = 64 << 20
MOST_SHARDS = 2000
MOST_ENTRIES = 10_000  # of a folder
CHUNK_BYTES = 1 << 20

NO_CODE = "Code of a checkpoint is never run: choose one whose architecture transformers has itself."
NO_PICKLES = (
    "Pickles can run code when they are read: convert the weights to safetensors, or set "
    "HEADSTART_ALLOW_PICKLES."
)


class Incomplete(InvalidInput):
    """A checkpoint that lacks a part: a file is not there."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that holds a checkpoint: every path is a regular file that lies under the roots."""

    path: Path
    tokenizer: tuple[Path, ...]
    weights: tuple[Path, ...]  # all shards
    card: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """What makes the checkpoint."""
        return (self.path / CONFIG, *self.tokenizer, *self.weights)


def find_folder(path: Path, roots: Sequence[Path], *, pickles: bool) -> Folder:
    """Find the files of the checkpoint in a folder; nothing of it is read but the index of its shards.

    Raises: Forbidden (it, or a file in it, lies outside the roots once links are followed; only pickles),
    Unreachable (no such folder), Incomplete (a file is missing), InvalidInput (a broken index).
    """
    folder = resolved(path, roots)
    try:
        if not folder.is_dir():
            raise Unreachable(f"There is no folder {shown(path)}. Check the path.")
        names = sorted(os.listdir(folder))[:MOST_ENTRIES]
    except OSError as error:
        raise Unreachable(f"{shown(path)} cannot be read: {error.strerror}.") from error
    for name in names:
        resolved(folder / name, roots)
    there = {name for name in names if (folder / name).is_file()}
    weights = weights_of(there, lambda index: read_object(folder / index, MOST_INDEX_BYTES), pickles=pickles)
    tokenizer = check_names(there, weights)
    return Folder(
        path=folder,
        tokenizer=tuple(map(folder.joinpath, tokenizer)),
        weights=tuple(map(folder.joinpath, weights)),
        card=folder / CARD if CARD in there else None,
    )


def check_names(there: Iterable[str], weights: Sequence[str]) -> list[str]:
    """The tokenizer files among those that are there. Incomplete where a file is missing."""
    names = set(there)
    if CONFIG not in names:
        raise Incomplete(
            f"There is no {CONFIG}. Give the folder that save_pretrained wrote; an adapter is merged into "
            "its base first."
        )
    missing = [name for name in weights if name not in names]
    if missing:
        raise Incomplete(
            f"The index of the weights names {missing[0]!r}, which is not there. Copy all shards."
        )
    tokenizer = [name for name in TOKENIZER_FILES if name in names]
    if not tokenizer:
        raise Incomplete("There is no tokenizer. Save it beside the weights: a tokenizer.json will do.")
    return tokenizer


def weights_of(
    there: Iterable[str], read_index: Callable[[str], dict[str, Any]], *, pickles: bool
) -> tuple[str, ...]:
    """Names of the files with the weights: safetensors if there are any.

    Raises: Forbidden (only pickles), Incomplete (none), InvalidInput (an index that is none).
    """
    names = set(there)
    for single, index in (WEIGHTS, PICKLES) if pickles else (WEIGHTS,):
        if single in names:
            return (single,)
        if index in names:
            return _shards(index, read_index(index))
    if any(name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")) for name in names):
        raise Forbidden(f"The weights are stored as pickles alone. {NO_PICKLES}")
    raise Incomplete(f"There is no {WEIGHTS[0]}. Save the weights with save_pretrained, as safetensors.")


def read_object(path: Path, most_bytes: int) -> dict[str, Any]:
    """A JSON object of at most so many bytes. InvalidInput for anything else."""
    try:
        with path.open("rb") as file:
            text = file.read(most_bytes + 1)
    except OSError as error:
        raise Unreachable(f"{path.name} cannot be read: {error.strerror}.") from error
    return parse_object(text, path.name, most_bytes)


def parse_object(text: bytes, name: str, most_bytes: int) -> dict[str, Any]:
    """The same of bytes that were read up to one over the limit."""
    if len(text) > most_bytes:
        raise InvalidInput(f"{name} has more than {most_bytes} bytes, which no real one has. {COPY_AGAIN}")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput(f"{name} is no JSON. {COPY_AGAIN}") from None
    if not isinstance(told, dict):
        raise InvalidInput(f"{name} holds no JSON object. {COPY_AGAIN}")
    return told


def headers_of(folder: Folder) -> tuple[Header, ...]:
    """The header of each safetensors file; of pickles nothing is read. Raises InvalidInput, Unreachable."""
    found: list[Header] = []
    for path in folder.weights:
        if path.suffix == ".safetensors":
            try:
                with path.open("rb") as file:
                    found.append(read_header(file, os.fstat(file.fileno()).st_size, path.name))
            except OSError as error:
                raise Unreachable(f"{path.name} cannot be read: {error.strerror}.") from error
            check_tensors(sum(len(header.tensors) for header in found), "The checkpoint")
    return tuple(found)


def digest_of(folder: Folder, report: Callable[[float], None]) -> str:
    """Read all files that make the checkpoint, and return "sha256:..." over their names and contents.

    `report` is told how much is read, 0..1. Raises: Unreachable.
    """
    try:
        total = max(1, sum(path.stat().st_size for path in folder.files))
        read, digests = 0, {}
        for path in folder.files:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    read += len(chunk)
                    report(min(1.0, read / total))
            digests[path.name] = digest.hexdigest()
    except OSError as error:
        raise Unreachable(f"{shown(folder.path)} cannot be read: {error.strerror}.") from error
    return combined(digests)


def combined(digests: Mapping[str, str]) -> str:
    """One "sha256:..." of the names of files and the SHA-256 of each."""
    lines = sorted(f"{digest}  {name}\n" for name, digest in digests.items())
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def resolved(path: Path, roots: Iterable[Path]) -> Path:
    """The path with all links followed. Forbidden unless it lies under one of the roots then."""
    try:
        real = path.resolve()
        inside = any(real.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a NUL
        raise InvalidInput(f"The path {shown(path)} cannot be resolved. Check it.") from None
    if not inside:
        raise Forbidden(
            f"{shown(path)} is not under a folder that may be read, once links are followed. Move the files "
            "there, or set HEADSTART_ROOTS to a folder that holds them."
        )
    return real


def shown(path: Path) -> str:
    """A path as it can stand in a sentence."""
    return repr(str(path)[:300])


def _shards(index: str, told: dict[str, Any]) -> tuple[str, ...]:
    table = told.get("weight_map")
    names = set(map(str, table.values())) if isinstance(table, dict) else set()
    ending = ".safetensors" if index == WEIGHTS[1] else ".bin"
    if not names or len(names) > MOST_SHARDS:
        raise InvalidInput(f"{index} names {len(names)} files. {COPY_AGAIN}")
    for name in names:
        if Path(name).name != name or not name.endswith(ending) or "\\" in name or not name.isprintable():
            what = f"{name[:80]!r}, which is no {ending} file beside it"
            raise InvalidInput(f"{index} names {what}. {COPY_AGAIN}")
    return tuple(sorted(names))
