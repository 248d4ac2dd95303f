"""The header of a safetensors file: which tensor lies where. No tensor is read, and nothing is believed.

The format: eight bytes, the length of the header, little-endian; the header, a JSON object of
`{name: {"dtype", "shape", "data_offsets": [begin, end]}}` and `__metadata__`; the data, which the tensors
fill from its first byte to its last, without holes and without sharing a byte.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO

from headstart.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

LENGTH_BYTES = 8
MOST_HEADER_BYTES = 25_000_000  # what the hub reads at most
MOST_TENSORS = 100_000  # of a checkpoint; they take 10 MB of header
MOST_AXES = 16
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
COPY_AGAIN = "Copy the file again, or save the checkpoint again with save_pretrained."


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: the bytes `begin` to `end` of its data hold it, row by row."""

    dtype: str  # a key of BITS
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says it holds."""

    tensors: Mapping[str, Tensor]
    data_at: int  # where in the file the data begin: `begin` and `end` count from there


def read_header(file: BinaryIO, size: int, name: str) -> Header:
    """The header of a file of `size` bytes, read from its beginning; every claim is held against the size.

    Raises: InvalidInput, a sentence with the name of the file.
    """
    start = file.read(LENGTH_BYTES)
    length = int.from_bytes(start, "little")
    if len(start) < LENGTH_BYTES or length > size - LENGTH_BYTES:
        raise _broken(name, f"has {size} bytes and says that its header alone has {length}")
    if length > MOST_HEADER_BYTES:
        raise _broken(name, f"has a header of {length} bytes, over the {MOST_HEADER_BYTES} that are read")
    text = file.read(length)
    if len(text) < length:
        raise _broken(name, "ends within its header")
    told = _parsed(text, name)
    told.pop("__metadata__", None)
    check_tensors(len(told), name)
    data_at = LENGTH_BYTES + length
    return Header(_checked(told, size - data_at, name), data_at)


def check_tensors(count: int, name: str) -> None:
    """Raise InvalidInput for more tensors than a checkpoint may have."""
    if count > MOST_TENSORS:
        raise _broken(name, f"holds {count} tensors, over the {MOST_TENSORS} that are read")


def _checked(told: dict[str, Any], data_bytes: int, name: str) -> dict[str, Tensor]:
    """The tensors in the order of their bytes, which they fill without a hole and without sharing one."""
    tensors = {key: _tensor(key, entry, name) for key, entry in told.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    at = 0
    for key, tensor in ordered.items():
        if tensor.begin != at:
            what = "overlaps the tensor before it" if tensor.begin < at else "leaves a hole before it"
            raise _broken(name, f"is wrong in its header: the tensor {key[:100]!r} {what}")
        at = tensor.end
    if at != data_bytes:
        raise _broken(name, f"should hold {at} bytes of tensors by its header, and holds {data_bytes}")
    return ordered


def _parsed(text: bytes, name: str) -> dict[str, Any]:
    try:
        told = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise _broken(name, "has a header that is no JSON") from None
    if not isinstance(told, dict):
        raise _broken(name, "has a header that is no JSON object")
    return told


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _tensor(key: str, entry: Any, name: str) -> Tensor:
    shown = key[:100]
    if not isinstance(entry, dict) or str(entry.get("dtype")) not in BITS:
        kind = str(entry.get("dtype") if isinstance(entry, dict) else entry)[:40]
        raise _broken(name, f"says of the tensor {shown!r} the type {kind!r}, which is none")
    shape, offsets = _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if shape is None or len(shape) > MOST_AXES:
        raise _broken(name, f"says of the tensor {shown!r} a shape that is none: {str(entry)[:120]}")
    if offsets is None or len(offsets) != 2:
        raise _broken(name, f"says of the tensor {shown!r} offsets that are none: {str(entry)[:120]}")
    tensor = Tensor(str(entry["dtype"]), shape, *offsets)
    if tensor.elements * BITS[tensor.dtype] != (tensor.end - tensor.begin) * 8:
        held = f"{tensor.dtype} {list(tensor.shape)}"
        raise _broken(
            name,
            f"is wrong in its header: {held[:120]} of {shown!r} is not {tensor.end - tensor.begin} bytes",
        )
    return tensor


def _counts(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not all(type(one) is int and 0 <= one < 1 << 60 for one in value):
        return None
    return tuple(value)


def _broken(name: str, what: str) -> InvalidInput:
    return InvalidInput(f"{name} {what}. {COPY_AGAIN}")
