"""The evidence in memory: one immutable snapshot, rebuilt beside the traffic and swapped whole."""

from __future__ import annotations

import dataclasses
import gc
import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import structlog

from headstart import __version__
from headstart.errors import HeadstartError
from headstart.recommend import decide, posterior
from headstart.recommend.condition import view_of
from headstart.recommend.contest import linked
from headstart.recommend.cost import finetune_cost, known_parameters, probe_cost
from headstart.recommend.explain import points_of_quality, population
from headstart.recommend.levels import levels_of
from headstart.recommend.prices import FINETUNE, LINEAR_PROBE, finetune_rows, probe_rows
from headstart.recommend.timings import FRESH, Kind
from service.best import Best
from service.board import ANY, NEXT_JOBS, Board, Filter, Standing
from service.candidates import DAY
from service.families import facts_of
from service.kept import Recent, Shelf, once
from service.outcome import Outcome
from service.pricing import rates_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Catalogue, Target
    from headstart.recommend.levels import Levels
    from headstart.recommend.posterior import Posterior
    from headstart.recommend.rates import Rates
    from headstart.store import Store

MOST_WRITTEN = 1_024  # answers, some 6 kB each
MOST_VIEWS = 10_000
USUAL_TRAIN_SIZES = (None, *(4**k for k in range(4, 11)))  # 256 to 1,048,576 rows
USUAL_CLASSES = (None, 2, 4, 8, 16, 32)
_log = structlog.get_logger("headstart.service")


class _View(NamedTuple):
    """What a board is made for: a target the vanilla was run on, or a described one and its probes."""

    target: int | None  # position in the posterior
    train_size: int | None = None
    classes: int | None = None
    probed: int | None = None  # position in the posterior
    levelled: int | None = None  # id of the target, where another family's vanilla was run on it
    rows: int | None = None  # that a probe on it would read; None: there are none


