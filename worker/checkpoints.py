"""The files of a checkpoint: found under a root or fetched from the hub, checked, and named by their digest.

A checkpoint is untrusted input. What is used of it are the files at the top of its folder, and of those only
configuration, tokenizer and weights; each has to lie under a configured root when all links are followed.
Weights are safetensors; pickles only where the settings allow them.
"""

from __future__ import annotations

import errno
import hashlib
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.checkpoints.files import WEIGHTS, Incomplete, combined, find_folder, read_object
from headstart.checkpoints.place import place_of
from headstart.errors import HeadstartError, Unreachable
from headstart.failures import CheckpointNotFound, Interrupted, JobFailure, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from headstart.entities import Checkpoint

    Report = Callable[[float, str, str], None]

MOST_JSON_BYTES = 64 << 20  # of one file; the largest tokenizers have 33 MB

_FETCHED = ("*.json", "*.txt", "*.model", "bpe.codes", "model*.safetensors")
_FETCHED_PICKLES = ("pytorch_model*.bin",)
_FINAL = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}  # no use to try again
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """A checkpoint on this machine's disk. Its files are checked for where they lie, not what they say."""

    folder: Path
    revision: str  # a commit of the hub, or the digest
    digest: str  # "sha256:..." over configuration, weights and tokenizer: what cached features are keyed by
    weights: tuple[Path, ...]  # safetensors, or pickles where they are allowed; all shards


def find_files(
    checkpoint: Checkpoint, *, roots: Sequence[Path], cache: Path, pickles: bool, report: Report
) -> CheckpointFiles:
    """The files of a checkpoint: its folder's, or the hub's, fetched into the cache where they are not there.

    Without a network, what was fetched before serves. The hub is that of HF_ENDPOINT, with HF_TOKEN.

    Raises: CheckpointNotFound (no such folder or hub id, gated, files missing, other files than those that
    were registered), Refused (outside the roots, only pickles, a broken index), Interrupted (the hub or the
    disk does not answer).
    """
    place = place_of(checkpoint)
    if place.source == "hub":
        report(0.0, "fetching the checkpoint", place.where)
        return fetch(place.where, place.revision, cache=cache / "hub", pickles=pickles)
    files = read_folder(Path(place.where), roots=roots, pickles=pickles)
    if _DIGEST.fullmatch(place.revision) and place.revision != files.digest:
        raise CheckpointNotFound(
            f"The files of {checkpoint.name} have changed since they were registered: their digest is "
            f"{files.digest[:19]}…, not {place.revision[:19]}….",
            "Put the old files back, or register the folder again: it becomes another checkpoint.",
        )
    return files


def read_folder(
    folder: Path, *, roots: Sequence[Path], pickles: bool, revision: str | None = None
) -> CheckpointFiles:
    """The files of a folder that lies under one of the roots, with their digest.

    Raises: CheckpointNotFound (no folder, files missing or not readable), Refused (outside the roots, only
    pickles, a broken index), Interrupted (the disk fails).
    """
    with _told():
        found = find_folder(folder, roots, pickles=pickles)
    try:
        digest = digest_files(found.files)
    except OSError as error:
        raise _of_the_disk(error, folder) from error
    return CheckpointFiles(
        folder=found.path, revision=revision or digest, digest=digest, weights=found.weights
    )


def fetch(name: str, revision: str, *, cache: Path, pickles: bool) -> CheckpointFiles:
    """The files of a checkpoint of the hub, at a revision; "" is the newest.

    Raises: CheckpointNotFound (no such id or revision, gated, no weights), Refused (only pickles),
    Interrupted (the hub does not answer).
    """
    folder = _snapshot(name, revision, cache, _FETCHED)
    if not any((folder / weights).is_file() for weights in WEIGHTS):
        if not pickles:
            raise Refused(
                f"{name!r} has no safetensors on the hub; pickles can run code when they are read.",
                "Convert the weights to safetensors, or set HEADSTART_ALLOW_PICKLES on the worker.",
            )
        folder = _snapshot(name, folder.name, cache, (*_FETCHED, *_FETCHED_PICKLES))
    return read_folder(folder, roots=[cache], pickles=pickles, revision=folder.name)


def _snapshot(name: str, revision: str, cache: Path, patterns: Sequence[str]) -> Path:
    from huggingface_hub import errors, snapshot_download  # noqa: PLC0415 - only for checkpoints of the hub
    from huggingface_hub.utils import disable_progress_bars  # noqa: PLC0415 - see above

    disable_progress_bars()
    at = f"at revision {revision}" if revision else "at its newest revision"
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                cache_dir=cache,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*"],
            )
        )
    except errors.GatedRepoError as error:
        raise CheckpointNotFound(
            f"The hub gives {name!r} only to those who accepted its terms.",
            "Accept them on the hub's page of it, and give the worker that account's HF_TOKEN.",
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise CheckpointNotFound(
            f"The hub has no checkpoint {name!r}, or does not show it to this worker.",
            "Check the hub id; for a private one give the worker an HF_TOKEN. A folder needs its full path.",
        ) from error
    except (errors.RevisionNotFoundError, errors.DisabledRepoError) as error:
        raise CheckpointNotFound(f"The hub does not give out {name!r} {at}.") from error
    except Exception as error:  # of the network, of the disk, or an answer that is none
        raise Interrupted(f"{name!r} {at} could not be fetched from the hub: {_first_line(error)}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint. Raises Refused where it is not one, or larger than any real one."""
    with _told():
        return read_object(path, MOST_JSON_BYTES)


# a file's SHA-256 by path, size and time: hashed once a process
_digests: dict[tuple[Path, int, int], str] = {}


def digest_files(paths: Iterable[Path]) -> str:
    """One "sha256:..." over names and contents: equal for equal checkpoints, wherever they lie."""
    return combined({path.name: _digest_file(path) for path in paths})


def _digest_file(path: Path) -> str:
    told = path.stat()
    key = (path, told.st_size, told.st_mtime_ns)
    if key not in _digests:
        with path.open("rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[key]


@contextmanager
def _told() -> Iterator[None]:
    """Turn what the catalogue says of a checkpoint's files into the failures of a job, in the same words."""
    try:
        yield
    except HeadstartError as error:
        if isinstance(error.__cause__, OSError):
            raise _of_the_disk(error.__cause__, None) from error
        lacking = isinstance(error, Incomplete | Unreachable)
        end = error.message.rfind(". ") + 1 or len(error.message)  # what was wrong, then what to do
        what, remedy = error.message[:end], error.message[end:].strip()
        raise (CheckpointNotFound if lacking else Refused)(what, remedy or None) from error


def _of_the_disk(error: OSError, folder: Path | None) -> JobFailure:
    if error.errno in _FINAL:
        return CheckpointNotFound(f"This worker may not read {str(error.filename)[:300]}: {error.strerror}.")
    return Interrupted(f"{folder or 'The folder'} could not be read: {_first_line(error)}.")


def _first_line(error: Exception) -> str:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return said[0][:300]
