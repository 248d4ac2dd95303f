"""The workbench as the child process implements it."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.entities import JobDraft, LineageVerdict, Progress
from headstart.failures import (
    CheckpointNotFound,
    Interrupted,
    MethodUnknown,
    NonFinite,
    NotApplicable,
    OutOfMemory,
    Refused,
    TargetNotFound,
)
from headstart.workbench import Briefing, Cancelled, Paused, TaskVectorFound
from worker.measured import checked

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    from headstart.entities import Checkpoint, CheckpointDraft, Lineage, Target
    from headstart.method import Measurement, Method, Params
    from headstart.rows import RowsFile
    from headstart.settings import Settings
    from headstart.workbench import Chains, ChainSpec, Features, FeatureSpec, Finetuned, FinetuneSpec, Judge
    from worker.cache import Cache
    from worker.checkpoints import CheckpointFiles
    from worker.mixtures import Mixture
    from worker.tuned import Inputs

# Of one checkpoint of several: the others go on. What is not there now (Interrupted) may be the next time.
UNREADABLE = (CheckpointNotFound, Interrupted, NonFinite, NotApplicable, OutOfMemory, Refused)
KEPT = "score-"  # begins the name of a file with a score
MIXED = "mixed-"  # begins the name of a folder with a mixture
MIXED_BYTES = 2 << 30  # of tokens and features that mixtures leave for the next ones of a job
FEATURES_SHARE = 0.8  # of a job, until it has its features
HEAD_SHARE = 0.05  # where they are for the head of chains
VECTORS_SHARE = 0.9  # until it has its task vectors
REPORT_SECONDS = 0.2  # between two reports that travel; those between are dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Premises:
    """Where a child may read, where it keeps what it can use again, and who shares the machine."""

    roots: tuple[Path, ...]  # of checkpoints
    cache: Path
    max_cache_bytes: int
    allow_pickles: bool
    jobs_at_a_time: int = 1  # on this machine: they share its cores
    kept: Path = Path(".headstart/kept")  # where finetunes become checkpoints
    save_seconds: float = 60.0  # of training between two states on disk, at least

    @classmethod
    def from_settings(cls, settings: Settings, jobs_at_a_time: int) -> Premises:
        """Take from the settings what concerns a child."""
        return cls(
            roots=settings.checkpoint_roots,
            cache=settings.cache.absolute(),
            kept=settings.kept.absolute(),
            max_cache_bytes=settings.max_cache_bytes,
            allow_pickles=settings.allow_pickles,
            jobs_at_a_time=jobs_at_a_time,
            save_seconds=settings.save_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """What a bench made by `on` may do of a training."""

    of: ChildWorkbench
    evaluations: int | None
    until: float | None  # of time.monotonic()


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
    send: Callable[[dict[str, Any]], None]  # to the worker: {"progress": ...} or {"score": ...}
    briefing: Briefing = field(default_factory=Briefing)
    share: _Share | None = None
    again: bool = False  # a training that has ended may be asked for again: its state is written then
    features_share: float = FEATURES_SHARE  # of the progress
    mixture: CheckpointFiles | None = None  # of a bench made by `mixed`
    made: CheckpointDraft | None = field(default=None, init=False)  # to be registered
    lineages: list[LineageVerdict] = field(default_factory=list, init=False)  # to be stored
    _next: float = field(default=0.0, init=False)
    _furthest: float = field(default=0.0, init=False)
    _said: str = field(default="", init=False)
    _left: float | None = field(default=None, init=False)
    _trained: float = field(default=0.0, init=False)  # seconds, of the trainings that have ended here
    _opened: ExitStack = field(default_factory=ExitStack, init=False)
    _mixed: ChildWorkbench | None = field(default=None, init=False)  # the newest

    def report(
        self, fraction: float, stage: str, message: str = "", seconds_left: float | None = None
    ) -> None:
        """See Workbench.report."""
        if self.share is not None:
            self.share.of._tell(stage, message)
            return
        self._furthest = min(1.0, max(self._furthest, float(fraction)))
        self._said, self._left = message, seconds_left
        self._tell(stage, "")

    def _tell(self, stage: str, more: str) -> None:
        """Pass on where the job is, with what the training in hand says of itself."""
        if self.cancelled.is_set():
            raise Cancelled
        now = time.monotonic()
        if now >= self._next:
            self._next = now + REPORT_SECONDS
            message = "; ".join(part for part in (self._said, more) if part)
            progress = Progress(
                fraction=self._furthest, stage=stage, message=message, seconds_left=self._left
            )
            self.send({"progress": asdict(progress)})

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
        from worker.tuned import finetune  # noqa: PLC0415 - see above

        inputs = self._inputs()
        try:
            found = finetune(inputs, spec, judge, self.report)
        except Paused as pause:
            seconds = self._trained + pause.seconds
            raise Paused(
                pause.curve, step=pause.step, steps_planned=pause.steps_planned, seconds=seconds
            ) from None
        self._trained += found.facts["train_seconds"]
        return found

    def loss_chains(self, spec: ChainSpec) -> Chains:
        """See Workbench.loss_chains."""
        self._need_torch("chains of a loss need")
        from worker.loss_chains import loss_chains  # noqa: PLC0415 - see above

        before = self._furthest  # the head's features, where it has one
        return loss_chains(
            self._inputs(), spec, lambda share, *said: self.report(before + (1 - before) * share, *said)
        )

    def on(
        self,
        checkpoint: Checkpoint,
        *,
        seed: int,
        evaluations: int | None = None,
        seconds: float | None = None,
    ) -> ChildWorkbench:
        """See Workbench.on."""
        folder = self.folder / f"{checkpoint.id}-{seed}"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise Interrupted(f"The scratch folder cannot be written: {error.strerror}.") from None
        until = None if seconds is None else time.monotonic() + seconds
        share = _Share(of=self, evaluations=evaluations, until=until)
        return replace(self, checkpoint=checkpoint, seed=seed, folder=folder, share=share)

    def keep_score(
        self,
        checkpoint: Checkpoint,
        method: Method,
        params: Params,
        seed: int,
        found: Measurement,
        seconds: float,
    ) -> None:
        """See Workbench.keep_score."""
        draft = JobDraft(
            method=method.name,
            method_version=method.version,
            checkpoint_id=checkpoint.id,
            target_id=self.target.id,
            params=params.model_dump(mode="json"),
            seed=seed,
        )
        told = {
            "draft": asdict(draft),
            "measurement": asdict(checked(found, method)),
            "seconds": float(seconds),
        }
        which = hashlib.sha256(json.dumps(told["draft"], sort_keys=True).encode()).hexdigest()[:16]
        file = self.folder / f"{KEPT}{which}.json"
        with suppress(OSError):  # a disk that is full costs the second telling
            file.write_text(json.dumps(told, allow_nan=False))
        self.send({"score": told})

    def tell_kept(self) -> None:
        """Tell the scores again that attempts before this one kept: the worker may have died of it."""
        for file in sorted(self.folder.glob(f"{KEPT}*.json")):
            with suppress(OSError, ValueError):  # it died while writing
                self.send({"score": json.loads(file.read_text())})

    def keep_checkpoint(
        self, spec: FinetuneSpec, judge: Judge, name: str, card: dict[str, Any]
    ) -> dict[str, Any]:
        """See Workbench.keep_checkpoint."""
        self._need_torch("a finetune needs")
        from worker.keeping import Subject, keep  # noqa: PLC0415 - see above

        subject = Subject(name=name, base=self.checkpoint, target=self.target, card=card)
        made = keep(self._inputs(), spec, judge, self.report, subject=subject, root=self.premises.kept)
        (self if self.share is None else self.share.of).made = made
        return {"name": made.name, "path": made.details["path"], "digest": made.revision}

    def task_vectors(
        self, checkpoints: Sequence[Checkpoint], vanilla: Checkpoint
    ) -> Iterator[TaskVectorFound]:
        """See Workbench.task_vectors."""
        self._need_torch("task vectors need")
        from worker.pieces import Body  # noqa: PLC0415 - see above
        from worker.task_vectors import OfTheVanilla, task_vector  # noqa: PLC0415

        base = self._files(vanilla)
        Body.whole(base)  # what is wrong with the vanilla is the job's failure, not that of every checkpoint
        for place, one in enumerate(checkpoints):

            def report(share: float, stage: str, _: str, at: int = place, name: str = one.name) -> None:
                fraction = VECTORS_SHARE * (at + share) / len(checkpoints)
                self.report(fraction, stage, f"{name}, {at + 1} of {len(checkpoints)}")

            try:
                vector = task_vector(self._files(one), base, report=report, cache=self._cache())
            except OfTheVanilla as failure:
                raise NonFinite(failure.sentence, failure.remedy) from failure
            except UNREADABLE as failure:
                yield TaskVectorFound(checkpoint_id=one.id, vector=None, failure=failure.failure())
            else:
                yield TaskVectorFound(checkpoint_id=one.id, vector=vector)

    def tell_lineage(self, checkpoint: Checkpoint, lineage: Lineage, reason: str) -> None:
        """See Workbench.tell_lineage."""
        told = LineageVerdict(checkpoint_id=checkpoint.id, lineage=lineage, reason=reason)
        (self if self.share is None else self.share.of).lineages.append(told)

    def mixed(
        self, members: Sequence[Checkpoint], weights: Sequence[float], vanilla: Checkpoint
    ) -> ChildWorkbench:
        """See Workbench.mixed."""
        self._need_torch("a mixture needs")
        from worker.mixtures import mixture_in  # noqa: PLC0415 - see above

        if self._mixed is not None:
            self._mixed.close()  # so that its features may go
        mixture = self._mixture(members, weights, vanilla)
        folder = self.folder / f"{MIXED}{mixture.key()}"
        job = self if self.share is None else self.share.of  # how far it is, is the procedure's to say
        files = mixture_in(folder, mixture, lambda _, stage, more: job._tell(stage, more))
        made = replace(vanilla, id=0, name="a mixture", revision=files.digest, is_vanilla=False, details={})
        share = _Share(of=self, evaluations=None, until=None)
        self._mixed = replace(self, checkpoint=made, folder=folder, share=share, mixture=files)
        return self._mixed

    def keep_mixture(
        self,
        name: str,
        members: Sequence[Checkpoint],
        weights: Sequence[float],
        vanilla: Checkpoint,
        card: dict[str, Any],
    ) -> dict[str, Any]:
        """See Workbench.keep_mixture."""
        self._need_torch("a mixture needs")
        from worker.mixtures import keep_mixture  # noqa: PLC0415 - see above

        mixture = self._mixture(members, weights, vanilla)
        made = keep_mixture(mixture, name, card, self.report, root=self.premises.kept)
        (self if self.share is None else self.share.of).made = made
        return {"name": made.name, "path": made.details["path"], "digest": made.revision}

    def _mixture(
        self, members: Sequence[Checkpoint], weights: Sequence[float], vanilla: Checkpoint
    ) -> Mixture:
        from worker.mixtures import Mixture  # noqa: PLC0415 - see above

        return Mixture(
            members=members,
            files=[self._files(member) for member in members],
            weights=weights,
            vanilla=vanilla,
            base=self._files(vanilla),
        )

    def _inputs(self) -> Inputs:
        """What a training reads, and how far it goes."""
        from worker.training_state import Stretch  # noqa: PLC0415 - see above
        from worker.tuned import Inputs  # noqa: PLC0415

        rows, share = self._opened_rows(), self.share
        stretch = Stretch() if self.again else None
        if share is not None:
            stretch = Stretch(evaluations=share.evaluations, until=share.until)
        return Inputs(
            files=self._files(),
            rows=rows,
            cache=self._cache(),
            folder=self.folder,
            save_seconds=self.premises.save_seconds,
            stretch=stretch,
        )

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

    def _files(self, checkpoint: Checkpoint | None = None) -> CheckpointFiles:
        """Of a checkpoint, this bench's own if none is named."""
        if checkpoint is None and self.mixture is not None:
            return self.mixture
        from worker.checkpoints import find_files  # noqa: PLC0415 - see above
        from worker.device import use_cores  # noqa: PLC0415

        premises = self.premises
        use_cores(premises.jobs_at_a_time)
        self.report(0.0, "looking for the checkpoint")
        return find_files(
            checkpoint or self.checkpoint,
            roots=premises.roots,
            cache=premises.cache,
            pickles=premises.allow_pickles,
            report=self.report,
        )

    def _cache(self) -> Cache:
        from worker.cache import Cache  # noqa: PLC0415 - see above

        if self.share is not None and self.mixture is not None:  # nobody else will ask for its features
            most = min(MIXED_BYTES, self.premises.max_cache_bytes)
            return Cache(self.share.of.folder / f"{MIXED}cache", most)
        return Cache(self.premises.cache, self.premises.max_cache_bytes)

    def close(self) -> None:
        """Let go of what the run opened."""
        if self._mixed is not None:
            self._mixed.close()
        self._opened.close()

    def _report_features(self, fraction: float, stage: str, message: str) -> None:
        self.report(self.features_share * fraction, stage, message)


def _opened_rows(path: Path) -> RowsFile:
    from headstart.rows import RowsFile  # noqa: PLC0415 - see above

    try:
        return RowsFile(path)
    except Exception as error:  # a disk that was full; the store has them still
        path.unlink(missing_ok=True)
        raise Interrupted(f"The target's rows on this machine are broken: {error}.") from error
