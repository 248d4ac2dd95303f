"""How the rows of a step are cut into micro-batches."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from worker.batches import micro_batches
from worker.forward import Budget


def cut(lengths: np.ndarray, tokens: int, each: int, *, padded: bool = True) -> list[np.ndarray]:
    rows = np.random.default_rng(1).permutation(len(lengths))
    return list(micro_batches(rows, lengths, Budget(tokens), padded=padded, each=each))


def cost(parts: list[np.ndarray], lengths: np.ndarray, each: int) -> int:
    return sum(len(part) * int(lengths[part].max()) + each for part in parts)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("tokens", [1, 40, 300, 10_000])
def test_every_row_once_and_within_the_budget(tokens: int, padded: bool) -> None:
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(1, 60, 1 + 7 * seed)
        parts = cut(lengths, tokens, 50, padded=padded)
        assert sorted(np.concatenate(parts)) == list(range(len(lengths)))
        for part in parts:
            widest = int(lengths[part].max())
            assert len(part) == 1 or len(part) * widest <= tokens
            assert padded or set(lengths[part]) == {widest}


@pytest.mark.parametrize("each", [0, 5, 30, 1000])
def test_no_other_cut_costs_less(each: int) -> None:
    for seed in range(10):
        lengths = np.random.default_rng(seed).integers(1, 30, 9)
        ordered = np.sort(lengths)[::-1]
        every = [np.split(ordered, at) for n in range(len(ordered)) for at in combinations(range(1, 9), n)]
        least = min(sum(len(p) * int(p[0]) + each for p in parts) for parts in every)
        assert cost(cut(lengths, 10_000, each), lengths, each) == least


def test_dear_micro_batches_are_few_and_free_ones_have_no_padding() -> None:
    lengths = np.array([5, 50, 5, 20, 20, 5])
    assert len(cut(lengths, 10_000, 10_000)) == 1
    assert [sorted(lengths[part]) for part in cut(lengths, 10_000, 0)] == [[50], [20, 20], [5, 5, 5]]


def test_the_same_rows_in_another_order_are_cut_alike() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 64)
    one = list(micro_batches(np.arange(64), lengths, Budget(300), padded=True, each=50))
    other = list(micro_batches(np.arange(64)[::-1], lengths, Budget(300), padded=True, each=50))
    assert [sorted(lengths[a]) for a in one] == [sorted(lengths[a]) for a in other]
