"""A board: the ranking of one family for one view, each candidate written to JSON once."""

from __future__ import annotations

import time
import weakref
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import orjson

from headstart.recommend import decide
from headstart.recommend.choice import leaders
from headstart.recommend.contest import DRAWN, Gains, Side, outlook
from headstart.recommend.explain import points_of_quality
from headstart.recommend.plan import Probe
from headstart.recommend.views import Stack, stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.snapshot import FamilySnapshot

HEAD = 512  # checkpoints of the static order that are ranked for the view; deeper ones keep its order
FIRST = DRAWN  # candidates written, and compared with each other, when the board is made
FEWEST = 12  # compared checkpoints that pass a filter, below which others that pass are looked for deeper
DEEPER = 32  # and how many then are compared: no other answer waits for its draws
STEP = 64  # ranked rows looked at in one go while filtering
NEXT_JOBS = 3  # told unless the question says otherwise
MOST_ENTRIES = 1_000  # candidates kept written; no less than the largest limit
PARETO = 20_000  # ranked candidates among which the smallest are looked for
MOST_SIDES = 4  # filters whose own draws are kept


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


class Standing(NamedTuple):
    """Where the vanilla of a board's family stands, in points."""

    mean: float  # a guess made before any where nothing is known: `Board.view.level` is NaN then
    common: float = 0.0  # standard errors as in `levels.Level`; 0 where it was measured on the asked target
    own: float = 0.0


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