class FamilySnapshot:
    """One family: its posterior, its catalogue beside it, and a board for each view asked so far."""

    def __init__(
        self,
        name: str,
        fitted: Posterior,
        catalogue: Catalogue,
        targets: dict[int, Target],
        levels: Levels,
        shelf: Shelf,
        day: int,
        rates: Rates,
    ) -> None:
        """`levels`: of all families; `shelf`: where all keep their boards; `day`: that ages are told of."""
        self.name = name
        self.day = day
        self.rates = rates
        self.finetune_rate = rates.line(Kind(FINETUNE, "full")).rate
        self.probe_rate = rates.line(Kind(LINEAR_PROBE, FRESH)).rate
        self.posterior = fitted
        self.population = population(fitted)
        # the catalogue may already hold checkpoints that the posterior does not know
        known = set(fitted.checkpoint_ids.tolist())
        at = [i for i, one in enumerate(catalogue.ids) if one in known]
        self.names = [catalogue.names[i] for i in at]
        self.parameters = [catalogue.parameters[i] for i in at]
        self.licenses = [catalogue.licenses[i] for i in at]
        self.row_of = {name: row for row, name in enumerate(self.names)}
        self.parameters_or_nan = np.array([np.nan if p is None else p for p in self.parameters], dtype=float)
        self.sizes = known_parameters(self.parameters_or_nan)
        one_row = finetune_cost(self.sizes, 1, rate=self.finetune_rate).seconds
        self.seconds_a_row = one_row - self.finetune_rate.start  # that a finetune takes
        self.license_codes, self._license_code = _codes(self.licenses)
        self.order = decide.static_order(fitted)
        # targets that the vanilla was run on: the others have no gains of their own
        levelled = np.flatnonzero(np.isfinite(fitted.level)).tolist()
        self.target_at: dict[int | None, int] = {int(fitted.target_ids[t]): t for t in levelled}
        # and of those the ones that checkpoints were probed on: probes tell them apart all the same
        probed = {*np.unique(fitted.pair_target).tolist(), fitted.reference} - {-1, *levelled}
        self._probed_at: dict[int | None, int] = {int(fitted.target_ids[t]): t for t in sorted(probed)}
        self.targets = [targets[int(one)] for one in fitted.target_ids]
        self.reference = None if fitted.reference < 0 else self.targets[fitted.reference].name
        self._described = _Described.of(self.targets)
        self.levels = levels
        self._at = levels.families.index(name)
        self._linked = linked(levels.measured[:, :-1])[self._at]
        self._levelled = {int(one) for one in levels.target_ids[levels.measured[:, :-1].any(axis=0)]}
        self._all_described = _Described.of([targets[int(one)] for one in levels.target_ids])
        self._shelf = shelf
        self._views: dict[int, _View] = {}  # by target
        self._reactions: np.ndarray | None = None

    @property
    def vanilla(self) -> str:
        """Name of the vanilla; the family's own where it is not in the store."""
        return self.names[self.posterior.vanilla] if self.posterior.vanilla >= 0 else self.name

    def allowed_licenses(self, licenses: tuple[str, ...]) -> np.ndarray | None:
        """Whether each licence code is among these, to be indexed by `license_codes`; None: any will do."""
        if not licenses:
            return None
        allowed = np.zeros(len(self._license_code) + 1, dtype=bool)  # the last one is that of code -1
        for one in licenses:
            code = self._license_code.get(one.casefold())
            if code is not None:
                allowed[code] = True
        return allowed

    def board(
        self, target: Target | None = None, train_size: int | None = None, classes: int | None = None
    ) -> Board:
        """The ranking for a target of the store, or else for one described.

        Where the vanilla was not run on it, a target is as good as its description. Its sizes are rounded,
        rows to powers of 4 and classes to powers of 2: the kernels are wider than that, and boards are kept.
        """
        if target is None:
            key = _View(None, _power_of(4, train_size), _power_of(2, classes))
        else:
            key = once(self._views, target.id, lambda: self._view_of(target), MOST_VIEWS)
        return self._shelf.board((self.name, key), lambda: self._make(key))

    def _view_of(self, target: Target) -> _View:
        at, rows = self.target_at.get(target.id), self._rows_to_probe(target)
        if at is not None:
            return _View(at, rows=rows)
        return _View(
            None,
            _power_of(4, target.train_size),
            _power_of(2, target.classes),
            self._probed_at.get(target.id),
            target.id if target.id in self._levelled else None,
            rows,
        )

    def is_linked_to(self, other: FamilySnapshot) -> bool:
        """Whether targets that both vanillas were run on, or a chain of such, tell their levels apart."""
        return bool(self._linked[other._at])

    def answers_by_name(self, target: Target) -> bool:
        """Whether the evidence on this very target has a part in the answer."""
        return target.id in self._levelled or target.id in self._probed_at

    def _make(self, key: _View) -> Board:
        fitted = self.posterior
        seconds = None if key.rows is None else probe_cost(self.sizes, key.rows, rate=self.probe_rate).seconds
        if key.target is not None:
            view = view_of(fitted, key.target)
            return Board(self, view, Standing(view.level), seconds)
        view = decide.unseen_view(fitted, self._described.like(key.train_size, key.classes), key.probed)
        if key.levelled is not None:
            level = self.levels.known(key.levelled)
        else:
            level = self.levels.described(self._all_described.like(key.train_size, key.classes))
        standing = Standing(*(float(one[self._at]) for one in level))
        if self._levelled:  # somewhere; or else the level is a guess, and not told
            stderr = math.hypot(standing.common, standing.own)
            view = dataclasses.replace(view, level=standing.mean, level_stderr=stderr)
        return Board(self, view, standing, seconds)

    def _rows_to_probe(self, target: Target) -> int | None:
        """Usual rows that a probe on the target costs as much as; None where the store holds none of it."""
        return None if target.fingerprint is None else round(probe_rows(self.rates, target))

    def reaction_rank(self, sensitivity: float) -> float | None:
        """Share of the family's known targets that react less."""
        if self._reactions is None:
            fitted = self.posterior
            known = np.flatnonzero(np.isfinite(fitted.level) & (fitted.measured >= decide.FEWEST))
            views = [view_of(fitted, t) for t in known.tolist()]
            self._reactions = np.sort([points_of_quality(view, self.population) for view in views])
        if not len(self._reactions):
            return None
        return float(np.searchsorted(self._reactions, sensitivity) / len(self._reactions))


