"""The candidates of a board, each written to JSON once, when an answer first names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import orjson

from headstart.recommend import decide

if TYPE_CHECKING:
    from service.snapshot import FamilySnapshot

MOST_ENTRIES = 1_000  # candidates kept written; no less than the largest limit
ENTRY_BYTES = 1_000  # that one of them takes, about
DAY = 86_400


class Entry(NamedTuple):
    """One candidate of one view."""

    json: bytes  # an object without its closing brace: P(best) depends on who takes part
    row: int
    gain: float
    low: float
    high: float
    p_beats: float
    p_worth: float  # P(gain > WORTH), what most questions ask for
    score: float  # expected, in points, by which families are ordered
    runs_here: int
    probes_here: int
    z: tuple[np.ndarray, np.ndarray]  # mean and spread of the gain, for any other worth


class _Found(NamedTuple):
    """Of a Prediction what entries are written from."""

    gain: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_beats: np.ndarray
    p_worth: np.ndarray
    runs_here: np.ndarray
    probes_here: np.ndarray
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, found: decide.Prediction) -> _Found:
        return cls(*(getattr(found, name) for name in cls._fields))


class Candidates:
    """Of one view of a family. Filled as it is asked."""

    def __init__(self, view: decide.View, level: float, rows: list[int], found: decide.Prediction) -> None:
        """`level`: of the vanilla, in points; `rows`: those predicted when the board was made."""
        self._view = view
        self._level = level
        self._found = _Found.of(found)
        self._place = {row: (self._found, at) for at, row in enumerate(rows)}
        self._deeper: dict[int, tuple[_Found, int]] = {}  # what was predicted of others
        self._entries: dict[int, Entry] = {}

    @property
    def bytes(self) -> int:
        """Of memory, about."""
        arrays = sum(int(array.nbytes) for array in self._found)
        return arrays + ENTRY_BYTES * (len(self._entries) + len(self._deeper))

    def add(self, rows: list[int], found: decide.Prediction) -> None:
        """Take what was predicted of deeper rows, so that it is not predicted again."""
        if len(self._deeper) + len(rows) > MOST_ENTRIES:
            self._deeper.clear()
        told = _Found.of(found)
        self._deeper.update((row, (told, at)) for at, row in enumerate(rows))

    def entries(self, family: FamilySnapshot, rows: list[int]) -> list[Entry]:
        """The candidates at `rows`, in that order."""
        kept = self._entries
        missing = [row for row in rows if row not in kept]
        if missing:
            if len(kept) + len(missing) > MOST_ENTRIES:
                kept.clear()
                missing = rows
            unknown = [row for row in missing if row not in self._place and row not in self._deeper]
            if unknown:
                self.add(unknown, decide.predict(family.posterior, self._view, np.array(unknown)))
            for row in missing:
                kept[row] = self._write(family, row, *(self._place.get(row) or self._deeper[row]))
        return [kept[row] for row in rows]

    def _write(self, family: FamilySnapshot, row: int, found: _Found, k: int) -> Entry:
        fitted, known = family.posterior, self._view.level == self._view.level
        gain, low, high, p, p_worth = (float(array[k]) for array in found[:5])
        score, newest = self._level + gain, fitted.newest[row]
        runs_here, probes_here = int(found.runs_here[k]), int(found.probes_here[k])
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
                "expected_score": round(min(max(score / 100, 0.0), 1.0), 5) if known else None,
                "evidence": {
                    "targets_finetuned": int(fitted.finetuned[row]),
                    "probed": bool(fitted.probed[row]),
                    "measured_here": runs_here,
                    "probes_here": probes_here,
                    "age_days": None if np.isnan(newest) else max(family.day - int(newest // DAY), 0),
                },
            }
        )
        z = found.mean[k], found.spread[k]
        return Entry(text[:-1], row, gain, low, high, p, p_worth, score, runs_here, probes_here, z)
