"""The labelled rows of a target, as the store keeps them: one Parquet file, the same bytes for the same rows.

Columns: `role` (train, validation, test), `text`, `text_pair` (pairs only), `label` (text, or a number for a
regression). Within a role the rows lie in the order of their digests: an order as good as random that does
not depend on the order they came in, so that the first n are a sample.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from headstart.workbench import Role

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa
    from jaxtyping import Float, Int
    from pyarrow import parquet

ROLES: tuple[Role, ...] = get_args(Role)
BATCH_ROWS = 4096
_META = b"headstart"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsHead:
    """What a file of rows says about itself."""

    fingerprint: str  # digest of the normalised rows, roles and task
    task: Literal["classification", "regression"]
    pair: bool
    classes: tuple[str, ...] | None  # sorted; None for a regression
    sizes: dict[Role, int]


def write_rows(path: Path, table: pa.Table, head: RowsHead) -> None:
    """Write the rows, which are in their order already. Raises OSError where the disk does not take them."""
    from pyarrow import parquet  # noqa: PLC0415 - costs 0.2 s, and few need it

    table = table.replace_schema_metadata({_META: json.dumps(asdict(head)).encode()})
    parquet.write_table(table, path, compression="zstd", row_group_size=BATCH_ROWS * 4)


class RowsFile:
    """A file that `write_rows` wrote, read in batches. Raises OSError or pyarrow errors for a broken one."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet  # noqa: PLC0415 - see above

        self._path = path
        told = json.loads(parquet.read_schema(path).metadata[_META])
        self.head = RowsHead(
            **told | {"classes": None if told["classes"] is None else tuple(told["classes"])}
        )

    def labels(self, role: Role, most: int) -> Int[np.ndarray, "n"] | Float[np.ndarray, "n"]:
        """The labels of the first `most` rows of a role: positions in the classes, or values."""
        found = [label for columns in self._batches(role, ["label"], most) for label in columns["label"]]
        if self.head.classes is None:
            return np.array(found, dtype=np.float64)
        code = {name: k for k, name in enumerate(self.head.classes)}
        return np.array([code[label] for label in found], dtype=np.int64)

    def texts(self, role: Role, most: int) -> Iterator[tuple[list[str], list[str] | None]]:
        """The first `most` rows of a role in batches: the texts, and the second texts of pairs."""
        columns = ["text", "text_pair"] if self.head.pair else ["text"]
        for batch in self._batches(role, columns, most):
            yield batch["text"], batch.get("text_pair")

    def _batches(self, role: Role, columns: list[str], most: int) -> Iterator[dict[str, list[Any]]]:
        from pyarrow import parquet  # noqa: PLC0415 - see above

        left = most
        with parquet.ParquetFile(self._path) as file:
            batches = file.iter_batches(
                BATCH_ROWS, _groups(file, role), columns=["role", *columns], use_threads=False
            )
            for batch in batches:
                mine = batch.filter(_is(batch, role)) if left > 0 else batch.slice(0, 0)
                mine = mine.slice(0, left)
                left -= mine.num_rows
                if mine.num_rows:
                    yield {name: mine.column(name).to_pylist() for name in columns}


def _groups(file: parquet.ParquetFile, role: Role) -> list[int]:
    """The row groups that hold rows of a role: each knows the first and last role in it, by the alphabet."""
    told = (file.metadata.row_group(k).column(0).statistics for k in range(file.num_row_groups))
    return [k for k, known in enumerate(told) if known is None or known.min <= role <= known.max]


def _is(batch: pa.RecordBatch, role: Role) -> Any:
    from pyarrow import compute  # noqa: PLC0415 - see above

    return compute.equal(batch.column("role"), role)
