"""Splitting off the roles that a target lacks: by a stated seed, the rows of one text together. Pure."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from headstart.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Int, Shaped

    from headstart.workbench import Role

FEWEST_GROUPS = 3  # different texts, so that each role may get one


def split_off(
    groups: Shaped[np.ndarray, "n"], shares: Mapping[Role, float], seed: int
) -> dict[Role, Int[np.ndarray, "m"]]:
    """The rows that go to each role of `shares`, and those that stay in train; ascending row numbers.

    Groups (digests of what has to stay together) are ranked by the SHA-256 of the seed and the group, which
    does not depend on the order of the rows, and handed out from the first: a group goes to a role while
    half of it still fits into the role's share of the n rows, and the first one always does.

    Raises: InvalidInput (fewer than FEWEST_GROUPS groups).
    """
    found, member, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(found) < FEWEST_GROUPS:
        texts = "1 text" if len(found) == 1 else f"{len(found)} different texts"
        raise InvalidInput(
            f"The train role has {texts}, too few to split {' and '.join(shares)} off. "
            f"Give at least {FEWEST_GROUPS}, or a file for each role."
        )
    salt = f"{seed}:".encode()
    ranks = np.argsort([hashlib.sha256(salt + bytes(group)).digest() for group in found.tolist()])
    role_of_group = np.zeros(len(found), dtype=np.int8)
    start = 0
    for number, share in enumerate(shares.values(), 1):
        rest = counts[ranks[start:]]
        ends = np.cumsum(rest)
        most = len(found) - start - (len(shares) - number) - 1  # one group at least for each that follows
        taken = int(np.searchsorted(ends - rest / 2, share * len(groups), side="right"))
        taken = min(max(taken, 1), most)
        role_of_group[ranks[start : start + taken]] = number
        start += taken
    role_of_row = role_of_group[member]
    roles: dict[Role, Int[np.ndarray, "m"]] = {"train": np.flatnonzero(role_of_row == 0)}
    return roles | {role: np.flatnonzero(role_of_row == number) for number, role in enumerate(shares, 1)}
