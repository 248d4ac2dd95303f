"""Which of a board's first candidates pass a filter, as the bits of one number.

Filters that leave the same candidates have the same number, by which what was made for one answers the other.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from operator import or_
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float, Int


class Passing:
    """The sizes, licences and names of n candidates, best first, each as the bits of whom they let pass."""

    def __init__(
        self,
        sizes: Float[np.ndarray, "n"],
        licenses: Sequence[str | None],
        place_of: Mapping[str, int],
    ) -> None:
        """`sizes`: parameters, NaN where nobody knows; `place_of`: the position of each name among the n."""
        self.everyone = (1 << len(sizes)) - 1
        self._place_of = place_of
        known = np.flatnonzero(~np.isnan(sizes))
        ascending = known[np.argsort(sizes[known], kind="stable")].tolist()
        self._sizes = sizes[ascending].tolist()
        self._no_larger = list(accumulate((1 << at for at in ascending), or_, initial=0))
        self._licensed: dict[str, int] = {}
        for at, one in enumerate(licenses):
            if one is not None:
                name = one.casefold()
                self._licensed[name] = self._licensed.get(name, 0) | 1 << at

    def bits(self, max_parameters: int | None, licenses: Sequence[str], exclude: Sequence[str]) -> int:
        """Whom these let pass; of those whose size or licence nobody knows, only where any will do."""
        found = self.everyone
        if max_parameters is not None:
            found = self._no_larger[bisect_right(self._sizes, max_parameters)]
        if licenses:
            allowed = 0
            for one in licenses:
                allowed |= self._licensed.get(one.casefold(), 0)
            found &= allowed
        for name in exclude:
            at = self._place_of.get(name)
            if at is not None:
                found &= ~(1 << at)
        return found


def positions(bits: int) -> Int[np.ndarray, "r"]:
    """The bits that are set, ascending."""
    told = np.frombuffer(bits.to_bytes(-(-bits.bit_length() // 8), "little"), dtype=np.uint8)
    return np.flatnonzero(np.unpackbits(told, bitorder="little"))
