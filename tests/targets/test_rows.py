"""The file of a target's rows: what was written is read, role by role."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from headstart.rows import BATCH_ROWS, ROLES, RowsFile, RowsHead, write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from headstart.workbench import Role

SIZES: dict[Role, int] = {"train": 40_000, "validation": 10, "test": 17_000}
HEAD = RowsHead(fingerprint="f" * 64, task="classification", pair=True, classes=("a", "b", "c"), sizes=SIZES)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    write_rows(path, table(), HEAD)
    return path


def table() -> pa.Table:
    roles = [role for role in ROLES for _ in range(SIZES[role])]
    numbers = [k for role in ROLES for k in range(SIZES[role])]
    return pa.table(
        {
            "role": roles,
            "text": pa.array(
                [f"{role} {k}" for role, k in zip(roles, numbers, strict=True)], pa.large_string()
            ),
            "text_pair": pa.array([f"second {k}" for k in numbers], pa.large_string()),
            "label": ["abc"[k % 3] for k in numbers],
        }
    )


def test_the_head_is_what_was_written(path: Path) -> None:
    assert RowsFile(path).head == HEAD


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_read_in_order(path: Path, role: Role) -> None:
    file = RowsFile(path)
    texts, pairs = [], []
    for first, second in file.texts(role, 10**9):
        assert len(first) <= BATCH_ROWS
        texts += first
        pairs += second or []
    assert texts == [f"{role} {k}" for k in range(SIZES[role])]
    assert pairs == [f"second {k}" for k in range(SIZES[role])]
    assert file.labels(role, 10**9).tolist() == [k % 3 for k in range(SIZES[role])]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("most", [0, 1, BATCH_ROWS, BATCH_ROWS + 1, 39_999])
def test_the_first_rows_alone(path: Path, role: Role, most: int) -> None:
    file = RowsFile(path)
    count = min(most, SIZES[role])
    assert len(file.labels(role, most)) == count
    assert [text for texts, _ in file.texts(role, most) for text in texts][-1:] == (
        [f"{role} {count - 1}"] if count else []
    )


def test_the_same_rows_are_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "again.parquet", table(), HEAD)
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()


def test_values_of_a_regression_and_single_texts(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, -2.5]
    rows = pa.table({"role": ["train"] * 3, "text": ["a", "b", "c"], "label": values})
    head = RowsHead(
        fingerprint="f" * 64,
        task="regression",
        pair=False,
        classes=None,
        sizes={"train": 3, "validation": 0, "test": 0},
    )
    write_rows(tmp_path / "rows.parquet", rows, head)
    file = RowsFile(tmp_path / "rows.parquet")
    assert file.head == head
    assert file.labels("train", 10).tolist() == values
    assert list(file.texts("train", 10)) == [(["a", "b", "c"], None)]
    assert list(file.texts("test", 10)) == []
    assert file.labels("test", 10).tolist() == []
