"""Arrays of features: whole, and in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.failures import NonFinite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float32

    from headstart.workbench import Rows

BLOCK = 1 << 22  # elements worked on at a time, 16 MiB in fp32


def finite_features(rows: Rows, layer: str) -> Float32[np.ndarray, "n d"]:
    """The features of all rows. Raises NonFinite where one is NaN or infinite."""
    x = rows.array(layer)
    if not all(np.isfinite(x[part]).all() for part in blocks(*x.shape)):
        raise NonFinite("The features hold values that are NaN or infinite.")
    return x


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Cut rows of this width into parts of at most BLOCK elements, at least one row each."""
    size = max(1, BLOCK // max(1, width))
    return (slice(start, start + size) for start in range(0, rows, size))
