"""A board: the ranking of one family for one view, each candidate written to JSON once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import orjson

from headstart.recommend import decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.snapshot import FamilySnapshot

HEAD = 512  # checkpoints of the static order that are ranked for the view; deeper ones keep its order
FIRST = 128  # candidates written when the board is made
STEP = 64  # ranked rows looked at in one go while filtering
MOST_ENTRIES = 1_000  # candidates kept written; no less than the largest limit
MOST_JOINED = 8  # limits whose joined candidates are kept


class Entry(NamedTuple):
    """One candidate of one view."""

    json: bytes
    row: int
    gain: float
    low: float
    high: float
    p_beats: float
    p_worth: float  # P(gain > WORTH), what most questions ask for
    score: float  # vanilla's level + gain, 0..1; NaN where the level is unknown
    z: tuple[np.ndarray, np.ndarray]  # mean and spread of the gain, for any other worth


class Facts(NamedTuple):
    """The family's part of an answer."""

    json: bytes
    notes: tuple[str, ...]


class Filter(NamedTuple):
    """Which checkpoints may be named."""

    max_parameters: int | None = None
    licenses: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


ANY = Filter()


def join(entries: list[Entry]) -> bytes:
    """The items of a JSON array."""
    return b",".join([entry.json for entry in entries])


class Board:
    """See the module. Lives in one snapshot; filled as it is asked, by one thread."""

    def __init__(self, family: FamilySnapshot, view: decide.View) -> None:
        self.family = family
        self.view = view
        self.sensitivity = decide.target_sensitivity(view)
        self.probed = decide.probed_here(family.posterior, view)
        self._head = decide.head(family.posterior, view, family.order, HEAD)
        self._ranking: np.ndarray | None = None
        self._entries: dict[int, Entry] = {}
        self._first = self.entries(self._head[:FIRST].tolist())
        self._joined: dict[int, bytes] = {}  # by limit
        self.facts: dict[str | None, Facts] = {}  # by target name

    def ranking(self) -> np.ndarray:
        """Every candidate of the family, best first."""
        if self._ranking is None:
            order = self.family.order
            if len(self._head) == len(order):
                self._ranking = self._head
            else:
                deeper = np.ones(len(self.family.names), dtype=bool)
                deeper[self._head] = False
                self._ranking = np.concatenate([self._head, order[deeper[order]]])
        return self._ranking

    def candidates(self, limit: int, wanted: Filter) -> tuple[Entry | None, bytes]:
        """The first choice, and the JSON of the first `limit` candidates, joined by commas."""
        if wanted.max_parameters is None and not wanted.licenses and not self._excluded(wanted):
            joined = self._joined.get(limit)
            if joined is None:
                if len(self._joined) >= MOST_JOINED:
                    self._joined.clear()
                joined = self._joined[limit] = join(self.top(limit, ANY))
            return (self._first[0] if self._first else None), joined
        found = self.top(limit, wanted)
        return (found[0] if found else None), join(found)

    def top(self, limit: int, wanted: Filter) -> list[Entry]:
        """The first `limit` candidates that pass the filter, best first."""
        excluded = self._excluded(wanted)
        most = limit + len(excluded)
        if wanted.max_parameters is not None or wanted.licenses:
            found = self.entries(self._passing(wanted, most)[:most])
        elif most <= len(self._first):
            found = self._first[:most]
        else:
            ranked = self._head if most <= len(self._head) else self.ranking()
            found = self.entries(ranked[:most].tolist())
        if excluded:
            found = [entry for entry in found if entry.row not in excluded]
        return found[:limit]

    def _excluded(self, wanted: Filter) -> set[int]:
        row_of = self.family.row_of
        return {row_of[name] for name in wanted.exclude if name in row_of}

    def _passing(self, wanted: Filter, most: int) -> list[int]:
        """The first rows that pass on size and licence, at least `most` if there are so many.

        The ranking is looked through in steps that double in size.
        """
        family = self.family
        allowed = family.allowed_licenses(wanted.licenses)
        passing: list[int] = []
        for ranked in self._steps():
            rows = ranked
            if wanted.max_parameters is not None:
                rows = rows[family.parameters_or_nan[rows] <= wanted.max_parameters]  # NaN compares false
            if allowed is not None:
                rows = rows[allowed[family.license_codes[rows]]]
            passing += rows.tolist()
            if len(passing) >= most:
                break
        return passing

    def _steps(self) -> Iterator[np.ndarray]:
        """The ranking, piece by piece; below the head it is the static order without the head."""
        start, step = 0, STEP
        while start < len(self._head):
            yield self._head[start : start + step]
            start, step = start + step, 2 * step
        order, start = self.family.order, 0
        while start < len(order):
            rows = order[start : start + step]
            yield rows[~np.isin(rows, self._head)]
            start, step = start + step, 2 * step

    def entries(self, rows: list[int]) -> list[Entry]:
        """The candidates at `rows`, in that order."""
        missing = [row for row in rows if row not in self._entries]
        if missing:
            if len(self._entries) + len(missing) > MOST_ENTRIES:
                self._entries.clear()
                missing = rows
            self._entries.update(zip(missing, self._write(missing), strict=True))
        return [self._entries[row] for row in rows]

    def _write(self, rows: list[int]) -> Iterator[Entry]:
        family, fitted, view = self.family, self.family.posterior, self.view
        found = decide.predict(fitted, view, np.array(rows))
        today = time.time()
        for k, row in enumerate(rows):
            gain, low, high, p = (float(a[k]) for a in (found.gain, found.low, found.high, found.p_beats))
            score = (
                min(max((view.level + gain) / 100, 0.0), 1.0) if view.level == view.level else float("nan")
            )
            newest = fitted.newest[row]
            text = orjson.dumps(
                {
                    "checkpoint": {
                        "id": int(fitted.checkpoint_ids[row]),
                        "name": family.names[row],
                        "family": family.name,
                        "parameters": family.parameters[row],
                        "license": family.licenses[row],
                    },
                    "expected_gain": round(gain, 3),
                    "gain_interval": [round(low, 3), round(high, 3)],
                    "p_beats_vanilla": round(p, 4),
                    "expected_score": round(score, 5),  # orjson writes NaN as null
                    "evidence": {
                        "targets_finetuned": int(fitted.finetuned[row]),
                        "probed": bool(fitted.probed[row]),
                        "measured_here": int(found.runs_here[k]),
                        "probes_here": int(found.probes_here[k]),
                        "age_days": None if np.isnan(newest) else max(int((today - newest) // 86_400), 0),
                    },
                }
            )
            z = (found.mean[k], found.spread[k])
            yield Entry(text, row, gain, low, high, p, float(found.p_worth[k]), score, z)