class Board:
    """See the module. Lives in one snapshot; filled as it is asked, by one thread."""

    def __init__(
        self,
        family: FamilySnapshot,
        view: decide.View,
        standing: Standing,
        probe_seconds: np.ndarray | None = None,
    ) -> None:
        """Of one view; `probe_seconds`: of a probe of each checkpoint, None where none can be made."""
        self._family = weakref.ref(family)  # which holds its boards; a ring would outlive its snapshot
        self.view = view
        self.standing = standing
        self.sensitivity = points_of_quality(view, family.population)
        self.probed = decide.probed_here(family.posterior, view)
        self._probe_seconds = probe_seconds
        self._head = decide.head(family.posterior, view, family.order, HEAD)
        self._ranking: np.ndarray | None = None
        self._entries: dict[int, Entry] = {}
        self._found = decide.predict(family.posterior, view, self._head[:FIRST])
        rows = self._head[:FIRST].tolist()
        self._first = list(self._write(rows, self._found))
        self._entries.update(zip(rows, self._first, strict=True))
        self._sides: dict[Filter, Side] = {}
        sizes, codes = family.parameters_or_nan, family.license_codes
        self._first_traits = sizes[self._head[:FIRST]], codes[self._head[:FIRST]]
        self._first_passing: tuple[Filter, np.ndarray] = (ANY, np.arange(len(rows)))  # the last asked for
        self.facts: dict[str | None, Facts] = {}  # by target name

    @property
    def family(self) -> FamilySnapshot:
        """The family it is of. Whoever uses a board holds its family or snapshot."""
        family = self._family()
        if family is None:
            raise ReferenceError("the family of this board is gone")
        return family

    @cached_property
    def places(self) -> dict[int, int]:
        """Row -> position among those compared without a filter."""
        return {row: at for at, row in enumerate(self.everyone.outlook.rows.tolist())}

    @cached_property
    def everyone(self) -> Side:
        """The family's part in a contest without a filter."""
        found = self._found
        known = Gains(found.gain, found.runs_here, found.mean, found.spread, found.shared, found.factors)
        side = self._side(self._head[:FIRST], known)
        return side._replace(leaders=leaders(side.outlook.draws)) if len(side.at) else side

    def p_exceeds(self, entry: Entry, worth: float) -> float:
        """P(a candidate's true gain > worth points)."""
        if worth == decide.WORTH:
            return entry.p_worth
        if len(self.view.weights) == 1:
            return decide.p_exceeds(self.view, *entry.z, worth)
        return decide.p_exceeds_of_many(self.view, self._stack, *entry.z, worth)

    @cached_property
    def _stack(self) -> Stack:
        return stack(self.view)

    @property
    def finetuned_here(self) -> int:
        """Checkpoints finetuned on this very target."""
        return 0 if self.view.target is None else int(self.family.posterior.measured[self.view.target])

    @property
    def best_gain(self) -> float:
        """Expected of the best choice, the vanilla's 0 included, in points."""
        return max(self._first[0].gain, 0.0) if self._first else 0.0

    def _side(self, rows: np.ndarray, known: Gains | None = None) -> Side:
        fitted, view = self.family.posterior, self.view
        made = outlook(fitted, view, rows, self._probes(rows), known)
        return Side(made, np.arange(len(rows)), *self.standing)

    def _probes(self, rows: np.ndarray) -> list[Probe]:
        """The methods that may still probe these rows on the asked target, if it has rows to read."""
        fitted = self.family.posterior
        if self._probe_seconds is None or not (fitted.probe_weight > 0).any():
            return []
        done, seconds = decide.probes_at(fitted, self.view, rows) > 0, self._probe_seconds[rows]
        weights = zip(fitted.probe_methods, fitted.probe_weight.tolist(), strict=True)
        return [Probe(method, weight, done, seconds) for method, weight in weights]

    def side(self, wanted: Filter) -> Side:
        """The family's part in a contest among those that pass the filter."""
        if self.passes_all(wanted):
            return self.everyone
        at = self._among_first(wanted)
        if len(at) >= FEWEST or len(self._first) == len(self.family.order):
            return self.everyone._replace(at=at)
        side = self._sides.get(wanted)
        if side is None:
            rows = self.passing(wanted, DEEPER)
            side = self.everyone._replace(at=at) if len(rows) == len(at) else self._side(rows)
            if len(self._sides) >= MOST_SIDES:
                self._sides.clear()
            self._sides[wanted] = side
        return side

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

    def top(self, limit: int, wanted: Filter) -> list[Entry]:
        """The first `limit` candidates that pass the filter, best first."""
        if not self.passes_all(wanted):
            at = self._among_first(wanted)
            if len(at) >= limit:
                return [self._first[k] for k in at[:limit].tolist()]
            return self.entries(self.passing(wanted, limit).tolist())
        if limit <= len(self._first):
            return self._first[:limit]
        ranked = self._head if limit <= len(self._head) else self.ranking()
        return self.entries(ranked[:limit].tolist())

    def passes_all(self, wanted: Filter) -> bool:
        """Whether the filter leaves nobody of this family out."""
        row_of = self.family.row_of
        return (
            wanted.max_parameters is None
            and not wanted.licenses
            and not any(name in row_of for name in wanted.exclude)
        )

    def passing(self, wanted: Filter, most: int) -> np.ndarray:
        """The first rows that pass the filter, best first, `most` at most.

        The ranking is looked through in steps that double in size.
        """
        found: list[np.ndarray] = [self._head[:0]]
        for rows in self._steps():
            found.append(rows[self._allowed(rows, wanted)])
            if sum(map(len, found)) >= most:
                break
        return np.concatenate(found)[:most]

    def smaller_and_smaller(self, wanted: Filter) -> list[Entry]:
        """Of the ranked that pass each that is smaller than all before it: the others are dominated.

        The first PARETO are looked at, and of those without a known size none but the first of all.
        """
        rows = self.passing(wanted, PARETO)
        sizes = np.nan_to_num(self.family.parameters_or_nan[rows], nan=np.inf)
        before = np.minimum.accumulate(np.concatenate([[np.inf], sizes[:-1]])) if len(rows) else sizes
        smaller = sizes < before
        smaller[:1] = True
        return self.entries(rows[smaller].tolist())

    def _among_first(self, wanted: Filter) -> np.ndarray:
        """Positions of those written when the board was made that pass the filter."""
        asked, at = self._first_passing
        if asked != wanted:
            passes = self._passes(*self._first_traits, wanted)
            for name in wanted.exclude:
                place = self.places.get(self.family.row_of.get(name, -1))
                if place is not None:
                    passes[place] = False
            at = np.flatnonzero(passes)
            self._first_passing = wanted, at
        return at

    def _allowed(self, rows: np.ndarray, wanted: Filter) -> np.ndarray:
        """Which rows pass the filter."""
        family = self.family
        passes = self._passes(family.parameters_or_nan[rows], family.license_codes[rows], wanted)
        for name in wanted.exclude:
            row = family.row_of.get(name)
            if row is not None:
                passes &= rows != row
        return passes

    def _passes(self, sizes: np.ndarray, codes: np.ndarray, wanted: Filter) -> np.ndarray:
        """Whether parameters and licences do; of those that nobody knows, only where any will do."""
        passes = np.ones(len(sizes), dtype=bool)
        if wanted.max_parameters is not None:
            passes = sizes <= wanted.max_parameters  # NaN compares false
        allowed = self.family.allowed_licenses(wanted.licenses)
        return passes if allowed is None else passes & allowed[codes]

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
            found = decide.predict(self.family.posterior, self.view, np.array(missing))
            self._entries.update(zip(missing, self._write(missing, found), strict=True))
        return [self._entries[row] for row in rows]

    def _write(self, rows: list[int], found: decide.Prediction) -> Iterator[Entry]:
        family, fitted = self.family, self.family.posterior
        known, today = self.view.level == self.view.level, time.time()
        for k, row in enumerate(rows):
            gain, low, high, p = (float(a[k]) for a in (found.gain, found.low, found.high, found.p_beats))
            score = self.standing.mean + gain
            runs_here, probes_here = int(found.runs_here[k]), int(found.probes_here[k])
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
                    "expected_score": round(min(max(score / 100, 0.0), 1.0), 5) if known else None,
                    "evidence": {
                        "targets_finetuned": int(fitted.finetuned[row]),
                        "probed": bool(fitted.probed[row]),
                        "measured_here": runs_here,
                        "probes_here": probes_here,
                        "age_days": None if np.isnan(newest) else max(int((today - newest) // 86_400), 0),
                    },
                }
            )
            yield Entry(
                json=text[:-1],
                row=row,
                gain=gain,
                low=low,
                high=high,
                p_beats=p,
                p_worth=float(found.p_worth[k]),
                score=score,
                runs_here=runs_here,
                probes_here=probes_here,
                z=(found.mean[k], found.spread[k]),
            )
