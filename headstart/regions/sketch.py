"""Sketches: random projections of vectors as long as a model, made in one pass, that keep inner products.

A tensor's numbers, flat, are cut into rows of `dims`; each row is multiplied by fixed random column signs,
given a random sign of its own, turned by a random shift, and added up:

    y[(c + shift_r) mod dims] += sign_r * column_c * x[r, c]

a count sketch (Charikar, Chen and Farach-Colton 2002) whose buckets are drawn a row at a time, which makes it
sums of long vectors. Numbers of one row never meet; of two rows they meet under independent signs, so that
`<y(a), y(b)>` is an unbiased estimate of `<a, b>` whatever the vectors are. Its variance over the draws is at
most about `(|a|^2 |b|^2 + <a, b>^2) / dims`: at 65,536 dims a cosine has a standard error of at most 1/256,
the less the larger it is, and 95 % are off by less than 0.008. What lies within one row is exact.

Signs and shifts depend on the seed, the tensor's name and the row, and on nothing else: sketches of vectors
that lack a tensor, or rows at the end of one, can be compared with those that have it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jaxtyping import Float, Float32

DIMS = 65_536  # of a sketch: 256 KiB in fp32
FORMAT = 1  # raised whenever equal vectors could get other sketches
_COLUMNS = "columns"  # names the draw of the column signs: no tensor's name has a NUL


@dataclass(frozen=True, slots=True)
class Projection:
    """The random choices of a seed."""

    seed: int
    dims: int
    columns: Float32[np.ndarray, "dims"]  # -1 and 1

    @classmethod
    def of(cls, seed: int, dims: int = DIMS) -> Projection:
        """The choices of this seed. `dims`: 1 and above."""
        words = _draw(seed, f"\0{_COLUMNS}", -(-dims // 64))
        bits = np.unpackbits(words.astype("<u8").view(np.uint8))[:dims]
        return cls(seed, dims, (1 - 2 * bits.astype(np.int8)).astype(np.float32))

    def rows(self, name: str, elements: int) -> Iterator[tuple[int, int]]:
        """Shift (0..dims-1) and sign (-1, 1) of each row of a tensor of so many numbers."""
        words = _draw(self.seed, name, -(-elements // self.dims))
        shifts = (words >> np.uint64(1)) % np.uint64(self.dims)
        signs = 1 - 2 * (words & np.uint64(1)).astype(np.int64)
        return zip(shifts.tolist(), signs.tolist(), strict=True)


def fold(
    projection: Projection,
    row: Float32[np.ndarray, "n"],
    shift: int,
    sign: int,
    into: Float32[np.ndarray, "dims"],
) -> None:
    """Add a row of at most `dims` numbers to a sketch. The row is overwritten."""
    np.multiply(row, projection.columns[: row.size], out=row)
    add = np.add if sign > 0 else np.subtract
    first = min(row.size, projection.dims - shift)
    add(into[shift : shift + first], row[:first], out=into[shift : shift + first])
    if first < row.size:
        rest = row.size - first
        add(into[:rest], row[first:], out=into[:rest])


def sketch_of(
    tensors: Mapping[str, Float[np.ndarray, "..."]], *, seed: int = 0, dims: int = DIMS
) -> Float32[np.ndarray, "dims"]:
    """The sketch of named tensors, as they come together in one long vector, whatever their order."""
    projection, into = Projection.of(seed, dims), np.zeros(dims, np.float32)
    for name in sorted(tensors):
        flat = np.asarray(tensors[name], np.float32).reshape(-1)
        for number, (shift, sign) in enumerate(projection.rows(name, flat.size)):
            fold(projection, flat[number * dims : (number + 1) * dims].copy(), shift, sign, into)
    return into


def _draw(seed: int, name: str, words: int) -> np.ndarray:
    """64 random bits each. Raw output of PCG64: numpy keeps it from version to version."""
    digest = hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()
    drawn: np.ndarray = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(words)
    return drawn
