"""A board: the ranking of one family for one view, and who of it takes part under a filter."""

from __future__ import annotations

import weakref
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.recommend import decide
from headstart.recommend.choice import leaders
from headstart.recommend.contest import DRAWN, Gains, Side, outlook
from headstart.recommend.evidence import ONE_PASS
from headstart.recommend.explain import points_of_quality
from headstart.recommend.plan import Probe
from service.candidates import Candidates
from service.passing import Passing, positions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.candidates import Entry
    from service.outcome import Outcome
    from service.snapshot import FamilySnapshot

HEAD = 512  # checkpoints of the static order that are ranked for the view; deeper ones keep its order
FIRST = DRAWN  # candidates compared with each other
FEWEST = 12  # of the FIRST that pass a filter, below which others that pass are looked for deeper
DEEPER = 32  # and how many are compared then
ROW_BYTES = 8
OVERHEAD = 80_000  # bytes of a board beside its arrays and candidates, about: view, facts, what is unfiltered
STEP = 1_024  # rows below the head looked at in one go while filtering
NEXT_JOBS = 3  # told unless the question says otherwise
PARETO = 20_000  # ranked candidates among which the smallest are looked for


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


class Entrants(NamedTuple):
    """Who is compared. Filters that leave the same candidates have the same entrants."""

    who: int | bytes  # of the first candidates those whose bits are set, or else the bytes of these very rows
    vanilla: bool  # whether it passes as well

    @property
    def number(self) -> int:
        """How many candidates they are."""
        return self.who.bit_count() if isinstance(self.who, int) else len(self.who) // ROW_BYTES


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
        self._family = weakref.ref(family)  # which outlives its boards; a ring would outlive its snapshot
        self.view = view
        self.standing = standing
        self.sensitivity = points_of_quality(view, family.population)
        self.probed = decide.probed_here(family.posterior, view)
        self._probe_seconds = probe_seconds
        self._head = decide.head(family.posterior, view, family.order, HEAD)
        self._ranking: np.ndarray | None = None
        rows = self._head[:FIRST]
        self._first = rows.tolist()
        found = decide.predict(family.posterior, view, rows)
        self._candidates = Candidates(view, standing.mean, self._first, found)
        self.best_gain = max([0.0, *found.gain[:1].tolist()])  # of the best choice, the vanilla's 0 included
        self._everyone = self._compared(rows, found)
        self._everybody = (1 << len(self._first)) - 1
        self._all = Entrants(self._everybody, family.posterior.vanilla >= 0)
        self.facts: dict[str | None, Facts] = {}  # by target name
        self.whole: Outcome | None = None  # of its candidates alone without a filter, once it was asked for

    def _compared(self, rows: np.ndarray, found: decide.Prediction) -> Side:
        """The family's part in a contest without a filter."""
        side = self._side(rows, _gains_of(found))
        return side._replace(leaders=leaders(side.outlook.draws)) if len(rows) else side

    @property
    def family(self) -> FamilySnapshot:
        """The family it is of. Whoever uses a board holds its family or snapshot."""
        family = self._family()
        if family is None:
            raise ReferenceError("the family of this board is gone")
        return family

    @cached_property
    def _passing(self) -> Passing:
        """Of the first candidates, and of the vanilla behind them."""
        family, vanilla = self.family, self.family.posterior.vanilla
        rows = [*self._first, vanilla] if vanilla >= 0 else self._first
        places = {family.names[row]: at for at, row in enumerate(rows)}
        return Passing(family.parameters_or_nan[rows], [family.licenses[row] for row in rows], places)

    @property
    def bytes(self) -> int:
        """Of memory, about."""
        known, first = self._everyone.outlook, self._everyone.leaders
        arrays = [known.draws, known.lessons.shift, *(() if first is None else (first.gain, first.start))]
        weight = OVERHEAD + self._candidates.bytes + sum(int(array.nbytes) for array in arrays)
        return weight if first is None else weight + len(first.rows)

    def p_exceeds(self, entry: Entry, worth: float) -> float:
        """P(a candidate's true gain > worth points)."""
        if worth == decide.WORTH:
            return entry.p_worth
        return decide.p_exceeds(self.view, *entry.z, worth)

    @property
    def finetuned_here(self) -> int:
        """Checkpoints finetuned on this very target."""
        return 0 if self.view.target is None else int(self.family.posterior.measured[self.view.target])

    def _side(self, rows: np.ndarray, known: Gains) -> Side:
        made = outlook(self.family.posterior, self.view, rows, self._probes(rows), known)
        return Side(made, np.arange(len(rows)), *self.standing)

    def _probes(self, rows: np.ndarray) -> list[Probe]:
        """The methods that may still probe these rows on the asked target, if it has rows to read.

        They cost as much as a linear probe; one that takes more than a forward pass is not proposed.
        """
        fitted = self.family.posterior
        if self._probe_seconds is None or not (fitted.probe_weight > 0).any():
            return []
        done, seconds = decide.probes_at(fitted, self.view, rows) > 0, self._probe_seconds[rows]
        weights = zip(fitted.probe_methods, fitted.probe_weight.tolist(), strict=True)
        return [Probe(method, weight, done, seconds) for method, weight in weights if method in ONE_PASS]

    def entrants(self, wanted: Filter) -> Entrants:
        """Who of those that pass the filter is compared: of the first all, or else some that are deeper."""
        if wanted == ANY:
            return self._all
        passing = self._passing.bits(*wanted)
        vanilla, first = passing >> len(self._first) > 0, passing & self._everybody
        if first.bit_count() >= FEWEST or len(self._first) == len(self.family.order):
            return Entrants(first, vanilla)
        rows = self.passing(wanted, DEEPER)
        return Entrants(first if len(rows) == first.bit_count() else rows.tobytes(), vanilla)

    def side(self, entrants: Entrants) -> Side:
        """The family's part in a contest of these."""
        who, vanilla = entrants
        if not isinstance(who, int):
            rows = np.frombuffer(who, dtype=np.int64)
            found = decide.predict(self.family.posterior, self.view, rows)
            self._candidates.add(rows.tolist(), found)
            return self._side(rows, _gains_of(found))._replace(vanilla=vanilla)
        everyone = self._everyone
        if who == self._everybody:
            return everyone._replace(vanilla=vanilla)
        return everyone._replace(at=positions(who), vanilla=vanilla)

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
        if self.passes_all(wanted):
            ranked = self._head if limit <= len(self._head) else self.ranking()
            return self.entries(ranked[:limit].tolist())
        at = positions(self._passing.bits(*wanted) & self._everybody)
        if len(at) >= limit:
            return self.entries([self._first[k] for k in at[:limit].tolist()])
        return self.entries(self.passing(wanted, limit).tolist())

    def entries(self, rows: list[int]) -> list[Entry]:
        """The candidates at `rows`, in that order."""
        return self._candidates.entries(self.family, rows)

    def passes_all(self, wanted: Filter) -> bool:
        """Whether the filter leaves nobody of this family out."""
        row_of = self.family.row_of
        return (
            wanted.max_parameters is None
            and not wanted.licenses
            and not any(name in row_of for name in wanted.exclude)
        )

    def passing(self, wanted: Filter, most: int) -> np.ndarray:
        """The first rows that pass the filter, best first, `most` at most."""
        found: list[np.ndarray] = []
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

    def _allowed(self, rows: np.ndarray, wanted: Filter) -> np.ndarray:
        """Which rows pass the filter; of those that nobody knows, only where any will do."""
        family, passes = self.family, np.ones(len(rows), dtype=bool)
        if wanted.max_parameters is not None:
            passes = family.parameters_or_nan[rows] <= wanted.max_parameters  # NaN compares false
        allowed = family.allowed_licenses(wanted.licenses)
        if allowed is not None:
            passes &= allowed[family.license_codes[rows]]
        excluded = [family.row_of[name] for name in wanted.exclude if name in family.row_of]
        return passes & ~np.isin(rows, excluded) if excluded else passes

    def _steps(self) -> Iterator[np.ndarray]:
        """The ranking, piece by piece: the head, and the static order without it in steps that double."""
        yield self._head
        order, start, step = self.family.order, 0, STEP
        while start < len(order):
            rows = order[start : start + step]
            yield rows[~np.isin(rows, self._head)]
            start, step = start + step, 2 * step


def _gains_of(found: decide.Prediction) -> Gains:
    return Gains(found.gain, found.runs_here, found.mean, found.spread, found.shared, found.factors)
