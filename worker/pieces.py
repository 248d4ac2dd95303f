"""The tensors of a checkpoint's body, read piece by piece: in memory is one piece, however large the file.

Files are read and not mapped: of a mapped file every page that was touched counts as memory of the process
until the machine runs short, and the sums of many members would look as large as all of them. Numbers are
numpy's: torch would have several threads meet at every piece, which on a busy machine takes 50 times as long.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headstart.checkpoints.safetensors import read_header
from headstart.errors import HeadstartError
from headstart.failures import CheckpointNotFound, Interrupted, NotApplicable, Refused
from worker.configs import read_config
from worker.tensor_names import body_names, lacking
from worker.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jaxtyping import Float

    from worker.checkpoints import CheckpointFiles

BF16 = np.dtype("<u2")  # the upper half of an fp32, which numpy has no type for
FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BF16,
}
MOST_BYTES = 8  # of one number
PIECE = 1 << 17  # numbers of a piece: with its sum in fp64 it stays in a core's cache


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    at: int  # byte of the file
    dtype: np.dtype[Any]


class Body:
    """The body's tensors by their names in the architecture, see `worker.tensor_names`.

    Of pickles, where they are allowed, all tensors are held in memory.

    Raises: CheckpointNotFound (a file has gone), Refused (a broken file or configuration), NotApplicable (an
    architecture that this worker does not know, quantised weights).
    """

    def __init__(self, files: CheckpointFiles) -> None:
        for path in files.weights:
            if not path.is_file():
                raise CheckpointNotFound(f"{path.name} is no longer in {path.parent}.")
        weights = Weights(files.weights)
        self.config = read_config(files.folder, weights.shapes)
        self.stored: Mapping[str, str] = body_names(weights, self.config)  # names in the files
        self.shapes = {name: weights.shapes[stored] for name, stored in self.stored.items()}
        self.heads = tuple(sorted(set(weights.shapes) - set(self.stored.values())))  # and integer buffers
        self.missing = lacking(weights, self.config)  # tensors of the architecture, the pooler left out
        self._files: dict[Path, tuple[int, int]] = {}  # size and time of those that are read
        self._places: dict[str, _Place] = {}
        self._dtypes: dict[str, str] = {}
        self._loaded: dict[str, np.ndarray] = {}
        if all(path.suffix == ".safetensors" for path in files.weights):
            self._find(files)
        else:
            found = weights.tensors()
            self._loaded = {name: _flat(stored, found[stored]) for name, stored in self.stored.items()}
            self._dtypes = {name: _STORED[found[stored].dtype] for name, stored in self.stored.items()}

    @classmethod
    def whole(cls, vanilla: CheckpointFiles) -> Body:
        """Of a vanilla, which others are held against: one without gaps.

        Raises: NotApplicable where there are some, and as the class.
        """
        found = cls(vanilla)
        if found.missing:
            raise NotApplicable(
                f"The vanilla's files have no tensor for {found.missing[0]} of a {found.config.model_type}, "
                "by any name that is known.",
                "Save the vanilla again with save_pretrained, and register that folder.",
            )
        return found

    def dtype(self, name: str) -> str:
        """What a tensor is stored in: a key of FLOATS."""
        return self._dtypes[name]

    def elements(self, name: str) -> int:
        """How many numbers a tensor holds."""
        return prod(self.shapes[name])

    def piece(self, name: str, start: int, stop: int, buffer: bytearray) -> Float[np.ndarray, "n"]:
        """The numbers `start` to `stop` of a tensor, flat, in fp64, fp32 or fp16; bf16 is widened to fp32.

        They may lie in the buffer, of at least MOST_BYTES a number, until it is used again.

        Raises: CheckpointNotFound (the file has gone), Interrupted (the disk fails, or the file changes).
        """
        if name in self._loaded:
            return self._loaded[name][start:stop]
        place = self._places[name]
        size = place.dtype.itemsize
        view = memoryview(buffer)[: size * (stop - start)]
        self._fill(place.path, view, place.at + size * start)
        found: np.ndarray = np.frombuffer(buffer, place.dtype, stop - start)
        if place.dtype == BF16:
            found = np.left_shift(found, 16, dtype=np.uint32).view(np.float32)
        return found

    def _find(self, files: CheckpointFiles) -> None:
        own = {stored: name for name, stored in self.stored.items()}
        for path in files.weights:
            try:
                with path.open("rb") as file:
                    told = os.fstat(file.fileno())
                    header = read_header(file, told.st_size, path.name)
            except OSError as error:
                raise Interrupted(f"{path.name} could not be read: {error.strerror}.") from error
            except HeadstartError as error:
                raise Refused(error.message) from error
            self._files[path] = told.st_size, told.st_mtime_ns
            for stored, tensor in header.tensors.items():
                if stored in own:
                    dtype = FLOATS.get(tensor.dtype)
                    if dtype is None:
                        raise _no_float(stored, tensor.dtype)
                    self._places[own[stored]] = _Place(path, header.data_at + tensor.begin, dtype)
                    self._dtypes[own[stored]] = tensor.dtype

    def _fill(self, path: Path, view: memoryview, at: int) -> None:
        if not view:
            return
        try:
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                told = os.fstat(opened)
                same = (told.st_size, told.st_mtime_ns) == self._files[path]
                while same and view and (read := os.preadv(opened, [view], at)):
                    view, at = view[read:], at + read
            finally:
                os.close(opened)
        except FileNotFoundError as error:
            raise CheckpointNotFound(f"{path.name} is no longer in {path.parent}.") from error
        except OSError as error:
            raise Interrupted(f"{path.name} could not be read: {error.strerror}.") from error
        if view:
            raise Interrupted(f"{path.name} in {path.parent} has changed while it was read.")


def _flat(stored: str, tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype not in _STORED:
        raise _no_float(stored, str(tensor.dtype).removeprefix("torch."))
    plain = tensor.detach()  # a parameter, where a state was saved with them
    flat: np.ndarray = plain.reshape(-1).to(_WIDENED.get(tensor.dtype, tensor.dtype)).numpy()
    return flat


_WIDENED = {torch.bfloat16: torch.float32}
_STORED = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def _no_float(stored: str, dtype: str) -> NotApplicable:
    return NotApplicable(
        f"The tensor {stored} is stored as {dtype[:20]}, which no mean can be taken of.",
        "Use the checkpoint as it was before it was quantised.",
    )