class _Described(NamedTuple):
    """What targets are like."""

    train_sizes: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, targets: list[Target]) -> _Described:
        sizes = np.array([t.train_size or np.nan for t in targets], dtype=float)
        return cls(sizes, np.array([t.classes or np.nan for t in targets], dtype=float))

    def like(self, train_size: int | None, classes: int | None) -> np.ndarray:
        """Weight of each as a guide to a target described."""
        return decide.likeness(self.train_sizes, self.classes, train_size, classes)


@dataclass(slots=True, eq=False)
class Snapshot:
    """Everything an answer needs. Replaced, never changed, but for the caches that fill up."""

    evidence_version: int
    families: dict[str, FamilySnapshot]
    targets: dict[int, Target]
    targets_by_name: dict[str, Target]
    target_details: tuple[int, ...]  # see Store.target_details
    posterior_ids: dict[str, int]
    shelf: Shelf  # of the families
    day: int  # since the epoch, that its families tell ages of
    rates: Rates
    loaded_at: float = field(default_factory=time.time)  # seconds since the epoch
    tag: str = field(init=False)  # of all that an answer depends on, the question apart
    # question -> answer and its ETag, oldest first
    answers: OrderedDict[bytes, tuple[bytes, str]] = field(default_factory=OrderedDict)
    written: Recent[bytes] = field(default_factory=lambda: Recent(MOST_WRITTEN))  # whatever the words

    def __post_init__(self) -> None:
        """Tell snapshots apart that may answer differently: software, posteriors, targets, day, rates."""
        posteriors = sorted(self.posterior_ids.items())
        known = repr((__version__, posteriors, self.target_details, self.day, self.rates.newest))
        self.tag = f"{self.evidence_version}-{blake2b(known.encode(), digest_size=4).hexdigest()}"

    def best(self, boards: list[Board], wanted: Filter = ANY) -> Best:
        """The candidates of these boards that pass, and what came of comparing them."""
        if wanted == ANY and len(boards) == 1:
            (board,) = boards
            if board.whole is None:
                board.whole = Outcome(boards, [board.entrants(ANY)])
            return Best(boards, board.whole, wanted, self.shelf)
        over, entrants = tuple(boards), tuple([board.entrants(wanted) for board in boards])
        kept = self.shelf.across if wanted == ANY else self.shelf.filtered
        found = kept.get((over, entrants), lambda: Outcome(over, entrants))
        return Best(over, found, wanted, self.shelf)

    def train_rows(self, target: Target) -> int:
        """Usual rows that a finetune on the target costs as much as."""
        return max(1, round(finetune_rows(self.rates, target)))

    def boards(
        self, target: Target | None, train_size: int | None = None, classes: int | None = None
    ) -> list[Board]:
        """The boards of all families for one target."""
        return [family.board(target, train_size, classes) for family in self.families.values()]

    def warm(self) -> None:
        """Make the boards most asked for: of known targets, of none, and of usual descriptions."""
        views: list[tuple[Target | None, int | None, int | None]] = [
            (target, None, None)
            for target in self.targets.values()
            if any(family.answers_by_name(target) for family in self.families.values())
        ]
        views += [(None, size, classes) for size in USUAL_TRAIN_SIZES for classes in USUAL_CLASSES]
        for view in views:
            boards = self.boards(*view)
            target, train_size, _ = view
            name, rows = (None, train_size) if target is None else (target.name, self.train_rows(target))
            for board in boards:
                facts_of(board, target, self.families.values())
                self.best([board]).next_jobs(NEXT_JOBS, rows, name)
            self.best(boards).next_jobs(NEXT_JOBS, rows, name)
            if not self.shelf.has_room(sum(board.bytes for board in boards)):
                break

    def is_outdated(self, posterior_ids: dict[str, int]) -> bool:
        """Whether its families are: by other posteriors or by a day that passed, which ages are told in."""
        return self.posterior_ids != posterior_ids or self.day != _today()


