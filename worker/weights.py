"""The tensors of a checkpoint as they lie on disk: shapes first, which cost nothing, then the values."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from headstart.failures import Refused
from worker.reading import told_as

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    Shapes = Mapping[str, tuple[int, ...]]

_AGAIN = "Copy or download the weights again; a file that was cut short has this fault."


class Weights:
    """Named tensors in one or more files. safetensors are mapped: no byte is copied before it is used.

    Raises Refused where a file is broken: cut short, or a header whose sizes and places cannot be true.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._pickled: dict[str, torch.Tensor] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for path in paths:
            for name, shape in self._read_shapes(path):
                if name in shapes:
                    raise Refused(f"The tensor {name} is in two files of the weights.", _AGAIN)
                shapes[name] = shape
        if not shapes:
            raise Refused(f"{paths[0].name} holds no tensors.", _AGAIN)
        self.shapes: Shapes = shapes

    @property
    def elements(self) -> int:
        """Numbers in all tensors together."""
        return sum(prod(shape) for shape in self.shapes.values())

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name, on the CPU, in the dtype they were stored in."""
        found = dict(self._pickled)
        for path in self._paths:
            if path.suffix == ".safetensors":
                with _open(path), safe_open(path, framework="pt") as file:
                    found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return found

    def _read_shapes(self, path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
        with _open(path):
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - no mapping
                        yield name, tuple(file.get_slice(name).get_shape())
                return
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            for name, tensor in loaded.items():
                if isinstance(tensor, torch.Tensor):
                    if tensor.nbytes > tensor.untyped_storage().nbytes():
                        raise Refused(f"The tensor {name} is larger than what is stored of it.", _AGAIN)
                    self._pickled[str(name)] = tensor
                    yield str(name), tuple(tensor.shape)


def _open(path: Path) -> AbstractContextManager[None]:
    return told_as(Refused, f"{path.name} is broken", _AGAIN)
