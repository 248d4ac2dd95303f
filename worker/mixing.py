"""A mixture of checkpoints: each weight of its body is the weighted mean of the members', piece by piece.

The sums. A piece is a run of numbers of one tensor. The members' are taken in their order, widened to fp64
(which bf16, fp16 and fp32 fit into without loss), multiplied by their weight, added up, and rounded once to
fp32. Where all weights are equal they are added up unweighted and the sum is divided by their count. The sum
of a few fp32 numbers of usual size is exact in fp64, so that the mean is the exact one, rounded to fp32, and
does not depend on the order of the members. A member of weight 0 is not read.

Memory: one piece of one member, its sum, and the result: the same for any number of members of any size
(members stored as pickles, where those are allowed, excepted).

What is mixed are the tensors that the family's vanilla has of its body, under the names it stores them by. A
member has each of them in the same shape; only of a pooler that it lacks the vanilla's stands for it, since
nothing was learnt there. What a member has beyond them is a head, and is left out, as is the vanilla's own.
"""

from __future__ import annotations

import json
import math
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from headstart.checkpoints.files import CONFIG, WEIGHTS
from headstart.failures import JobFailure, NonFinite, NotApplicable
from worker.checkpoints import read_json
from worker.pieces import MOST_BYTES, PIECE, Body
from worker.token_ids import agreement
from worker.tokenizer import tokenizer_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from jaxtyping import Float64

    from worker.checkpoints import CheckpointFiles

    Report = Callable[[float, str, str], None]

STAGE = "mixing"
SAME = ("model_type", "num_attention_heads", "num_hidden_layers", "hidden_size")  # of configurations
FP32, PRECISIONS = "float32", ("dtype", "torch_dtype")  # of configurations, new and old
ROUNDING = 1e-9  # of the sum of weights in fp64, many times over
LEAST_AGREEMENT = 0.99  # of two vocabularies: finetunes give unused tokens a name of their own
_REMEDY = "Leave the checkpoint out: only checkpoints of one vanilla can be mixed."


@dataclass(frozen=True, slots=True, kw_only=True)
class MixFacts:
    """What a mixture was made of."""

    tensors: int
    elements: int
    filled: tuple[tuple[str, str], ...]  # member and tensor, where the vanilla's stands for one it lacks
    left_out: tuple[str, ...]  # tensors of the vanilla: its head, integer buffers


@dataclass(frozen=True, slots=True)
class _Part:
    """What one member adds."""

    name: str
    weight: float
    body: Body


def write_mixture(
    members: Sequence[CheckpointFiles],
    weights: Sequence[float],
    folder: Path,
    *,
    base: CheckpointFiles,
    report: Report,
    names: Sequence[str] = (),
) -> MixFacts:
    """Write the mixture into a folder: weights in fp32, and so told; the base's configuration and tokenizer.

    Args:
        members: at least one of a weight other than 0.
        weights: one of each member; they sum to 1, and may lie outside 0..1. Where decimals were cut off they
            are divided by their sum.
        folder: that there is; `worker.keeping.publish` sees to it that it is whole or not at all.
        base: the family's vanilla.
        report: called for every piece, with the share done 0..1; it may raise to stop.
        names: of the members, for sentences; their folders' otherwise.

    Raises: CheckpointNotFound, Refused, NotApplicable (architecture, shape or vocabulary are not the base's),
    NonFinite, Interrupted (a member's disk fails). OSError where the folder cannot be written.
    """
    report(0.0, STAGE, "looking at the members")
    own = Body.whole(base)
    called = names or [files.folder.name for files in members]
    total = math.fsum(weights)
    if abs(total - 1) < ROUNDING:
        total = 1.0
    parts = []
    for name, files, weight in zip(called, members, weights, strict=True):
        if weight != 0:
            with _naming(name):
                body = Body(files)
            _check_body(name, body, own)
            _check_vocabulary(name, files, base, getattr(own.config, "vocab_size", None))
            parts.append(_Part(name, weight / total, body))
    order = sorted(own.stored, key=own.stored.__getitem__)
    with (folder / WEIGHTS[0]).open("wb") as file:
        file.write(header({own.stored[name]: own.shapes[name] for name in order}))
        _write_sums(file, order, parts, own, report)
    _write_config(base.folder / CONFIG, folder / CONFIG)
    for path in tokenizer_files(base.folder):
        shutil.copyfile(path, folder / path.name)
    filled = ((part.name, name) for part in parts for name in own.shapes if name not in part.body.shapes)
    return MixFacts(tensors=len(order), elements=_elements(own), filled=tuple(filled), left_out=own.heads)


