"""A table of one row, and a source of files in memory."""

from __future__ import annotations

import io

HEADER = "checkpoint,family,target,method,value"
ROW = "acme/a,roberta-base,rte,finetune,0.75"
RECORD = {
    "checkpoint": "acme/a",
    "family": "roberta-base",
    "target": "rte",
    "method": "finetune",
    "value": 0.75,
}


class Files:
    """A source in memory."""

    origin = "memory"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.files))

    def open(self, name: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self.files[name]))  # type: ignore[arg-type]

    def fraction(self) -> float:
        return 0.5
