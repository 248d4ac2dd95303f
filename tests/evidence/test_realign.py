"""A left shift is undone where it is provable, and nowhere else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.evidence.damage import judge_rows
from headstart.evidence.realign import realign

SIZES = np.array([1043, 408, 3270, 56, 100, 638, 104, 1534, 7532, 500, 872, 277, 71, 9824, 3200, 1066.0])
LEVELS = np.array([0.8, 0.85, 0.75, 0.7, 0.55, 0.65, 0.6, 0.7, 0.85, 0.9, 0.93, 0.66, 0.5, 0.9, 0.5, 0.88])
WIDTH = len(SIZES)


def sound(rng: np.random.Generator, rows: int = 1) -> np.ndarray:
    counts = np.round((LEVELS + rng.uniform(-0.05, 0.05, size=(rows, WIDTH))) * SIZES)
    return counts / SIZES


def pack_left(row: np.ndarray, missing: list[int]) -> np.ndarray:
    """What the writer did: drop the missing, pack the rest, leave the tail as it was."""
    kept = np.delete(row, missing)
    return np.concatenate([kept, row[len(kept) :]])


def fits(row: np.ndarray) -> np.ndarray:
    k = row[:, None] * SIZES
    near = np.abs(row[:, None] - LEVELS) < 0.1
    return (np.abs(k - np.round(k)) < 1e-3) & near


@given(
    seed=st.integers(0, 10_000),
    missing=st.lists(st.integers(0, WIDTH - 6), min_size=1, max_size=4, unique=True),
)
@settings(max_examples=60, deadline=None)
def test_every_cell_it_places_is_placed_right(seed: int, missing: list[int]) -> None:
    row = sound(np.random.default_rng(seed))[0]
    shifted = pack_left(row, missing)
    found = realign(shifted, fits(shifted))
    assert found is not None
    told = np.flatnonzero(found.column >= 0)
    truth = np.concatenate([np.delete(np.arange(WIDTH), missing), np.arange(WIDTH - len(missing), WIDTH)])
    assert (shifted[told] == row[found.column[told]]).all()
    assert (found.column[told] == truth[told]).mean() > 0.9  # equal values may stand for each other
    assert len(told) >= WIDTH // 2


def test_blank_last_cells_mean_a_fresh_row() -> None:
    row = sound(np.random.default_rng(0))[0]
    packed = np.append(np.delete(row, 3), np.nan)
    found = realign(packed, fits(packed))
    assert found is not None
    assert found.missing == 1
    assert found.intact
    assert found.column[3:-1].tolist() == list(range(4, WIDTH))


def test_a_shuffled_row_is_not_explained() -> None:
    rng = np.random.default_rng(1)
    rows = sound(rng, 50)
    explained = sum(v.reason.count(None) == WIDTH for v in judge(rng.permuted(rows, axis=1), rows) if v)
    assert explained == 0


def test_a_hole_in_the_middle_is_no_shift() -> None:
    row = sound(np.random.default_rng(2))[0]
    row[4] = np.nan
    assert realign(row, fits(row)) is None


def judge(suspects: np.ndarray, context: np.ndarray) -> list:
    return judge_rows(np.vstack([suspects, context]), SIZES)[: len(suspects)]


def test_sound_rows_get_no_verdict() -> None:
    assert judge_rows(sound(np.random.default_rng(3), 20), SIZES) == [None] * 20


def test_a_shifted_row_among_sound_ones_is_realigned() -> None:
    rng = np.random.default_rng(4)
    rows = sound(rng, 40)
    truth = sound(rng)[0]
    (verdict,) = judge(pack_left(truth, [2])[None], rows)
    assert verdict.reason.count(None) >= WIDTH - 2
    assert verdict.column[2] == 3


def test_one_corrupted_cell_costs_that_cell_only() -> None:
    rng = np.random.default_rng(5)
    rows = sound(rng, 40)
    row = sound(rng)[0]
    row[8] += 1 / 3 / SIZES[8]
    (verdict,) = judge(row[None], rows)
    assert [i for i, reason in enumerate(verdict.reason) if reason] == [8]
    assert verdict.reason[8] == "off_grid"


def test_plausible_scores_on_another_grid_are_another_split() -> None:
    rng = np.random.default_rng(6)
    rows = sound(rng, 40)
    other = SIZES - 11
    row = np.round(LEVELS * other) / other
    (verdict,) = judge(row[None], rows)
    assert set(verdict.reason) == {"other_split"}


def test_wreckage_is_doubted_as_a_whole() -> None:
    rng = np.random.default_rng(7)
    rows = sound(rng, 40)
    row = sound(rng)[0]
    row[[1, 6, 11]] = [0.111, 0.222, 0.333]
    (verdict,) = judge(row[None], rows)
    assert verdict.reason[1] == "off_grid"
    assert verdict.reason[0] == "shifted"


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_tables_do_not_crash(n: int) -> None:
    assert judge_rows(np.full((3, n), 0.5), np.full(n, 10.0)) == [None] * 3
    judge_rows(np.full((3, n), 0.123), np.full(n, 10.0))
