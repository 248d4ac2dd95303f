"""The workbench as the child process implements it."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from headstart.entities import Progress
from headstart.failures import Interrupted, MethodUnknown, TargetNotFound
from headstart.workbench import Cancelled

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from headstart.entities import Checkpoint, Target
    from headstart.rows import RowsFile
    from headstart.settings import Settings
    from headstart.workbench import Features, FeatureSpec, Finetuned, FinetuneSpec, Judge
    from worker.cache import Cache
    from worker.checkpoints import CheckpointFiles

FEATURES_SHARE = 0.8  # of a job, until it has its features
REPORT_SECONDS = 0.2  # between two reports that travel; those between are dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Premises:
    """Where a child may read, where it keeps what it can use again, and who shares the machine."""

    roots: tuple[Path, ...]
    cache: Path
    max_cache_bytes: int
    allow_pickles: bool
    jobs_at_a_time: int = 1  # on this machine: they share its cores

    @classmethod
    def from_settings(cls, settings: Settings, jobs_at_a_time: int) -> Premises:
        """Take from the settings what concerns a child."""
        return cls(
            roots=settings.roots,
            cache=settings.cache.absolute(),
            max_cache_bytes=settings.max_cache_bytes,
            allow_pickles=settings.allow_pickles,
            jobs_at_a_time=jobs_at_a_time,
        )


@dataclass(slots=True, kw_only=True)
class ChildWorkbench:
    """One run of one method, in the child. See `headstart.workbench.Workbench`."""

    checkpoint: Checkpoint
    target: Target
    seed: int
    attempt: int
    folder: Path
    rows: Path | None  # the target's, on this machine
    premises: Premises
    cancelled: threading.Event
    send: Callable[[Progress], None]
    _next: float = field(default=0.0, init=False)
    _furthest: float = field(default=0.0, init=False)
    _opened: ExitStack = field(default_factory=ExitStack, init=False)

    def report(
        self, fraction: float, stage: str, message: str = "", seconds_left: float | None = None
    ) -> None:
        """See Workbench.report."""
        if self.cancelled.is_set():
            raise Cancelled
        now = time.monotonic()
        if now >= self._next:
            self._next = now + REPORT_SECONDS
            self._furthest = min(1.0, max(self._furthest, float(fraction)))
            self.send(
                Progress(fraction=self._furthest, stage=stage, message=message, seconds_left=seconds_left)
            )

    def features(self, spec: FeatureSpec) -> Features:
        """See Workbench.features."""
        self._need_torch("features need")
        # torch and pyarrow, for those jobs that need them
        from worker.features import open_features  # noqa: PLC0415

        found = open_features(
            rows=self._opened_rows(),
            files=self._files(),
            spec=spec,
            cache=self._cache(),
            report=self._report_features,
        )
        self._opened.enter_context(closing(found))
        return found

    def finetune(self, spec: FinetuneSpec, judge: Judge) -> Finetuned:
        """See Workbench.finetune."""
        self._need_torch("a finetune needs")
        from worker.tuned import Inputs, finetune  # noqa: PLC0415 - see above

        rows = self._opened_rows()
        inputs = Inputs(files=self._files(), rows=rows, cache=self._cache(), folder=self.folder)
        return finetune(inputs, spec, judge, self.report)

    def _need_torch(self, what: str) -> None:
        if find_spec("torch") is None:
            raise MethodUnknown(
                f"This worker has no torch, which {what}.",
                "Install headstart-advice[worker] where the worker runs, then POST /jobs/{id}/retry.",
            )

    def _opened_rows(self) -> RowsFile:
        if self.rows is None:
            raise TargetNotFound(
                f"The store holds no rows of the target {self.target.name!r}.",
                "Give it rows by POST /targets, then POST /jobs/{id}/retry.",
            )
        return _opened_rows(self.rows)

    def _files(self) -> CheckpointFiles:
        from worker.checkpoints import find_files  # noqa: PLC0415 - see above
        from worker.device import use_cores  # noqa: PLC0415

        premises = self.premises
        use_cores(premises.jobs_at_a_time)
        self.report(0.0, "looking for the checkpoint")
        return find_files(
            self.checkpoint,
            roots=premises.roots,
            cache=premises.cache,
            pickles=premises.allow_pickles,
            report=self.report,
        )

    def _cache(self) -> Cache:
        from worker.cache import Cache  # noqa: PLC0415 - see above

        return Cache(self.premises.cache, self.premises.max_cache_bytes)

    def close(self) -> None:
        """Let go of what the run opened."""
        self._opened.close()

    def _report_features(self, fraction: float, stage: str, message: str) -> None:
        self.report(FEATURES_SHARE * fraction, stage, message)


def _opened_rows(path: Path) -> RowsFile:
    from headstart.rows import RowsFile  # noqa: PLC0415 - see above

    try:
        return RowsFile(path)
    except Exception as error:  # a disk that was full; the store has them still
        path.unlink(missing_ok=True)
        raise Interrupted(f"The target's rows on this machine are broken: {error}.") from error