class Snapshots:
    """Keeps `current` the newest snapshot the store can give, looking every `seconds`."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="snapshots", daemon=True)
        self.current: Snapshot | None = None

    def start(self) -> None:
        """Load the first snapshot, if the store answers, and keep watching."""
        self._guarded(self.refresh)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; the current snapshot stays."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def refresh(self) -> bool:
        """Swap in a new snapshot for newer posteriors, new targets or a new day; say whether.

        Where only targets were added, families stay, and their boards with them.
        """
        newest = self._store.newest_posteriors(posterior.FORMAT)
        details = self._store.target_details()  # read first: a target added since is seen next time
        ids = {family: one for family, (one, _) in newest.items()}
        current = self.current
        if current is not None and current.is_outdated(ids):
            current = None
        if current is not None and current.target_details == details:
            return False
        targets = {t.id: t for t in self._store.all_targets()}
        if current is not None and current.targets.items() <= targets.items():
            families, shelf, day, rates = current.families, current.shelf, current.day, current.rates
        else:
            shelf, day, rates = Shelf(), _today(), rates_of(self._store)
            fitted = {name: self._fitted(one) for name, one in sorted(ids.items())}
            levels = levels_of(fitted)
            families = {
                name: FamilySnapshot(
                    name, one, self._store.catalogue(name), targets, levels, shelf, day, rates
                )
                for name, one in fitted.items()
            }
        self.current = Snapshot(
            evidence_version=max((version for _, version in newest.values()), default=0),
            families=families,
            targets=targets,
            targets_by_name={t.name: t for t in targets.values()},
            target_details=details,
            posterior_ids=ids,
            shelf=shelf,
            day=day,
            rates=rates,
        )
        gc.freeze()  # a catalogue of a million names is for the collector to pass over, not to visit
        return True

    def _fitted(self, posterior_id: int) -> Posterior:
        return posterior.from_bytes(self._store.posterior(posterior_id).payload)

    def _watch(self) -> None:
        self._guarded(self._warm)
        while not self._stop.wait(self._seconds):
            if self._guarded(self.refresh):
                self._guarded(self._warm)

    def _warm(self) -> bool:
        """Beside the traffic. Two boards of a view may be made; one is kept."""
        if self.current is not None:
            self.current.warm()
            gc.freeze()  # the boards as well
        return True

    def _guarded(self, step: Callable[[], bool]) -> bool:
        """Run a step; an error is logged and never ends the watch."""
        try:
            return step()
        except HeadstartError as e:
            _log.warning("snapshot_step_failed", step=step.__name__.lstrip("_"), reason=e.message)
        except Exception:
            _log.exception("snapshot_step_failed", step=step.__name__.lstrip("_"))
        return False


def _codes(licenses: list[str | None]) -> tuple[np.ndarray, dict[str, int]]:
    """Licences as small integers, -1 for an unknown one; case is ignored."""
    code: dict[str, int] = {}
    codes = [-1 if one is None else code.setdefault(one.casefold(), len(code)) for one in licenses]
    return np.array(codes, dtype=np.int32), code


def _today() -> int:
    """The day, counted from the epoch: ages are told in days, so that an answer is the same all day."""
    return int(time.time() // DAY)


def _power_of(base: int, number: int | None) -> int | None:
    """The power of `base` nearest on a logarithmic scale."""
    return None if number is None else base ** round(math.log(number, base))