def header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """The beginning of a safetensors file of fp32 tensors that follow in this order.

    The format is told in `headstart.checkpoints.safetensors`; the data begin at a multiple of eight bytes.
    """
    told: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + 4 * math.prod(shape)
        told[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_config(base: Path, path: Path) -> None:
    """The base's, byte for byte, but for a precision that fp32 weights would be rounded to when loaded."""
    told = read_json(base)
    wrong = {key for key in PRECISIONS if told.get(key) not in (None, FP32)}
    if wrong:
        path.write_text(json.dumps(told | dict.fromkeys(wrong, FP32), indent=2) + "\n", encoding="utf-8")
    else:
        shutil.copyfile(base, path)


def _write_sums(
    file: BinaryIO, order: Sequence[str], parts: Sequence[_Part], own: Body, report: Report
) -> None:
    room, done, total = _Room(), 0, max(1, _elements(own))
    for name in order:
        size = own.elements(name)
        for start in range(0, size, PIECE):
            stop = min(size, start + PIECE)
            with np.errstate(over="ignore", invalid="ignore"):
                rounded = _sum(name, start, stop, parts, own, room).astype("<f4")
            if not np.isfinite(rounded).all():
                raise _not_finite(name, start, stop, parts, room)
            file.write(rounded.data)
            done += stop - start
            report(done / total, STAGE, own.stored[name])


class _Room:
    """The memory that the sums take, for one piece after the other."""

    def __init__(self) -> None:
        self.read = bytearray(MOST_BYTES * PIECE)
        self.sum, self.term = np.empty(PIECE), np.empty(PIECE)


def _sum(
    name: str, start: int, stop: int, parts: Sequence[_Part], own: Body, room: _Room
) -> Float64[np.ndarray, "n"]:
    """The weighted mean of the numbers `start` to `stop` of a tensor; see above for the order of the sums."""
    alike = len({part.weight for part in parts}) == 1
    found, term = room.sum[: stop - start], room.term[: stop - start]
    for number, part in enumerate(parts):
        source = part.body if name in part.body.shapes else own
        with _naming(part.name):
            piece = source.piece(name, start, stop, room.read)
        into = term if number else found
        np.multiply(piece, 1.0 if alike else part.weight, out=into, dtype=np.float64)
        if number:
            found += term
    if alike:
        found /= len(parts)
    return found


def _elements(own: Body) -> int:
    return sum(map(own.elements, own.shapes))


def _check_body(name: str, body: Body, own: Body) -> None:
    """The member's tensors are the vanilla's, by name and shape; a pooler may be there or not."""
    for key in SAME:
        theirs, ours = (getattr(one.config, key, None) for one in (body, own))
        if theirs != ours:
            raise NotApplicable(
                f"{name!r} has the {key} {theirs!r} in its configuration, and the vanilla {ours!r}.", _REMEDY
            )
    for one in own.shapes:
        if one not in body.shapes and "pooler" not in one:
            raise NotApplicable(f"{name!r} has no tensor {one}, which the vanilla has.", _REMEDY)
        if one in body.shapes and body.shapes[one] != own.shapes[one]:
            raise NotApplicable(
                f"{name!r} has the tensor {one} in the shape {list(body.shapes[one])}, and the vanilla in "
                f"{list(own.shapes[one])}.",
                _REMEDY,
            )
    beyond = [one for one in body.shapes if one not in own.shapes and "pooler" not in one]
    if beyond:
        raise NotApplicable(f"{name!r} has the tensor {beyond[0]}, which the vanilla lacks.", _REMEDY)


def _check_vocabulary(name: str, files: CheckpointFiles, base: CheckpointFiles, rows: int | None) -> None:
    """The same row is the same token; where the tokenizers' files do not tell, equal shapes have to do."""
    with _naming(name):
        share = agreement(files.folder, base.folder, rows)
    if share is not None and share < LEAST_AGREEMENT:
        raise NotApplicable(
            f"{name!r} has another vocabulary: of the token ids that it shares with the vanilla {share:.1%} "
            "mean the same token.",
            _REMEDY,
        )


def _not_finite(name: str, start: int, stop: int, parts: Sequence[_Part], room: _Room) -> NonFinite:
    for part in parts:
        if name in part.body.shapes and not np.isfinite(part.body.piece(name, start, stop, room.read)).all():
            return NonFinite(
                f"The tensor {name} of {part.name!r} holds NaN or infinite numbers.",
                "Leave this checkpoint out.",
            )
    return NonFinite(f"The weighted sum of {name} is too large for fp32.", "Give weights closer to 0..1.")


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Let a failure of the block say which member it is about."""
    try:
        yield
    except JobFailure as failure:
        raise type(failure)(f"{name!r}: {failure.sentence}", failure.remedy) from failure
