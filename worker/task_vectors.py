"""Task vectors: one pass over a checkpoint's weights, beside those of its family's vanilla.

What is compared are the tensors of the body (`worker.tensor_names`) that both have, by name and shape, and
of embedding tables those rows that mean the same tokens; heads and integer buffers are not. Each is read
piece by piece, so that memory does not grow with the model: a few pieces of `dims` numbers each. Numbers
are compared in fp32, whatever they are stored in.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import isfinite, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.failures import NonFinite
from headstart.regions.sketch import DIMS, Projection, fold
from headstart.regions.sketch import FORMAT as SKETCHES
from headstart.regions.task_vector import TaskVector, TensorFacts, norm_of
from worker.pieces import MOST_BYTES, Body
from worker.token_ids import agreement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float, Float32

    from worker.cache import Cache, Entry
    from worker.checkpoints import CheckpointFiles

    Report = Callable[[float, str, str], None]

FORMAT = 1  # raised whenever equal files could give another task vector
STAGE = "reading the weights"
ENOUGH = 0.99  # of the ids name one token in both: a vocabulary whose unused tokens were given names
_RUN = (
    8192  # numbers of an inner product in fp32, before the sums of them in fp64; BLAS threads none so short
)
_SKETCH = "sketch.f32"


class OfTheVanilla(NonFinite):
    """It is the vanilla's numbers that are none, and no checkpoint's."""


def task_vector(
    checkpoint: CheckpointFiles,
    vanilla: CheckpointFiles,
    *,
    seed: int = 0,
    dims: int = DIMS,
    report: Report,
    cache: Cache | None = None,
) -> TaskVector:
    """The task vector of a checkpoint: its sketch, norms, and what was left out of it.

    Args:
        checkpoint: whose weights are read once, from the first tensor's name to the last.
        vanilla: of its family.
        seed: of the sketch; only sketches of one seed and one `dims` can be compared.
        dims: of the sketch.
        report: called for every piece with the share done, 0..1; it may raise to stop.
        cache: where it is looked for first, and kept. None: it is made.

    Norms are sums in fp64 of products in fp32, right to about 1e-6 of their value.

    Raises: CheckpointNotFound, Refused (a broken file), NotApplicable (an architecture that this worker does
    not know, quantised weights), NonFinite (NaN, or numbers without measure; OfTheVanilla where they are the
    vanilla's), Interrupted (the disk fails).
    """
    if cache is None:
        return _read(checkpoint, vanilla, seed, dims, report)
    key = {
        "made_by": f"format {FORMAT}, sketches {SKETCHES}, transformers {version('transformers')}",
        "checkpoint": checkpoint.digest,
        "vanilla": vanilla.digest,
        "seed": seed,
        "dims": dims,
    }
    with closing(cache.open("task-vectors", key)) as entry:
        found = _stored(entry)
        if found is None:
            with entry.making(lambda: report(0.0, STAGE, "waiting: another job reads them")) as making:
                found = _stored(entry)
                if found is None:
                    found = _read(checkpoint, vanilla, seed, dims, report)
                    (making.folder / _SKETCH).write_bytes(found.sketch.astype("<f4").tobytes())
                    making.keep(found.facts())
        return found


def _stored(entry: Entry) -> TaskVector | None:
    facts = entry.facts(_SKETCH)
    if facts is None:
        return None
    return TaskVector.of(np.fromfile(entry.path(_SKETCH), "<f4").astype(np.float32, copy=False), facts)


def _read(
    checkpoint: CheckpointFiles, vanilla: CheckpointFiles, seed: int, dims: int, report: Report
) -> TaskVector:
    report(0.0, STAGE, "")
    mine, base = Body(checkpoint), Body(vanilla)
    sizes = _vocabulary_size(mine), _vocabulary_size(base)
    ids = min((size for size in sizes if size), default=None)
    vocabulary = agreement(checkpoint.folder, vanilla.folder, ids)
    shapes, left_out = _comparable(mine, base, sizes, vocabulary)
    reading = _Reading(mine, base, Projection.of(seed, dims), _Buffers.of(dims), np.zeros(dims, np.float32))
    total, done, tensors = sum(map(prod, shapes.values())), 0, []
    held = Counter[str]()
    with np.errstate(all="ignore"):  # what is not finite is told by name
        for name in sorted(shapes):
            for part in reading.tensor(name, shapes[name]):
                report(done / total, STAGE, name)
                done += part
            tensors.append(reading.facts(name, shapes[name]))
            held[reading.dtype] += prod(shapes[name])
    found = TaskVector(
        sketch=reading.sketch,
        norm=norm_of(sum(one.delta_norm**2 for one in tensors)),
        vanilla_norm=norm_of(sum(one.vanilla_norm**2 for one in tensors)),
        tensors=tuple(tensors),
        left_out=tuple(sorted(left_out.items())),
        matched_elements=total,
        vanilla_tensors=sum("pooler" not in name for name in base.stored),
        outside=len(mine.heads),
        identical=reading.same and total > 0,
        dtype=held.most_common(1)[0][0] if held else "",
        vocabulary=vocabulary,
        architecture=mine.config.model_type,
        vanilla_architecture=base.config.model_type,
    )
    return _without_rounding(found) if found.identical else found


def _without_rounding(found: TaskVector) -> TaskVector:
    """Of a copy in fewer bits: what it differs by was not learnt."""
    tensors = tuple(replace(one, delta_norm=0.0) for one in found.tensors)
    return replace(found, sketch=np.zeros_like(found.sketch), norm=0.0, tensors=tensors)


def _comparable(
    mine: Body, base: Body, sizes: tuple[int | None, int | None], vocabulary: float | None
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """What is compared of each tensor, and why others are not, or not whole."""
    shapes = {}
    left_out = {name: "the checkpoint lacks it" for name in base.shapes if name not in mine.shapes}
    left_out |= {name: "the vanilla lacks it" for name in mine.shapes if name not in base.shapes}
    for name in mine.shapes.keys() & base.shapes.keys():
        ours, theirs = mine.shapes[name], base.shapes[name]
        table = len(ours) == len(theirs) == 2 and (ours[0], theirs[0]) == sizes
        if table and vocabulary is not None and vocabulary < ENOUGH:
            left_out[name] = f"its rows are of other tokens: {vocabulary:.1%} of the ids are the vanilla's"
        elif ours == theirs:
            shapes[name] = ours
        elif table and vocabulary is not None and ours[1] == theirs[1]:
            shapes[name] = (min(ours[0], theirs[0]), ours[1])
            left_out[name] = f"rows past {shapes[name][0]:,}: it has {ours[0]:,}, the vanilla {theirs[0]:,}"
        else:
            left_out[name] = f"it has the shape {list(ours)}, the vanilla's {list(theirs)}"
    return shapes, left_out


def _vocabulary_size(body: Body) -> int | None:
    told: Any = getattr(body.config, "vocab_size", None)
    return told if isinstance(told, int) else None


@dataclass(slots=True)
class _Buffers:
    """Memory for one piece, used again for every one."""

    mine: bytearray
    base: bytearray
    mine_wide: Float32[np.ndarray, "dims"]
    base_wide: Float32[np.ndarray, "dims"]
    delta: Float32[np.ndarray, "dims"]

    @classmethod
    def of(cls, dims: int) -> _Buffers:
        wide = (np.empty(dims, np.float32) for _ in range(3))
        return cls(bytearray(dims * MOST_BYTES), bytearray(dims * MOST_BYTES), *wide)


class _Reading:
    """The pass under way: the sketch so far, and the sums of the tensor in hand."""

    def __init__(
        self,
        mine: Body,
        base: Body,
        projection: Projection,
        buffers: _Buffers,
        sketch: Float32[np.ndarray, "dims"],
    ) -> None:
        self.sketch = sketch
        self.same = True  # every number so far is the vanilla's
        self.dtype = ""  # of the checkpoint's tensor that was read last
        self._mine, self._base = mine, base
        self._projection, self._buffers = projection, buffers
        self._squares = (0.0, 0.0, 0.0)

    def tensor(self, name: str, shape: tuple[int, ...]) -> Iterator[int]:
        """Read a tensor's first numbers, as many as the shape has, and give the size of each piece read."""
        projection, buffers, sketch = self._projection, self._buffers, self.sketch
        elements, ours, theirs, apart = prod(shape), 0.0, 0.0, 0.0
        for row, (shift, sign) in enumerate(projection.rows(name, elements)):
            start = row * projection.dims
            stop = min(elements, start + projection.dims)
            mine = self._mine.piece(name, start, stop, buffers.mine)
            base = self._base.piece(name, start, stop, buffers.base)
            x, v = _wide(mine, buffers.mine_wide), _wide(base, buffers.base_wide)
            delta = np.subtract(x, v, out=buffers.delta[: stop - start])
            ours, theirs, apart = ours + _inner(x), theirs + _inner(v), apart + _inner(delta)
            self.same = self.same and _is_same(mine, base, delta, self._mine.dtype(name))
            fold(projection, delta, shift, sign, sketch)
            self.dtype = self._mine.dtype(name)
            yield stop - start
        self._squares = ours, theirs, apart

    def facts(self, name: str, shape: tuple[int, ...]) -> TensorFacts:
        """Of the tensor that was read last."""
        ours, theirs, apart = self._squares
        if not isfinite(ours + theirs + apart):
            of_vanilla = not isfinite(theirs)
            whose, kind = ("the vanilla", OfTheVanilla) if of_vanilla else ("the checkpoint", NonFinite)
            raise kind(
                f"The tensor {name[:100]} of {whose} holds numbers that are NaN, infinite, or larger than "
                "any weight."
            )
        return TensorFacts(
            name=name,
            shape=shape,
            norm=norm_of(ours),
            vanilla_norm=norm_of(theirs),
            delta_norm=norm_of(apart),
        )


def _wide(piece: Float[np.ndarray, "n"], wide: Float32[np.ndarray, "dims"]) -> Float32[np.ndarray, "n"]:
    """The piece in fp32: itself, or written over the memory given."""
    if piece.dtype == np.float32:
        return piece
    out = wide[: len(piece)]
    np.copyto(out, piece, casting="same_kind")
    return out


def _inner(x: Float32[np.ndarray, "n"]) -> float:
    """The square of its norm."""
    whole = len(x) - len(x) % _RUN
    runs, rest = x[:whole].reshape(-1, _RUN), x[whole:]
    return float(np.vecdot(runs, runs).sum(dtype=np.float64)) + float(np.vecdot(rest, rest))


def _is_same(
    mine: Float[np.ndarray, "n"], base: Float[np.ndarray, "n"], delta: Float32[np.ndarray, "n"], dtype: str
) -> bool:
    """Whether the numbers are the vanilla's, rounded to what the checkpoint is stored in."""
    if not delta.any():
        return True
    if dtype == "BF16":
        return bool(np.array_equal(mine, _bf16(base)))
    return dtype == "F16" and bool(np.array_equal(mine, base.astype(np.float16)))


def _bf16(x: Float[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
    """Rounded to the nearest bf16, ties to even; finite numbers."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
