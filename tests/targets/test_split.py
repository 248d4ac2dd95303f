from __future__ import annotations

import numpy as np
import pytest

from headstart.errors import InvalidInput
from headstart.targets.split import split_off

SHARES = {"test": 0.2, "validation": 0.1}


def groups_of(names: list[str]) -> np.ndarray:
    return np.array([name.encode() for name in names], dtype="S32")


def members(names: list[str], seed: int = 0) -> dict[str, list[str]]:
    found = split_off(groups_of(names), SHARES, seed)  # type: ignore[arg-type]
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(len(names)))
    return {role: sorted(names[k] for k in rows) for role, rows in found.items()}


def test_shares_are_kept_and_every_row_is_in_one_role() -> None:
    found = members([f"g{k}" for k in range(1000)])
    assert {role: len(rows) for role, rows in found.items()} == {
        "train": 700,
        "test": 200,
        "validation": 100,
    }


def test_a_group_stays_together_and_the_order_of_rows_does_not_matter() -> None:
    names = [f"g{k % 90}" for k in range(1000)]
    found = members(names)
    assert not set(found["train"]) & set(found["test"])
    assert not set(found["train"]) & set(found["validation"])
    assert not set(found["test"]) & set(found["validation"])
    shuffled = np.random.default_rng(1).permutation(names).tolist()
    assert members(shuffled) == found
    assert abs(len(found["test"]) - 200) <= 12


def test_another_seed_is_another_split() -> None:
    names = [f"g{k}" for k in range(100)]
    assert members(names, 0) == members(names, 0)
    assert members(names, 0) != members(names, 1)


def test_a_row_more_moves_hardly_any_other() -> None:
    names = [f"g{k}" for k in range(1000)]
    before, after = set(members(names)["test"]), set(members([*names, "new"])["test"])
    assert len(before ^ after) <= 2


@pytest.mark.parametrize("names", [["a", "b", "c"], ["a"] * 50 + ["b", "c"], ["a", "b", "c", "d"]])
def test_of_few_groups_each_role_gets_one(names: list[str]) -> None:
    assert all(members(names).values())


def test_two_groups_are_too_few() -> None:
    with pytest.raises(InvalidInput, match="2 different texts, too few to split test and validation off"):
        members(["a", "b"] * 10)
