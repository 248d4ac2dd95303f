"""The evidence in memory: one immutable snapshot, rebuilt beside the traffic and swapped whole."""

from __future__ import annotations

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
from service.board import Board

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Catalogue, Target
    from headstart.recommend.posterior import Posterior
    from headstart.store import Store

DAY = 86_400.0
MOST_BOARDS = 256  # described views kept per family, beside its known targets
USUAL_TRAIN_SIZES = (None, *(4**k for k in range(4, 11)))  # 256 to 1,048,576 rows
USUAL_CLASSES = (None, 2, 4, 8, 16, 32)
_log = structlog.get_logger("headstart.service")


class _View(NamedTuple):
    """What a board is made for: a target the vanilla was run on, or a described one and its probes."""

    target: int | None  # position in the posterior
    train_size: int | None = None
    classes: int | None = None
    probed: int | None = None  # position in the posterior


class FamilySnapshot:
    """One family: its posterior, its catalogue beside it, and a board for each view asked so far."""

    def __init__(
        self, name: str, fitted: Posterior, catalogue: Catalogue, targets: dict[int, Target]
    ) -> None:
        self.name = name
        self.posterior = fitted
        # the catalogue may already hold checkpoints that the posterior does not know
        known = set(fitted.checkpoint_ids.tolist())
        at = [i for i, one in enumerate(catalogue.ids) if one in known]
        self.names = [catalogue.names[i] for i in at]
        self.parameters = [catalogue.parameters[i] for i in at]
        self.licenses = [catalogue.licenses[i] for i in at]
        self.row_of = {name: row for row, name in enumerate(self.names)}
        self.parameters_or_nan = np.array([np.nan if p is None else p for p in self.parameters], dtype=float)
        self.license_codes, self._license_code = _codes(self.licenses)
        self.order = decide.static_order(fitted)
        # targets that the vanilla was run on: the others have no gains of their own
        levelled = np.flatnonzero(np.isfinite(fitted.level)).tolist()
        self.target_at: dict[int | None, int] = {int(fitted.target_ids[t]): t for t in levelled}
        # and of those the ones that checkpoints were probed on: probes tell them apart all the same
        probed = {*np.unique(fitted.pair_target).tolist(), fitted.reference} - {-1, *levelled}
        self._probed_at: dict[int | None, int] = {int(fitted.target_ids[t]): t for t in sorted(probed)}
        facts = [targets[int(one)] for one in fitted.target_ids]
        self.reference = None if fitted.reference < 0 else facts[fitted.reference].name
        self._train_sizes = np.array([t.train_size or np.nan for t in facts], dtype=float)
        self._classes = np.array([t.classes or np.nan for t in facts], dtype=float)
        self._boards: dict[_View, Board] = {}
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

    def board(self, target_id: int | None, train_size: int | None, classes: int | None) -> Board:
        """The ranking for a known target the vanilla was run on, or else for one described.

        Sizes are rounded, rows to powers of 4 and classes to powers of 2: the kernels are wider than that,
        and boards are kept.
        """
        at = self.target_at.get(target_id)
        if at is not None:
            key = _View(at)
        else:
            probed = self._probed_at.get(target_id)
            key = _View(None, _power_of(4, train_size), _power_of(2, classes), probed)
        board = self._boards.get(key)
        if board is None:
            if len(self._boards) >= MOST_BOARDS + len(self.target_at) + len(self._probed_at):
                self._boards.clear()
            board = self._boards[key] = Board(self, self._view(key))
        return board

    def warm(self) -> None:
        """Make the boards most asked for: of every known target, of none, and of usual descriptions."""
        for target_id in (None, *self.target_at):
            self.board(target_id, None, None)
        for target_id, at in self._probed_at.items():
            self.board(target_id, _count(self._train_sizes[at]), _count(self._classes[at]))
        for train_size in USUAL_TRAIN_SIZES:
            for classes in USUAL_CLASSES:
                self.board(None, train_size, classes)

    def _view(self, key: _View) -> decide.View:
        if key.target is not None:
            return decide.known_view(self.posterior, key.target)
        weights = decide.likeness(self._train_sizes, self._classes, key.train_size, key.classes)
        return decide.unseen_view(self.posterior, weights, key.probed)

    def reaction_rank(self, sensitivity: float) -> float | None:
        """Share of the family's known targets that react less."""
        if self._reactions is None:
            fitted = self.posterior
            known = np.isfinite(fitted.level) & (fitted.measured >= decide.FEWEST)
            self._reactions = np.sort((fitted.scale * fitted.sensitivity)[known])
        if not len(self._reactions):
            return None
        return float(np.searchsorted(self._reactions, sensitivity) / len(self._reactions))


@dataclass(slots=True, eq=False)
class Snapshot:
    """Everything an answer needs. Replaced, never changed, but for the caches that fill up."""

    evidence_version: int
    families: dict[str, FamilySnapshot]
    targets: dict[int, Target]
    targets_by_name: dict[str, Target]
    target_details: tuple[int, ...]  # see Store.target_details
    posterior_ids: dict[str, int]
    loaded_at: float = field(default_factory=time.time)  # seconds since the epoch
    tag: str = field(init=False)  # of all that an answer depends on, the question apart
    # question -> answer and its ETag, oldest first
    answers: OrderedDict[bytes, tuple[bytes, str]] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        """Tell snapshots apart that may answer differently: software, posteriors, targets, day (ages)."""
        posteriors = sorted(self.posterior_ids.items())
        known = repr((__version__, posteriors, self.target_details, int(self.loaded_at // DAY)))
        self.tag = f"{self.evidence_version}-{blake2b(known.encode(), digest_size=4).hexdigest()}"

    def is_outdated(self, posterior_ids: dict[str, int]) -> bool:
        """Whether its families are: by other posteriors or by a day that passed, which ages are told in."""
        return self.posterior_ids != posterior_ids or int(self.loaded_at // DAY) != int(time.time() // DAY)


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
            families = current.families
        else:
            families = {name: self._family(name, one, targets) for name, one in sorted(ids.items())}
        self.current = Snapshot(
            evidence_version=max((version for _, version in newest.values()), default=0),
            families=families,
            targets=targets,
            targets_by_name={t.name: t for t in targets.values()},
            target_details=details,
            posterior_ids=ids,
        )
        gc.freeze()  # a catalogue of a million names is for the collector to pass over, not to visit
        return True

    def _family(self, name: str, posterior_id: int, targets: dict[int, Target]) -> FamilySnapshot:
        fitted = posterior.from_bytes(self._store.posterior(posterior_id).payload)
        return FamilySnapshot(name, fitted, self._store.catalogue(name), targets)

    def _watch(self) -> None:
        self._guarded(self._warm)
        while not self._stop.wait(self._seconds):
            if self._guarded(self.refresh):
                self._guarded(self._warm)

    def _warm(self) -> bool:
        """Make boards beside the traffic, so that no answer waits for one. Two may be made; one is kept."""
        for family in self.current.families.values() if self.current is not None else ():
            family.warm()
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


def _count(number: float) -> int | None:
    return None if math.isnan(number) else int(number)


def _power_of(base: int, number: int | None) -> int | None:
    """The power of `base` nearest on a logarithmic scale."""
    return None if number is None else base ** round(math.log(number, base))
